//! The results as a picture: bars, in SVG that reads on light and dark pages.

use std::fmt::Write as _;

use crate::bed::Offload;
use crate::course::Test;
use crate::peers::{BARE, OURS};
use crate::summary::Summary;
use crate::table::number;

/// A group of bars.
struct Panel {
    title: &'static str,
    /// Whether long bars are good.
    more: bool,
    value: fn(&Summary, &str) -> Option<f64>,
}

fn of(summary: &Summary, driver: &str, offload: Offload, test: Test) -> Option<f64> {
    Some(summary.figure(driver, offload, test)?.value)
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "One TCP flow, Gbit/s",
        more: true,
        value: |s, d| of(s, d, Offload::On, Test::Tcp1),
    },
    Panel {
        title: "CPU time of both ends, s/GB",
        more: false,
        value: |s, d| s.figure(d, Offload::On, Test::Tcp1)?.cpu,
    },
    Panel {
        title: "The same on a NIC without TSO, Gbit/s",
        more: true,
        value: |s, d| of(s, d, Offload::Nic, Test::Tcp1),
    },
    Panel {
        title: "64 byte UDP, 1000 packets/s",
        more: true,
        value: |s, d| Some(of(s, d, Offload::On, Test::SmallUdp)? / 1e3),
    },
    Panel {
        title: "Ping, idle, on one core, µs (median)",
        more: false,
        value: |s, d| of(s, d, Offload::On, Test::PingOneCore),
    },
    Panel {
        title: "Ping beside 1 Gbit/s of TCP, µs (median)",
        more: false,
        value: |s, d| of(s, d, Offload::On, Test::PingLoaded),
    },
];

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;
const GAP: f64 = 36.0;
/// Room for names on the left of bars, and for figures on the right.
const NAMES: f64 = 122.0;
const FIGURES: f64 = 52.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 34.0;
const FOOT: f64 = 52.0;

const STYLE: &str = "
text { font: 12px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #424a53; }
.title { font-weight: 600; font-size: 13px; fill: #1f2328; }
.note { font-size: 11px; fill: #656d76; }
.ours { font-weight: 600; }
.bar { fill: #9aa4af; }
.bar.ours { fill: #0f8a7e; }
.axis { stroke: #d0d7de; }
@media (prefers-color-scheme: dark) {
text { fill: #b6bfc9; }
.title { fill: #e6edf3; }
.note { fill: #8b949e; }
.bar { fill: #5b6570; }
.bar.ours { fill: #2bb3a3; }
.axis { stroke: #3d444d; }
}
";

/// The picture.
pub(crate) fn svg(summary: &Summary, machine: &str) -> String {
    let drivers: Vec<&str> = summary
        .drivers
        .iter()
        .map(String::as_str)
        .filter(|name| *name != BARE)
        .collect();
    let column = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
    let panel = TITLE + ROW * drivers.len() as f64 + 10.0;
    let height = MARGIN + panel * PANELS.len().div_ceil(2) as f64 + FOOT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{OURS} wireguard beside other implementations of WireGuard in user \
         space</title>\n<style>{STYLE}</style>\n"
    );
    for (number, of) in PANELS.iter().enumerate() {
        let left = MARGIN + (number % 2) as f64 * (column + GAP);
        let top = MARGIN + (number / 2) as f64 * panel;
        draw(&mut text, of, summary, &drivers, [left, top, column]);
    }
    let _ = writeln!(
        text,
        "<text class=\"note\" x=\"{MARGIN}\" y=\"{:.0}\">Two network namespaces with a veth pair between them; medians; \
         both ends of tunnel and load share one machine:</text>\n<text class=\"note\" x=\"{MARGIN}\" \
         y=\"{:.0}\">{}.</text>",
        height - MARGIN - 16.0,
        height - MARGIN,
        escaped(machine)
    );
    text + "</svg>\n"
}

fn draw(text: &mut String, panel: &Panel, summary: &Summary, drivers: &[&str], place: [f64; 3]) {
    let [left, top, width] = place;
    let hint = if panel.more {
        "more is better"
    } else {
        "less is better"
    };
    let _ = writeln!(
        text,
        "<text class=\"title\" x=\"{left}\" y=\"{:.0}\">{}</text><text class=\"note\" text-anchor=\"end\" \
         x=\"{:.0}\" y=\"{:.0}\">{hint}</text>",
        top + 14.0,
        escaped(panel.title),
        left + width,
        top + 14.0
    );
    let values: Vec<Option<f64>> = drivers
        .iter()
        .map(|driver| (panel.value)(summary, driver))
        .collect();
    let most = values
        .iter()
        .flatten()
        .fold(0.0, |most: f64, value| most.max(*value));
    let room = width - NAMES - FIGURES;
    let bars = left + NAMES;
    for (number, (driver, value)) in drivers.iter().zip(&values).enumerate() {
        let middle = top + TITLE - 6.0 + ROW * (number as f64 + 0.5);
        let class = if *driver == OURS { "ours" } else { "" };
        let _ = writeln!(
            text,
            "<text class=\"{class}\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            bars - 8.0,
            middle + 4.0,
            escaped(driver)
        );
        let (length, shown) = match value {
            Some(value) if most > 0.0 => ((value / most * room).max(1.0), number_of(*value)),
            _ => (0.0, "failed".to_owned()),
        };
        let _ = writeln!(
            text,
            "<rect class=\"bar {class}\" x=\"{bars:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{BAR}\" \
             rx=\"2\"/><text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{shown}</text>",
            middle - BAR / 2.0,
            bars + length + 6.0,
            middle + 4.0
        );
    }
    let (from, to) = (top + TITLE - 6.0, top + TITLE - 6.0 + ROW * drivers.len() as f64);
    let _ = writeln!(
        text,
        "<line class=\"axis\" x1=\"{bars:.1}\" x2=\"{bars:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\"/>"
    );
}

fn number_of(value: f64) -> String {
    let digits = number(value);
    // Thousands stand apart.
    match digits.len() {
        len if len > 4 && !digits.contains('.') => {
            format!("{}\u{202f}{}", &digits[..len - 3], &digits[len - 3..])
        }
        _ => digits,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
