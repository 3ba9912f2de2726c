//! Where a round trip's time goes, out of round trips to each hop.

use std::net::IpAddr;

use serde::Serialize;

use super::report::{Latency, quantile};
use crate::tool::Surveyed;

/// A part of the whole above which chance is told in words.
const NOISE: f64 = 0.1;

/// A hop's part of the round trip to the last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    /// What lies before it, and who stands there.
    pub(super) leg: &'static str,
    pub(super) name: String,
    pub(super) address: Option<IpAddr>,
    pub(super) sent: u16,
    pub(super) received: u16,
    /// The median of its own answers.
    pub(super) answered_us: Option<f64>,
    /// How long packets take to it and back: what it answered, but never longer than what lies behind it.
    pub(super) round_trip_us: Option<f64>,
    /// What it adds to the hop before; all of them sum to the last hop's round trip.
    pub(super) step_us: Option<f64>,
    /// What chance may add or take, 95 times of 100.
    pub(super) margin_us: Option<f64>,
}

/// Steps that never go back, as a hop may be slow to answer for itself, and quick to pass on what is for others. Nobody
/// is named on a path of another length than usual.
pub(super) fn steps(surveyed: &[Surveyed], stations: &[(&'static str, String)]) -> Vec<Step> {
    let usual = surveyed.len() == stations.len();
    let mut steps: Vec<Step> = surveyed
        .iter()
        .enumerate()
        .map(|(at, hop)| {
            let (leg, name) = match stations.get(at) {
                Some((leg, name)) if usual => (*leg, name.clone()),
                _ => ("", String::new()),
            };
            let (answered, margin) = median(hop).unzip();
            Step {
                leg,
                name,
                address: hop.address,
                sent: hop.sent,
                received: u16::try_from(hop.rtt_ms.len()).unwrap_or(u16::MAX),
                answered_us: answered,
                round_trip_us: answered,
                step_us: None,
                margin_us: margin,
            }
        })
        .collect();
    let mut behind = f64::INFINITY;
    for step in steps.iter_mut().rev() {
        if let Some(round_trip) = &mut step.round_trip_us {
            behind = behind.min(*round_trip);
            *round_trip = behind;
        }
    }
    let (mut before, mut margin_before) = (0.0, 0.0);
    for step in &mut steps {
        if let (Some(round_trip), Some(margin)) = (step.round_trip_us, step.margin_us) {
            step.step_us = Some(round_trip - before);
            step.margin_us = Some(f64::hypot(margin, margin_before));
            (before, margin_before) = (round_trip, margin);
        }
    }
    steps
}

/// The median round trip, and how far it may be from that of many more; nothing where most were not answered.
fn median(hop: &Surveyed) -> Option<(f64, f64)> {
    if hop.rtt_ms.len() * 2 <= usize::from(hop.sent) {
        return None;
    }
    let latency = Latency::of(hop.sent, &hop.rtt_ms).ok()?;
    let mut times = hop.rtt_ms.clone();
    times.sort_by(f64::total_cmp);
    let spread = (quantile(&times, 0.75)? - quantile(&times, 0.25)?) * 1e3;
    // The notch of a box plot.
    Some((latency.p50_us, 1.57 * spread / (times.len() as f64).sqrt()))
}

/// What a reader of the steps should know of chance.
pub(super) fn doubts(steps: &[Step]) -> Vec<String> {
    let whole = steps
        .last()
        .and_then(|step| step.round_trip_us)
        .unwrap_or_default();
    let mut doubts = Vec::new();
    for step in steps {
        let (Some(answered), Some(round_trip), Some(own), Some(margin)) =
            (step.answered_us, step.round_trip_us, step.step_us, step.margin_us)
        else {
            continue;
        };
        let late = answered - round_trip;
        let (name, share) = (&step.name, whole * NOISE);
        if late > share {
            doubts.push(format!(
                "too noisy to tell the way to {name} from the way on: it answered after {answered:.0} µs, what lies \
                 behind it after {round_trip:.0} µs"
            ));
        } else if margin > share && own < margin {
            doubts.push(format!(
                "too noisy to tell: the step to {name} is between 0 and {:.0} µs",
                own + margin
            ));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers about a median, 4 % to both sides.
    fn hop(median_us: f64) -> Surveyed {
        let about = (0..101).map(|n| median_us * (0.96 + 0.0008 * f64::from(n)) / 1e3);
        Surveyed {
            address: Some("10.0.0.1".parse().unwrap()),
            sent: 101,
            rtt_ms: about.collect(),
        }
    }

    fn of(medians: &[f64]) -> Vec<Step> {
        let names = ["a", "b", "c", "d", "e"].map(|name| ("veth", name.to_owned()));
        let hops: Vec<Surveyed> = medians.iter().map(|median| hop(*median)).collect();
        steps(&hops, &names)
    }

    fn parts(steps: &[Step]) -> Vec<i64> {
        steps
            .iter()
            .map(|step| step.step_us.unwrap().round() as i64)
            .collect()
    }

    #[test]
    fn steps_sum_to_the_last_round_trip() {
        let steps = of(&[4.0, 9.0, 90.0, 110.0, 120.0]);
        assert_eq!(parts(&steps), [4, 5, 81, 20, 10]);
        assert!(doubts(&steps).is_empty(), "{:?}", doubts(&steps));
        assert_eq!(steps[2].name, "c");
    }

    #[test]
    fn a_hop_that_is_slow_to_answer_is_no_longer_way() {
        // What was seen once on a busy machine: the second overlay took 329 µs, the pod none.
        let steps = of(&[4.0, 9.0, 56.0, 385.0, 153.0]);
        assert_eq!(parts(&steps), [4, 5, 47, 97, 0]);
        assert_eq!(steps[3].answered_us.unwrap().round(), 385.0);
        let doubts = doubts(&steps);
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        assert!(
            doubts[0].contains("too noisy") && doubts[0].contains("way to d") && doubts[0].contains("385 µs"),
            "{doubts:?}"
        );
        // A little is usual.
        let steps = of(&[4.0, 9.0, 101.0, 98.0, 120.0]);
        assert_eq!(parts(&steps), [4, 5, 89, 0, 22]);
    }

    #[test]
    fn chance_is_told_and_the_silent_are_left_out() {
        let mut wide = hop(100.0);
        wide.rtt_ms = (0..101).map(|n| 0.02 + 0.0016 * f64::from(n)).collect();
        let silent = Surveyed {
            address: None,
            sent: 100,
            rtt_ms: vec![0.05; 3],
        };
        let found = steps(&[silent, wide, hop(105.0)], &[("", "x".to_owned())]);
        assert_eq!(found[0].step_us, None);
        assert_eq!(found[1].step_us.unwrap().round(), 100.0);
        assert_eq!(found[1].name, "", "nobody is named on an unusual path");
        assert_eq!(found[2].step_us.unwrap().round(), 5.0);
        let doubts = doubts(&found);
        assert!(
            doubts.len() == 1 && doubts[0].contains("between 0 and"),
            "{doubts:?}"
        );
    }
}
