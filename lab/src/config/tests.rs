use super::*;
use crate::topology::Topology;

fn examples() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
    files
        .iter()
        .map(|p| (name(p), fs::read_to_string(p).unwrap()))
        .collect()
}

#[test]
fn every_example_makes_a_lab() {
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:?}");
    for (name, text) in examples {
        let shape = parse(&text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let lab = Topology::new("t", &shape);
        assert_eq!(lab.clusters.len(), shape.clusters.len(), "{name}");
        let mut seen = std::collections::BTreeSet::new();
        for ip in lab.router_addresses() {
            assert!(seen.insert(ip), "{name}: {ip} twice");
            let own = topology::own_ranges();
            assert!(own.iter().any(|(net, _)| net.contains(&ip)), "{name}: {ip}");
        }
    }
}

#[test]
fn what_is_left_out_is_as_in_a_plain_lab() {
    let shape = parse("clusters: [{}, {}]").unwrap();
    assert_eq!(shape, Shape::uniform(2, 2, 1, Families::V4));
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let shape = parse(
        "clusters:\n- name: east\n  nodes: 3\n  gateways: 2\n  families: dual-stack\n  \
         podCidrs: [10.50.0.0/18, 'fd50::/56']\n  serviceCidrs: [10.60.0.0/20, 'fd60::/112']\n  \
         underlay: {nat: forwarded, mtu: 1400, delay: 1.5ms, jitter: 500us, loss: 0.25%, rate: 2.5Gbit, \
         icmpBlackhole: true}\n- name: west\n  families: ipv6\nlinks:\n- between: [east, west]\n  delay: 1s\n",
    )
    .unwrap();
    let east = &shape.clusters[0];
    assert_eq!((east.name.as_str(), east.nodes, east.gateways), ("east", 3, 2));
    assert_eq!(east.families, Families::Dual);
    assert_eq!(east.pod_cidrs[1], "fd50::/56".parse().unwrap());
    assert_eq!(
        east.underlay,
        Some(Underlay {
            nat: Some(Nat::Forwarded),
            quality: Quality {
                mtu: Some(1400),
                delay_us: 1500,
                jitter_us: 500,
                loss_ppm: 2500,
                rate_bps: Some(2_500_000_000),
                icmp_blackhole: true,
            }
        })
    );
    assert_eq!(shape.links[0].quality.delay_us, 1_000_000);
}

/// Each is one mistake in a file of two clusters; what must be said of it.
#[test]
fn every_wrong_field_is_named_with_its_line() {
    for (text, said) in [
        ("clusters: []", &["line 1, clusters: 0 clusters"][..]),
        (
            "clusters:\n- nods: 3",
            &["line 2, clusters[0].nods: ", "expected one of name"],
        ),
        (
            "clusters:\n- nodes: 3\n  nodes: 4",
            &["line 3, clusters[0].nodes: it is said twice"],
        ),
        ("clusters: 5", &["line 1, clusters: it takes a list"]),
        ("- x", &["line 1: it takes fields"]),
        (
            "clusters: [{}]\n---\nclusters: [{}]",
            &["line 3: ", "a lab is one"],
        ),
        (
            "clusters:\n- podCidrs: [10.1.0.0/16, 10.2.0.0/16, 10.3.0.0/16, 10.4.0.0/16]",
            &["one of IPv4"],
        ),
        (
            "clusters:\n- nodes: many",
            &["line 2, clusters[0].nodes: many nodes", "1 to 16"],
        ),
        (
            "clusters:\n- nodes: 17",
            &["line 2, clusters[0].nodes: 17 nodes", "1 to 16"],
        ),
        (
            "clusters:\n- nodes: 2\n  gateways: 3",
            &["line 3, clusters[0].gateways: 3 gateways", "1 to 2"],
        ),
        (
            "clusters:\n- families: ipv5",
            &["line 2, clusters[0].families", "dual-stack"],
        ),
        ("clusters:\n- name: Blue", &["line 2, clusters[0].name"]),
        ("clusters:\n- name: broker", &["line 2, clusters[0].name", "own"]),
        (
            "clusters:\n- name: a1\n- name: a1",
            &["line 3, clusters[1].name", "clusters[0]"],
        ),
        (
            "clusters:\n- podCidrs: [10.1.0.0]",
            &["line 2, clusters[0].podCidrs[0]", "10.1.0.0/16"],
        ),
        (
            "clusters:\n- podCidrs: [10.1.2.0/16]",
            &["bits set", "10.1.0.0/16"],
        ),
        ("clusters:\n- podCidrs: [10.1.0.0/23]", &["too small", "2 nodes"]),
        ("clusters:\n- podCidrs: ['fd00::/48']", &["one of IPv4"]),
        (
            "clusters:\n- families: dual-stack\n  podCidrs: [10.1.0.0/16]",
            &["line 3, clusters[0].podCidrs", "one of IPv4 and one of IPv6"],
        ),
        ("clusters:\n- serviceCidrs: [10.1.0.0/30]", &["/12 to /24"]),
        (
            "clusters:\n- podCidrs: [172.31.0.0/16]",
            &["overlaps 172.31.0.0/16", "the lab's own networks"],
        ),
        (
            "clusters:\n- podCidrs: [10.9.0.0/16]\n- podCidrs: [10.9.128.0/17]",
            &[
                "line 3, clusters[1].podCidrs[0]",
                "clusters[0].podCidrs[0]",
                "yet",
            ],
        ),
        (
            "clusters:\n- {}\n- podCidrs: [10.1.0.0/16]",
            &["line 3, clusters[1].podCidrs[0]", "by default"],
        ),
        (
            "clusters:\n- podCidrs: [10.2.0.0/16]\n- {}",
            &[
                "line 2, clusters[0].podCidrs[0]",
                "clusters[1].podCidrs[0] by default",
            ],
        ),
        (
            "clusters:\n- underlay:\n    mtu: 900",
            &["line 3, clusters[0].underlay.mtu: 900", "1280 to 9000"],
        ),
        (
            "clusters:\n- underlay: {nat: yes please}",
            &["clusters[0].underlay.nat", "forwarded"],
        ),
        (
            "clusters:\n- underlay: {delay: 20}",
            &["clusters[0].underlay.delay", "20ms"],
        ),
        ("clusters:\n- underlay: {delay: 5s}", &["at most 2 s"]),
        (
            "clusters:\n- underlay: {jitter: 5ms}",
            &["clusters[0].underlay.jitter", "more than the delay"],
        ),
        (
            "clusters:\n- underlay: {loss: 100%}",
            &["clusters[0].underlay.loss", "less than 100%"],
        ),
        (
            "clusters:\n- underlay: {loss: -1%}",
            &["clusters[0].underlay.loss"],
        ),
        (
            "clusters:\n- underlay: {rate: 10MB}",
            &["clusters[0].underlay.rate", "10Mbit"],
        ),
        ("clusters:\n- underlay: {rate: 1kbit}", &["64kbit"]),
        (
            "clusters: [{}, {}]\nlinks:\n- between: [blue]",
            &["line 3, links[0].between", "two clusters"],
        ),
        (
            "clusters: [{}, {}]\nlinks:\n- between: [blue, red]",
            &["\"red\"", "blue, green"],
        ),
        ("clusters: [{}, {}]\nlinks:\n- between: [blue, blue]", &["itself"]),
        (
            "clusters: [{}, {}]\nlinks:\n- between: [blue, green]\n- between: [green, blue]",
            &["line 4, links[1].between", "already"],
        ),
        (
            "clusters: [{}, {families: ipv6}]\nlinks:\n- between: [blue, green]",
            &["family in common"],
        ),
        (
            "clusters: [{}, {}]\nlinks:\n- between: [blue, green]\n  nat: hidden",
            &["nat", "line 4"],
        ),
        (
            "clusters:\n- underlay: {icmpBlackhole: maybe}",
            &["clusters[0].underlay.icmpBlackhole", "true nor false"],
        ),
        (
            "clusters:\n- nodes: [1]",
            &["line 2, clusters[0].nodes: ", "a single value"],
        ),
        ("clusters:\n- nodes: 1.5", &["clusters[0].nodes: 1.5 nodes"]),
        ("", &["clusters"]),
        ("clusters: [", &["line 1"]),
    ] {
        let error = format!("{:#}", parse(text).map(|_| ()).expect_err(text));
        for part in said {
            assert!(error.contains(part), "{text:?}\n{error:?} does not say {part:?}");
        }
        assert_eq!(error.lines().count(), 1, "{text:?} is one mistake: {error}");
    }
}

#[test]
fn clusters_that_cannot_reach_each_other_are_told() {
    let shape = parse(
        "clusters:\n- underlay: {nat: hidden}\n- underlay: {nat: hidden}\n- underlay: {nat: forwarded}\n\
         - families: ipv6",
    )
    .unwrap();
    let notes = notes(&shape);
    assert_eq!(notes.len(), 4, "{notes:?}");
    assert!(
        notes[0].contains("blue and green") && notes[0].contains("NATs"),
        "{notes:?}"
    );
    assert!(
        notes[1].contains("blue and amber") && notes[1].contains("family"),
        "{notes:?}"
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = parse("clusters:\n- nodes: 0\n- families: x")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 2, ") && error.contains("line 3, "),
        "{error}"
    );
}

#[test]
fn what_makes_much_of_little_is_refused_at_once() {
    let began = std::time::Instant::now();
    let bomb = "clusters:\n- podCidrs: &a [x, x, x, x, x, x, x, x, x, x]\n\
                - podCidrs: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n\
                - podCidrs: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\n"
        .to_owned();
    let links = "clusters: [{}, {}]\nlinks:\n".to_owned() + &"- between: [blue, green]\n".repeat(40_000);
    let cidrs = format!("clusters:\n- podCidrs: [{}]", "10.1.0.0/16, ".repeat(70_000));
    for (text, said) in [
        (bomb, "single value"),
        (links, "40000 links"),
        (cidrs, "one of IPv4"),
        (
            "clusters:\n".to_owned() + &"- {}\n".repeat(200_000),
            "200000 clusters",
        ),
        (format!("clusters: {}", "[".repeat(500_000)), "line 1"),
        (
            format!("clusters:\n- name: {}", "a".repeat(1_000_000)),
            "clusters[0].name",
        ),
    ] {
        let error = parse(&text).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(error.len() < 64 * 1024, "{} bytes are said", error.len());
    }
    // Seconds in a debug build; what is quadratic takes hours.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}
