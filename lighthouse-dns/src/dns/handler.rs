//! One question, one answer.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use strait_api::ClusterId;
use strait_core::dns::{Question, Rcode, Snapshot, Zone, answer};

use super::Metrics;
use super::wire::{self, Sections};

/// The largest answer by UDP: what passes every path without fragments.
const MAX_UDP: u16 = 1_232;

/// Answers questions from the current snapshot; a cheap handle.
#[derive(Debug, Clone)]
pub struct Handler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    zone: Zone,
    own: Option<ClusterId>,
    snapshot: ArcSwapOption<Snapshot>,
    metrics: Metrics,
}

impl Handler {
    /// A handler without a snapshot: it answers SERVFAIL.
    pub fn new(zone: Zone, own: Option<ClusterId>, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            zone,
            own,
            snapshot: ArcSwapOption::empty(),
            metrics,
        }))
    }

    /// The zone.
    pub fn zone(&self) -> &Zone {
        &self.0.zone
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Makes a snapshot the current one.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.metrics.snapshot(snapshot.services());
        self.0.snapshot.store(Some(snapshot));
    }

    /// Whether there is one.
    pub fn has_snapshot(&self) -> bool {
        self.0.snapshot.load().is_some()
    }

    /// The response's code and records, and the type that was asked for.
    fn respond(&self, request: &Request) -> (ResponseCode, bool, Sections, &'static str) {
        let without = |code, type_| (code, false, Sections::default(), type_);
        if request.metadata.op_code != OpCode::Query {
            return without(ResponseCode::NotImp, "other");
        }
        let [query] = request.queries.queries() else {
            return without(ResponseCode::FormErr, "other");
        };
        if !wire::is_plain(request) {
            return without(ResponseCode::FormErr, "other");
        }
        let type_ = wire::type_name(query.query_type());
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return without(ResponseCode::BADVERS, type_);
        }
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return without(ResponseCode::Refused, type_);
        }
        let snapshot = self.0.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else {
            return without(ResponseCode::ServFail, type_);
        };
        let name = query.original().name();
        let question = Question::new(name.iter(), query.query_type().into());
        let answer = answer(snapshot, &question, self.0.own.as_ref());
        let code = match answer.rcode {
            Rcode::NoError => ResponseCode::NoError,
            Rcode::NxDomain => ResponseCode::NXDomain,
            Rcode::Refused => return without(ResponseCode::Refused, type_),
        };
        match wire::sections(name, &answer) {
            Some(sections) => (code, true, sections, type_),
            None => {
                tracing::error!(%name, "the answer holds a name that does not fit into DNS");
                without(ResponseCode::ServFail, type_)
            }
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let (code, authoritative, mut sections, type_) = self.respond(request);
        self.0.metrics.count(type_, wire::code_name(code));
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = authoritative;
        metadata.response_code = code;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP));
            edns.set_version(0);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let nothing = wire::no_question();
        let questions = wire::questions(request, nothing.as_ref());
        if request.protocol() == Protocol::Udp {
            let limit = edns.as_ref().map_or(512, Edns::max_payload);
            // Glue is left out silently; answers that do not fit are asked for again by TCP.
            if !wire::fits(questions, metadata, &sections, edns.as_ref(), limit) {
                sections.additionals.clear();
                if !wire::fits(questions, metadata, &sections, edns.as_ref(), limit) {
                    sections = Sections::default();
                    metadata.truncation = true;
                }
            }
        }
        let builder = MessageResponseBuilder::new(questions, edns.as_ref());
        let none: [Record; 0] = [];
        let response = builder.build(
            metadata,
            &sections.answers,
            &none,
            &sections.authority,
            &sections.additionals,
        );
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(e) => {
                tracing::debug!(client = %request.src(), error = %e, "answer not sent");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                })
            }
        }
    }
}
