//! What the demonstration shows in the end.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use strait_daemon::errors::sentence;

use super::place::{Places, Side};
use super::story::{Finding, NAME, Story};
use crate::topology::Families;

/// The outcome, for people or as JSON.
pub(super) struct Report<'a> {
    story: &'a Story,
    error: Option<&'a anyhow::Error>,
}

/// Who stands at each hop of the way from client to server.
fn stations(places: &Places) -> [(String, String); 5] {
    let Places { server, client, .. } = places;
    let station = |cluster: &str, name: &str, what: &str| (format!("{cluster}/{name}"), what.to_owned());
    let gateway = |side: &Side| {
        let what = format!("{}'s gateway", side.cluster);
        station(&side.cluster, &side.gateway, &what)
    };
    [
        station(&client.cluster, &client.worker, "the client's node"),
        gateway(client),
        gateway(server),
        station(&server.cluster, &server.worker, "the server's node"),
        station(&server.cluster, "web", "the server's pod"),
    ]
}

/// What lies before each station.
const LEGS: [&str; 5] = [
    "veth",
    "overlay (VXLAN)",
    "tunnel (WireGuard)",
    "overlay (VXLAN)",
    "veth",
];

impl<'a> Report<'a> {
    pub(super) fn new(story: &'a Story, error: Option<&'a anyhow::Error>) -> Self {
        Self { story, error }
    }

    /// One object.
    pub(super) fn to_json(&self) -> String {
        let story = self.story;
        let steps: Vec<Value> = story
            .steps
            .iter()
            .map(|(name, seconds)| json!({ "name": name, "seconds": rounded(*seconds) }))
            .collect();
        let mut object = Map::new();
        object.insert("ok".to_owned(), json!(self.error.is_none()));
        object.insert("steps".to_owned(), json!(steps));
        let mut findings = story.findings.iter();
        if let Some(first) = findings.next() {
            object.extend(fields(first, &story.places));
        }
        if let Some(second) = findings
            .next()
            .filter(|_| story.places.families == Families::Dual)
        {
            object.insert("ipv6".to_owned(), Value::Object(fields(second, &story.places)));
        }
        if let Some(error) = self.error {
            object.insert("failed_step".to_owned(), json!(story.current));
            object.insert("error".to_owned(), json!(sentence(error.as_ref())));
            object.insert("logs".to_owned(), json!(story.logs));
        }
        object.insert("seconds".to_owned(), json!(rounded(story.seconds())));
        format!("{:#}", Value::Object(object))
    }

    /// Some lines.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for finding in &self.story.findings {
            picture(&mut text, finding, &self.story.places);
        }
        match self.error {
            None => {
                let _ = write!(text, "\nDone in {:.1} s; nothing is left.", self.story.seconds());
            }
            Some(error) => {
                let _ = write!(
                    text,
                    "\nFAILED at: {}\n  {}",
                    self.story.current,
                    sentence(error.as_ref())
                );
                if !self.story.logs.is_empty() {
                    let _ = write!(text, "\n\nWhat the logs say:\n  {}", self.story.logs.join("\n  "));
                }
            }
        }
        text
    }
}

fn fields(finding: &Finding, places: &Places) -> Map<String, Value> {
    let Finding {
        resolved,
        page,
        client_ip,
        ping,
        hops,
        sent,
        ..
    } = finding;
    let object = json!({
        "resolved": resolved,
        "http_status": page.status,
        "served_by": { "cluster": page.cluster, "pod": page.pod },
        "client_ip_seen": page.client_ip,
        "client_ip": client_ip,
        "rtt_ms": rtt(finding).map(rounded),
        "path": hops.iter().zip(stations(places)).map(|(hop, (name, _))| json!({
            "name": name, "address": hop.address, "rtt_ms": hop.rtt_ms.map(rounded),
        })).collect::<Vec<_>>(),
        "pings": { "sent": ping.sent, "received": ping.received },
        "throughput_mbps": rounded(sent.mbps),
    });
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The median of the round trips from pod to pod.
fn rtt(finding: &Finding) -> Option<f64> {
    let mut all = finding.ping.rtt_ms.clone();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Stations with what lies between them, in columns as wide as they need to be.
fn table(text: &mut String, rows: &[[String; 4]]) {
    let width = |column: usize, least: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default().max(least)
    };
    let (first, second, third, last) = (width(0, 16), width(1, 22), width(2, 18), width(3, 10));
    for (i, [name, address, what, rtt]) in rows.iter().enumerate() {
        if let Some(leg) = i.checked_sub(1).and_then(|leg| LEGS.get(leg)) {
            let _ = writeln!(text, "    │ {leg}");
        }
        let line = format!("  {name:<first$} {address:<second$} {what:<third$} {rtt:>last$}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn picture(text: &mut String, finding: &Finding, places: &Places) {
    let Finding {
        dns_server,
        resolved,
        client_ip,
        server_ip,
        page,
        hops,
        sent,
        ..
    } = finding;
    let vips: Vec<String> = resolved.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        text,
        "\n  {NAME}\n  is {} (says {}'s DNS server {dns_server})\n",
        vips.join(", "),
        places.client.cluster
    );
    let mut rows = vec![[
        format!("{}/client", places.client.cluster),
        client_ip.to_string(),
        "the client's pod".to_owned(),
        "round trip".to_owned(),
    ]];
    for (i, (name, what)) in stations(places).into_iter().enumerate() {
        let hop = hops.get(i);
        let address = hop.and_then(|h| h.address);
        let rtt = hop.and_then(|h| h.rtt_ms);
        rows.push([
            name,
            address.map_or("(silent)".to_owned(), |a| a.to_string()),
            what,
            rtt.map_or(String::new(), |r| format!("{r:.3} ms")),
        ]);
    }
    table(text, &rows);
    let _ = writeln!(text, "\n  The page says: {}", page.body.trim_end());
    let _ = writeln!(
        text,
        "  The server saw the client as {}, the pod's own address.",
        page.client_ip
    );
    if let Some(rtt) = rtt(finding) {
        let _ = writeln!(
            text,
            "  Round trip from pod to pod ({server_ip}): {rtt:.2} ms (median of 20)."
        );
    }
    let _ = writeln!(
        text,
        "  Throughput of one connection through the tunnel: {:.0} Mbit/s.",
        sent.mbps
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_the_names_are() {
        let row = |name: &str, rtt: &str| [name, "10.1.2.13", "its pod", rtt].map(str::to_owned);
        let mut text = String::new();
        let long = "a-cluster-with-a-long-name/gateway-1";
        table(&mut text, &[row("b/client", "round trip"), row(long, "0.1 ms")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "    │ veth");
        for word in ["10.1.2.13", "its pod"] {
            assert_eq!(lines[0].find(word), lines[2].find(word), "{text}");
        }
        assert_eq!(lines[0].len(), lines[2].len(), "{text}");
    }
}
