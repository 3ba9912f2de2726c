//! Who a client certificate stands for: common name and organisations, as user name and groups.
//!
//! Only certificates that rustls has verified come here. Of their DER no more is read than that takes.

use jiff::Timestamp;

use crate::auth::User;

/// A user by certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Who it is.
    pub(crate) user: User,
    /// Until when.
    pub(crate) until: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERAL_TIME: u8 = 0x18;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];

/// Takes the next element off `from`: its tag and its content.
fn next<'a>(from: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = from.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            bytes.iter().fold(0usize, |n, b| n << 8 | usize::from(*b))
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some((tag, content))
}

fn expect<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(from).filter(|(t, _)| *t == tag).map(|(_, content)| content)
}

fn time(tag: u8, content: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let text = match tag {
        UTC_TIME if text.len() == 12 => {
            let century = if &text[..2] < "50" { "20" } else { "19" };
            format!("{century}{text}")
        }
        GENERAL_TIME if text.len() == 14 => text.to_owned(),
        _ => return None,
    };
    let part = |from: usize, to: usize| &text[from..to];
    format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(8, 10),
        part(10, 12),
        part(12, 14)
    )
    .parse()
    .ok()
}

/// Whose certificate this is; `None`, if it names nobody.
pub(crate) fn identity(certificate: &[u8]) -> Option<Identity> {
    let mut outer = certificate;
    let mut body = expect(&mut outer, SEQUENCE)?;
    let mut tbs = expect(&mut body, SEQUENCE)?;
    let (tag, _) = next(&mut tbs)?;
    if tag == 0xa0 {
        // The version was there; this is the serial number.
        next(&mut tbs)?;
    }
    expect(&mut tbs, SEQUENCE)?; // algorithm
    expect(&mut tbs, SEQUENCE)?; // issuer
    let mut validity = expect(&mut tbs, SEQUENCE)?;
    next(&mut validity)?;
    let (tag, end) = next(&mut validity)?;
    let until = time(tag, end)?;
    let mut subject = expect(&mut tbs, SEQUENCE)?;
    let mut name = String::new();
    let mut groups: Vec<String> = Vec::new();
    while !subject.is_empty() {
        let mut set = expect(&mut subject, SET)?;
        while !set.is_empty() {
            let mut attribute = expect(&mut set, SEQUENCE)?;
            let kind = expect(&mut attribute, OBJECT_ID)?;
            let (_, value) = next(&mut attribute)?;
            // Of an encoding that is not UTF-8 or ASCII nothing is made up.
            let value = std::str::from_utf8(value).ok()?;
            match kind {
                COMMON_NAME => name = value.to_owned(),
                ORGANISATION => groups.push(value.to_owned()),
                _ => {}
            }
        }
    }
    if name.is_empty() {
        return None;
    }
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    Some(Identity {
        user: User::new(&name, &groups),
        until,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(attributes: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_groups_are_read() {
        let der = certificate(&[
            (DnType::CountryName, "XX"),
            (DnType::OrganizationName, "Gruppe Ä"),
            (DnType::CommonName, "jane"),
        ]);
        let found = identity(&der).unwrap();
        assert_eq!(found.user, User::new("jane", &["Gruppe Ä"]));
        assert_eq!(found.until, "2031-02-03T00:00:00Z".parse().unwrap());
        assert_eq!(identity(&certificate(&[(DnType::OrganizationName, "g")])), None);
        assert_eq!(
            time(UTC_TIME, b"491231235959Z"),
            "2049-12-31T23:59:59Z".parse().ok()
        );
        assert_eq!(
            time(UTC_TIME, b"500101000000Z"),
            "1950-01-01T00:00:00Z".parse().ok()
        );
        assert_eq!(time(GENERAL_TIME, b"20991331000000Z"), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(at in 0usize..400, byte: u8, cut in 0usize..500) {
            let mut der = certificate(&[(DnType::CommonName, "jane"), (DnType::OrganizationName, "g")]);
            let place = at % der.len();
            der[place] = byte;
            der.truncate(cut.max(1));
            let _ = identity(&der);
        }
    }
}
