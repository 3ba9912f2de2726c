//! `strait dns` over real sockets on the loopback.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use proptest::prelude::any;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use strait_api::mcs::ServiceImportSpec;
use strait_api::names::LABEL_MCS_CLUSTER;
use strait_api::records::{Endpoint, IpFamily, ServicePort, ServiceType};
use strait_core::dns::{Service, Snapshot};
use strait_core::services::{ServiceKey, Slice};
use strait_daemon::Shutdown;
use strait_lighthouse_dns::dns::server::Server;
use strait_lighthouse_dns::dns::{Handler, Metrics};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    handler: Handler,
    address: SocketAddr,
    shutdown: Shutdown,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    fn start_at(address: &str) -> Self {
        let handler = Handler::new("clusterset.local".parse().unwrap(), None, Metrics::default());
        let server = Server::start(&[address.parse().unwrap()], 2, handler.clone()).unwrap();
        let address = server.addresses()[0];
        let shutdown = Shutdown::default();
        let until = shutdown.clone();
        let served = tokio::spawn(async move { server.serve(&until).await });
        Self {
            handler,
            address,
            shutdown,
            served,
        }
    }

    fn with_names() -> Self {
        let running = Self::start();
        running.handler.publish(Arc::new(snapshot()));
        running
    }

    async fn udp_bytes(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(LIMIT, socket.recv(&mut buffer)).await.ok()?;
        buffer.truncate(received.unwrap());
        Some(buffer)
    }

    async fn udp(&self, query: &Message) -> (Message, usize) {
        let bytes = self.udp_bytes(&query.to_vec().unwrap()).await.expect("an answer");
        (Message::from_vec(&bytes).unwrap(), bytes.len())
    }

    async fn tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = query.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let answer = async {
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await.unwrap();
            answer
        };
        Message::from_vec(&tokio::time::timeout(LIMIT, answer).await.unwrap()).unwrap()
    }

    async fn ask(&self, name: &str, type_: RecordType) -> Message {
        self.udp(&query(name, type_)).await.0
    }

    async fn stop(self) {
        self.shutdown.trigger();
        tokio::time::timeout(LIMIT, self.served)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

fn query(name: &str, type_: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), type_));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.edns = Some(edns);
    message
}

fn texts(message: &Message) -> Vec<String> {
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert!(message.metadata.authoritative);
    message
        .answers
        .iter()
        .map(|r| format!("{} {} {}", r.name, r.ttl, r.data))
        .collect()
}

fn import(type_: ServiceType, ips: &[&str]) -> ServiceImportSpec {
    ServiceImportSpec {
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: "TCP".into(),
            port: 80,
            app_protocol: None,
        }],
        type_,
        ips: Some(ips.iter().map(|a| a.parse().unwrap()).collect()),
        ip_families: None,
        session_affinity: None,
        session_affinity_config: None,
        internal_traffic_policy: None,
        traffic_distribution: None,
    }
}

/// web: a VIP of each family; crowd: 200 endpoints without a VIP.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::empty("clusterset.local".parse().unwrap());
    snapshot.set_namespace("demo", true);
    let web = Service::new(&import(ServiceType::ClusterSetIP, &["243.0.0.7", "fd00::7"]), []);
    snapshot.set_service("demo", "web", Some(web));
    let v4 = Service::new(&import(ServiceType::ClusterSetIP, &["243.0.0.8"]), []);
    snapshot.set_service("demo", "v4", Some(v4));
    let crowd = Slice {
        name: "crowd".into(),
        service: ServiceKey::new("demo", "crowd"),
        labels: [(LABEL_MCS_CLUSTER.to_owned(), "blue".to_owned())].into(),
        family: IpFamily::IPv4,
        ports: import(ServiceType::Headless, &[]).ports,
        endpoints: (1..=200)
            .map(|i| Endpoint {
                address: Ipv4Addr::new(10, 1, 0, i).into(),
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                node: None,
                zone: None,
            })
            .collect(),
    };
    let crowd = Service::new(&import(ServiceType::Headless, &[]), [&crowd]);
    snapshot.set_service("demo", "crowd", Some(crowd));
    snapshot
}

#[tokio::test]
async fn addresses_are_answered_by_family() {
    let s = Running::with_names();
    let a = s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    assert_eq!(texts(&a), ["web.demo.svc.clusterset.local. 4 243.0.0.7"]);
    assert_eq!(
        (a.metadata.id, a.metadata.message_type),
        (4711, MessageType::Response)
    );
    assert!(a.metadata.recursion_desired && !a.metadata.recursion_available && !a.metadata.truncation);
    assert_eq!(a.edns, None);
    let aaaa = s.ask("web.demo.svc.clusterset.local.", RecordType::AAAA).await;
    assert_eq!(texts(&aaaa), ["web.demo.svc.clusterset.local. 4 fd00::7"]);
    s.stop().await;
}

#[tokio::test]
async fn the_case_of_the_question_is_kept() {
    let s = Running::with_names();
    let a = s.ask("WeB.dEmO.svc.ClusterSet.local.", RecordType::A).await;
    assert_eq!(a.queries[0].name().to_ascii(), "WeB.dEmO.svc.ClusterSet.local.");
    assert_eq!(a.answers[0].name.to_ascii(), "WeB.dEmO.svc.ClusterSet.local.");
    assert_eq!(a.answers[0].data, RData::A(Ipv4Addr::new(243, 0, 0, 7).into()));
    s.stop().await;
}

#[tokio::test]
async fn negative_answers_carry_the_soa() {
    let s = Running::with_names();
    for (name, type_, code) in [
        (
            "v4.demo.svc.clusterset.local.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        ("demo.svc.clusterset.local.", RecordType::A, ResponseCode::NoError),
        (
            "nope.demo.svc.clusterset.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "blue.web.demo.svc.clusterset.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "web.demo.svc.clusterset.local.demo.svc.clusterset.local.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
    ] {
        let a = s.ask(name, type_).await;
        assert_eq!(a.metadata.response_code, code, "{name}");
        assert!(a.answers.is_empty() && a.metadata.authoritative, "{name}");
        let RData::SOA(soa) = &a.authorities[0].data else {
            panic!("{name}: no SOA")
        };
        assert!(soa.minimum <= 5 && a.authorities[0].ttl <= 5, "{name}");
    }
    s.stop().await;
}

#[tokio::test]
async fn the_rest_of_the_world_is_refused() {
    let s = Running::with_names();
    for (name, type_) in [
        ("example.com.", RecordType::A),
        (".", RecordType::NS),
        ("web.demo.svc.cluster.local.", RecordType::A),
        ("clusterset.local.", RecordType::AXFR),
    ] {
        let a = s.ask(name, type_).await;
        assert_eq!(a.metadata.response_code, ResponseCode::Refused, "{name}");
        assert!(
            a.answers.is_empty() && a.authorities.is_empty() && !a.metadata.authoritative,
            "{name}"
        );
    }
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(
        s.udp(&chaos).await.0.metadata.response_code,
        ResponseCode::Refused
    );
    s.stop().await;
}

#[tokio::test]
async fn nothing_is_denied_before_the_names_are_known() {
    let s = Running::start();
    let a = s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    assert_eq!(a.metadata.response_code, ResponseCode::ServFail);
    s.handler.publish(Arc::new(snapshot()));
    let a = s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    assert_eq!(texts(&a).len(), 1);
    let mut less = snapshot();
    less.set_service("demo", "web", None);
    s.handler.publish(Arc::new(less));
    let a = s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    assert_eq!(a.metadata.response_code, ResponseCode::NXDomain);
    s.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_asked_for_by_tcp() {
    let s = Running::with_names();
    let plain = query("crowd.demo.svc.clusterset.local.", RecordType::A);
    let (cut, size) = s.udp(&plain).await;
    assert!(cut.metadata.truncation && size <= 512, "{size}");
    for asked in [512u16, 1_232, 4_096] {
        let (cut, size) = s.udp(&with_edns(plain.clone(), asked)).await;
        assert!(
            cut.metadata.truncation && size <= usize::from(asked.min(1_232)),
            "{size}"
        );
        assert!(
            cut.edns.is_some(),
            "an answer to EDNS carries EDNS, truncated or not"
        );
    }
    let whole = s.tcp(&plain).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
    let ports = s
        .tcp(&query(
            "_http._tcp.crowd.demo.svc.clusterset.local.",
            RecordType::SRV,
        ))
        .await;
    assert_eq!((ports.answers.len(), ports.additionals.len()), (200, 200));
    s.stop().await;
}

#[tokio::test]
async fn glue_is_left_out_before_an_answer_is_cut() {
    let s = Running::start();
    let mut few = snapshot();
    let web = Service::new(&import(ServiceType::ClusterSetIP, &["243.0.0.7", "fd00::7"]), []);
    // A long name, so that the SRV record fits into 512 bytes and its glue does not.
    let name = ["a".repeat(63), "b".repeat(63)];
    few.set_namespace(&name[1], true);
    few.set_service(&name[1], &name[0], Some(web));
    s.handler.publish(Arc::new(few));
    let q = query(
        &format!("_http._tcp.{}.{}.svc.clusterset.local.", name[0], name[1]),
        RecordType::SRV,
    );
    let (answer, size) = s.udp(&q).await;
    assert!(size <= 512);
    assert!(!answer.metadata.truncation);
    assert_eq!(answer.answers.len(), 1);
    let (roomy, _) = s.udp(&with_edns(q, 1_232)).await;
    assert_eq!(roomy.additionals.len(), 2);
    s.stop().await;
}

#[tokio::test]
async fn other_versions_and_operations_are_told_so() {
    let s = Running::with_names();
    let mut newer = with_edns(query("web.demo.svc.clusterset.local.", RecordType::A), 1_232);
    newer.edns.as_mut().unwrap().set_version(1);
    let (a, _) = s.udp(&newer).await;
    // 16 is BADVERS in an answer without a signature.
    assert_eq!(u16::from(a.metadata.response_code), 16);
    assert_eq!(a.edns.unwrap().version(), 0);
    let mut notify = query("clusterset.local.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(
        s.udp(&notify).await.0.metadata.response_code,
        ResponseCode::NotImp
    );
    let mut two = query("web.demo.svc.clusterset.local.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(s.udp(&two).await.0.metadata.response_code, ResponseCode::FormErr);
    s.stop().await;
}

#[tokio::test]
async fn garbage_is_a_format_error_and_kills_nothing() {
    let s = Running::with_names();
    // A header that promises a question, and a name that points at itself.
    let mut broken = query("web.demo.svc.clusterset.local.", RecordType::A)
        .to_vec()
        .unwrap();
    broken.truncate(14);
    let answer = Message::from_vec(&s.udp_bytes(&broken).await.unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    let looped = [&broken[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    let answer = Message::from_vec(&s.udp_bytes(&looped).await.unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);

    // Random bytes, and real questions with random damage, by UDP and TCP.
    let real = with_edns(query("web.demo.svc.clusterset.local.", RecordType::A), 1_232)
        .to_vec()
        .unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut runner = TestRunner::deterministic();
    let strategy = (
        proptest::collection::vec(any::<u8>(), 0..600),
        proptest::collection::vec((0..real.len(), any::<u8>()), 0..6),
    );
    let mut garbage = Vec::new();
    for _ in 0..500 {
        let (noise, damage) = strategy.new_tree(&mut runner).unwrap().current();
        let mut damaged = real.clone();
        for (at, byte) in damage {
            damaged[at] = byte;
        }
        garbage.extend([noise, damaged]);
    }
    for (i, bytes) in garbage.iter().enumerate() {
        socket.send_to(bytes, s.address).await.unwrap();
        if i % 50 == 0 {
            let mut stream = TcpStream::connect(s.address).await.unwrap();
            // The server may hang up in the middle; that is its right.
            let _ = stream.write_all(bytes).await;
            let a = s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
            assert_eq!(texts(&a).len(), 1);
        }
    }
    let a = s
        .tcp(&query("web.demo.svc.clusterset.local.", RecordType::A))
        .await;
    assert_eq!(texts(&a).len(), 1);
    s.stop().await;
}

#[tokio::test]
async fn the_ipv6_wildcard_takes_both_families() {
    let s = Running::start_at("[::]:0");
    s.handler.publish(Arc::new(snapshot()));
    let port = s.address.port();
    for client in ["127.0.0.1", "::1"] {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.connect((client, port)).await.unwrap();
        let q = query("web.demo.svc.clusterset.local.", RecordType::A);
        socket.send(&q.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 512];
        let length = tokio::time::timeout(LIMIT, socket.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            texts(&Message::from_vec(&buffer[..length]).unwrap()).len(),
            1,
            "{client}"
        );
    }
    s.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let s = Running::start();
    let handler = Handler::new("clusterset.local".parse().unwrap(), None, Metrics::default());
    let error = Server::start(&[s.address], 1, handler).unwrap_err();
    assert!(format!("{error:#}").contains(&s.address.to_string()), "{error:#}");
    s.stop().await;
}

#[tokio::test]
async fn queries_are_counted_by_type_and_outcome() {
    let s = Running::with_names();
    let mut registry = Registry::default();
    s.handler.metrics().register(&mut registry);
    s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    s.ask("web.demo.svc.clusterset.local.", RecordType::A).await;
    s.ask("nope.demo.svc.clusterset.local.", RecordType::AAAA).await;
    s.ask("example.com.", RecordType::MX).await;
    s.handler.metrics().measure_age();
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    for line in [
        "dns_queries_total{type=\"A\",rcode=\"NOERROR\"} 2",
        "dns_queries_total{type=\"AAAA\",rcode=\"NXDOMAIN\"} 1",
        "dns_queries_total{type=\"other\",rcode=\"REFUSED\"} 1",
        "dns_imports 3",
        "dns_snapshot_age_seconds ",
    ] {
        assert!(
            text.lines().any(|l| l.starts_with(line)),
            "{line} is not in\n{text}"
        );
    }
    s.stop().await;
}
