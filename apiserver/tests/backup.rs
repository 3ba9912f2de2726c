//! Backups: taken while the server works, whole or refused, and brought back.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use strait_apiserver::backup::{BACKUP_PATH, RESTORE_PATH, from_directory, into_directory, verify};
use strait_apiserver::{Config, Data, Server, Service, User};
use tower::ServiceExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn bytes(service: &Service, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Bytes) {
    let media = if method == "PATCH" {
        "application/merge-patch+json"
    } else {
        "application/json"
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(body.into())
        .unwrap();
    let response = service.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

async fn call(service: &Service, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let (status, answer) = bytes(service, method, path, body).await;
    (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
}

async fn start(dir: &Path) -> Server {
    let mut config = Config::new(Data::Directory(dir.to_owned()));
    config.service_cidrs.push("10.96.0.0/24".parse().unwrap());
    config.manifests.push(ROLES.into());
    Server::start(config).await.unwrap()
}

/// Somebody who may ask for every path, and nothing else.
const ROLES: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: paths}
rules: [{nonResourceURLs: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: paths}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: paths}
subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: walkers}]
"#;

async fn take(service: &Service) -> Vec<u8> {
    let (status, backup) = bytes(service, "GET", BACKUP_PATH, Body::empty()).await;
    assert_eq!(status, StatusCode::OK);
    backup.to_vec()
}

/// Name and count of each map.
async fn counts(service: &Service) -> BTreeMap<String, String> {
    let (status, list) = call(service, "GET", MAPS, Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .filter(|o| o["data"]["n"].is_string())
        .map(|o| {
            let text = |p: &str| o.pointer(p).unwrap().as_str().unwrap().to_owned();
            (text("/metadata/name"), text("/data/n"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_working_server_shows_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir.path().join("old")).await;
    let admin = server.admin_service();
    for name in ["first", "second"] {
        let map = json!({"metadata": {"name": name}, "data": {"n": "0"}});
        assert_eq!(call(&admin, "POST", MAPS, map).await.0, StatusCode::CREATED);
    }
    // `second` follows `first`: at every moment it is at the same count or one behind.
    let done = Arc::new(AtomicBool::new(false));
    let work = tokio::spawn({
        let (admin, done) = (admin.clone(), done.clone());
        async move {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                for name in ["first", "second"] {
                    let patch = json!({"data": {"n": n.to_string()}});
                    let (status, _) = call(&admin, "PATCH", &format!("{MAPS}/{name}"), patch).await;
                    assert_eq!(status, StatusCode::OK);
                }
            }
            n
        }
    });
    let mut backups = Vec::new();
    for _ in 0..20 {
        backups.push(take(&admin).await);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(work.await.unwrap() > 5, "there was work");
    let (token, ca) = (server.admin_token().to_owned(), server.ca_pem().to_owned());
    let last = server.resource_version();
    server.shutdown().await;

    for (n, backup) in backups.iter().enumerate() {
        let summary = verify(&backup[..]).unwrap();
        assert!(summary.version <= last);
        let new = dir.path().join(format!("new{n}"));
        assert_eq!(into_directory(&backup[..], &new).unwrap(), summary);
        if n + 1 != backups.len() && n % 7 != 0 {
            continue;
        }
        let server = start(&new).await;
        let found = counts(&server.admin_service()).await;
        let (first, second): (u64, u64) = (found["first"].parse().unwrap(), found["second"].parse().unwrap());
        assert!(first == second || first == second + 1, "{found:?}");
        // It is the same server to its clients, but for versions, which they have to learn anew.
        assert_eq!(
            (server.admin_token(), server.ca_pem()),
            (token.as_str(), ca.as_str())
        );
        assert!(server.resource_version() > last + 1000);
        let path = format!("{MAPS}?watch=1&resourceVersion={last}");
        let (_, watch) = bytes(&server.admin_service(), "GET", &path, Body::empty()).await;
        let event: Value = serde_json::from_slice(watch.split(|b| *b == b'\n').next().unwrap()).unwrap();
        assert_eq!(
            (event["type"].as_str(), event["object"]["code"].as_i64()),
            (Some("ERROR"), Some(410)),
            "{event}"
        );
        let mode = |name: &str| std::fs::metadata(new.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("store.redb"), mode("ca.key"), mode("")),
            (0o600, 0o600, 0o700)
        );
        server.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir.path().join("data")).await;
    let backup = take(&server.admin_service()).await;
    let new = dir.path().join("new");
    let refused = |bytes: &[u8]| {
        let error = into_directory(bytes, &new).unwrap_err().to_string();
        assert_eq!(error, verify(bytes).unwrap_err().to_string());
        assert!(!new.join("store.redb").exists());
        error
    };
    assert!(refused(b"").contains("it is empty"));
    assert!(refused(b"{\"a\": 1}\n").contains("no backup"));
    assert!(refused(&backup[..backup.len() / 2]).contains("it was cut off"));
    assert!(refused(&backup[..backup.len() - 1]).contains("it was cut off"));
    let text = String::from_utf8(backup.clone()).unwrap();
    let at = text.find("\"paths\"").unwrap() + 2;
    let mut changed = backup.clone();
    changed[at] = b'Q';
    assert!(refused(&changed).contains("it was changed"));
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let without = [&lines[..8], &lines[9..]].concat().concat();
    assert!(refused(without.as_bytes()).contains("it was changed"));
    assert!(refused(&[&backup[..], b"more\n"].concat()).contains("something follows"));
    let later = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(refused(later.as_bytes()).contains("it has format 2"));

    // Targets that hold something already.
    let taken = into_directory(&backup[..], &dir.path().join("data")).unwrap_err();
    assert!(taken.to_string().contains("holds a store already"), "{taken}");
    std::fs::create_dir(&new).unwrap();
    std::fs::write(new.join("ca.key"), "another").unwrap();
    let other = into_directory(&backup[..], &new).unwrap_err().to_string();
    assert!(
        other.contains("ca.key is another one than the backup's"),
        "{other}"
    );
    assert!(!new.join("store.redb").exists() && !new.join("admin.token").exists());

    // Sources that are none, and one that a server has open.
    let none = from_directory(&dir.path().join("nowhere"), Vec::new()).unwrap_err();
    assert!(none.to_string().contains("is no data directory"), "{none}");
    let open = from_directory(&dir.path().join("data"), Vec::new())
        .unwrap_err()
        .to_string();
    assert!(open.contains("ask the server with its kubeconfig"), "{open}");
    server.shutdown().await;
    let mut cold = Vec::new();
    from_directory(&dir.path().join("data"), &mut cold).unwrap();
    assert_eq!(
        verify(&cold[..]).unwrap().objects,
        verify(&backup[..]).unwrap().objects
    );
}

#[tokio::test]
async fn a_running_server_goes_back_and_watches_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let admin = server.admin_service();
    let map = |name: &str, n: &str| json!({"metadata": {"name": name}, "data": {"n": n}});
    for name in ["changed", "deleted", "same"] {
        assert_eq!(
            call(&admin, "POST", MAPS, map(name, "1")).await.0,
            StatusCode::CREATED
        );
    }
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}});
    assert_eq!(
        call(&admin, "POST", services, service("old")).await.0,
        StatusCode::CREATED
    );
    let (_, same) = call(&admin, "GET", &format!("{MAPS}/same"), Value::Null).await;
    let backup = take(&admin).await;

    assert!(
        call(
            &admin,
            "PATCH",
            &format!("{MAPS}/changed"),
            json!({"data": {"n": "2"}})
        )
        .await
        .0
        .is_success()
    );
    for path in [format!("{MAPS}/deleted"), format!("{services}/old")] {
        assert!(call(&admin, "DELETE", &path, Value::Null).await.0.is_success());
    }
    assert_eq!(
        call(&admin, "POST", MAPS, map("made", "1")).await.0,
        StatusCode::CREATED
    );
    let version = server.resource_version();
    let now = counts(&admin).await;

    // Not by whoever may only walk the paths, and not with half a backup.
    let walker = server.service_as(User::new("w", &["walkers"]));
    for (method, path) in [("GET", BACKUP_PATH), ("POST", RESTORE_PATH)] {
        let (status, answer) = call(&walker, method, path, Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    }
    let half = backup[..backup.len() / 2].to_vec();
    let (status, answer) = bytes(&admin, "POST", RESTORE_PATH, half).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&answer).contains("it was cut off"));
    assert_eq!(counts(&admin).await, now);
    assert_eq!(server.resource_version(), version);

    let path = format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=2");
    let watch = tokio::spawn({
        let admin = admin.clone();
        async move { bytes(&admin, "GET", &path, Body::empty()).await.1 }
    });
    let (status, answer) = bytes(&admin, "POST", RESTORE_PATH, backup.clone()).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(
        message.contains("1 removed") && message.contains("3 written"),
        "{message}"
    );
    let want: BTreeMap<_, _> = ["changed", "deleted", "same"]
        .map(|n| (n.to_owned(), "1".to_owned()))
        .into();
    assert_eq!(counts(&admin).await, want);
    let (_, still) = call(&admin, "GET", &format!("{MAPS}/same"), Value::Null).await;
    assert_eq!(still, same, "what was the same keeps its version too");
    assert!(server.resource_version() > version);
    let seen = watch.await.unwrap();
    let mut events: Vec<(String, String)> = seen
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| {
            let event: Value = serde_json::from_slice(l).unwrap();
            let rv: u64 = event["object"]["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!(rv > version);
            let text = |v: &Value| v.as_str().unwrap().to_owned();
            (text(&event["object"]["metadata"]["name"]), text(&event["type"]))
        })
        .collect();
    events.sort();
    let wanted = [("changed", "MODIFIED"), ("deleted", "ADDED"), ("made", "DELETED")];
    assert_eq!(events, wanted.map(|(n, t)| (n.to_owned(), t.to_owned())));
    // The address of the service that came back is taken again.
    let (status, answer) = call(&admin, "POST", services, service("new")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    // A second time there is nothing to do; and all of it is on the disk.
    let before = server.resource_version();
    let (status, _) = bytes(&admin, "POST", RESTORE_PATH, backup).await;
    assert_eq!((status, server.resource_version()), (StatusCode::OK, before));
    server.shutdown().await;
    let server = start(dir.path()).await;
    assert_eq!(counts(&server.admin_service()).await, want);
    server.shutdown().await;
}
