//! The report for people.

use std::fmt::Write as _;

use super::hops::doubts;
use super::report::{Cpu, Latency, Limit, Measured, Report};

/// One of a table's rows.
type Seconds = fn(&Cpu) -> f64;

impl Report {
    /// Some lines.
    pub(super) fn to_text(&self) -> String {
        let (from, to) = (&self.pods.from, &self.pods.to);
        let mut text = format!(
            "\n{} → {}, pods on {}/{} and {}/{}\n\n",
            from.cluster, to.cluster, from.cluster, from.node, to.cluster, to.node
        );
        self.loads(&mut text);
        self.hops(&mut text);
        self.work(&mut text);
        let others = &self.others;
        let (taken, cores) = (others.cores_taken, others.cores);
        let _ = match others.disturbing {
            true => writeln!(
                text,
                "\nWARNING: other programs took {taken:.2} of this machine's {cores} cores during the loads (once {:.2}); \
                 measure again when it is idle.",
                others.cores_taken_most
            ),
            false => writeln!(
                text,
                "\nOther programs took {taken:.2} of this machine's {cores} cores during the loads."
            ),
        };
        text
    }

    fn bare_measured(&self) -> Option<&Measured> {
        self.bare.as_ref().map(|bare| &bare.measured)
    }

    fn loads(&self, text: &mut String) {
        let (pods, bare) = (&self.pods.measured, self.bare_measured());
        let mut row = |title: &str, unit: &str, [pods, bare]: [String; 2], part: Option<f64>| {
            let part = part.map_or(String::new(), |part| format!("{:.0} %", part * 100.0));
            let line = format!("  {title:<36} {unit:<10} {pods:>12} {bare:>12} {part:>8}");
            *text += line.trim_end();
            text.push('\n');
        };
        let both = |of: &dyn Fn(&Measured) -> String| [of(pods), bare.map(of).unwrap_or_default()];
        let header = ["pod to pod", bare.map_or("", |_| "bare")].map(str::to_owned);
        row("", "", header, None);
        let gbits = |value: f64| format!("{:.2}", value / 1e9);
        row(
            "TCP, one flow",
            "Gbit/s",
            both(&|measured| gbits(measured.tcp_1_bits_per_second)),
            self.ratio.map(|ratio| ratio.tcp_1),
        );
        row(
            "TCP, eight flows",
            "Gbit/s",
            both(&|measured| gbits(measured.tcp_8_bits_per_second)),
            self.ratio.map(|ratio| ratio.tcp_8),
        );
        let thousands = |value: f64| format!("{:.0}", value / 1e3);
        row(
            "UDP of 64 bytes, sent",
            "1000/s",
            both(&|measured| thousands(measured.udp_64_sent_per_second)),
            None,
        );
        row(
            "UDP of 64 bytes, received",
            "1000/s",
            both(&|measured| thousands(measured.udp_64_per_second)),
            self.ratio.map(|ratio| ratio.udp_64),
        );
        row(
            "UDP of 64 bytes, lost",
            "%",
            both(&|measured| format!("{:.1}", measured.udp_64_lost * 100.0)),
            None,
        );
        let times = |latency: &Latency| format!("{:.0} / {:.0}", latency.p50_us, latency.p99_us);
        row(
            "round trip, p50 / p99",
            "µs",
            both(&|measured| times(&measured.round_trip_idle)),
            None,
        );
        let beside = gbits(pods.loaded_with_bits_per_second);
        row(
            &format!("the same beside {beside} Gbit/s"),
            "µs",
            both(&|measured| times(&measured.round_trip_loaded)),
            None,
        );
        if let Some(bare) = &self.bare {
            let _ = writeln!(
                text,
                "\n  bare: the data path alone from {} to {}, on the same wires.",
                bare.from, bare.to
            );
        }
        let limits = [("pod to pod", Some(pods)), ("bare", bare)].map(|(title, measured)| {
            let limited = match measured?.udp_64_limited_by {
                Limit::Sender => "the sender (all that it sends arrives)",
                Limit::Path => "the path (it loses some)",
            };
            Some(format!("{title} {limited}"))
        });
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        let _ = writeln!(
            text,
            "  UDP: one sender, one system call for each datagram; a pod's does the node's and the overlay's work, too.\n  \
             What limits it: {}.",
            limits.join(", ")
        );
        if let Some(why) = &self.no_bare {
            let _ = writeln!(text, "\n  The data path alone was not measured: {why}.");
        }
    }

    fn hops(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\nWhere a round trip's time goes (medians in µs; ± is what chance may do to a step; the first has the sender's \
             own work, too)\n"
        );
        let header = ("", "", "", "so far", "step");
        let rows = self.path.iter().map(|hop| {
            let address = hop
                .address
                .map_or("(silent)".to_owned(), |address| address.to_string());
            let so_far = hop.round_trip_us.map_or(String::new(), |us| format!("{us:.0}"));
            let step = match (hop.step_us, hop.margin_us) {
                (Some(step), Some(margin)) => format!("+{step:.0} ±{margin:.0}"),
                _ => String::new(),
            };
            (hop.leg, hop.name.as_str(), address, so_far, step)
        });
        let mut row = |leg: &str, name: &str, address: &str, so_far: &str, step: &str| {
            let line = format!("  {leg:<18} {name:<24} {address:<24} {so_far:>8} {step:>12}");
            *text += line.trim_end();
            text.push('\n');
        };
        row(header.0, header.1, header.2, header.3, header.4);
        for (leg, name, address, so_far, step) in rows {
            row(leg, name, &address, &so_far, &step);
        }
        let doubts = doubts(&self.path);
        if !doubts.is_empty() {
            text.push('\n');
        }
        for doubt in doubts {
            let _ = writeln!(text, "  {doubt}.");
        }
    }

    fn work(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\nWhere the CPU goes (seconds for each GB of one TCP flow)\n"
        );
        let all: Vec<&Cpu> = [Some(&self.pods.measured), self.bare_measured()]
            .into_iter()
            .flatten()
            .map(|measured| &measured.cpu)
            .collect();
        let mut row = |who: &str, values: Vec<String>| {
            let mut line = format!("  {who:<60}");
            for value in values {
                let _ = write!(line, " {value:>12}");
            }
            *text += line.trim_end();
            text.push('\n');
        };
        let titles = ["pod to pod", "bare"].into_iter().take(all.len());
        row("", titles.map(str::to_owned).collect());
        let mut names: Vec<String> = Vec::new();
        for share in all.iter().flat_map(|cpu| &cpu.shares) {
            let name = share.name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        // Whoever takes part in every load stands last.
        names.sort_by_key(|name| ["sender", "receiver"].contains(&name.as_str()));
        for name in names {
            let own = all.iter().map(|cpu| {
                let found = cpu.shares.iter().find(|share| share.name() == name);
                found.map_or("–".to_owned(), |share| {
                    format!("{:.2}", share.seconds_per_gigabyte)
                })
            });
            row(&name, own.collect());
        }
        let rest: [(&str, Seconds); 4] = [
            ("the lab's other processes, and this program", |cpu| {
                cpu.lab_seconds_per_gigabyte
            }),
            ("other programs", |cpu| cpu.others_seconds_per_gigabyte),
            ("the kernel beside them: forwarding, overlay, wires", |cpu| {
                cpu.kernel_seconds_per_gigabyte
            }),
            ("the whole machine, the sum of these", |cpu| {
                cpu.machine_seconds_per_gigabyte
            }),
        ];
        for (title, of) in rest {
            row(title, all.iter().map(|cpu| format!("{:.2}", of(cpu))).collect());
        }
        let softirq: Vec<String> = all
            .iter()
            .map(|cpu| format!("{:.2}", cpu.softirq_seconds_per_gigabyte))
            .collect();
        let _ = writeln!(
            text,
            "\n  Of that sum, {} in softirq, whoever it interrupted.",
            softirq.join(" and ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Others;
    use super::super::sample::{measured, report};

    #[test]
    fn the_part_of_the_bare_data_path_is_told() {
        let text = report(Some(measured(4e9))).to_text();
        assert!(text.contains("75 %"), "{text}");
        assert!(text.contains("+40 ±0"), "{text}");
        assert!(text.contains("blue/gateway-1, strait-out"), "{text}");
        assert!(text.contains("p50 / p99"), "{text}");
        assert!(text.contains("0.05 of this machine's 2 cores"), "{text}");
        let row = |title: &str| text.lines().find(|line| line.contains(title)).unwrap();
        assert!(row("64 bytes, sent").contains("400"), "{text}");
        assert!(row("64 bytes, received").contains("300"), "{text}");
        assert!(row("64 bytes, lost").contains("25.0"), "{text}");
        assert!(row("limits").contains("bare the path"), "{text}");
        assert!(!text.contains("noisy") && !text.contains("WARNING"), "{text}");
    }

    #[test]
    fn without_the_bare_data_path_it_says_why() {
        let mut report = report(None);
        let text = report.to_text();
        assert!(text.contains("behind a NAT") && !text.contains("bare"), "{text}");
        report.others = Others::of(2, &[("one TCP flow".to_owned(), 1.6, 2.0)]);
        let text = report.to_text();
        assert!(
            text.contains("WARNING: other programs took 0.80 of this machine's 2 cores"),
            "{text}"
        );
    }
}
