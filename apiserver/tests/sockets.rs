//! What stands between the network and the API: TLS, certificates, bounds, and the audit log.

#![allow(clippy::unwrap_used)]

#[path = "support/wire.rs"]
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::SinkExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use strait_apiserver::{Audit, Config, Server, Tls, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;
use wire::{Wire, client};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const EVERYBODY: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: everybody}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: friends}]
"#;
const PATIENCE: Duration = Duration::from_secs(20);

fn listening(mut config: Config) -> Config {
    config.listeners.push(TcpListener::bind("127.0.0.1:0").unwrap());
    config.manifests.push(EVERYBODY.into());
    config
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Repeats until it holds.
async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    /// A certificate and its key.
    fn issue(&self, name: &str, group: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    fn server(&self) -> (String, String) {
        self.issue("server", "none", ExtendedKeyUsagePurpose::ServerAuth)
    }
}

#[tokio::test]
async fn only_tls_1_2_and_later_is_spoken() {
    let server = Server::start(listening(Config::in_memory())).await.unwrap();
    let address = server.addr().unwrap();
    // A greeting of TLS 1.1: version 3.2, 32 random bytes, no session, three old ciphers, no compression,
    // and the extension that names a signature algorithm.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 6, 0xc0, 0x13, 0, 0x2f, 0, 0x35, 1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(&record).await.unwrap();
    let mut answer = [0; 7];
    in_time(socket.read_exact(&mut answer)).await.unwrap();
    assert_eq!(
        (answer[0], &answer[5..]),
        (21, &[2, 70][..]),
        "a fatal alert: protocol_version"
    );
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = (*client(server.ca_pem(), None)).clone();
        let provider = config.crypto_provider().clone();
        let roots = {
            use rustls_pki_types::pem::PemObject;
            let mut roots = rustls::RootCertStore::empty();
            let ca = rustls_pki_types::CertificateDer::from_pem_slice(server.ca_pem().as_bytes()).unwrap();
            roots.add(ca).unwrap();
            roots
        };
        config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut wire = Wire::open(address, config.into()).await.unwrap();
        let (status, _, body) = in_time(wire.get("/readyz", "")).await.unwrap();
        assert_eq!((status, body.as_str()), (200, "ok"), "{version:?}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn certificates_change_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = authority("serving");
    let write = |(chain, key): (String, String)| {
        std::fs::write(path("tls.key"), key).unwrap();
        std::fs::write(path("tls.crt"), chain).unwrap();
    };
    write(authority.server());
    std::fs::write(path("ca.crt"), &authority.pem).unwrap();
    let mut config = listening(Config::in_memory());
    config.tls = Tls::Files {
        certificate: path("tls.crt"),
        key: path("tls.key"),
        ca: path("ca.crt"),
    };
    config.tls_poll = Duration::from_millis(20);
    let server = Server::start(config).await.unwrap();
    let address = server.addr().unwrap();
    let trusting = client(&authority.pem, None);
    let mut old = Wire::open(address, trusting.clone()).await.unwrap();
    assert_eq!(old.get("/version", "").await.unwrap().0, 200);
    let first = old.certificate();

    // A key that does not fit, then no certificate at all: the former one stays.
    for broken in [authority.server().1, "nothing".into(), String::new()] {
        std::fs::write(path("tls.key"), &broken).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut wire = Wire::open(address, trusting.clone()).await.unwrap();
        assert_eq!(wire.certificate(), first, "the former certificate is in use");
        assert_eq!(wire.get("/version", "").await.unwrap().0, 200);
    }
    write(authority.server());
    eventually("new connections see the new certificate", async || {
        let wire = Wire::open(address, trusting.clone()).await.unwrap();
        wire.certificate() != first
    })
    .await;
    assert_eq!(
        old.get("/version", "").await.unwrap().0,
        200,
        "the old connection lives on"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn client_certificates_name_users() {
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("clients.crt");
    let (members, others) = (authority("members"), authority("others"));
    std::fs::write(&ca_file, &members.pem).unwrap();
    let mut config = listening(Config::in_memory());
    config.client_ca = Some(ca_file.clone());
    config.tls_poll = Duration::from_millis(20);
    let server = Server::start(config).await.unwrap();
    let address = server.addr().unwrap();
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let connect = async |by: &Authority, name: &str, group: &str| {
        let (chain, key) = by.issue(name, group, usage.clone());
        Wire::open(address, client(server.ca_pem(), Some((&chain, &key)))).await
    };
    let mut jane = connect(&members, "jane", "friends").await.unwrap();
    assert_eq!(jane.get(MAPS, "").await.unwrap().0, 200);
    let mut joe = connect(&members, "joe", "strangers").await.unwrap();
    let (status, _, body) = joe.get(MAPS, "").await.unwrap();
    assert_eq!(status, 403);
    assert!(body.contains("User \\\"joe\\\" cannot list resource"), "{body}");
    // Without a certificate a token still does.
    let mut nobody = Wire::open(address, client(server.ca_pem(), None)).await.unwrap();
    assert_eq!(nobody.get(MAPS, server.admin_token()).await.unwrap().0, 200);
    assert_eq!(nobody.get(MAPS, "").await.unwrap().0, 403);
    // With TLS 1.3 a client learns of the refusal when it reads.
    let refused = async |by: &Authority| match connect(by, "eve", "friends").await {
        Err(_) => true,
        Ok(mut eve) => in_time(eve.get(MAPS, "")).await.is_err(),
    };
    assert!(refused(&others).await, "nobody vouches for this certificate");

    std::fs::write(&ca_file, &others.pem).unwrap();
    eventually("the new authority counts", async || !refused(&others).await).await;
    assert!(refused(&members).await, "the former one counts no more");
    assert_eq!(
        jane.get(MAPS, "").await.unwrap().0,
        200,
        "the connection lives on"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused_and_the_rest_is_served() {
    let server = Server::start(listening(Config::in_memory())).await.unwrap();
    let address = server.addr().unwrap();
    let trusting = client(server.ca_pem(), None);
    let token = server.admin_token();
    let open = async || Wire::open(address, trusting.clone()).await.unwrap();

    let mut wire = open().await;
    let head = format!(
        "GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(200 << 10)
    );
    // The server may answer, and close, before all is sent.
    let _ = wire.send(&head).await;
    assert_eq!(in_time(wire.answer()).await.unwrap().0, 431);

    let mut wire = open().await;
    let _ = wire
        .send(&format!(
            "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n",
            "x".repeat(100 << 10)
        ))
        .await;
    let status = in_time(wire.answer()).await.unwrap().0;
    assert!(status == 414 || status == 431, "{status}");

    let mut wire = open().await;
    let many = "x: y\r\n".repeat(500);
    let _ = wire
        .send(&format!("GET /version HTTP/1.1\r\nHost: x\r\n{many}\r\n"))
        .await;
    assert_eq!(in_time(wire.answer()).await.unwrap().0, 431);

    // All of a body that is too large is sent before the answer is read, as many clients do.
    for length in [4 << 20, 10 << 20] {
        let mut wire = open().await;
        let body = format!(
            "{{\"metadata\":{{\"name\":\"x\"}},\"data\":{{\"a\":\"{}\"}}}}",
            "x".repeat(length)
        );
        let request = format!(
            "POST {MAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        in_time(wire.send(&request)).await.unwrap();
        let (status, _, answer) = in_time(wire.answer()).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (status, answer["reason"].as_str(), answer["message"].as_str()),
            (
                413,
                Some("RequestEntityTooLarge"),
                Some("Request entity too large: limit is 3145728")
            )
        );
    }
    assert_eq!(open().await.get(MAPS, token).await.unwrap().0, 200);
    server.shutdown().await;
}

#[tokio::test]
async fn slow_and_many_connections_are_cut() {
    let mut config = listening(Config::in_memory());
    config.limits.header_time = Duration::from_millis(400);
    config.limits.body_time = Duration::from_millis(400);
    config.limits.connections_per_address = 3;
    let server = Server::start(config).await.unwrap();
    let address = server.addr().unwrap();
    let trusting = client(server.ca_pem(), None);
    let token = server.admin_token();

    // No handshake, half a head, half a body: each is ended.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut byte = [0];
    assert_eq!(
        in_time(silent.read(&mut byte)).await.unwrap(),
        0,
        "no handshake came"
    );
    let mut wire = Wire::open(address, trusting.clone()).await.unwrap();
    wire.send("GET /version HTTP/1.1\r\nHost:").await.unwrap();
    let ended = in_time(wire.until("\r\n\r\n")).await;
    assert!(ended.is_err() || ended.unwrap().starts_with("HTTP/1.1 408"));
    let mut wire = Wire::open(address, trusting.clone()).await.unwrap();
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 100\r\n\r\n{{"
    );
    wire.send(&head).await.unwrap();
    let (status, _, body) = in_time(wire.answer()).await.unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, body["reason"].as_str()), (504, Some("Timeout")));
    drop((silent, wire));

    // The fourth connection of one address is closed, and another address is served.
    let mut held = Vec::new();
    eventually("the former connections are gone", async || {
        held.clear();
        for _ in 0..3 {
            match Wire::open(address, trusting.clone()).await {
                Ok(wire) => held.push(wire),
                Err(_) => return false,
            }
        }
        true
    })
    .await;
    assert!(
        in_time(Wire::open(address, trusting.clone())).await.is_err(),
        "that is one too many"
    );
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let mut elsewhere = elsewhere.connect(address).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_millis(200), elsewhere.read(&mut byte)).await;
    assert!(refused.is_err(), "the server waits for this one's greeting");
    held.clear();
    eventually("there is room again", async || {
        Wire::open(address, trusting.clone()).await.is_ok()
    })
    .await;
    server.shutdown().await;
}

async fn call(server: &Server, user: &str, request: Request<Body>) -> Response<Body> {
    let service = server.service_as(User::new(user, &["friends"]));
    service.oneshot(request).await.unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn who_asks_for_too_much_at_a_time_is_told_to_wait() {
    let mut config = listening(Config::in_memory());
    config.limits.requests = 2;
    config.limits.requests_per_user = 1;
    config.limits.watches = 2;
    config.limits.watches_per_user = 1;
    config.limits.queue_time = Duration::from_millis(50);
    let server = Server::start(config).await.unwrap();
    // Requests whose bodies do not come hold their places.
    let slow = |user: &'static str, name: &str| {
        let (mut sender, receiver) = futures::channel::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let request = Request::post(MAPS)
            .header("content-type", "application/json")
            .body(Body::from_stream(receiver))
            .unwrap();
        let service = server.service_as(User::new(user, &["friends"]));
        let task = tokio::spawn(service.oneshot(request));
        let body = json!({"metadata": {"name": name}}).to_string();
        async move {
            sender.send(Ok(body.into())).await.unwrap();
            drop(sender);
            task.await.unwrap().unwrap().status()
        }
    };
    let first = slow("alice", "a");
    eventually("alice has her share", async || {
        call(&server, "alice", get(MAPS)).await.status() == StatusCode::TOO_MANY_REQUESTS
    })
    .await;
    let refusal = call(&server, "alice", get(MAPS)).await;
    assert_eq!(refusal.headers()["retry-after"], "1");
    assert_eq!(refusal.headers()["content-type"], "text/plain; charset=utf-8");
    let text = refusal.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "Too many requests, please try again later.\n");
    assert_eq!(call(&server, "bob", get(MAPS)).await.status(), StatusCode::OK);
    let second = slow("bob", "b");
    eventually("all places are taken", async || {
        call(&server, "carol", get(MAPS)).await.status() == StatusCode::TOO_MANY_REQUESTS
    })
    .await;
    // Administrators and probes come in.
    let admin = server.admin_service().oneshot(get(MAPS)).await.unwrap();
    assert_eq!(admin.status(), StatusCode::OK);
    let probe = server.service().oneshot(get("/readyz")).await.unwrap();
    assert_eq!(probe.status(), StatusCode::OK);
    assert_eq!(in_time(first).await, StatusCode::CREATED);
    assert_eq!(call(&server, "carol", get(MAPS)).await.status(), StatusCode::OK);
    assert_eq!(in_time(second).await, StatusCode::CREATED);

    let watch = format!("{MAPS}?watch=1");
    let alice = call(&server, "alice", get(&watch)).await;
    assert_eq!(alice.status(), StatusCode::OK);
    let again = call(&server, "alice", get(&watch)).await;
    assert_eq!(again.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(call(&server, "alice", get(MAPS)).await.status(), StatusCode::OK);
    drop(alice);
    assert_eq!(call(&server, "alice", get(&watch)).await.status(), StatusCode::OK);
    server.shutdown().await;
}

#[tokio::test]
async fn a_watch_that_never_reads_is_cut() {
    let mut config = listening(Config::in_memory());
    config.limits.watches_per_user = 1;
    config.limits.stall_time = Duration::from_millis(500);
    config.tokens = vec![("stuck-token".into(), User::new("stuck", &["friends"]))];
    let server = Server::start(config).await.unwrap();
    let big = "x".repeat(500 << 10);
    let make = async |n: usize| {
        let body = json!({"metadata": {"name": format!("m{n}")}, "data": {"a": big}}).to_string();
        let request = Request::post(MAPS).header("content-type", "application/json");
        let request = request.body(Body::from(body)).unwrap();
        let done = server.admin_service().oneshot(request).await.unwrap();
        assert_eq!(done.status(), StatusCode::CREATED, "writes go on");
    };
    let mut stuck = Wire::open(server.addr().unwrap(), client(server.ca_pem(), None))
        .await
        .unwrap();
    let head = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer stuck-token\r\n\r\n");
    stuck.send(&head).await.unwrap();
    let began = stuck.until("\r\n\r\n").await.unwrap();
    assert!(began.starts_with("HTTP/1.1 200"), "{began}");
    let watch = async || {
        let path = format!("{MAPS}?watch=1&resourceVersion={}", server.resource_version());
        call(&server, "stuck", get(&path)).await.status()
    };
    assert_eq!(watch().await, StatusCode::TOO_MANY_REQUESTS, "one is open");
    // More than all buffers on the way hold.
    for n in 0..40 {
        make(n).await;
    }
    eventually("the watch is cut and its place is free", async || {
        watch().await == StatusCode::OK
    })
    .await;
    server.shutdown().await;
}

/// The whole lines: a file system shows a write that crosses a page in two steps, however it was made.
fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines = text[..whole].lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut config = listening(Config::in_memory());
    config.audit = Some(Audit::new(path.clone()));
    config.tokens = vec![("friendly-token".into(), User::new("friend", &["friends"]))];
    let server = Server::start(config).await.unwrap();
    let mut wire = Wire::open(server.addr().unwrap(), client(server.ca_pem(), None))
        .await
        .unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"p": "hunter2"}});
    let secret = secret.to_string();
    let request = format!(
        "POST /api/v1/namespaces/default/secrets?fieldManager=me HTTP/1.1\r\nHost: x\r\nUser-Agent: test/1\r\nAudit-ID: my-request\r\nAuthorization: Bearer friendly-token\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{secret}",
        secret.len()
    );
    wire.send(&request).await.unwrap();
    let (status, head, _) = wire.answer().await.unwrap();
    assert_eq!(status, 201);
    assert!(head.contains("audit-id: my-request\r\n"), "{head}");
    let bad = format!("{MAPS}/missing?access_token=hunter2");
    assert_eq!(wire.get(&bad, "friendly-token").await.unwrap().0, 404);
    assert_eq!(wire.get(MAPS, "hunter2-as-token").await.unwrap().0, 401);
    assert_eq!(wire.get(MAPS, "").await.unwrap().0, 403);
    // What is refused is quoted in the answer, and not in the log.
    let wrong = json!({"metadata": {"name": "hunter2 Bad"}}).to_string();
    let request = Request::post("/api/v1/namespaces/default/secrets")
        .header("content-type", "application/json")
        .body(Body::from(wrong))
        .unwrap();
    let refused = call(&server, "friend", request).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let quoted = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&quoted).contains("hunter2"));
    let watch = call(
        &server,
        "friend",
        get(&format!("{MAPS}?watch=1&timeoutSeconds=1")),
    )
    .await;
    in_time(watch.into_body().collect()).await.unwrap();
    eventually("all is written", async || events(&path).len() >= 7).await;
    server.shutdown().await;

    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains("friendly-token"),
        "{text}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let all = events(&path);
    let made = &all[0];
    assert_eq!(
        (&made["kind"], &made["apiVersion"], &made["level"], &made["stage"]),
        (
            &json!("Event"),
            &json!("audit.k8s.io/v1"),
            &json!("Metadata"),
            &json!("ResponseComplete")
        )
    );
    assert_eq!(made["auditID"], "my-request");
    assert_eq!(made["verb"], "create");
    assert_eq!(
        made["requestURI"],
        "/api/v1/namespaces/default/secrets?fieldManager=me"
    );
    assert_eq!(
        made["user"],
        json!({"username": "friend", "groups": ["friends", "system:authenticated"]})
    );
    assert_eq!(made["sourceIPs"], json!(["127.0.0.1"]));
    assert_eq!(made["userAgent"], "test/1");
    assert_eq!(
        made["objectRef"],
        json!({"resource": "secrets", "namespace": "default", "apiVersion": "v1"})
    );
    assert_eq!(made["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let codes: Vec<_> = all
        .iter()
        .map(|e| e["responseStatus"]["code"].as_u64().unwrap())
        .collect();
    assert_eq!(codes[1..4], [404, 401, 403]);
    assert_eq!(all[1]["objectRef"]["name"], "missing");
    assert_eq!(all[1]["responseStatus"]["reason"], "NotFound");
    assert_eq!(all[2]["user"], json!({}));
    assert_eq!(all[3]["user"]["username"], "system:anonymous");
    assert_eq!(all[3]["annotations"]["authorization.k8s.io/decision"], "forbid");
    let stages: Vec<_> = all[5..]
        .iter()
        .map(|e| (e["verb"].clone(), e["stage"].clone()))
        .collect();
    assert_eq!(
        stages,
        [
            (json!("watch"), json!("ResponseStarted")),
            (json!("watch"), json!("ResponseComplete"))
        ]
    );
    assert_eq!(all[5]["auditID"], all[6]["auditID"]);
}
