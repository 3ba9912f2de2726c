//! Any bytes that may come as a question. For the fuzzer, and for the replay of what it found.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/input.rs"]
mod input;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, OnceLock};

use futures::FutureExt as _;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler as _, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use strait_api::mcs::ServiceImportSpec;
use strait_api::names::LABEL_MCS_CLUSTER;
use strait_api::records::{Endpoint, IpFamily, ServicePort, ServiceType};
use strait_core::dns::{Service, Snapshot, Zone};
use strait_core::services::{ServiceKey, Slice};

use super::{Handler, Metrics};

/// Keeps what is sent.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

#[async_trait::async_trait]
impl ResponseHandler for Kept {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.0.lock().unwrap() = bytes;
        Ok(info)
    }
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol: "TCP".into(),
        port,
        app_protocol: None,
    }
}

fn import(type_: ServiceType, ips: Option<Vec<std::net::IpAddr>>) -> ServiceImportSpec {
    ServiceImportSpec {
        ports: vec![port("http", 80)],
        type_,
        ips,
        ip_families: None,
        session_affinity: None,
        session_affinity_config: None,
        internal_traffic_policy: None,
        traffic_distribution: None,
    }
}

/// `web` with VIPs, `pets` with more endpoints than a datagram takes, and a name as long as one can be.
fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::empty("clusterset.local".parse::<Zone>().unwrap());
    snapshot.set_namespace("demo", true);
    let vips = vec![Ipv4Addr::new(243, 0, 0, 7).into(), Ipv6Addr::LOCALHOST.into()];
    let web = import(ServiceType::ClusterSetIP, Some(vips));
    snapshot.set_service("demo", "web", Some(Service::new(&web, [])));
    snapshot.set_service("demo", &"w".repeat(63), Some(Service::new(&web, [])));
    let endpoint = |n: u8| Endpoint {
        address: Ipv4Addr::new(10, 2, 0, n).into(),
        ready: true,
        serving: true,
        terminating: false,
        hostname: Some(format!("pet-{n}")),
        node: None,
        zone: None,
    };
    let slice = Slice {
        name: "pets-green".into(),
        service: ServiceKey::new("demo", "pets"),
        labels: BTreeMap::from([(LABEL_MCS_CLUSTER.to_owned(), "green".to_owned())]),
        family: IpFamily::IPv4,
        ports: vec![port("http", 8080)],
        endpoints: (0..=u8::MAX).map(endpoint).collect(),
    };
    let pets = import(ServiceType::Headless, None);
    snapshot.set_service("demo", "pets", Some(Service::new(&pets, &[slice])));
    snapshot
}

fn handler() -> &'static Handler {
    static HANDLER: OnceLock<Handler> = OnceLock::new();
    HANDLER.get_or_init(|| {
        let zone: Zone = "clusterset.local".parse().unwrap();
        let handler = Handler::new(zone, Some("green".parse().unwrap()), Metrics::default());
        handler.publish(Arc::new(snapshot()));
        handler
    })
}

/// A message by UDP and by TCP: what can be read as a question is answered with a message that can be read,
/// bears its ID and its question, and fits.
pub fn dns_message(data: &[u8]) {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let from = (Ipv4Addr::LOCALHOST, 5353).into();
        let Ok(request) = Request::from_bytes(data.to_vec(), from, protocol) else {
            return;
        };
        let kept = Kept::default();
        let info = handler()
            .handle_request::<_, TokioTime>(&request, kept.clone())
            .now_or_never()
            .unwrap();
        assert_eq!(info.id, request.metadata.id);
        let bytes = kept.0.lock().unwrap().clone();
        let limit = match (protocol, &request.edns) {
            (Protocol::Udp, None) => 512,
            (Protocol::Udp, Some(edns)) => usize::from(edns.max_payload().clamp(512, 1232)),
            _ => usize::from(u16::MAX),
        };
        let [query] = request.queries.queries() else {
            assert_ne!(info.response_code, ResponseCode::NoError);
            continue;
        };
        assert!(bytes.len() <= limit, "{} bytes, {limit} are allowed", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap_or_else(|e| panic!("the answer cannot be read: {e}"));
        assert_eq!(answer.metadata.id, request.metadata.id);
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(answer.metadata.op_code, request.metadata.op_code);
        assert_eq!(answer.edns.is_some(), request.edns.is_some());
        let asked = query.original();
        if answer.queries.is_empty() {
            // A name that points somewhere cannot be sent back.
            assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
            assert!(data.get(12..).is_some_and(|rest| rest.iter().any(|b| *b >= 64)));
            continue;
        }
        let [echoed] = &answer.queries[..] else {
            panic!("{} questions in the answer", answer.queries.len());
        };
        assert!(echoed.name().eq_case(asked.name()) && echoed.query_type() == asked.query_type());
        judge(
            &answer,
            request.metadata.op_code,
            asked.name(),
            asked.query_type(),
        );
    }
}

fn judge(answer: &Message, asked: OpCode, name: &Name, type_: RecordType) {
    let code = answer.metadata.response_code;
    let positive = code == ResponseCode::NoError && asked == OpCode::Query;
    let zone = Name::from_ascii("clusterset.local.").unwrap();
    assert!(positive || answer.answers.is_empty(), "{code} with answers");
    if answer.metadata.authoritative {
        assert!(zone.zone_of(name), "{name} is not ours");
    }
    for record in &answer.answers {
        assert_eq!(record.name, *name);
        assert!(
            type_ == RecordType::ANY || record.record_type() == type_,
            "{record}"
        );
    }
    let negative = answer.metadata.authoritative && answer.answers.is_empty() && !answer.metadata.truncation;
    assert_eq!(
        answer
            .authorities
            .iter()
            .any(|r| r.record_type() == RecordType::SOA),
        negative
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_that_were_found_hold() {
        super::input::replay("dns_message", super::dns_message);
    }
}
