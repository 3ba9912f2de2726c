//! The text of the configuration socket: `get=1` and `set=1`, keys in hexadecimal.
//!
//! A request is read whole before anything of it is applied, so that one wrong line changes nothing. The
//! format is that of <https://www.wireguard.com/xplatform/>; errors are negative numbers of errno.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::datapath::{PresharedKey, PrivateKey, PublicKey};

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// Everything there is to know.
    Get,
    /// Changes, in their order.
    Set(Vec<Change>),
}

/// One change of the interface.
#[derive(Debug)]
pub(super) enum Change {
    /// The interface's key; none takes it away.
    PrivateKey(Option<PrivateKey>),
    /// The UDP port; 0 lets the kernel choose.
    ListenPort(u16),
    /// The mark of outgoing datagrams; 0 for none.
    Fwmark(u32),
    /// All peers go.
    ReplacePeers,
    /// A peer changes.
    Peer(PeerChange),
}

/// What changes of a peer.
#[derive(Debug)]
pub(super) struct PeerChange {
    pub(super) public_key: PublicKey,
    pub(super) remove: bool,
    /// Do not make the peer if it is not there.
    pub(super) update_only: bool,
    /// `Some(None)` takes the key away.
    pub(super) preshared: Option<Option<PresharedKey>>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds; 0 for none.
    pub(super) keepalive: Option<u16>,
    pub(super) replace_allowed: bool,
    /// Prefixes that come (true) and go.
    pub(super) allowed: Vec<(IpNet, bool)>,
}

impl PeerChange {
    fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared: None,
            endpoint: None,
            keepalive: None,
            replace_allowed: false,
            allowed: Vec::new(),
        }
    }
}

/// A line that cannot be taken. The value is not told: it may be a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    /// Neither `get=1` nor `set=1`.
    #[error("the request begins neither with get=1 nor with set=1")]
    Operation,
    /// No `=`, or not text, or nothing like a key before it.
    #[error("line {line} is not key=value")]
    Form { line: usize },
    /// A key that nobody knows, or that does not stand here.
    #[error("line {line}: {key:?} is not known here")]
    Key { line: usize, key: String },
    /// A value that the key cannot have.
    #[error("line {line}: the value of {key} must be {wanted}")]
    Value {
        line: usize,
        key: &'static str,
        wanted: &'static str,
    },
}

/// Reads a request: all lines before the empty one. `scope` finds the index of an interface by its name, for
/// link-local endpoints.
pub(super) fn parse(text: &[u8], scope: &dyn Fn(&str) -> Option<u32>) -> Result<Request, BadRequest> {
    let mut lines = text
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    match lines.next() {
        Some((_, b"get=1")) => return Ok(Request::Get),
        Some((_, b"set=1")) => {}
        _ => return Err(BadRequest::Operation),
    }
    let mut changes = Vec::new();
    let mut peer: Option<PeerChange> = None;
    for (line, bytes) in lines {
        let (key, value) = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.split_once('='))
            .ok_or(BadRequest::Form { line })?;
        if key == "public_key" {
            let next = PeerChange::new(PublicKey(*hex(line, "public_key", value)?));
            changes.extend(peer.replace(next).map(Change::Peer));
            continue;
        }
        match &mut peer {
            Some(peer) => of_peer(peer, line, key, value, scope)?,
            None => changes.push(of_interface(line, key, value)?),
        }
    }
    changes.extend(peer.map(Change::Peer));
    Ok(Request::Set(changes))
}

fn of_interface(line: usize, key: &str, value: &str) -> Result<Change, BadRequest> {
    Ok(match key {
        "private_key" => {
            let bytes = hex(line, "private_key", value)?;
            Change::PrivateKey(not_zero(&bytes).then(|| PrivateKey::from_bytes(*bytes)))
        }
        "listen_port" => Change::ListenPort(number(line, "listen_port", value, "0 to 65535")?),
        "fwmark" => Change::Fwmark(number(line, "fwmark", value, "0 to 4294967295")?),
        "replace_peers" => {
            only_true(line, "replace_peers", value)?;
            Change::ReplacePeers
        }
        _ => return Err(unknown(line, key)),
    })
}

fn of_peer(
    peer: &mut PeerChange,
    line: usize,
    key: &str,
    value: &str,
    scope: &dyn Fn(&str) -> Option<u32>,
) -> Result<(), BadRequest> {
    let wrong = |key, wanted| BadRequest::Value { line, key, wanted };
    match key {
        "remove" => {
            only_true(line, "remove", value)?;
            peer.remove = true;
        }
        "update_only" => {
            only_true(line, "update_only", value)?;
            peer.update_only = true;
        }
        "preshared_key" => {
            let bytes = hex(line, "preshared_key", value)?;
            peer.preshared = Some(not_zero(&bytes).then(|| PresharedKey::from_bytes(*bytes)));
        }
        "endpoint" => {
            let endpoint = endpoint(value, scope);
            peer.endpoint =
                Some(endpoint.ok_or_else(|| wrong("endpoint", "an address and a port other than 0"))?);
        }
        "persistent_keepalive_interval" => {
            peer.keepalive = Some(number(
                line,
                "persistent_keepalive_interval",
                value,
                "0 to 65535 seconds",
            )?);
        }
        "replace_allowed_ips" => {
            only_true(line, "replace_allowed_ips", value)?;
            peer.replace_allowed = true;
            peer.allowed.clear();
        }
        "allowed_ip" => {
            let (text, comes) = match value.strip_prefix('-') {
                Some(rest) => (rest, false),
                None => (value, true),
            };
            let net = text
                .parse::<IpNet>()
                .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()))
                .map_err(|_| wrong("allowed_ip", "a prefix"))?;
            peer.allowed.push((net.trunc(), comes));
        }
        "protocol_version" => {
            if value != "1" {
                return Err(wrong("protocol_version", "1"));
            }
        }
        _ => return Err(unknown(line, key)),
    }
    Ok(())
}

/// What does not look like a name of the protocol is not shown: it may be a secret that stands in the wrong place.
fn unknown(line: usize, key: &str) -> BadRequest {
    let is_name = key.len() <= 30 && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if is_name {
        let key = key.to_owned();
        BadRequest::Key { line, key }
    } else {
        BadRequest::Form { line }
    }
}

fn hex(line: usize, key: &'static str, value: &str) -> Result<Zeroizing<[u8; 32]>, BadRequest> {
    let wrong = || BadRequest::Value {
        line,
        key,
        wanted: "32 bytes as 64 hexadecimal digits",
    };
    let digits = value.as_bytes();
    if digits.len() != 64 {
        return Err(wrong());
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        *byte = match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => high << 4 | low,
            _ => return Err(wrong()),
        };
    }
    Ok(bytes)
}

fn not_zero(bytes: &[u8; 32]) -> bool {
    bytes.iter().any(|&byte| byte != 0)
}

fn number<T: std::str::FromStr>(
    line: usize,
    key: &'static str,
    value: &str,
    wanted: &'static str,
) -> Result<T, BadRequest> {
    value.parse().map_err(|_| BadRequest::Value { line, key, wanted })
}

fn only_true(line: usize, key: &'static str, value: &str) -> Result<(), BadRequest> {
    if value == "true" {
        Ok(())
    } else {
        Err(BadRequest::Value {
            line,
            key,
            wanted: "true",
        })
    }
}

/// `1.2.3.4:5`, `[::1]:5`, `[fe80::1%2]:5` or `[fe80::1%eth0]:5`.
fn endpoint(value: &str, scope: &dyn Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    let parsed = value.parse::<SocketAddr>().ok().or_else(|| {
        let (address, rest) = value.strip_prefix('[')?.split_once('%')?;
        let (name, port) = rest.rsplit_once("]:")?;
        let index = scope(name)?;
        format!("[{address}%{index}]:{port}").parse().ok()
    })?;
    (parsed.port() != 0).then_some(parsed)
}

/// What an interface and its peers are, and have done.
pub(super) struct Report<'a> {
    pub(super) private_key: Option<&'a PrivateKey>,
    pub(super) listen_port: u16,
    pub(super) fwmark: u32,
    pub(super) peers: Vec<PeerReport<'a>>,
}

/// One peer of a [`Report`].
pub(super) struct PeerReport<'a> {
    pub(super) public_key: PublicKey,
    pub(super) preshared: Option<&'a PresharedKey>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) last_handshake: Option<SystemTime>,
    pub(super) tx_bytes: u64,
    pub(super) rx_bytes: u64,
    /// Seconds; 0 for none.
    pub(super) keepalive: u16,
    pub(super) allowed: Vec<IpNet>,
}

/// The answer to `get=1`. It holds keys, so it is wiped when dropped.
pub(super) fn report(report: &Report<'_>) -> Zeroizing<String> {
    // Room for all, so that no copy is left behind on the way.
    let room = 256
        + report
            .peers
            .iter()
            .map(|peer| 512 + peer.allowed.len() * 64)
            .sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(room));
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _: std::fmt::Result = writeln!(text, "{key}={value}");
    };
    if let Some(key) = report.private_key {
        line("private_key", &Hex(key.bytes()));
    }
    line("listen_port", &report.listen_port);
    if report.fwmark != 0 {
        line("fwmark", &report.fwmark);
    }
    for peer in &report.peers {
        line("public_key", &Hex(&peer.public_key.0));
        line(
            "preshared_key",
            &Hex(peer.preshared.map_or(&[0; 32], PresharedKey::bytes)),
        );
        line("protocol_version", &1);
        if let Some(endpoint) = peer.endpoint {
            line("endpoint", &endpoint);
        }
        let since = peer
            .last_handshake
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .unwrap_or_default();
        line("last_handshake_time_sec", &since.as_secs());
        line("last_handshake_time_nsec", &since.subsec_nanos());
        line("tx_bytes", &peer.tx_bytes);
        line("rx_bytes", &peer.rx_bytes);
        line("persistent_keepalive_interval", &peer.keepalive);
        for net in &peer.allowed {
            line("allowed_ip", net);
        }
    }
    line("errno", &0);
    text.push('\n');
    text
}

struct Hex<'a>(&'a [u8; 32]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

    fn changes(text: &str) -> Result<Vec<Change>, BadRequest> {
        let scope = |name: &str| (name == "eth0").then_some(7);
        match parse(text.as_bytes(), &scope)? {
            Request::Get => panic!("{text:?} is no set"),
            Request::Set(changes) => Ok(changes),
        }
    }

    fn peer(lines: &str) -> Result<PeerChange, BadRequest> {
        let mut all = changes(&format!("set=1\npublic_key={KEY}\n{lines}\n"))?;
        assert_eq!(all.len(), 1, "{lines}");
        match all.remove(0) {
            Change::Peer(peer) => Ok(peer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_its_lines_in_their_order() {
        let text = format!(
            "set=1\nprivate_key={KEY}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\npublic_key={KEY}\n\
             preshared_key={KEY}\nendpoint=[2001:db8::1]:5\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.1.2.3/8\nallowed_ip=-::1/128\nprotocol_version=1\n\
             public_key={}\nremove=true\n\nlisten_port=1\n",
            KEY.replace('b', "c"),
        );
        let all = changes(&text).unwrap();
        assert!(
            matches!(
                &all[..4],
                [
                    Change::PrivateKey(Some(_)),
                    Change::ListenPort(51820),
                    Change::Fwmark(51820),
                    Change::ReplacePeers,
                ]
            ),
            "{all:?}"
        );
        let [Change::Peer(first), Change::Peer(second)] = &all[4..] else {
            panic!("{all:?}");
        };
        assert_eq!(first.endpoint, Some("[2001:db8::1]:5".parse().unwrap()));
        assert_eq!(first.keepalive, Some(25));
        assert!(first.replace_allowed && !first.remove && first.preshared.as_ref().unwrap().is_some());
        let expected = [
            ("10.0.0.0/8".parse().unwrap(), true),
            ("::1/128".parse().unwrap(), false),
        ];
        assert_eq!(first.allowed, expected);
        assert!(second.remove && second.public_key != first.public_key);
    }

    #[test]
    fn zeroes_take_a_key_away() {
        let zero = "0".repeat(64);
        let all = changes(&format!("set=1\nprivate_key={zero}\n")).unwrap();
        assert!(matches!(all[..], [Change::PrivateKey(None)]), "{all:?}");
        assert_eq!(
            peer(&format!("preshared_key={zero}")).unwrap().preshared,
            Some(None)
        );
    }

    #[test]
    fn link_local_endpoints_name_their_interface() {
        let found =
            |text: &str| peer(&format!("endpoint={text}")).map(|peer| peer.endpoint.unwrap().to_string());
        assert_eq!(found("[fe80::1%eth0]:5").as_deref(), Ok("[fe80::1%7]:5"));
        assert_eq!(found("[fe80::1%3]:5").as_deref(), Ok("[fe80::1%3]:5"));
        assert!(found("[fe80::1%eth9]:5").is_err());
    }

    #[test]
    fn a_wrong_line_is_named_and_its_value_is_not() {
        for (text, expected) in [
            ("", "the request begins neither"),
            ("get=2\n", "the request begins neither"),
            ("set=1\nlisten_port\n", "line 2 is not key=value"),
            ("set=1\nc2VjcmV0secretXY=\n", "line 2 is not key=value"),
            ("set=1\nsecret00secret00=1\n", "line 2 is not key=value"),
            (
                "set=1\nlisten_port=65536\n",
                "line 2: the value of listen_port must be 0 to",
            ),
            (
                "set=1\nprivate_key=secret\n",
                "line 2: the value of private_key must be 32 bytes",
            ),
            (
                "set=1\nendpoint=1.2.3.4:5\n",
                "line 2: \"endpoint\" is not known here",
            ),
            (
                "set=1\nreplace_peers=false\n",
                "line 2: the value of replace_peers must be true",
            ),
        ] {
            let error = parse(text.as_bytes(), &|_| None).unwrap_err().to_string();
            assert!(
                error.starts_with(expected) && !error.contains("secret"),
                "{text:?}: {error}"
            );
        }
        for lines in [
            "endpoint=1.2.3.4:0",
            "endpoint=host:5",
            "allowed_ip=10.0.0.0/33",
            "persistent_keepalive_interval=-1",
            "protocol_version=2",
            "listen_port=5",
            "preshared_key=zz",
        ] {
            let error = peer(lines).unwrap_err().to_string();
            assert!(error.starts_with("line 3: "), "{lines}: {error}");
        }
    }

    #[test]
    fn a_report_reads_as_a_request_again() {
        let key = PrivateKey::from_bytes([5; 32]);
        let preshared = PresharedKey::from_bytes([6; 32]);
        let text = report(&Report {
            private_key: Some(&key),
            listen_port: 51820,
            fwmark: 3,
            peers: vec![PeerReport {
                public_key: PublicKey([9; 32]),
                preshared: Some(&preshared),
                endpoint: Some("192.0.2.1:7".parse().unwrap()),
                last_handshake: Some(SystemTime::UNIX_EPOCH + std::time::Duration::new(12, 34)),
                tx_bytes: 1,
                rx_bytes: 2,
                keepalive: 25,
                allowed: vec!["10.0.0.0/8".parse().unwrap()],
            }],
        });
        for line in [
            "last_handshake_time_sec=12",
            "last_handshake_time_nsec=34",
            "tx_bytes=1",
            "rx_bytes=2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {}", *text);
        }
        assert!(text.ends_with("\nerrno=0\n\n"));
        let settings: String = text
            .lines()
            .filter(|line| !line.contains("_bytes") && !line.contains("last_") && !line.contains("errno"))
            .fold("set=1\n".to_owned(), |all, line| all + line + "\n");
        let all = changes(&settings).unwrap();
        let [
            Change::PrivateKey(Some(_)),
            Change::ListenPort(51820),
            Change::Fwmark(3),
            Change::Peer(peer),
        ] = &all[..]
        else {
            panic!("{all:?}");
        };
        assert_eq!(peer.public_key, PublicKey([9; 32]));
        assert_eq!(peer.preshared, Some(Some(preshared)));
    }
}
