//! The server under test: ours in this process, or a real kube-apiserver (crate strait-envtest).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use strait_apiserver::{Config, Server, User};
use strait_envtest::{ADMIN_TOKEN, DEV_TOKEN};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server, and what a test makes of its own on it.
pub(crate) struct Under {
    client: kube::Client,
    server: Option<Server>,
    /// Whether namespaces end and dependents go.
    pub(crate) controllers: bool,
    /// A namespace that is this test's alone.
    pub(crate) namespace: String,
    /// A group for its definitions, likewise.
    pub(crate) group: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) media_type: String,
    pub(crate) body: Value,
}

impl Answer {
    /// `Status.reason`, or a field of the same name.
    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn rv(&self) -> String {
        self.text("/metadata/resourceVersion")
    }

    pub(crate) fn text(&self, pointer: &str) -> String {
        let v = self.body.pointer(pointer).and_then(Value::as_str);
        v.unwrap_or_default().to_owned()
    }

    pub(crate) fn items(&self) -> Vec<Value> {
        self.body["items"].as_array().cloned().unwrap_or_default()
    }

    /// Names of the items.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |v: &Value| v["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.items().iter().map(name).collect()
    }

    /// `field: message` of every cause, once: a real server tells some as often as its checks come by.
    pub(crate) fn causes(&self) -> Vec<String> {
        let list = self
            .body
            .pointer("/details/causes")
            .and_then(Value::as_array)
            .cloned();
        let text = |c: &Value, k: &str| c[k].as_str().unwrap_or_default().to_owned();
        let mut causes = Vec::new();
        for cause in list.into_iter().flatten() {
            let cause = format!("{}: {}", text(&cause, "field"), text(&cause, "message"));
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        causes
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// Fails unless status, reason and message are these.
    #[track_caller]
    pub(crate) fn says(self, status: u16, reason: &str, message: &str) -> Self {
        assert_eq!(
            (self.status, self.reason(), self.message()),
            (status, reason, message),
            "{}",
            self.body
        );
        self
    }
}

impl Under {
    /// Ours, or in a rerun the real one.
    pub(crate) async fn start() -> Self {
        let (client, server, controllers) = match strait_envtest::wanted() {
            Some((kubeconfig, controllers)) => {
                let config = kube::config::Kubeconfig::from_yaml(&kubeconfig).unwrap();
                let mut config = kube::Config::from_custom_kubeconfig(config, &Default::default())
                    .await
                    .unwrap();
                // Requests bring their own token, or none.
                config.auth_info = Default::default();
                // Answers are looked at, also those that say to try again.
                config.default_retry = false;
                (kube::Client::try_from(config).unwrap(), None, controllers)
            }
            None => {
                let server = Server::start(settings()).await.unwrap();
                let client = kube::Client::new(server.service(), "default");
                (client, Some(server), true)
            }
        };
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let under = Under {
            client,
            server,
            controllers,
            group: format!("{id}.test.dev"),
            namespace: id.clone(),
        };
        under
            .post("/api/v1/namespaces", json!({"metadata": {"name": id}}))
            .await
            .is(201);
        under
    }

    /// Takes away what the test made that lies in no namespace of its own, and ends.
    pub(crate) async fn end(self) {
        if self.server.is_none() {
            let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            for name in self.get(crds).await.names() {
                if name.ends_with(&format!(".{}", self.group)) {
                    self.delete(&format!("{crds}/{name}")).await;
                }
            }
            self.delete(&format!("/api/v1/namespaces/{}", self.namespace))
                .await;
        }
        if let Some(server) = self.server {
            server.shutdown().await;
        }
    }

    /// Whether the test needs controllers that are not there; says so.
    pub(crate) fn lacks_controllers(&self, test: &str) -> bool {
        if !self.controllers {
            strait_envtest::skip(
                test,
                "it needs kube-controller-manager, which is not beside kube-apiserver",
            );
        }
        !self.controllers
    }

    /// Sends a request. No token: nobody's.
    pub(crate) async fn send(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> http::Response<Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answered = self.client.send(request.body(Body::from(body)).unwrap());
        tokio::time::timeout(PATIENCE, answered)
            .await
            .unwrap_or_else(|_| panic!("no answer in time to {method} {:.100}", path))
            .unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        answer(self.send(token, method, path, headers, body).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(ADMIN_TOKEN, "GET", path, &[], Vec::new()).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask(ADMIN_TOKEN, "GET", path, &[("accept", accept)], Vec::new())
            .await
    }

    async fn with(&self, method: &str, path: &str, media: &str, body: Value) -> Answer {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        self.ask(ADMIN_TOKEN, method, path, &[("content-type", media)], body)
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.with("POST", path, "application/json", body).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.with("PUT", path, "application/json", body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.with("DELETE", path, "application/json", Value::Null).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: Value) -> Answer {
        self.with("DELETE", path, "application/json", options).await
    }

    pub(crate) async fn merge(&self, path: &str, body: Value) -> Answer {
        self.with("PATCH", path, "application/merge-patch+json", body)
            .await
    }

    pub(crate) async fn strategic(&self, path: &str, body: Value) -> Answer {
        self.with("PATCH", path, "application/strategic-merge-patch+json", body)
            .await
    }

    pub(crate) async fn json_patch(&self, path: &str, body: Value) -> Answer {
        self.with("PATCH", path, "application/json-patch+json", body)
            .await
    }

    pub(crate) async fn apply(&self, path: &str, manager: &str, body: Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}");
        self.with("PATCH", &path, "application/apply-patch+yaml", body)
            .await
    }

    pub(crate) async fn force(&self, path: &str, manager: &str, body: Value) -> Answer {
        self.apply(path, &format!("{manager}&force=true"), body).await
    }

    /// As `dev`, who has no rights but those that a test gives.
    pub(crate) async fn dev(&self, method: &str, path: &str, body: Value) -> Answer {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        self.ask(DEV_TOKEN, method, path, &[("content-type", media)], body)
            .await
    }

    /// Path of a resource in the test's namespace: `configmaps`, or `apps/v1/deployments`.
    pub(crate) fn path(&self, resource: &str) -> String {
        let (api, plural) = match resource.rsplit_once('/') {
            Some((version, plural)) => (format!("/apis/{version}"), plural),
            None => ("/api/v1".to_owned(), resource),
        };
        format!("{api}/namespaces/{}/{plural}", self.namespace)
    }

    /// Defines the kind `kind` (plural `plural`) in the test's group, version v1, and waits until it is served.
    /// `version`: what the version has besides its name.
    pub(crate) async fn define(&self, plural: &str, kind: &str, version: Value) -> String {
        let mut v = json!({"name": "v1", "served": true, "storage": true});
        for (key, value) in version.as_object().unwrap() {
            v[key] = value.clone();
        }
        self.define_versions(plural, kind, json!([v])).await;
        self.path(&format!("{}/v1/{plural}", self.group))
    }

    pub(crate) fn crd(&self, plural: &str, kind: &str, versions: Value) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{}", self.group)},
            "spec": {"group": self.group, "scope": "Namespaced",
                "names": {"plural": plural, "kind": kind}, "versions": versions}})
    }

    pub(crate) async fn define_versions(&self, plural: &str, kind: &str, versions: Value) {
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.post(crds, self.crd(plural, kind, versions)).await.is(201);
        let path = format!("{crds}/{plural}.{}", self.group);
        self.until("the definition is established", async || {
            let conditions = self.get(&path).await.body["status"]["conditions"].clone();
            conditions.as_array().is_some_and(|list| {
                list.iter()
                    .any(|c| c["type"] == "Established" && c["status"] == "True")
            })
        })
        .await;
        // Established a moment before every handler knows it.
        let version = self.get(&path).await.text("/spec/versions/0/name");
        let list = self.path(&format!("{}/{version}/{plural}", self.group));
        self.until("the kind is served", async || self.get(&list).await.status == 200)
            .await;
    }

    /// Waits for a condition.
    pub(crate) async fn until(&self, what: &str, check: impl AsyncFn() -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !check().await {
            assert!(tokio::time::Instant::now() < end, "did not come to pass: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        self.watch_as(ADMIN_TOKEN, path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, token: &str, path: &str, accept: &str) -> Watch {
        let response = self
            .send(token, "GET", path, &[("accept", accept)], Vec::new())
            .await;
        let status = response.status().as_u16();
        Watch {
            status,
            body: Box::pin(response.into_body().into_data_stream()),
            rest: Vec::new(),
        }
    }
}

/// Settings of our server for tests.
pub(crate) fn settings() -> Config {
    let mut config = Config::in_memory();
    config.admin_token = Some(ADMIN_TOKEN.into());
    config.tokens.push((DEV_TOKEN.into(), User::new("dev", &[])));
    config.service_cidrs.push("10.96.0.0/16".parse().unwrap());
    config
}

/// Reads an answer.
pub(crate) async fn answer(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let header = |v: &http::HeaderValue| v.to_str().unwrap_or_default().to_owned();
    Answer {
        status: parts.status.as_u16(),
        warnings: parts.headers.get_all("warning").iter().map(header).collect(),
        media_type: parts.headers.get("content-type").map(header).unwrap_or_default(),
        body: serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// An open watch.
pub(crate) struct Watch {
    pub(crate) status: u16,
    body: std::pin::Pin<Box<dyn futures::Stream<Item = Result<bytes::Bytes, kube::Error>> + Send>>,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .expect("a watch that says something in time");
            match chunk {
                Some(chunk) => self.rest.extend_from_slice(&chunk.unwrap()),
                None => return None,
            }
        }
    }

    /// `TYPE name` of the next events.
    pub(crate) async fn expect(&mut self, events: &[&str]) {
        for want in events {
            let event = self
                .next()
                .await
                .unwrap_or_else(|| panic!("the watch ended before {want}"));
            assert_eq!(shown(&event), *want, "{event}");
        }
    }

    /// Everything until the watch ends.
    pub(crate) async fn all(&mut self) -> Vec<Value> {
        let mut out = Vec::new();
        while let Some(event) = self.next().await {
            out.push(event);
        }
        out
    }
}

/// `TYPE name`.
pub(crate) fn shown(event: &Value) -> String {
    let text = |p: &str| event.pointer(p).and_then(Value::as_str).unwrap_or_default();
    format!("{} {}", text("/type"), text("/object/metadata/name"))
}
