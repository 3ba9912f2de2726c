//! `strait benchmark`: shape and plausibility, no speeds.

use serde_json::Value;

use super::lab::Lab;

#[test]
fn a_benchmark_measures_both_paths_and_leaves_the_lab_as_it_was() {
    let lab = Lab::up(&["--clusters", "3"]);
    let before = lab.status()["pods"].clone();
    let out = lab
        .strait(&[
            "benchmark",
            "green",
            "blue",
            "--seconds",
            "0.3",
            "--output",
            "json",
        ])
        .unwrap_or_else(|e| panic!("{e}"));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    let figure = |path: &str| {
        let found = report.pointer(path).and_then(Value::as_f64);
        found.unwrap_or_else(|| panic!("no {path} in {report:#}"))
    };
    assert_eq!(report["pods"]["from"]["cluster"], "green");
    assert_eq!(report["pods"]["to"]["node"], "worker-1");
    for path in ["/pods", "/bare"] {
        let of = |name: &str| figure(&format!("{path}/{name}"));
        assert!(of("tcp_1_bits_per_second") > 1e7, "{report:#}");
        assert!(of("tcp_8_bits_per_second") > 1e7, "{report:#}");
        assert!(of("udp_64_per_second") > 1000.0, "{report:#}");
        assert!(
            of("udp_64_per_second") <= of("udp_64_sent_per_second") * 1.01,
            "{report:#}"
        );
        for load in ["round_trip_idle", "round_trip_loaded"] {
            let (middle, high) = (of(&format!("{load}/p50_us")), of(&format!("{load}/p99_us")));
            assert!(middle > 5.0 && middle <= high, "{report:#}");
            assert!(of(&format!("{load}/received")) > 0.0, "{report:#}");
        }
    }
    let ratio = figure("/pods/tcp_1_bits_per_second") / figure("/bare/tcp_1_bits_per_second");
    assert!((figure("/ratio/tcp_1") - ratio).abs() < 1e-6, "{report:#}");

    // Who works for pods: both gateways' packet threads. And the way there.
    let shares = report["pods"]["cpu"]["shares"].as_array().unwrap();
    for gateway in ["green/gateway-1", "blue/gateway-1"] {
        let works = |share: &Value| {
            let thread = share["thread"].as_str().unwrap_or_default();
            share["process"] == gateway && thread.starts_with("strait-") && thread != "strait-ctl"
        };
        assert!(shares.iter().any(works), "{report:#}");
    }
    let hops: Vec<&str> = report["path"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|hop| hop["name"].as_str())
        .collect();
    assert_eq!(
        hops,
        [
            "green/worker-1",
            "green/gateway-1",
            "blue/gateway-1",
            "blue/worker-1",
            "blue, the pod"
        ]
    );

    assert_eq!(lab.status()["pods"], before, "pods of the benchmark are left");
    assert_eq!(lab.leaks(), Value::Array(Vec::new()));
    let devices = lab
        .strait(&["lab", "exec", "blue/gateway-1", "--", "cat", "/proc/net/dev"])
        .unwrap();
    assert!(
        devices.contains("strait-tun") && !devices.contains("bench"),
        "{devices}"
    );
    // Nobody listens for loads any more, so the next benchmark can.
    let sockets = [
        "lab",
        "exec",
        "blue/gateway-1",
        "--",
        "cat",
        "/proc/net/tcp",
        "/proc/net/tcp6",
    ];
    let sockets = lab.strait(&sockets).unwrap();
    let listens = |line: &str| line.contains(":1451 ") && line.contains(" 0A ");
    assert!(
        !sockets.lines().any(listens),
        "somebody listens on port 5201:\n{sockets}"
    );
    let complaint = lab.strait(&["benchmark", "green", "mauve"]).unwrap_err();
    assert!(
        complaint.contains("no cluster \"mauve\"; it has blue, green"),
        "{complaint}"
    );
}
