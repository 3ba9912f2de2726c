//! `strait apiserver`: the embedded API server as a process of its own, for the clusters of a lab.

use std::io::stdin;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ipnet::IpNet;
use strait_apiserver::{Config, Data, Server, Tls};
use strait_daemon::Shutdown;

/// Flags of `strait apiserver`.
#[derive(Debug, Args)]
pub(crate) struct ApiserverArgs {
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
    #[arg(long, value_name = "PREFIX")]
    service_cidr: Vec<IpNet>,
    /// Write a kubeconfig of the administrator for this URL to this file (may be repeated)
    #[arg(long, value_name = "URL=FILE", value_parser = kubeconfig)]
    write_kubeconfig: Vec<(String, PathBuf)>,
}

fn kubeconfig(text: &str) -> Result<(String, PathBuf), String> {
    let (url, path) = text.split_once('=').ok_or("it takes URL=FILE")?;
    Ok((url.to_owned(), path.into()))
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: ApiserverArgs) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(serve(args))
}

async fn serve(args: ApiserverArgs) -> Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let mut config = Config::new(Data::Directory(args.data_dir));
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for address in args.listen {
        names.push(address.ip().to_string());
        config
            .listeners
            .push(TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?);
    }
    if args.listen_stdin {
        let socket = stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot take the standard input over")?;
        config.listeners.push(TcpListener::from(socket));
    }
    config.tls = Tls::Generated { names };
    config.service_cidrs = args.service_cidr;
    config.pod_grace = true;
    let server = Server::start(config).await?;
    for (url, path) in args.write_kubeconfig {
        let new = path.with_extension("new");
        std::fs::write(&new, server.admin_kubeconfig(&url))
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    shutdown.wait().await;
    server.shutdown().await;
    Ok(())
}
