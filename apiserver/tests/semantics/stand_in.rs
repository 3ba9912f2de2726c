//! Stands in for the programs of a control plane where tests prove that they would start the real ones.
//!
//! Small scripts with the names `etcd`, `kube-apiserver` and `kube-controller-manager` start this test binary
//! again. It takes the flags that those take and that tests give them, refuses others as they would, and is this
//! crate's server behind them.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use strait_apiserver::{Config, Data, Server, Tls, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

const ETCD: &[&str] = &[
    "data-dir",
    "listen-client-urls",
    "advertise-client-urls",
    "listen-peer-urls",
    "unsafe-no-fsync",
];
const APISERVER: &[&str] = &[
    "etcd-servers",
    "cert-dir",
    "bind-address",
    "secure-port",
    "tls-cert-file",
    "tls-private-key-file",
    "token-auth-file",
    "service-account-issuer",
    "service-account-key-file",
    "service-account-signing-key-file",
    "service-cluster-ip-range",
    "authorization-mode",
    "allow-privileged",
    "disable-admission-plugins",
];
const MANAGER: &[&str] = &[
    "kubeconfig",
    "leader-elect",
    "bind-address",
    "secure-port",
    "cert-dir",
    "root-ca-file",
    "service-account-private-key-file",
    "controllers",
];

type Flags = BTreeMap<String, String>;

const VARIABLE: &str = "STRAIT_STAND_IN";

/// A folder as `KUBEBUILDER_ASSETS` would name it; `entry` is the test that calls [`acts`] first.
pub(crate) fn folder(programs: &[&str], entry: &str) -> tempfile::TempDir {
    let exe = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in programs {
        let script = format!(
            "#!/bin/sh\n{VARIABLE}=\"{name}\n$(printf '%s\\n' \"$@\")\" exec '{}' --exact '{entry}' --nocapture\n",
            exe.display()
        );
        write_program(&dir.path().join(name), &script);
    }
    dir
}

/// Writes a script that can be started.
pub(crate) fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether this process was started as a stand-in; it has ended when this returns.
pub(crate) async fn acts() -> bool {
    let Ok(called) = std::env::var(VARIABLE) else {
        return false;
    };
    let mut words = called.lines();
    let program = words.next().unwrap_or_default();
    let args: Vec<&str> = words.collect();
    let done = match program {
        "etcd" => run(etcd, &args, ETCD).await,
        "kube-apiserver" => run(apiserver, &args, APISERVER).await,
        "kube-controller-manager" => run(manager, &args, MANAGER).await,
        other => Err(format!("nothing stands in for {other:?}").into()),
    };
    if let Err(e) = done {
        eprintln!("{e}");
        std::process::exit(1);
    }
    true
}

type Done = Result<(), Box<dyn Error>>;

async fn run(program: impl AsyncFn(&Flags) -> Done, args: &[&str], known: &[&str]) -> Done {
    program(&flags(args, known)?).await
}

fn flags(args: &[&str], known: &[&str]) -> Result<Flags, String> {
    let mut out = Flags::new();
    for arg in args {
        let (name, value) = arg
            .strip_prefix("--")
            .and_then(|a| a.split_once('='))
            .ok_or_else(|| format!("unknown command {arg:?}"))?;
        if !known.contains(&name) {
            return Err(format!("unknown flag: --{name}"));
        }
        out.insert(name.to_owned(), value.to_owned());
    }
    Ok(out)
}

fn flag<'a>(flags: &'a Flags, name: &str) -> Result<&'a str, String> {
    flags
        .get(name)
        .map(String::as_str)
        .ok_or_else(|| format!("--{name} must be specified"))
}

/// Only says that it is well: the server keeps its objects itself.
async fn etcd(flags: &Flags) -> Done {
    std::fs::create_dir_all(flag(flags, "data-dir")?)?;
    let address = flag(flags, "listen-client-urls")?.trim_start_matches("http://");
    let listener = tokio::net::TcpListener::bind(address).await?;
    let mut end = signal(SignalKind::terminate())?;
    loop {
        let (mut socket, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = end.recv() => return Ok(()),
        };
        let mut request = [0; 1024];
        let n = socket.read(&mut request).await?;
        let answer = if request[..n].starts_with(b"GET /health ") {
            "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{\"health\":\"true\"}"
        } else {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        };
        socket.write_all(answer.as_bytes()).await?;
        socket.shutdown().await?;
    }
}

async fn apiserver(flags: &Flags) -> Done {
    // The real one does not start without its etcd.
    let etcd = flag(flags, "etcd-servers")?.trim_start_matches("http://");
    tokio::net::TcpStream::connect(etcd).await?;
    if flag(flags, "authorization-mode")? != "RBAC" {
        return Err("only RBAC is known here".into());
    }
    for key in ["service-account-key-file", "service-account-signing-key-file"] {
        if !std::fs::read_to_string(flag(flags, key)?)?.contains(" KEY-----") {
            return Err(format!("--{key} holds no key").into());
        }
    }
    let address = format!("{}:{}", flag(flags, "bind-address")?, flag(flags, "secure-port")?);
    let mut config = Config::new(Data::Directory(flag(flags, "cert-dir")?.into()));
    config
        .listeners
        .push(TcpListener::bind(address.parse::<SocketAddr>()?)?);
    let certificate = flag(flags, "tls-cert-file")?;
    config.tls = Tls::Files {
        certificate: certificate.into(),
        key: flag(flags, "tls-private-key-file")?.into(),
        ca: certificate.into(),
    };
    config
        .service_cidrs
        .push(flag(flags, "service-cluster-ip-range")?.parse()?);
    for line in std::fs::read_to_string(flag(flags, "token-auth-file")?)?.lines() {
        let parts: Vec<&str> = line.split(',').collect();
        let [token, name, _uid, groups @ ..] = parts.as_slice() else {
            return Err(format!("a line of the token file has less than three columns: {line:?}").into());
        };
        config.tokens.push(((*token).to_owned(), User::new(name, groups)));
    }
    let server = Server::start(config).await?;
    signal(SignalKind::terminate())?.recv().await;
    server.shutdown().await;
    Ok(())
}

/// Does nothing: the server's own controllers run.
async fn manager(flags: &Flags) -> Done {
    for file in ["kubeconfig", "root-ca-file", "service-account-private-key-file"] {
        std::fs::read(flag(flags, file)?)?;
    }
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
