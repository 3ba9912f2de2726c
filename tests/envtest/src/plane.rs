//! etcd, kube-apiserver, and kube-controller-manager where it is there.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::process::Process;

/// The administrator's token.
pub const ADMIN_TOKEN: &str = "admintoken";
/// The token of `dev`, who has no rights of their own.
pub const DEV_TOKEN: &str = "devtoken";

/// kube-controller-manager has no second, open port any more.
const SECURE_ONLY: Version = Version { major: 1, minor: 22 };
/// Its controllers are called as they are.
const LONG_NAMES: Version = Version { major: 1, minor: 28 };

/// Time for a process to get ready.
const READY: Duration = Duration::from_secs(90);
/// A port may be taken by somebody else between its choice and its use.
const TRIES: usize = 3;

/// Who a client is.
#[derive(Debug, Clone, Copy)]
pub enum Client<'a> {
    /// Nobody: requests bring their own token, or none.
    Anybody,
    /// The administrator.
    Admin,
    /// A service account: namespace and name.
    Account(&'a str, &'a str),
}

/// A version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1.
    pub major: u32,
    /// What changes with a release.
    pub minor: u32,
}

impl Version {
    /// Out of `v1.20.2`, `1.20`, `1.33+`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().trim_start_matches('v').split(['.', '-', '+']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Version { major, minor })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A running control plane; it ends with this value.
#[derive(Debug)]
pub struct ControlPlane {
    // Ended from the last to the first, before their files go.
    controllers: Option<Process>,
    server: Process,
    etcd: Process,
    url: String,
    ca_pem: String,
    version: Version,
    at: PathBuf,
    _own: Option<TempDir>,
}

impl ControlPlane {
    /// Starts what the folder holds. When this returns, the API is ready.
    pub async fn start(assets: &Path) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| format!("no folder for a control plane: {e}"))?;
        let mut plane = Self::over(assets, dir.path(), None).await?;
        plane._own = Some(dir);
        Ok(plane)
    }

    /// The same over a folder that outlives it: with the objects, the certificates and the keys that are there, on
    /// this port of 127.0.0.1 or on any.
    pub async fn over(assets: &Path, folder: &Path, port: Option<u16>) -> Result<Self, String> {
        let mut last = String::new();
        for _ in 0..TRIES {
            match Self::attempt(assets, folder, port).await {
                Ok(plane) => return Ok(plane),
                Err(e) if e.contains("address already in use") => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    async fn attempt(assets: &Path, at: &Path, port: Option<u16>) -> Result<Self, String> {
        let ca_pem = match std::fs::read_to_string(at.join("ca.crt")) {
            Ok(there) => there,
            Err(_) => certificates(at)?,
        };
        let [clients, peers, secure, manager] = ports()?;
        let secure = port.unwrap_or(secure);
        let args = etcd_args(at, clients, peers);
        let mut etcd = Process::start(assets, "etcd", &args, at)?;
        wait(&mut etcd, || healthy(clients)).await?;
        let has_controllers = assets.join("kube-controller-manager").exists();
        let args = server_args(at, clients, secure, has_controllers);
        let mut server = Process::start(assets, "kube-apiserver", &args, at)?;
        let url = format!("https://127.0.0.1:{secure}");
        let admin = kubeconfig(&url, &ca_pem, Client::Admin);
        let client = connect(&admin).await?;
        wait(&mut server, || ready(client.clone())).await?;
        let version = version(&client).await?;
        let controllers = if has_controllers {
            let file = at.join("controller-manager.kubeconfig");
            std::fs::write(&file, &admin).map_err(|e| format!("{}: {e}", file.display()))?;
            let args = manager_args(at, &file, manager, version);
            Some(Process::start(assets, "kube-controller-manager", &args, at)?)
        } else {
            None
        };
        let mut plane = ControlPlane {
            controllers,
            server,
            etcd,
            url,
            ca_pem,
            version,
            at: at.to_owned(),
            _own: None,
        };
        plane.alive()?;
        Ok(plane)
    }

    /// An error if one of its processes has ended.
    pub fn alive(&mut self) -> Result<(), String> {
        self.etcd.alive()?;
        self.server.alive()?;
        self.controllers.as_mut().map_or(Ok(()), Process::alive)
    }

    /// Where the API listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate to trust.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// What it says of its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether namespaces end and dependents go: without a controller manager they do not.
    pub fn has_controllers(&self) -> bool {
        self.controllers.is_some()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.at
    }

    /// A kubeconfig.
    pub fn kubeconfig(&self, who: Client<'_>) -> String {
        kubeconfig(&self.url, &self.ca_pem, who)
    }

    /// A client.
    pub async fn client(&self, who: Client<'_>) -> Result<kube::Client, String> {
        connect(&self.kubeconfig(who)).await
    }
}

pub(crate) async fn connect(kubeconfig: &str) -> Result<kube::Client, String> {
    let fail = |e: &dyn std::fmt::Display| format!("no client for the control plane: {e}");
    let config = Kubeconfig::from_yaml(kubeconfig).map_err(|e| fail(&e))?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .map_err(|e| fail(&e))?;
    kube::Client::try_from(config).map_err(|e| fail(&e))
}

fn kubeconfig(url: &str, ca_pem: &str, who: Client<'_>) -> String {
    let user = match who {
        Client::Anybody => json!({}),
        Client::Admin => json!({"token": ADMIN_TOKEN}),
        Client::Account(namespace, name) => json!({"token": ADMIN_TOKEN,
            "as": format!("system:serviceaccount:{namespace}:{name}"),
            "as-groups": ["system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated"]}),
    };
    // JSON is YAML.
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}]})
    .to_string()
}

/// The authority, the server's certificate, the key for service account tokens, and who has which token.
fn certificates(dir: &Path) -> Result<String, String> {
    let make = |e: rcgen::Error| format!("a certificate cannot be made: {e}");
    let ca_key = KeyPair::generate().map_err(make)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name.push(DnType::CommonName, "envtest-ca");
    let ca = params.self_signed(&ca_key).map_err(make)?.pem();
    let issuer = Issuer::new(params, ca_key);
    let names = ["localhost", "127.0.0.1", "10.96.0.1", "kubernetes.default.svc"].map(str::to_owned);
    let mut params = CertificateParams::new(names.to_vec()).map_err(make)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    let key = KeyPair::generate().map_err(make)?;
    let certificate = params.signed_by(&key, &issuer).map_err(make)?.pem();
    let accounts = KeyPair::generate().map_err(make)?;
    let tokens = format!("{ADMIN_TOKEN},admin,admin-uid,system:masters\n{DEV_TOKEN},dev,dev-uid\n");
    for (name, text) in [
        ("ca.crt", &ca),
        ("server.crt", &certificate),
        ("server.key", &key.serialize_pem()),
        ("sa.key", &accounts.serialize_pem()),
        ("sa.pub", &accounts.public_key_pem()),
        ("tokens.csv", &tokens),
    ] {
        std::fs::write(dir.join(name), text).map_err(|e| format!("{name} cannot be written: {e}"))?;
    }
    Ok(ca)
}

/// Free ports, held together so that they differ.
fn ports() -> Result<[u16; 4], String> {
    let fail = |e: std::io::Error| format!("no free port: {e}");
    let mut held = Vec::new();
    let mut found = [0; 4];
    for port in &mut found {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(fail)?;
        *port = listener.local_addr().map_err(fail)?.port();
        held.push(listener);
    }
    Ok(found)
}

fn etcd_args(dir: &Path, clients: u16, peers: u16) -> Vec<String> {
    vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{clients}"),
        format!("--advertise-client-urls=http://127.0.0.1:{clients}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
        "--unsafe-no-fsync=true".into(),
    ]
}

fn server_args(dir: &Path, etcd: u16, port: u16, controllers: bool) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut args = vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--cert-dir={}", file("server")),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-cluster-ip-range=10.96.0.0/16".into(),
        "--authorization-mode=RBAC".into(),
        "--allow-privileged=true".into(),
    ];
    if !controllers {
        // Nobody makes the accounts that it asks for.
        args.push("--disable-admission-plugins=ServiceAccount".into());
    }
    args
}

fn manager_args(dir: &Path, kubeconfig: &Path, port: u16, version: Version) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let controllers = if version < LONG_NAMES {
        [
            "namespace",
            "garbagecollector",
            "serviceaccount",
            "clusterrole-aggregation",
        ]
    } else {
        [
            "namespace-controller",
            "garbage-collector-controller",
            "serviceaccount-controller",
            "clusterrole-aggregation-controller",
        ]
    };
    let mut args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", file("manager")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        format!("--controllers={}", controllers.join(",")),
    ];
    if version < SECURE_ONLY {
        // Would take a port of its own choice otherwise, which only one can have.
        args.push("--port=0".into());
    }
    args
}

async fn wait<F: Future<Output = Result<(), String>>>(
    process: &mut Process,
    check: impl Fn() -> F,
) -> Result<(), String> {
    let end = Instant::now() + READY;
    loop {
        process.alive()?;
        match check().await {
            Ok(()) => return Ok(()),
            Err(e) if Instant::now() > end => {
                return Err(format!(
                    "{e}, {} s long: {}",
                    READY.as_secs(),
                    process.last_words()
                ));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn healthy(port: u16) -> Result<(), String> {
    let fail = |e: std::io::Error| format!("etcd does not answer: {e}");
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(fail)?;
    socket
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .map_err(fail)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.map_err(fail)?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(format!("etcd is not healthy: {answer}"))
    }
}

async fn ready(client: kube::Client) -> Result<(), String> {
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .map_err(|e| e.to_string())?;
    let asked = tokio::time::timeout(Duration::from_secs(5), client.request_text(request));
    match asked.await {
        Ok(Ok(text)) if text == "ok" => Ok(()),
        Ok(Ok(text)) => Err(format!("kube-apiserver is not ready: {text}")),
        Ok(Err(e)) => Err(format!("kube-apiserver is not ready: {e}")),
        Err(_) => Err("kube-apiserver does not answer".into()),
    }
}

async fn version(client: &kube::Client) -> Result<Version, String> {
    let said = client
        .apiserver_version()
        .await
        .map_err(|e| format!("kube-apiserver does not say its version: {e}"))?;
    Version::parse(&said.git_version)
        .ok_or_else(|| format!("kube-apiserver says that its version is {:?}", said.git_version))
}

/// The folder that `KUBEBUILDER_ASSETS` names.
pub fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}
