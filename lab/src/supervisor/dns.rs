//! A cluster's DNS server for its pods, as CoreDNS is set up by Strait's README: it answers `cluster.local`
//! itself and passes `clusterset.local` on to the Service strait-dns.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, ResourceExt as _};
use serde_json::json;
use strait_api::names::{LABEL_SERVICE_NAME, NAMESPACE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::Lab;
use super::readiness::{PodState, set_pod_status};
use crate::control::PodRequest;
use crate::names::{self, Names, Reply};
use crate::objects::apply;
use crate::topology::Cluster;

const SYSTEM: &str = "kube-system";
const POD: &str = "kube-dns-0";
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");
const PORT: u16 = 53;
/// The largest datagram that is answered.
const DATAGRAM: usize = 4096;
/// Largest answer by UDP to a client that does not say what it takes.
const PLAIN_UDP: usize = 512;
/// How long Strait may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a client may say nothing on a connection.
const IDLE: Duration = Duration::from_secs(10);

/// What the server answers from: the newest is in the channel.
pub(super) type Zone = watch::Receiver<Arc<Names>>;

/// The Service, with the address that kubelet would write into pods.
pub(super) async fn write_service(client: &Client, cluster: &Cluster) -> Result<()> {
    let ips = cluster.dns();
    let families: Vec<&str> = ips
        .iter()
        .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" })
        .collect();
    let policy = if ips.len() > 1 {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": PORT, "targetPort": PORT, "protocol": protocol });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": SYSTEM, "labels": { LABEL.0: LABEL.1 } },
        "spec": {
            "selector": { LABEL.0: LABEL.1 },
            "clusterIP": ips.first(), "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy,
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    apply(client, &service).await
}

/// The names of a cluster as its Services are now.
pub(super) fn names<'a>(
    services: &[Arc<Service>],
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> Names {
    let mut names = Names::default();
    for service in services {
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let ips: Vec<IpAddr> = service
            .spec
            .iter()
            .flat_map(|s| s.cluster_ips.iter().flatten())
            .filter_map(|ip| ip.parse().ok())
            .collect();
        if namespace == NAMESPACE && name == "strait-dns" {
            names.clusterset.clone_from(&ips);
        }
        for ip in &ips {
            names.add(&namespace, &name, *ip);
        }
        let headless = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None");
        let own = |slice: &&EndpointSlice| {
            slice.namespace().as_deref() == Some(&namespace)
                && slice.labels().get(LABEL_SERVICE_NAME) == Some(&name)
        };
        for slice in slices.clone().filter(own).filter(|_| headless) {
            let ready = slice
                .endpoints
                .iter()
                .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
            for address in ready.flat_map(|e| &e.addresses) {
                if let Ok(ip) = address.parse() {
                    names.add(&namespace, &name, ip);
                }
            }
        }
    }
    names
}

impl Lab {
    /// Starts the DNS server of a cluster, in a pod of its own on the last node.
    pub(super) async fn start_dns(&self, cluster: &Cluster, client: &Client, zone: Zone) -> Result<()> {
        let node = cluster.nodes.last().context("the cluster has no node")?;
        let pod = self.wire_pod(&PodRequest {
            cluster: cluster.name.clone(),
            node: node.name.clone(),
            namespace: SYSTEM.to_owned(),
            name: POD.to_owned(),
            labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
            ports: Vec::new(),
            argv: Vec::new(),
        })?;
        let (up, started) = tokio::sync::oneshot::channel();
        let addresses = pod.addresses.clone();
        pod.namespace
            .spawn_runtime(&format!("dns-{}", cluster.name), move || async move {
                match Server::start(&addresses).await {
                    Ok(server) => {
                        // The receiver is gone only where the lab is going.
                        let _ = up.send(Ok(()));
                        server.serve(zone).await;
                    }
                    Err(error) => {
                        let _ = up.send(Err(error));
                    }
                }
            })?;
        started
            .await
            .context("its thread ended")?
            .context("cannot listen")?;
        apply(
            client,
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": POD, "namespace": SYSTEM, "labels": { LABEL.0: LABEL.1 } },
                "spec": {
                    "nodeName": node.name,
                    "containers": [{ "name": "dns", "image": "strait-lab",
                        "ports": [{ "containerPort": PORT, "protocol": "UDP" }] }],
                },
            }),
        )
        .await?;
        let state = PodState {
            namespace: SYSTEM,
            name: POD,
            container: "dns",
            addresses: &pod.addresses,
            host_ip: node.ips().first().copied(),
            ready: true,
            waits: false,
            restarts: 0,
        };
        set_pod_status(client, state).await
    }
}

/// The sockets, in the pod.
struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Server {
    async fn start(addresses: &[IpAddr]) -> io::Result<Self> {
        let mut server = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for address in addresses {
            let address = SocketAddr::new(*address, PORT);
            server.udp.push(UdpSocket::bind(address).await?);
            server.tcp.push(TcpListener::bind(address).await?);
        }
        Ok(server)
    }

    /// Until the lab ends.
    async fn serve(self, zone: Zone) {
        for socket in self.udp {
            tokio::spawn(serve_udp(Arc::new(socket), zone.clone()));
        }
        for listener in self.tcp {
            tokio::spawn(serve_tcp(listener, zone.clone()));
        }
        std::future::pending().await
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, zone: Zone) {
    let mut buffer = [0; DATAGRAM];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!("DNS: {error}");
                continue;
            }
        };
        let question = buffer[..length].to_vec();
        let (socket, names) = (Arc::clone(&socket), zone.borrow().clone());
        tokio::spawn(async move {
            let answer = match names.reply(&question) {
                None => return,
                Some(Reply::Answer(answer)) => answer.to_vec().ok().map(|bytes| match bytes.len() {
                    0..=PLAIN_UDP => bytes,
                    _ => answer.truncate().to_vec().unwrap_or_default(),
                }),
                Some(Reply::Forward) => match ask_udp(&names.clusterset, &question).await {
                    Ok(bytes) => Some(bytes),
                    Err(error) => failure(&question, &error),
                },
            };
            if let Some(answer) = answer
                && let Err(error) = socket.send_to(&answer, client).await
            {
                tracing::debug!("DNS, to {client}: {error}");
            }
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Zone) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let zone = zone.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer_tcp(socket, &zone).await {
                        tracing::debug!("DNS: {error}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, say; a client's connection that is gone already costs nothing.
                tracing::warn!("DNS: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn answer_tcp(mut socket: TcpStream, zone: &Zone) -> io::Result<()> {
    loop {
        let question = match tokio::time::timeout(IDLE, read_framed(&mut socket)).await {
            Ok(Ok(question)) => question,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let names = zone.borrow().clone();
        let answer = match names.reply(&question) {
            None => return Ok(()),
            Some(Reply::Answer(answer)) => answer.to_vec().ok(),
            Some(Reply::Forward) => match ask_tcp(&names.clusterset, &question).await {
                Ok(bytes) => Some(bytes),
                Err(error) => failure(&question, &error),
            },
        };
        let Some(answer) = answer else { return Ok(()) };
        write_framed(&mut socket, &answer).await?;
    }
}

fn failure(question: &[u8], error: &io::Error) -> Option<Vec<u8>> {
    tracing::debug!("DNS: strait-dns did not answer: {error}");
    names::failed(question)?.to_vec().ok()
}

/// The first of Strait's addresses that answers; all are the same server.
async fn ask_udp(servers: &[IpAddr], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut last = io::Error::other("the Service strait-dns has no address");
    for server in servers {
        match tokio::time::timeout(PATIENCE, exchange_udp(*server, question)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(late) => last = late.into(),
        }
    }
    Err(last)
}

async fn exchange_udp(server: IpAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect((server, PORT)).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; DATAGRAM];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

async fn ask_tcp(servers: &[IpAddr], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut last = io::Error::other("the Service strait-dns has no address");
    for server in servers {
        let exchange = async {
            let mut socket = TcpStream::connect((*server, PORT)).await?;
            write_framed(&mut socket, question).await?;
            read_framed(&mut socket).await
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = error,
            Err(late) => last = late.into(),
        }
    }
    Err(last)
}

async fn read_framed(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = socket.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    socket.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(socket: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    socket.write_all(&framed).await
}
