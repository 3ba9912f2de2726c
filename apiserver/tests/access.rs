//! Tokens, TLS, and what watches do when rights end.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use strait_apiserver::{Config, Data, Server, Tls, User};
use tower::ServiceExt;

async fn ask(server: &Server, token: &str, method: &str, path: &str, body: Value) -> Response<Body> {
    let media = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = if body.is_null() {
        Body::empty()
    } else {
        Body::from(body.to_string())
    };
    server
        .service()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap()
}

async fn value(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

const READER: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: default}]
"#;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn start() -> Server {
    let mut config = Config::in_memory();
    config.manifests.push(READER.into());
    Server::start(config).await.unwrap()
}

async fn token(server: &Server, spec: Value) -> Response<Body> {
    let path = "/api/v1/namespaces/default/serviceaccounts/reader/token";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    ask(server, server.admin_token(), "POST", path, body).await
}

#[tokio::test]
async fn service_account_tokens_open_what_their_roles_allow() {
    let server = start().await;
    let made = value(token(&server, json!({})).await).await;
    let jwt = made["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(
        ask(&server, &jwt, "GET", MAPS, Value::Null).await.status(),
        StatusCode::OK
    );
    let refused = ask(
        &server,
        &jwt,
        "GET",
        "/api/v1/namespaces/default/secrets",
        Value::Null,
    )
    .await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        value(refused).await["message"],
        "secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    let whoami = value(
        ask(
            &server,
            &jwt,
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json!({}),
        )
        .await,
    )
    .await;
    assert_eq!(
        whoami["status"]["userInfo"]["username"],
        "system:serviceaccount:default:reader"
    );

    // Any change of the token, and any other audience, is no token.
    let mut forged = jwt.clone();
    let place = forged.len() - 2..forged.len() - 1;
    let other = if &forged[place.clone()] == "A" { "B" } else { "A" };
    forged.replace_range(place, other);
    assert_eq!(
        ask(&server, &forged, "GET", MAPS, Value::Null).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let other = value(token(&server, json!({"audiences": ["elsewhere"]})).await).await;
    let other = other["status"]["token"].as_str().unwrap();
    assert_eq!(
        ask(&server, other, "GET", MAPS, Value::Null).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let review = json!({"spec": {"token": other, "audiences": ["elsewhere"]}});
    let review = value(
        ask(
            &server,
            server.admin_token(),
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            review,
        )
        .await,
    )
    .await;
    assert_eq!(review["status"]["authenticated"], true);
    let short = token(&server, json!({"expirationSeconds": 10})).await;
    assert_eq!(short.status(), StatusCode::UNPROCESSABLE_ENTITY);
    server.shutdown().await;
}

#[tokio::test]
async fn an_apply_creates_only_for_those_who_may_create() {
    let mut config = Config::in_memory();
    let patcher = READER.replace("verbs: [get, list, watch]", "verbs: [get, patch]");
    config.manifests.push(patcher);
    let server = Server::start(config).await.unwrap();
    let made = value(token(&server, json!({})).await).await;
    let bearer = made["status"]["token"].as_str().unwrap().to_owned();
    let apply = async |name: &str| {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}});
        let request = Request::builder()
            .method("PATCH")
            .uri(format!("{MAPS}/{name}?fieldManager=me"))
            .header("content-type", "application/apply-patch+yaml")
            .header("authorization", format!("Bearer {bearer}"))
            .body(Body::from(map.to_string()))
            .unwrap();
        server.service().oneshot(request).await.unwrap()
    };
    let refused = apply("new").await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let message = value(refused).await["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("cannot create resource \"configmaps\""),
        "{message}"
    );
    let map = json!({"metadata": {"name": "there"}});
    let made = ask(&server, server.admin_token(), "POST", MAPS, map).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    assert_eq!(apply("there").await.status(), StatusCode::OK);
    server.shutdown().await;
}

#[tokio::test]
async fn tokens_end_with_what_they_are_bound_to() {
    let server = start().await;
    let admin = server.admin_token().to_owned();
    ask(
        &server,
        &admin,
        "POST",
        "/api/v1/namespaces/default/secrets",
        json!({"metadata": {"name": "s"}}),
    )
    .await;
    let bound = value(
        token(
            &server,
            json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}}),
        )
        .await,
    )
    .await;
    let bound = bound["status"]["token"].as_str().unwrap();
    let free = value(token(&server, json!({})).await).await;
    let free = free["status"]["token"].as_str().unwrap();
    assert_eq!(
        ask(&server, bound, "GET", MAPS, Value::Null).await.status(),
        StatusCode::OK
    );
    ask(
        &server,
        &admin,
        "DELETE",
        "/api/v1/namespaces/default/secrets/s",
        Value::Null,
    )
    .await;
    assert_eq!(
        ask(&server, bound, "GET", MAPS, Value::Null).await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        ask(&server, free, "GET", MAPS, Value::Null).await.status(),
        StatusCode::OK
    );
    let account = "/api/v1/namespaces/default/serviceaccounts";
    ask(
        &server,
        &admin,
        "DELETE",
        &format!("{account}/reader"),
        Value::Null,
    )
    .await;
    assert_eq!(
        ask(&server, free, "GET", MAPS, Value::Null).await.status(),
        StatusCode::UNAUTHORIZED
    );
    // A new account of the same name is another one.
    ask(
        &server,
        &admin,
        "POST",
        account,
        json!({"metadata": {"name": "reader"}}),
    )
    .await;
    assert_eq!(
        ask(&server, free, "GET", MAPS, Value::Null).await.status(),
        StatusCode::UNAUTHORIZED
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_token_ends_with_its_pod_and_is_not_its_successors() {
    let server = start().await;
    let admin = server.admin_token().to_owned();
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, account: &str| {
        json!({"metadata": {"name": name}, "spec": {"serviceAccountName": account,
            "containers": [{"name": "c", "image": "i"}]}})
    };
    let bound = |name: &str, uid: &str| {
        let mut reference = json!({"kind": "Pod", "apiVersion": "v1", "name": name});
        if !uid.is_empty() {
            reference["uid"] = uid.into();
        }
        json!({"boundObjectRef": reference})
    };
    for (name, account) in [("web", "reader"), ("other", "default")] {
        let made = ask(&server, &admin, "POST", pods, pod(name, account)).await;
        assert_eq!(made.status(), StatusCode::CREATED);
    }
    // Of a pod that is not there, is another one by now, or is another account's.
    for (spec, status, reason) in [
        (bound("gone", ""), StatusCode::NOT_FOUND, "NotFound"),
        (bound("web", "another"), StatusCode::CONFLICT, "Conflict"),
        (bound("other", ""), StatusCode::BAD_REQUEST, "BadRequest"),
    ] {
        let refused = token(&server, spec).await;
        assert_eq!(refused.status(), status);
        assert_eq!(value(refused).await["reason"], reason);
    }
    let made = value(token(&server, bound("web", "")).await).await;
    let jwt = made["status"]["token"].as_str().unwrap();
    let seen = async || ask(&server, jwt, "GET", MAPS, Value::Null).await.status();
    assert_eq!(seen().await, StatusCode::OK);
    let deleted = ask(&server, &admin, "DELETE", &format!("{pods}/web"), Value::Null).await;
    assert_eq!(deleted.status(), StatusCode::OK);
    assert_eq!(seen().await, StatusCode::UNAUTHORIZED);
    ask(&server, &admin, "POST", pods, pod("web", "reader")).await;
    assert_eq!(seen().await, StatusCode::UNAUTHORIZED);
    server.shutdown().await;
}

#[tokio::test]
async fn a_data_directory_is_one_servers_and_is_not_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let start = async || Server::start(Config::new(Data::Directory(data.clone()))).await;
    let server = start().await.unwrap();
    let store = data.join("store.redb");
    let second = start().await.unwrap_err().to_string();
    assert!(
        second.contains(store.to_str().unwrap()) && second.contains("no other process has it open"),
        "{second}"
    );
    let map = json!({"metadata": {"name": "kept"}});
    let made = ask(&server, server.admin_token(), "POST", MAPS, map).await;
    assert_eq!(made.status(), StatusCode::CREATED, "the first one works on");
    server.shutdown().await;
    let whole = std::fs::read(&store).unwrap();
    for (bytes, why) in [
        (&b""[..], "is empty, though its folder was in use"),
        (&whole[..whole.len() / 2], "cannot be opened"),
        (&b"{\"a\": 1}"[..], "Not a redb database"),
    ] {
        std::fs::write(&store, bytes).unwrap();
        for _ in 0..2 {
            let refused = start().await.unwrap_err().to_string();
            assert!(
                refused.contains(why) && refused.contains(store.to_str().unwrap()),
                "{refused}"
            );
        }
        assert_eq!(std::fs::read(&store).unwrap(), bytes, "it is left as it is");
    }
    std::fs::write(&store, &whole).unwrap();
    let server = start().await.unwrap();
    let kept = ask(
        &server,
        server.admin_token(),
        "GET",
        &format!("{MAPS}/kept"),
        Value::Null,
    )
    .await;
    assert_eq!(kept.status(), StatusCode::OK);
    server.shutdown().await;
    // A key of its own that is none; and once it is one again, all is well.
    let key = data.join("serviceaccount.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "nonsense!").unwrap();
    for _ in 0..2 {
        let refused = start().await.unwrap_err().to_string();
        assert!(refused.contains("serviceaccount.key holds no key"), "{refused}");
    }
    std::fs::write(&key, good).unwrap();
    start().await.unwrap().shutdown().await;
}

#[tokio::test]
async fn open_watches_end_when_the_right_to_watch_ends() {
    for doomed in [
        "/api/v1/namespaces/default/serviceaccounts/reader",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/reader",
    ] {
        let server = start().await;
        let admin = server.admin_token().to_owned();
        let jwt = value(token(&server, json!({})).await).await["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned();
        let watch = ask(&server, &jwt, "GET", &format!("{MAPS}?watch=1"), Value::Null).await;
        assert_eq!(watch.status(), StatusCode::OK);
        let mut events = watch.into_body().into_data_stream();
        ask(
            &server,
            &admin,
            "POST",
            MAPS,
            json!({"metadata": {"name": "seen"}}),
        )
        .await;
        let first = tokio::time::timeout(Duration::from_secs(5), events.next())
            .await
            .expect("an event")
            .unwrap()
            .unwrap();
        assert!(String::from_utf8_lossy(&first).contains("\"seen\""));
        ask(&server, &admin, "DELETE", doomed, Value::Null).await;
        ask(
            &server,
            &admin,
            "POST",
            MAPS,
            json!({"metadata": {"name": "unseen"}}),
        )
        .await;
        let rest = tokio::time::timeout(Duration::from_secs(5), StreamExt::collect::<Vec<_>>(events))
            .await
            .expect("the watch ends");
        let text: String = rest
            .into_iter()
            .map(|c| String::from_utf8_lossy(&c.unwrap()).into_owned())
            .collect();
        assert!(
            !text.contains("unseen"),
            "after {doomed} is gone, nothing more is told: {text}"
        );
        server.shutdown().await;
    }
}

#[tokio::test]
async fn strangers_see_only_that_the_server_lives() {
    let server = start().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            ask(&server, "", "GET", path, Value::Null).await.status(),
            StatusCode::OK,
            "{path}"
        );
    }
    for path in [
        "/api",
        "/apis",
        "/api/v1/namespaces",
        "/openapi/v2",
        "/openapi/v3",
        MAPS,
        "/nope",
    ] {
        let answer = ask(&server, "", "GET", path, Value::Null).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let basic = Request::builder()
        .uri("/version")
        .header("authorization", "Basic YTpi")
        .body(Body::empty())
        .unwrap();
    let answer = server.service().oneshot(basic).await.unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::UNAUTHORIZED,
        "another scheme is no token"
    );
    let garbage = Request::builder()
        .uri("/version")
        .header("authorization", &b"Bearer \xff\xfe"[..])
        .body(Body::empty())
        .unwrap();
    let answer = server.service().oneshot(garbage).await.unwrap();
    assert_eq!(
        answer.status(),
        StatusCode::UNAUTHORIZED,
        "what is no text is no token, and not nobody's either"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn nobody_acts_as_another_without_the_right_to() {
    let server = start().await;
    let call = async |user: User, header: &str, who: &str| {
        let request = Request::builder()
            .uri(MAPS)
            .header(header, who)
            .body(Body::empty())
            .unwrap();
        server.service_as(user).oneshot(request).await.unwrap().status()
    };
    let dev = || User::new("dev", &[]);
    assert_eq!(
        call(dev(), "impersonate-user", "admin").await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        call(User::admin(), "impersonate-user", "dev").await,
        StatusCode::FORBIDDEN
    );
    let reader = "system:serviceaccount:default:reader";
    assert_eq!(
        call(User::admin(), "impersonate-user", reader).await,
        StatusCode::OK
    );
    assert_eq!(
        call(User::admin(), "impersonate-group", "system:masters").await,
        StatusCode::BAD_REQUEST
    );
    server.shutdown().await;
}

#[tokio::test]
async fn the_data_directory_keeps_its_secrets_and_its_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let start = async |names: &[&str]| {
        let mut config = Config::new(Data::Directory(data.clone()));
        config.tls = Tls::Generated {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        };
        Server::start(config).await.unwrap()
    };
    let server = start(&["localhost"]).await;
    let (ca, token) = (server.ca_pem().to_owned(), server.admin_token().to_owned());
    let made = ask(
        &server,
        &token,
        "POST",
        "/api/v1/namespaces/default/serviceaccounts",
        json!({"metadata": {"name": "reader"}}),
    )
    .await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let jwt = value(self::token(&server, json!({})).await).await["status"]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!format!("{server:?}").contains(&token), "tokens do not show");
    server.shutdown().await;
    for secret in [
        "admin.token",
        "ca.key",
        "server.key",
        "serviceaccount.key",
        "store.redb",
    ] {
        let mode = std::fs::metadata(data.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret} is its owner's alone");
    }
    assert_eq!(
        std::fs::metadata(&data).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let certificate = std::fs::read(data.join("server.crt")).unwrap();
    let server = start(&["localhost"]).await;
    assert_eq!(
        (server.ca_pem(), server.admin_token()),
        (ca.as_str(), token.as_str())
    );
    assert_eq!(
        std::fs::read(data.join("server.crt")).unwrap(),
        certificate,
        "the certificate is used again"
    );
    let whoami = ask(
        &server,
        &jwt,
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        json!({}),
    )
    .await;
    assert_eq!(whoami.status(), StatusCode::CREATED, "tokens outlive a restart");
    server.shutdown().await;
    let server = start(&["localhost", "10.0.0.1"]).await;
    assert_eq!(server.ca_pem(), ca, "the authority stays");
    assert_ne!(
        std::fs::read(data.join("server.crt")).unwrap(),
        certificate,
        "new names, new certificate"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn only_tls_is_spoken_and_names_are_checked() {
    let mut config = Config::in_memory();
    config
        .listeners
        .push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    config
        .listeners
        .push(std::net::TcpListener::bind("[::1]:0").unwrap());
    let server = Server::start(config).await.unwrap();
    let connect = async |host: &str, ca: &str| {
        let addr = server.addrs()[usize::from(host.contains(':'))];
        let url = if host.contains(':') {
            format!("https://[{host}]:{}", addr.port())
        } else {
            format!("https://{host}:{}", addr.port())
        };
        let text = strait_apiserver::kubeconfig(&url, ca, "admin", server.admin_token());
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &Default::default())
            .await
            .unwrap();
        kube::Client::try_from(config).unwrap().apiserver_version().await
    };
    for host in ["127.0.0.1", "localhost", "::1"] {
        let version = connect(host, server.ca_pem())
            .await
            .unwrap_or_else(|e| panic!("{host}: {e}"));
        assert_eq!(version.major, "1");
    }
    let stranger = Server::start(Config::in_memory()).await.unwrap();
    assert!(
        connect("127.0.0.1", stranger.ca_pem()).await.is_err(),
        "another authority's certificate is not taken"
    );
    // Plain HTTP gets no HTTP answer.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(server.addr().unwrap())
        .await
        .unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The server may reset the connection; either way nothing readable comes.
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut answer))
        .await
        .expect("the socket is closed");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    stranger.shutdown().await;
    server.shutdown().await;
}

#[tokio::test]
async fn a_right_to_one_name_and_rules_with_nulls_open_nothing_more() {
    let mut config = Config::in_memory();
    config.manifests.push(
        READER
            .replace(
                "resources: [configmaps], verbs: [get, list, watch]",
                "resources: [configmaps], resourceNames: [one], verbs: [get, list, watch, delete, deletecollection]",
            )
            .replace(
                "rules: [{",
                "rules: [{apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [create]}, {",
            ),
    );
    let server = Server::start(config).await.unwrap();
    let admin = server.admin_token().to_owned();
    for name in ["one", "two"] {
        let map = json!({"metadata": {"name": name}});
        let made = ask(&server, &admin, "POST", MAPS, map).await;
        assert_eq!(made.status(), StatusCode::CREATED);
    }
    let made = value(token(&server, json!({})).await).await;
    let jwt = made["status"]["token"].as_str().unwrap();
    let one = format!("{MAPS}/one");
    let read = ask(&server, jwt, "GET", &one, Value::Null).await;
    assert_eq!(read.status(), StatusCode::OK);
    for method in ["LIST", "WATCH", "DELETECOLLECTION", "list"] {
        let refused = ask(&server, jwt, method, &one, Value::Null).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{method}");
        let refused = ask(&server, &admin, method, &one, Value::Null).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    let whole = format!("{MAPS}?fieldSelector=metadata.name%3Done");
    let refused = ask(&server, jwt, "DELETE", &whole, Value::Null).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let left = value(ask(&server, &admin, "GET", MAPS, Value::Null).await).await;
    let names: Vec<_> = left["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["metadata"]["name"])
        .collect();
    assert!(
        names.contains(&&json!("one")) && names.contains(&&json!("two")),
        "{names:?}"
    );

    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    for extra in [
        json!({"resourceNames": null}),
        json!({"nonResourceURLs": null}),
        json!({}),
    ] {
        let mut rule = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        rule.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let role = json!({"metadata": {"name": "more"}, "rules": [rule]});
        let refused = ask(&server, jwt, "POST", roles, role).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{extra}");
    }
}

#[tokio::test]
async fn a_name_outside_ascii_is_not_served_as_the_one_who_asks() {
    let server = start().await;
    for (user, status) in [
        (&b"jos\xc3\xa9"[..], StatusCode::FORBIDDEN),
        (b"jos\xe9", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::builder()
            .uri(MAPS)
            .header("authorization", format!("Bearer {}", server.admin_token()))
            .header("impersonate-user", http::HeaderValue::from_bytes(user).unwrap());
        let answer = server
            .service()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status(), status, "{user:?}");
    }
}

#[tokio::test]
async fn data_that_is_no_base64_is_refused() {
    let server = start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for (text, fine) in [
        ("YQ==", true),
        ("YQ", false),
        ("not base64!", false),
        ("_-8=", false),
        ("YQ\n==", true),
    ] {
        let secret = json!({"metadata": {"generateName": "s-"}, "data": {"a": text}});
        let answer = ask(&server, server.admin_token(), "POST", secrets, secret).await;
        assert_eq!(
            answer.status().is_success(),
            fine,
            "{text:?}: {}",
            answer.status()
        );
    }
}
