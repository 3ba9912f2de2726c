//! What an operator sees of a server: health, and how it lives and ends.

#![allow(clippy::unwrap_used)]

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use strait_apiserver::{Config, Server, Service};
use tower::ServiceExt;

async fn ask(service: &Service, path: &str) -> Response<Body> {
    let request = Request::get(path).body(Body::empty()).unwrap();
    service.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn health_is_told_in_the_usual_words() {
    let server = Server::start(Config::in_memory()).await.unwrap();
    let (admin, anybody) = (server.admin_service(), server.service());
    for name in ["healthz", "livez", "readyz"] {
        let plain = ask(&anybody, &format!("/{name}")).await;
        assert_eq!(plain.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(text(plain).await, (StatusCode::OK, "ok".into()), "{name}");
    }
    let verbose = text(ask(&anybody, "/readyz?verbose").await).await;
    assert_eq!(
        verbose,
        (
            StatusCode::OK,
            "[+]ping ok\n[+]etcd ok\n[+]shutdown ok\nreadyz check passed\n".into()
        )
    );
    let without = text(ask(&anybody, "/livez?verbose&exclude=etcd&exclude=nothing").await).await;
    assert_eq!(
        without,
        (
            StatusCode::OK,
            "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"nothing\"\nlivez check passed\n"
                .into()
        )
    );
    assert_eq!(
        text(ask(&admin, "/readyz/etcd").await).await,
        (StatusCode::OK, "ok".into())
    );
    assert_eq!(
        text(ask(&admin, "/readyz/none").await).await.0,
        StatusCode::NOT_FOUND
    );

    // The writer ends with the server; a service that is left over says so and does not look well.
    server.shutdown().await;
    let (status, after) = text(ask(&anybody, "/readyz").await).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        after,
        "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
    );
    let (status, live) = text(ask(&anybody, "/livez").await).await;
    assert_eq!(
        (status, live.as_str()),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"
        )
    );
    let (status, one) = text(ask(&admin, "/livez/etcd").await).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(one, "internal server error: the store's writer has ended\n");
}
