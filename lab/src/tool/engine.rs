//! The gateway's data path alone, between two nodes: what a path could carry if nothing else were on it.

use std::io::{self, BufRead as _, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use strait_gateway::datapath::{Engine, EngineConfig, PeerConfig, PrivateKey};
use strait_linux::tun;

/// One end, as a line of JSON on standard input: a key is nothing for arguments.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct EngineSpec {
    pub(crate) interface: String,
    /// With the prefix length of the two ends' network.
    pub(crate) address: IpNet,
    pub(crate) port: u16,
    /// Private, in base64.
    pub(crate) key: String,
    /// The other end's, public.
    pub(crate) peer: [u8; 32],
    /// Where the other end listens.
    pub(crate) endpoint: SocketAddr,
}

/// How often an end says something, so that the tunnel is up when a load begins.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Runs an end until standard input ends. It says `{"ready": true}` once the device stands.
pub(super) fn run() -> Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let spec: EngineSpec =
        serde_json::from_str(&line).context("standard input is no description of an end")?;
    let key = PrivateKey::from_base64(&spec.key)?;
    let mut config = EngineConfig::new(key);
    config.listen_port = spec.port;
    config.tun_name.clone_from(&spec.interface);
    let engine = Engine::start(&config)?;
    tun::add_address(&spec.interface, spec.address)?;
    let refused = engine.set_peers(&[PeerConfig {
        id: "other-end".to_owned(),
        public_key: strait_gateway::datapath::PublicKey(spec.peer),
        lane_keys: Vec::new(),
        candidates: vec![spec.endpoint],
        allowed: vec![spec.address.trunc()],
        keepalive: Some(KEEPALIVE),
        preshared: None,
    }]);
    if let Some(refused) = refused.first() {
        bail!("the other end is refused: {}", refused.reason);
    }
    super::print(&serde_json::json!({ "ready": true }))?;
    input.read_to_end(&mut Vec::new())?;
    ensure!(
        engine.fault().is_none(),
        "the data path broke: {:?}",
        engine.fault()
    );
    Ok(())
}
