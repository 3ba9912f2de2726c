//! HTTP/2 as no proper client speaks it: streams that take nothing, and floods of frames that cost a server much
//! and a client little. Frames are written by hand.

#![allow(clippy::unwrap_used)]

#[path = "support/frames.rs"]
mod frames;
#[allow(dead_code)]
#[path = "support/wire.rs"]
mod wire;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use axum::body::Body;
use frames::{
    CONTINUATION, DATA, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, headers,
};
use http::Request;
use serde_json::json;
use strait_apiserver::{Config, Server, User};
use tower::ServiceExt;
use wire::{Wire, client};

const PATIENCE: Duration = Duration::from_secs(60);
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// The headers end with this frame.
const END_HEADERS: u8 = 4;
/// The stream ends with it too.
const END_STREAM: u8 = 1;
/// Errors of the protocol.
const ENHANCE_YOUR_CALM: u32 = 11;

async fn start(stall: Duration) -> Server {
    let mut config = Config::in_memory();
    config.listeners.push(TcpListener::bind("127.0.0.1:0").unwrap());
    config.limits.stall_time = stall;
    config.limits.watches_per_user = 1;
    config.tokens = ["stuck", "idle"]
        .map(|name| (format!("{name}-token"), User::new(name, &["system:masters"])))
        .into();
    Server::start(config).await.unwrap()
}

async fn open(server: &Server) -> Frames {
    Frames::open(server.addr().unwrap(), server.ca_pem()).await
}

async fn make(server: &Server, name: &str, size: usize) {
    let body = json!({"metadata": {"name": name}, "data": {"a": "x".repeat(size)}}).to_string();
    let request = Request::post(MAPS).header("content-type", "application/json");
    let answer = server
        .admin_service()
        .oneshot(request.body(Body::from(body)).unwrap());
    assert_eq!(answer.await.unwrap().status(), 201, "writes go on");
}

/// Somebody else, who is served as ever.
async fn others_are_served(server: &Server) {
    let mut wire = Wire::open(server.addr().unwrap(), client(server.ca_pem(), None))
        .await
        .unwrap();
    let answered = tokio::time::timeout(PATIENCE, wire.get("/readyz", "")).await;
    let (status, _, body) = answered.expect("in time").unwrap();
    assert_eq!((status, body.as_str()), (200, "ok"));
}

/// The error of the frame that ends the connection, or none where it just ends.
async fn ended(frames: &mut Frames) -> Option<u32> {
    let ending = async {
        while let Some(frame) = frames.read().await {
            if frame.kind == GOAWAY {
                return Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        None
    };
    tokio::time::timeout(PATIENCE, ending)
        .await
        .expect("the connection ends")
}

#[tokio::test]
async fn a_stream_that_takes_nothing_is_reset_and_the_others_go_on() {
    let stall = Duration::from_millis(500);
    let server = start(stall).await;
    let mut frames = open(&server).await;
    // Nothing may be sent on any stream of this client until it says so.
    frames.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).await.unwrap();
    let watch = format!("{MAPS}?watch=1");
    let ask = |path: &str, token: &str| headers("GET", path, token);
    frames
        .send(HEADERS, END_HEADERS | END_STREAM, 1, &ask(&watch, "stuck-token"))
        .await
        .unwrap();
    assert_eq!(
        frames.next(HEADERS, 1).await.payload[0],
        0x88,
        "status 200, by its index"
    );
    let quiet = "/api/v1/namespaces/default/secrets?watch=1";
    frames
        .send(HEADERS, END_HEADERS | END_STREAM, 3, &ask(quiet, "idle-token"))
        .await
        .unwrap();
    frames.next(HEADERS, 3).await;
    let begun = Instant::now();
    // The first one fits into all that is between; the others would have to wait.
    for n in 0..20 {
        make(&server, &format!("m{n}"), 200 << 10).await;
    }
    let reset = frames.next(RST_STREAM, 1).await;
    assert_eq!(reset.payload, [0, 0, 0, 8], "it is cancelled");
    assert!(begun.elapsed() >= stall, "{:?}", begun.elapsed());
    // Its place is free.
    let again = server.service_as(User::new("stuck", &["system:masters"]));
    let held = Instant::now();
    loop {
        let path = format!("{watch}&resourceVersion={}", server.resource_version());
        let answer = again
            .clone()
            .oneshot(Request::get(path).body(Body::empty()).unwrap())
            .await
            .unwrap();
        if answer.status() == 200 {
            break;
        }
        assert!(held.elapsed() < PATIENCE, "{}", answer.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A watch on which nothing happens may be as still as it likes, and so may its window be.
    assert!(begun.elapsed() >= stall);
    frames
        .send(WINDOW_UPDATE, 0, 3, &(1u32 << 20).to_be_bytes())
        .await
        .unwrap();
    let secret = json!({"metadata": {"name": "s"}}).to_string();
    let request =
        Request::post("/api/v1/namespaces/default/secrets").header("content-type", "application/json");
    let request = request.body(Body::from(secret)).unwrap();
    assert_eq!(
        server.admin_service().oneshot(request).await.unwrap().status(),
        201
    );
    let event = frames.next(DATA, 3).await;
    assert!(String::from_utf8_lossy(&event.payload).contains("\"ADDED\""));
    // An answer that is taken slowly, but is taken, comes as a whole: 200 KiB in pieces of 20.
    frames
        .send(
            HEADERS,
            END_HEADERS | END_STREAM,
            5,
            &ask(&format!("{MAPS}/m0"), "idle-token"),
        )
        .await
        .unwrap();
    let mut body = Vec::new();
    loop {
        frames
            .send(WINDOW_UPDATE, 0, 0, &(20u32 << 10).to_be_bytes())
            .await
            .unwrap();
        frames
            .send(WINDOW_UPDATE, 0, 5, &(20u32 << 10).to_be_bytes())
            .await
            .unwrap();
        let data = frames.next(DATA, 5).await;
        body.extend(&data.payload);
        if data.flags & END_STREAM != 0 {
            break;
        }
        tokio::time::sleep(stall / 20).await;
    }
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["data"]["a"].as_str().unwrap().len(), 200 << 10);
    server.shutdown().await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_over_and_over_end_the_connection() {
    let server = start(Duration::from_secs(5)).await;
    let mut frames = open(&server).await;
    let block = headers("GET", MAPS, "idle-token");
    for n in 0..20_000u32 {
        let id = 2 * n + 1;
        let sent = async {
            frames
                .write(HEADERS, END_HEADERS | END_STREAM, id, &block)
                .await?;
            frames.write(RST_STREAM, 0, id, &8u32.to_be_bytes()).await
        };
        if sent.await.is_err() {
            break;
        }
    }
    let _ = frames.flush().await;
    let error = ended(&mut frames).await;
    assert!(error.is_none() || error == Some(ENHANCE_YOUR_CALM), "{error:?}");
    others_are_served(&server).await;
    server.shutdown().await;
}

#[tokio::test]
async fn headers_without_end_are_not_collected() {
    let server = start(Duration::from_secs(5)).await;
    let mut frames = open(&server).await;
    frames
        .send(HEADERS, END_STREAM, 1, &headers("GET", MAPS, "idle-token"))
        .await
        .unwrap();
    // Literals that are not to be indexed: one header of 16 KiB a frame, and the headers never end.
    let mut piece = vec![0x00, 1, b'x', 0x7f];
    piece.extend([0x81, 0x7c]);
    piece.extend([b'y'; 16_000]);
    let mut taken = 0;
    for _ in 0..1000 {
        if frames.send(CONTINUATION, 0, 1, &piece).await.is_err() {
            break;
        }
        taken += piece.len();
    }
    ended(&mut frames).await;
    assert!(taken < 15 << 20, "{taken} bytes were taken");
    others_are_served(&server).await;
    // Headers that end, and are too much: this one request is refused.
    let mut frames = open(&server).await;
    frames
        .send(HEADERS, END_STREAM, 1, &headers("GET", MAPS, "idle-token"))
        .await
        .unwrap();
    for n in 0..5 {
        let flags = if n == 4 { END_HEADERS } else { 0 };
        frames.send(CONTINUATION, flags, 1, &piece).await.unwrap();
    }
    let refused = frames.next(HEADERS, 1).await;
    // The field :status, and "431" in Huffman's code.
    assert_eq!(refused.payload, [0x48, 0x83, 0x69, 0x90, 0xff]);
    frames
        .send(
            HEADERS,
            END_HEADERS | END_STREAM,
            3,
            &headers("GET", "/readyz", ""),
        )
        .await
        .unwrap();
    assert_eq!(frames.next(HEADERS, 3).await.payload[0], 0x88);
    server.shutdown().await;
}

#[tokio::test]
async fn pings_and_settings_that_nobody_reads_the_answers_of_end_the_connection() {
    let server = start(Duration::from_millis(500)).await;
    for (kind, payload) in [(PING, &[7u8; 8][..]), (SETTINGS, &[0, 3, 0, 0, 0, 9][..])] {
        let mut frames = open(&server).await;
        // Every one is answered with one as large: once nothing of that is read, nothing more is taken, and
        // the connection ends in time.
        let flood = async {
            loop {
                if frames.write(kind, 0, 0, payload).await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, flood)
            .await
            .expect("the connection ends");
        others_are_served(&server).await;
    }
    // Frames without content are not taken for ever either.
    let mut frames = open(&server).await;
    frames
        .send(HEADERS, END_HEADERS, 1, &headers("POST", MAPS, "idle-token"))
        .await
        .unwrap();
    for _ in 0..100_000 {
        if frames.write(DATA, 0, 1, &[]).await.is_err() {
            break;
        }
    }
    let _ = frames.flush().await;
    let error = ended(&mut frames).await;
    assert!(error.is_none() || error == Some(ENHANCE_YOUR_CALM), "{error:?}");
    others_are_served(&server).await;
    server.shutdown().await;
}
