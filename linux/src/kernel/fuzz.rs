//! Whatever a kernel may say, newer ones and stranger ones too. For the fuzzer, and for the replay of what
//! it found.
#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/input.rs"]
mod input;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use strait_core::kernel::{DEVICE_PREFIX, KernelState, OVERLAY_DEVICE, Op, plan};

use self::input::Input;
use super::sysctl::Sysctls;
use super::{Inner, Kernel, events, read};
use crate::conntrack;
use crate::error::Error;
use crate::link::Links;
use crate::netlink::other::{done, message};
use crate::netlink::{Socket, messages};
use crate::netns::Netns;
use crate::nft;

/// Answers to a reading: for each request messages of the fuzzer's, then the end of the dump.
type Script = VecDeque<Vec<(u16, u16, Vec<u8>)>>;

fn script(input: &mut Input<'_>) -> Script {
    let mut script = Script::new();
    for _ in 0..40 {
        if input.is_empty() {
            break;
        }
        let answers = (0..input.byte() % 8).map(|_| {
            let (kind, flags) = (input.byte(), input.byte());
            (u16::from(kind), u16::from(flags) & 0x1f, input.piece().to_vec())
        });
        script.push_back(answers.collect());
    }
    script
}

/// A socket of this family's that plays the script.
fn socket(subsystem: u16, script: &Arc<Mutex<Script>>) -> Socket {
    let script = Arc::clone(script);
    Socket::alone(Box::new(move |datagram| {
        let request = messages(datagram).next()?.ok()?;
        let sequence = request.sequence_number();
        let answers = script.lock().unwrap().pop_front().unwrap_or_default();
        let mut datagrams: Vec<Vec<u8>> = answers
            .iter()
            .map(|(kind, flags, body)| message(subsystem << 8 | kind, *flags, sequence, body))
            .collect();
        datagrams.push(done(sequence));
        Some(datagrams)
    }))
}

/// Dumps and notifications: reading ends, and what is read as ours bears our mark and can be taken away.
pub fn netlink(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 3 {
        0 => notification(&mut input),
        1 => {
            let body = input.rest();
            if let Some(flow) = conntrack::parse(body) {
                assert_eq!(flow.client.is_ipv4(), flow.client.ip().is_ipv4());
            }
        }
        _ => reading(&mut input),
    }
}

fn notification(input: &mut Input<'_>) {
    let mut devices = BTreeMap::from([(7, OVERLAY_DEVICE.to_owned())]);
    while !input.is_empty() {
        let kind = u16::from(input.byte());
        let body = input.piece();
        _ = events::route_change(kind, body, &mut devices);
        _ = events::nft_change(nft::SUBSYSTEM << 8 | kind, body);
    }
    assert!(devices.values().all(|name| name.starts_with(DEVICE_PREFIX)));
}

fn reading(input: &mut Input<'_>) {
    let script = Arc::new(Mutex::new(script(input)));
    let kernel = Kernel {
        inner: Arc::new(Inner {
            namespace: Netns::current().unwrap(),
            links: Links::over(socket(0, &script)),
            nft: Mutex::new(socket(nft::SUBSYSTEM, &script)),
            sysctls: Sysctls::none(),
            turn: Mutex::default(),
        }),
    };
    let state = match read::read(&kernel.inner) {
        Ok(state) => state,
        Err(Error::Protocol(_) | Error::Refused { .. } | Error::Overrun) => return,
        Err(other) => panic!("{other}"),
    };
    let ours = |device: &str| device.starts_with(DEVICE_PREFIX);
    assert!(
        state
            .foreign_links
            .iter()
            .all(|name| ours(name) && name != OVERLAY_DEVICE)
    );
    assert!(state.addresses.iter().all(|a| ours(&a.device)));
    assert!(state.neighbours.iter().all(|n| n.device == OVERLAY_DEVICE));
    assert!(state.fdb.iter().all(|e| e.device == OVERLAY_DEVICE));
    assert!(
        state
            .foreign_drops
            .iter()
            .chain(&state.foreign_accepts)
            .all(|place| nft::is_ip_family(&place.family))
    );
    for refusal in &state.foreign_refusals {
        assert!(nft::is_ip_family(&refusal.family) && ["drop", "reject"].contains(&refusal.verdict.as_str()));
    }
    let removal = plan(&KernelState::default(), &state);
    for op in &removal.ops {
        assert!(!op.to_string().is_empty());
        assert!(
            !matches!(op, Op::AddRoute(_) | Op::AddRule(_) | Op::AddAddress(_)),
            "{op}"
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_that_were_found_hold() {
        super::input::replay("netlink", super::netlink);
    }
}
