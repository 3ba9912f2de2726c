//! What a cluster's own DNS says of `cluster.local`: the part that CoreDNS plays in a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// The zone of a cluster.
pub(crate) const CLUSTER_ZONE: &str = "cluster.local";
/// The zone that is Strait's to answer.
pub(crate) const CLUSTERSET_ZONE: &str = "clusterset.local";
/// Seconds that an answer may be kept, as CoreDNS's plug-in for Kubernetes says.
const TTL: u32 = 5;

/// Names of Services, and where to ask for those of the clusterset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// `name.namespace` → addresses, lower case.
    services: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Cluster IPs of the Service strait-dns.
    pub(crate) clusterset: Vec<IpAddr>,
}

/// What to do with a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// Send this.
    Answer(Box<Message>),
    /// Ask Strait.
    Forward,
}

impl Names {
    /// Adds an address of a Service.
    pub(crate) fn add(&mut self, namespace: &str, name: &str, address: IpAddr) {
        self.services
            .entry(format!("{name}.{namespace}"))
            .or_default()
            .insert(address);
    }

    /// What to do with a datagram; `None` for what is no question.
    pub(crate) fn reply(&self, datagram: &[u8]) -> Option<Reply> {
        let question = Message::from_vec(datagram).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.add_queries(question.queries.iter().cloned());
        let [query] = question.queries.as_slice() else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return Some(Reply::Answer(Box::new(answer)));
        };
        if question.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
            answer.metadata.response_code = ResponseCode::NotImp;
            return Some(Reply::Answer(Box::new(answer)));
        }
        let labels = text(query.name());
        if below(&labels, CLUSTERSET_ZONE).is_some() {
            return Some(Reply::Forward);
        }
        answer.metadata.response_code = match below(&labels, CLUSTER_ZONE) {
            // The lab has no way out, so there is nobody to ask.
            None => ResponseCode::Refused,
            Some(rest) => {
                answer.metadata.authoritative = true;
                match self.find(rest) {
                    None => ResponseCode::NXDomain,
                    Some(addresses) => {
                        let kind = query.query_type();
                        let records = addresses
                            .into_iter()
                            .filter_map(|ip| record(query.name(), kind, ip));
                        answer.add_answers(records);
                        ResponseCode::NoError
                    }
                }
            }
        };
        Some(Reply::Answer(Box::new(answer)))
    }

    /// The addresses of a name, given without its zone; `None` where there is no such name.
    fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let service = match name {
            "" | "svc" => return Some(Vec::new()),
            _ => name.strip_suffix(".svc")?,
        };
        if let Some(addresses) = self.services.get(service) {
            return Some(addresses.iter().copied().collect());
        }
        // A namespace alone has no address, but it is there.
        let namespace = format!(".{service}");
        let is_namespace = !service.contains('.') && self.services.keys().any(|s| s.ends_with(&namespace));
        is_namespace.then(Vec::new)
    }
}

/// An answer that says that asking Strait failed.
pub(crate) fn failed(datagram: &[u8]) -> Option<Message> {
    let question = Message::from_vec(datagram).ok()?;
    let mut answer = Message::error_msg(
        question.metadata.id,
        question.metadata.op_code,
        ResponseCode::ServFail,
    );
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.add_queries(question.queries);
    Some(answer)
}

fn text(name: &Name) -> String {
    name.to_ascii()
        .to_ascii_lowercase()
        .trim_end_matches('.')
        .to_owned()
}

/// The name without the zone, where it lies in it.
fn below<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(zone)?;
    match rest.strip_suffix('.') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(""),
    }
}

fn record(name: &Name, kind: RecordType, address: IpAddr) -> Option<Record> {
    let data = match (address, kind) {
        (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => RData::A(ip.into()),
        (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => RData::AAAA(ip.into()),
        _ => return None,
    };
    Some(Record::from_rdata(name.clone(), TTL, data))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.add("demo", "web", "10.101.0.20".parse().unwrap());
        names.add("demo", "web", "fd96:1::20".parse().unwrap());
        names
    }

    fn ask(name: &str, kind: RecordType) -> Reply {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        names().reply(&question.to_vec().unwrap()).unwrap()
    }

    fn answer(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        match ask(name, kind) {
            Reply::Answer(answer) => {
                assert_eq!(answer.metadata.id, 7);
                let data = answer.answers.iter().map(|r| r.data.to_string()).collect();
                (answer.metadata.response_code, data)
            }
            Reply::Forward => panic!("{name} was forwarded"),
        }
    }

    #[test]
    fn services_have_names_and_what_is_no_service_has_none() {
        use ResponseCode::{NXDomain, NoError, Refused};
        let a = RecordType::A;
        let found = |addresses: &[&str]| (NoError, addresses.iter().map(ToString::to_string).collect());
        assert_eq!(answer("Web.demo.svc.cluster.local.", a), found(&["10.101.0.20"]));
        assert_eq!(
            answer("web.demo.svc.cluster.local.", RecordType::AAAA),
            found(&["fd96:1::20"])
        );
        assert_eq!(answer("web.demo.svc.cluster.local.", RecordType::TXT), found(&[]));
        assert_eq!(answer("demo.svc.cluster.local.", a), found(&[]));
        assert_eq!(answer("cluster.local.", a), found(&[]));
        for none in [
            "api.demo",
            "web.other",
            "other",
            "x.web.demo",
            "web.demo.svc.clusterset.local.default",
        ] {
            let name = format!("{none}.svc.cluster.local.");
            assert_eq!(answer(&name, a), (NXDomain, vec![]), "{name}");
        }
        assert_eq!(
            answer("web.demo.svc.clusterset.local.cluster.local.", a),
            (NXDomain, vec![])
        );
        for outside in ["example.com.", "local.", "mycluster.local.", "."] {
            assert_eq!(answer(outside, a), (Refused, vec![]), "{outside}");
        }
    }

    #[test]
    fn what_is_of_the_clusterset_is_for_strait() {
        assert_eq!(
            ask("WEB.demo.svc.clusterset.local.", RecordType::A),
            Reply::Forward
        );
        assert_eq!(ask("clusterset.local.", RecordType::SOA), Reply::Forward);
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        assert_eq!(names().reply(b""), None);
        assert_eq!(names().reply(b"hello"), None);
        let answer = Message::response(1, OpCode::Query).to_vec().unwrap();
        assert_eq!(names().reply(&answer), None);
    }
}
