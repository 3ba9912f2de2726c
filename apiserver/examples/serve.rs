//! A stand-alone API server: `cargo run -p strait-apiserver --example serve -- DIR [ADDRESS]`.
//!
//! It writes DIR/admin.kubeconfig and serves until it is interrupted.

use strait_apiserver::{Config, Data, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: serve DIR [ADDRESS]")?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let mut config = Config::new(Data::Directory(dir.clone().into()));
    config.listeners.push(std::net::TcpListener::bind(address)?);
    config.service_cidrs.push("10.96.0.0/16".parse()?);
    let server = Server::start(config).await?;
    let url = format!("https://{}", server.addr().ok_or("no socket")?);
    std::fs::write(format!("{dir}/admin.kubeconfig"), server.admin_kubeconfig(&url))?;
    println!("{url}");
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
