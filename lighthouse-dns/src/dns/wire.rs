//! Answers in hickory's types.

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncoder};
use hickory_server::server::Request;
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use strait_core::dns::{self, Answer, Data};

/// Times in a SOA that only secondaries would read; there are none.
const REFRESH: i32 = 7_200;
const RETRY: i32 = 1_800;
const EXPIRE: i32 = 86_400;

/// The records of a response.
#[derive(Debug, Default)]
pub(super) struct Sections {
    pub(super) answers: Vec<Record>,
    pub(super) authority: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// The records of an answer to a question for `name`; `None` if a name in them is too long for DNS.
pub(super) fn sections(name: &Name, answer: &Answer) -> Option<Sections> {
    let all = |records: &[dns::Record]| {
        records
            .iter()
            .map(|r| record(name, r))
            .collect::<Option<Vec<_>>>()
    };
    Some(Sections {
        answers: all(&answer.answers)?,
        authority: all(answer.authority.as_slice())?,
        additionals: all(&answer.additionals)?,
    })
}

fn record(asked: &Name, record: &dns::Record) -> Option<Record> {
    let owner = match &record.owner {
        None => asked.clone(),
        Some(owner) => full(owner)?,
    };
    let data = match &record.data {
        Data::A(a) => RData::A(A(*a)),
        Data::Aaaa(a) => RData::AAAA(AAAA(*a)),
        Data::Srv {
            priority,
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(*priority, *weight, *port, full(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Soa {
            mname,
            rname,
            serial,
            minimum,
        } => RData::SOA(SOA::new(
            full(mname)?,
            full(rname)?,
            *serial,
            REFRESH,
            RETRY,
            EXPIRE,
            *minimum,
        )),
    };
    Some(Record::from_rdata(owner, record.ttl, data))
}

fn full(name: &str) -> Option<Name> {
    let mut name = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Whether there is one question, with its name in full. There is nothing that a first name could point to
/// but the header; as the question is sent back byte by byte, under another header, nobody could read it.
pub(super) fn is_plain(request: &Request) -> bool {
    let mut rest = request.as_slice().get(HEADER..).unwrap_or_default();
    while let [length, after @ ..] = rest {
        match length {
            0 => return request.queries.queries().len() == 1,
            1..64 => rest = after.get(usize::from(*length)..).unwrap_or_default(),
            _ => return false,
        }
    }
    false
}

/// No question at all.
pub(super) fn no_question() -> Option<Queries> {
    Queries::read(&mut BinDecoder::new(&[]), 0).ok()
}

/// What goes back of the question.
pub(super) fn questions<'a>(request: &'a Request, nothing: Option<&'a Queries>) -> &'a Queries {
    nothing.filter(|_| !is_plain(request)).unwrap_or(&request.queries)
}

/// Whether a response fits into `limit` bytes. Most do by far, which a count of the records tells.
pub(super) fn fits(
    questions: &Queries,
    metadata: Metadata,
    sections: &Sections,
    edns: Option<&Edns>,
    limit: u16,
) -> bool {
    let all = || {
        sections
            .answers
            .iter()
            .chain(&sections.authority)
            .chain(&sections.additionals)
    };
    // A name takes at most 255 bytes, and a SOA holds three; only the small kinds are guessed.
    let small =
        all().all(|r| matches!(r.data, RData::A(_) | RData::AAAA(_))) && sections.additionals.is_empty();
    if small && 12 + 259 + 11 + 28 * all().count() <= usize::from(limit) {
        return true;
    }
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::MAX);
    let builder = MessageResponseBuilder::new(questions, edns);
    let none: [Record; 0] = [];
    let response = builder.build(
        metadata,
        &sections.answers,
        &none,
        &sections.authority,
        &sections.additionals,
    );
    match response.destructive_emit(&mut encoder) {
        Ok(info) => !info.truncation && bytes.len() <= usize::from(limit),
        Err(_) => false,
    }
}

/// Names of types in metrics.
pub(super) fn type_name(type_: RecordType) -> &'static str {
    match type_ {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        RecordType::SOA => "SOA",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::ANY => "ANY",
        _ => "other",
    }
}

/// Names of response codes in metrics.
pub(super) fn code_name(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}
