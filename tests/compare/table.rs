//! The results as Markdown.

use std::fmt::Write as _;

use crate::bed::Offload;
use crate::course::{Plan, Test};
use crate::peers::{BARE, Driver, OURS};
use crate::summary::Summary;

/// What this machine is.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let wide = match field("flags") {
        Some(flags) if flags.contains("avx512f") => " with AVX-512",
        Some(flags) if flags.contains("avx2") => " with AVX2",
        _ => "",
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let guest = if cpuinfo.contains("hypervisor") {
        ", a virtual machine"
    } else {
        ""
    };
    format!(
        "{cores} × {model}{wide}{guest}, Linux {}",
        read("/proc/sys/kernel/osrelease")
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
    )
}

fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// A column: its title, and what stands in it.
type Column = (&'static str, fn(&Summary, &str) -> Option<String>);

const COLUMNS: [Column; 10] = [
    ("one TCP flow, Gbit/s", |s, d| {
        value(s, d, Offload::On, Test::Tcp1)
    }),
    ("CPU s/GB", |s, d| cpu(s, d, Test::Tcp1)),
    ("8 flows", |s, d| value(s, d, Offload::On, Test::Tcp8)),
    ("both ways", |s, d| value(s, d, Offload::On, Test::TcpBoth)),
    ("NIC without TSO", |s, d| value(s, d, Offload::Nic, Test::Tcp1)),
    ("no offloads", |s, d| value(s, d, Offload::Off, Test::Tcp1)),
    ("64 B UDP, k/s", |s, d| {
        let figure = s.figure(d, Offload::On, Test::SmallUdp)?;
        Some(format!("{:.0}", figure.value / 1e3))
    }),
    ("loss at 50 k/s", |s, d| {
        let figure = s.figure(d, Offload::On, Test::Loss)?;
        Some(format!("{:.1} %", figure.value))
    }),
    ("ping idle, on one core, under 1 Gbit/s, µs", |s, d| {
        let figure = |test| {
            let figure = s.figure(d, Offload::On, test)?;
            Some(format!("{:.0}", figure.value))
        };
        let all = [Test::Ping, Test::PingOneCore, Test::PingLoaded].map(figure);
        Some(all.into_iter().collect::<Option<Vec<_>>>()?.join(", "))
    }),
    ("MiB", |s, d| {
        let figure = s.figure(d, Offload::On, Test::Memory)?;
        Some(format!("{:.0}", figure.high?))
    }),
];

fn value(summary: &Summary, driver: &str, offload: Offload, test: Test) -> Option<String> {
    Some(number(summary.figure(driver, offload, test)?.value))
}

fn cpu(summary: &Summary, driver: &str, test: Test) -> Option<String> {
    Some(number(summary.figure(driver, Offload::On, test)?.cpu?))
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value {
        _ if value >= 99.5 => format!("{value:.0}"),
        _ if value >= 9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table, the ratios to ours, and what it was measured on.
pub(crate) fn markdown(summary: &Summary, drivers: &[Driver], plan: &Plan, machine: &str) -> String {
    let mut text = String::from("| |");
    for (title, _) in COLUMNS {
        let _ = write!(text, " {title} |");
    }
    text += "\n|---|";
    text += &"--:|".repeat(COLUMNS.len());
    for driver in &summary.drivers {
        let _ = write!(text, "\n| {driver} |");
        for (_, column) in COLUMNS {
            let _ = write!(
                text,
                " {} |",
                column(summary, driver).unwrap_or_else(|| "–".to_owned())
            );
        }
    }
    let _ = write!(
        text,
        "\n\nMedians of {} of {} s a load, {}. Both ends of the tunnel and of the load share {machine}. CPU \
         seconds are those of the two implementations, MiB the peak of one end. A ping on one core \
         shows what the two implementations take; else it waits as well for idle cores to wake, more or fewer of them by \
         where the scheduler has put whom.",
        match plan.rounds {
            1 => "one round".to_owned(),
            rounds => format!("{rounds} rounds"),
        },
        plan.seconds,
        today()
    );
    let versions: Vec<String> = drivers
        .iter()
        .filter(|driver| !driver.version.is_empty())
        .map(|driver| format!("{} {}", driver.name, driver.version))
        .collect();
    let _ = write!(text, " Versions: {}.\n\n{}", versions.join(", "), ratios(summary));
    text
}

const BEGIN: &str = "<!-- compare: begin -->\n";
const END: &str = "<!-- compare: end -->";

/// A document with this table in the place of what stands between the marks.
pub(crate) fn replaced(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

/// By how much ours is ahead.
fn ratios(summary: &Summary) -> String {
    const TESTS: [(&str, Offload, Test); 7] = [
        ("one flow", Offload::On, Test::Tcp1),
        ("8 flows", Offload::On, Test::Tcp8),
        ("NIC without TSO", Offload::Nic, Test::Tcp1),
        ("no offloads", Offload::Off, Test::Tcp1),
        ("64 B UDP", Offload::On, Test::SmallUdp),
        ("ping", Offload::On, Test::Ping),
        ("on one core", Offload::On, Test::PingOneCore),
    ];
    let mut text = format!("| {OURS} ÷ |");
    for (title, ..) in TESTS {
        let _ = write!(text, " {title} |");
    }
    text += " CPU s/GB |\n|---|";
    text += &"--:|".repeat(TESTS.len() + 1);
    let ratio = |ours: Option<f64>, theirs: Option<f64>| match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
        _ => "–".to_owned(),
    };
    for driver in summary
        .drivers
        .iter()
        .filter(|name| *name != OURS && *name != BARE)
    {
        let _ = write!(text, "\n| {driver} |");
        for (_, offload, test) in TESTS {
            let of = |driver: &str| Some(summary.figure(driver, offload, test)?.value);
            let _ = write!(text, " {} |", ratio(of(OURS), of(driver)));
        }
        let of = |driver: &str| summary.figure(driver, Offload::On, Test::Tcp1)?.cpu;
        let _ = write!(text, " {} |", ratio(of(OURS), of(driver)));
    }
    text + "\n"
}

/// Every median, with the spread over the rounds.
pub(crate) fn details(summary: &Summary) -> String {
    use crate::course::ALL;
    let mut text = String::from(
        "\n| | offloads | test | median | least – most | 99 of 100 below, or peak | driver CPU, s/GB or µs/packet |\n\
         |---|---|---|--:|--:|--:|--:|",
    );
    for driver in &summary.drivers {
        for offload in Offload::ALL {
            for test in ALL {
                let Some(figure) = summary.figure(driver, offload, test) else {
                    continue;
                };
                let shown = |value: Option<f64>| value.map_or("–".to_owned(), number);
                let _ = write!(
                    text,
                    "\n| {driver} | {} | {} | {} | {} – {} | {} | {} |",
                    offload.name(),
                    test.name(),
                    number(figure.value),
                    number(figure.range[0]),
                    number(figure.range[1]),
                    shown(figure.high),
                    shown(figure.cpu),
                );
            }
        }
    }
    text + "\n"
}
