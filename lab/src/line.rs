//! A wire that is worse than the kernel's: packets take their time on it, get lost, and wait for one another.
//!
//! Two TUN devices and a thread for each direction. The kernel has queueing disciplines for this (netem, tbf),
//! but many kernels are built without them; TUN is what every machine has that can run a lab at all.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::io::{Errno, read, write};
use strait_linux::tun::Tun;

use crate::topology::Quality;

/// Packets that may be on their way, in each direction; more are lost.
const UNDER_WAY: usize = 16_384;
/// How long a packet may wait until those before it have left, as in a router's buffer; else it is lost.
const LONGEST_QUEUE: Duration = Duration::from_millis(100);
/// Largest packet.
const LARGEST: usize = 65_536;
const MILLION: u64 = 1_000_000;

/// Carries packets between two devices, until the process ends.
pub(crate) fn carry(a: Tun, b: Tun, quality: &Quality) -> Result<()> {
    let (a, b) = (std::sync::Arc::new(a), std::sync::Arc::new(b));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let (send, receive) = sync_channel(UNDER_WAY);
        let mut schedule = Schedule::new(quality.clone(), seed()?);
        let (name, from, to) = (from.name().to_owned(), from.clone(), to.clone());
        let thread = |part: &str| thread::Builder::new().name(format!("{name}-{part}"));
        thread("in")
            .spawn(move || take(&from, &mut schedule, &send))
            .context("cannot start a wire's thread")?;
        thread("out")
            .spawn(move || give(&to, &receive))
            .context("cannot start a wire's thread")?;
    }
    Ok(())
}

fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    Ok(u64::from_ne_bytes(bytes) | 1)
}

fn take(from: &Tun, schedule: &mut Schedule, send: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = match read(from, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!("the wire {} carries nothing any more: {error}", from.name());
                return;
            }
        };
        let Some(arrival) = schedule.arrival(Instant::now(), length) else {
            continue;
        };
        match send.try_send((arrival, buffer[..length].to_vec())) {
            // The buffer is full, so the packet is lost.
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
}

fn give(to: &Tun, receive: &Receiver<(Instant, Vec<u8>)>) {
    for (arrival, packet) in receive {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        // A device that takes nothing (it is down, say) loses packets, as any other.
        if let Err(error) = write(to, &packet) {
            tracing::debug!("{}: {error}", to.name());
        }
    }
}

/// When packets arrive.
struct Schedule {
    quality: Quality,
    /// When the last packet has left altogether.
    free: Option<Instant>,
    /// When the last packet arrives: none overtakes it.
    last: Option<Instant>,
    random: u64,
}

impl Schedule {
    /// `seed` must not be 0.
    fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            free: None,
            last: None,
            random: seed,
        }
    }

    /// When a packet that is sent now arrives; `None` if never.
    fn arrival(&mut self, now: Instant, length: usize) -> Option<Instant> {
        if self.below(MILLION) < u64::from(self.quality.loss_ppm) {
            return None;
        }
        let mut sent = now;
        if let Some(rate) = self.quality.rate_bps {
            let begins = self.free.map_or(now, |free| free.max(now));
            if begins - now > LONGEST_QUEUE {
                return None;
            }
            let nanoseconds = length as u64 * 8 * 1_000_000_000 / rate.max(1);
            sent = begins + Duration::from_nanos(nanoseconds);
            self.free = Some(sent);
        }
        let Quality {
            delay_us, jitter_us, ..
        } = self.quality;
        let us = (delay_us + self.below(2 * jitter_us + 1)).saturating_sub(jitter_us);
        let mut arrival = sent + Duration::from_micros(us);
        if let Some(last) = self.last {
            arrival = arrival.max(last);
        }
        self.last = Some(arrival);
        Some(arrival)
    }

    /// A number below `end` (xorshift: good enough for a wire).
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(quality: Quality, packets: usize, every: Duration) -> Vec<Option<Duration>> {
        let start = Instant::now();
        let mut schedule = Schedule::new(quality, 0x9e37_79b9_7f4a_7c15);
        (0..packets)
            .map(|n| {
                let now = start + every * u32::try_from(n).unwrap();
                schedule.arrival(now, 1250).map(|at| at - now)
            })
            .collect()
    }

    #[test]
    fn packets_take_the_delay_give_or_take_the_jitter_in_order() {
        let quality = Quality {
            delay_us: 20_000,
            jitter_us: 5_000,
            ..Quality::default()
        };
        let every = Duration::from_millis(1);
        let taken: Vec<Duration> = arrivals(quality, 1000, every).into_iter().flatten().collect();
        assert_eq!(taken.len(), 1000);
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(
            *least >= Duration::from_millis(15) && *least < Duration::from_millis(18),
            "{least:?}"
        );
        assert!(
            *most <= Duration::from_millis(25) && *most > Duration::from_millis(22),
            "{most:?}"
        );
        assert!(
            taken.windows(2).all(|w| w[1] + every >= w[0]),
            "one packet overtook another"
        );
    }

    #[test]
    fn some_packets_are_lost_and_about_as_many_as_said() {
        let quality = Quality {
            loss_ppm: 100_000,
            ..Quality::default()
        };
        let lost = arrivals(quality, 10_000, Duration::from_millis(1))
            .iter()
            .filter(|a| a.is_none())
            .count();
        assert!((800..1200).contains(&lost), "{lost} of 10000");
    }

    #[test]
    fn a_rate_makes_packets_wait_and_a_full_queue_loses_them() {
        // 1250 bytes are 1 ms at 10 Mbit/s; twice as many come.
        let quality = Quality {
            rate_bps: Some(10_000_000),
            ..Quality::default()
        };
        let all = arrivals(quality, 1000, Duration::from_micros(500));
        assert_eq!(all[0], Some(Duration::from_millis(1)));
        let longest = all.iter().flatten().max().unwrap();
        assert!(
            *longest <= LONGEST_QUEUE + Duration::from_millis(1),
            "{longest:?}"
        );
        let arrived = all.iter().flatten().count();
        assert!(
            (590..610).contains(&arrived),
            "500 in half a second, and a queue of 100: {arrived}"
        );
    }
}
