//! `strait apiserver`: the embedded API server as a process of its own, for the clusters of a lab, and
//! backups of it and of a stand-alone broker.

mod backup;

use std::io::stdin;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use ipnet::IpNet;
use strait_apiserver::{Audit, Config, Data, Server, Tls, allow_many_connections};
use strait_daemon::{Shutdown, local};

/// `strait apiserver`: serves, or does one of its subcommands.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct ApiserverArgs {
    #[command(subcommand)]
    command: Option<ApiserverCommand>,
    #[command(flatten)]
    serve: Option<ServeArgs>,
}

#[derive(Debug, Subcommand)]
enum ApiserverCommand {
    /// Write all objects, keys and certificates to a file
    Backup(backup::BackupArgs),
    /// Bring a backup back: into a running server, or into a new data folder
    Restore(backup::RestoreArgs),
}

/// Flags of `strait apiserver`.
#[derive(Debug, Args)]
struct ServeArgs {
    /// Folder of the store, the certificates and the administrator's token
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Listen at this address (may be repeated)
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// Listen also on the socket that is the standard input
    #[arg(long)]
    listen_stdin: bool,
    /// Prefix for the cluster IPs of Services, one of each family
    #[arg(long, value_name = "PREFIX", value_parser = strait_daemon::args::prefix)]
    service_cidr: Vec<IpNet>,
    /// Write a kubeconfig of the administrator for this URL to this file (may be repeated) [default: for
    /// use on this machine, to DIR/admin.kubeconfig]
    #[arg(long, value_name = "URL=FILE", value_parser = kubeconfig)]
    write_kubeconfig: Vec<(String, PathBuf)>,
    /// Certificate to serve with, instead of one that is made; read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["tls_private_key_file", "tls_ca_file"])]
    tls_cert_file: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The authority that clients shall trust
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_ca_file: Option<PathBuf>,
    /// Authorities whose certificates clients may show: common name and organisations are user and groups
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Write down who asked for what (audit.k8s.io/v1, level Metadata)
    #[arg(long, value_name = "FILE")]
    audit_log_path: Option<PathBuf>,
    /// Size in MiB at which a new file begins
    #[arg(long, value_name = "MIB", default_value_t = 100, requires = "audit_log_path")]
    audit_log_maxsize: u64,
    /// Full files that are kept
    #[arg(long, value_name = "N", default_value_t = 10, requires = "audit_log_path")]
    audit_log_maxbackup: usize,
}

fn kubeconfig(text: &str) -> Result<(String, PathBuf), String> {
    let (url, path) = text.split_once('=').ok_or("it takes URL=FILE")?;
    Ok((url.to_owned(), path.into()))
}

/// Serves until SIGTERM or SIGINT, or does what the subcommand says.
pub(crate) fn run(args: ApiserverArgs) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match (args.command, args.serve) {
        (Some(ApiserverCommand::Backup(args)), _) => runtime.block_on(backup::backup(args)),
        (Some(ApiserverCommand::Restore(args)), _) => runtime.block_on(backup::restore(args)),
        (None, Some(args)) => runtime.block_on(serve(args)),
        (None, None) => bail!("--data-dir is missing"),
    }
}

fn or(list: &[String], none: &str) -> String {
    if list.is_empty() {
        none.to_owned()
    } else {
        list.join(", ")
    }
}

async fn serve(args: ServeArgs) -> Result<()> {
    allow_many_connections();
    if args.listen.is_empty() && !args.listen_stdin {
        bail!(
            "nobody could reach the API server: name an address with --listen, such as --listen 127.0.0.1:6443"
        );
    }
    let shutdown = Shutdown::on_signals()?;
    let data = args.data_dir.clone();
    let mut config = Config::new(Data::Directory(args.data_dir));
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for address in args.listen {
        names.push(address.ip().to_string());
        config.listeners.push(TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen at {address}; choose another address with --listen, or end what listens there"
            )
        })?);
    }
    if args.listen_stdin {
        let socket = stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot take the standard input over")?;
        config.listeners.push(TcpListener::from(socket));
    }
    config.tls = match (args.tls_cert_file, args.tls_private_key_file, args.tls_ca_file) {
        (Some(certificate), Some(key), Some(ca)) => Tls::Files { certificate, key, ca },
        _ => Tls::Generated { names },
    };
    config.client_ca = args.client_ca_file;
    config.audit = args.audit_log_path.map(|path| Audit {
        path,
        max_bytes: args.audit_log_maxsize << 20,
        backups: args.audit_log_maxbackup,
    });
    config.service_cidrs = args.service_cidr;
    config.pod_grace = true;
    let server = Server::start(config).await?;
    let addresses = server.addrs();
    let wanted = if args.write_kubeconfig.is_empty() {
        let own = local::best(addresses);
        own.map(|address| (format!("https://{address}"), data.join("admin.kubeconfig")))
            .into_iter()
            .collect()
    } else {
        args.write_kubeconfig
    };
    for (url, path) in &wanted {
        strait_apiserver::write_private(path, &server.admin_kubeconfig(url))?;
    }
    let listen: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let kubeconfigs: Vec<String> = wanted
        .iter()
        .map(|(url, path)| format!("{} (for {url})", path.display()))
        .collect();
    tracing::info!(
        "serving at {}; data in {}; kubeconfig of the administrator: {}",
        listen.join(", "),
        data.display(),
        or(&kubeconfigs, "none; --write-kubeconfig URL=FILE writes one"),
    );
    shutdown.wait().await;
    server.shutdown().await;
    Ok(())
}
