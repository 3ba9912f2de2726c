//! The order of things.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde::de::DeserializeOwned;
use strait_gateway::datapath::PrivateKey;

use super::cpu::{self, Moment, Watched};
use super::hops::steps;
use super::place::{Places, Side, endpoint};
use super::report::{Bare, Cpu, Latency, Limit, Measured, Others, PING_PATIENCE, Pods, Report, Share};
use super::run::{self, Engine, Held};
use crate::alive::ProcessId;
use crate::args::clock;
use crate::control::{self, PodRequest};
use crate::dir::LabDir;
use crate::objects;
use crate::status;
use crate::tool::{Crew, Datagrams, EngineSpec, Errand, Pinged, Streamed, Surveyed};
use crate::wait::until_blocking;

/// Where loads are taken.
const LOADS: u16 = 5201;
/// How long a path may take to carry.
const PATIENCE: Duration = Duration::from_secs(30);
/// Namespace and label of the pods.
const NAMESPACE: &str = "default";
const LABEL: &str = "app";
/// The device of the bare data path: of a name that the guard of the node does not watch.
const DEVICE: &str = "bench-tun";
/// Inner addresses of the bare data path: those that RFC 2544 keeps for benchmarks.
const INNER: [&str; 2] = ["198.18.0.1/30", "198.18.0.2/30"];
/// From one ping to the next.
const PING_INTERVAL: f64 = 0.002;
/// The load beside which pings are sent: half of what one flow reached, at most this.
const BESIDE_MAX: f64 = 1e9;
/// Payload of small datagrams.
const SMALL: &str = "64";

/// Name and label of this process's pods.
fn label() -> String {
    format!("strait-benchmark-{}", std::process::id())
}

/// A benchmark at work.
pub(super) struct Course {
    dir: LabDir,
    crew: Crew,
    seconds: f64,
    started: Instant,
    /// Loads: CPU seconds that others took, and how long it was.
    others: RefCell<Vec<(String, f64, f64)>>,
}

/// A path to measure.
struct Path<'a> {
    title: &'static str,
    /// Where loads start.
    place: &'a str,
    target: IpAddr,
    /// Processes on it that are watched.
    processes: Vec<Watched>,
    /// Whether there are hops on the way.
    hops: bool,
}

impl Course {
    /// Whose commands in the lab this crew knows.
    pub(super) fn new(dir: LabDir, crew: Crew, seconds: f64) -> Self {
        Self {
            dir,
            crew,
            seconds,
            started: Instant::now(),
            others: RefCell::default(),
        }
    }

    /// Says what is done now.
    pub(super) fn say(&self, step: &str) {
        status::say(&format!("{}  {step}", clock(self.started)));
    }

    pub(super) fn run(&self, from: Option<&str>, to: Option<&str>) -> Result<Report> {
        let file = self.dir.running()?;
        let places = Places::of(&file.topology, from, to)?;
        self.say(&format!(
            "start a pod on {}/{} and one on {}/{}",
            places.from.cluster, places.from.node, places.to.cluster, places.to.node
        ));
        let client = self.pod(&places.from, false)?;
        let server = self.pod(&places.to, true)?;
        let target = places.usable(&server)?;
        places.usable(&client)?;
        let near = format!("{}/{}", places.from.cluster, label());
        let pods = Path {
            title: "pod to pod",
            place: &near,
            target,
            processes: self.gateways(&places)?,
            hops: true,
        };
        self.ready(&pods, "the other cluster's pod")?;

        let mut engines = Vec::new();
        let mut missing = None;
        let bare_place = format!("{}/{}", places.from.cluster, places.from.gateway);
        let far_place = format!("{}/{}", places.to.cluster, places.to.gateway);
        match &places.underlay {
            Ok(underlay) => {
                self.say(&format!(
                    "run the bare data path between {bare_place} and {far_place}"
                ));
                engines = self.engines([&bare_place, &far_place], *underlay)?;
            }
            Err(why) => missing = Some(why.clone()),
        }
        let taker = match missing {
            None => Some(run::taker(&self.crew, &self.dir, &far_place, LOADS)?),
            Some(_) => None,
        };
        let inner: IpNet = INNER[1].parse()?;
        let bare = Path {
            title: "bare",
            place: &bare_place,
            target: inner.addr(),
            processes: [&bare_place, &far_place]
                .into_iter()
                .zip(&engines)
                .map(|(place, engine)| (format!("{place}, bare"), engine.process))
                .collect(),
            hops: false,
        };
        let bare = engines.first().map(|_| bare);
        let answerers = self.answerers(&places)?;
        let roots = [ProcessId::current()?.pid, file.init.pid, file.supervisor.pid];
        let measured = self.both(&pods, bare.as_ref(), &roots);
        drop((engines, taker, answerers));
        let (pods, bare_measured, path) = measured?;
        Ok(Report {
            lab: self.dir.name().to_owned(),
            seconds: self.seconds,
            path: steps(&path, &places.stations()),
            others: Others::of(cpu::cores()?, &self.others.borrow()),
            ratio: bare_measured.as_ref().map(|bare| bare.below(&pods)),
            pods: Pods {
                from: places.from,
                to: places.to,
                measured: pods,
            },
            bare: bare_measured.map(|measured| Bare {
                from: bare_place,
                to: far_place,
                measured,
            }),
            no_bare: missing,
        })
    }

    /// Every test on both paths.
    fn both(
        &self,
        pods: &Path<'_>,
        bare: Option<&Path<'_>>,
        roots: &[i32],
    ) -> Result<(Measured, Option<Measured>, Vec<Surveyed>)> {
        if let Some(bare) = bare {
            self.ready(bare, "the other gateway through the bare data path")?;
        }
        let paths: Vec<&Path<'_>> = [Some(pods), bare].into_iter().flatten().collect();
        let each = Each {
            course: self,
            paths: &paths,
            roots,
        };
        let mut idle = each.of("round trips without load", |path| self.idle(path))?;
        let one = each.of("one TCP flow", |path| self.counted(path, roots))?;
        let eight = each.of("eight TCP flows", |path| self.streams(path, 8, None))?;
        let small = each.of("datagrams of 64 bytes", |path| self.small(path))?;
        let beside = (one[0].0.bits_per_second / 2.0).min(BESIDE_MAX);
        let what = format!("round trips beside {:.2} Gbit/s of TCP", beside / 1e9);
        let loaded = each.of(&what, |path| self.pings_beside(path, beside))?;
        let path = std::mem::take(&mut idle[0].1);
        let all = idle.into_iter().zip(one).zip(eight).zip(small).zip(loaded);
        let mut measured = all.map(|(((((idle, _), (one, cpu)), eight), small), loaded)| {
            let missing = small.sent.saturating_sub(small.received);
            let lost = missing as f64 / small.sent.max(1) as f64;
            Measured {
                tcp_1_bits_per_second: one.bits_per_second,
                tcp_8_bits_per_second: eight.bits_per_second,
                udp_64_per_second: small.received_per_second,
                udp_64_sent_per_second: small.sent_per_second,
                udp_64_lost: lost,
                udp_64_limited_by: Limit::of(lost),
                round_trip_idle: idle,
                round_trip_loaded: loaded,
                loaded_with_bits_per_second: beside,
                cpu,
            }
        });
        let pods = measured.next().context("nothing was measured")?;
        Ok((pods, measured.next(), path))
    }

    /// Waits until a path carries.
    fn ready(&self, path: &Path<'_>, what: &str) -> Result<()> {
        let server = SocketAddr::new(path.target, LOADS).to_string();
        until_blocking(what, PATIENCE, || {
            Errand::start(
                &self.crew,
                &self.dir,
                path.place,
                &["streams", &server, "--duration", "0.05"],
            )?
            .result::<Streamed>()
        })
        .map(drop)
    }

    fn streams(&self, path: &Path<'_>, flows: u16, rate: Option<f64>) -> Result<Streamed> {
        self.start_streams(path, flows, rate, self.seconds)?.result()
    }

    fn start_streams(&self, path: &Path<'_>, flows: u16, rate: Option<f64>, seconds: f64) -> Result<Errand> {
        let server = SocketAddr::new(path.target, LOADS).to_string();
        let (flows, seconds) = (flows.to_string(), seconds.to_string());
        let mut arguments = vec!["streams", &server, "--flows", &flows, "--duration", &seconds];
        let rate = rate.map(|rate| rate.to_string());
        if let Some(rate) = &rate {
            arguments.extend(["--rate", rate]);
        }
        Errand::start(&self.crew, &self.dir, path.place, &arguments)
    }

    /// One flow, and who works for it.
    fn counted(&self, path: &Path<'_>, roots: &[i32]) -> Result<(Streamed, Cpu)> {
        let before = Moment::now(&path.processes, roots)?;
        let done = self.streams(path, 1, None)?;
        let work = Moment::now(&path.processes, roots)?.since(&before);
        let gigabytes = done.bytes as f64 / 1e9;
        ensure!(gigabytes > 0.0, "nothing went through from {}", path.place);
        let [sender, receiver] = done.cpu_seconds;
        let mut shares: Vec<Share> = work
            .spent
            .iter()
            .map(|((process, thread), seconds)| Share {
                process: process.clone(),
                thread: Some(thread.clone()),
                seconds_per_gigabyte: seconds / gigabytes,
            })
            // Those that slept say nothing.
            .filter(|share| share.seconds_per_gigabyte >= 0.02)
            .collect();
        for (process, seconds) in [("sender", sender), ("receiver", receiver)] {
            shares.push(Share {
                process: process.to_owned(),
                thread: None,
                seconds_per_gigabyte: seconds / gigabytes,
            });
        }
        let cpu = Cpu::of(&work, shares, gigabytes);
        Ok((done, cpu))
    }

    fn small(&self, path: &Path<'_>) -> Result<Datagrams> {
        let server = SocketAddr::new(path.target, LOADS).to_string();
        let seconds = self.seconds.to_string();
        let arguments = ["datagrams", &server, "--size", SMALL, "--duration", &seconds];
        Errand::start(&self.crew, &self.dir, path.place, &arguments)?.result()
    }

    /// Without load; and, from the same pings, the way to each hop.
    fn idle(&self, path: &Path<'_>) -> Result<(Latency, Vec<Surveyed>)> {
        if !path.hops {
            return Ok((self.pings(path)?, Vec::new()));
        }
        let surveyed: Vec<Surveyed> = self.icmp("survey", path)?;
        let last = surveyed.last().context("no hop answered")?;
        Ok((Latency::of(last.sent, &last.rtt_ms)?, surveyed))
    }

    fn pings(&self, path: &Path<'_>) -> Result<Latency> {
        let pinged: Pinged = self.icmp("ping", path)?;
        Latency::of(pinged.sent, &pinged.rtt_ms)
    }

    fn icmp<T: DeserializeOwned>(&self, tool: &str, path: &Path<'_>) -> Result<T> {
        let count = ((self.seconds / PING_INTERVAL) as u16)
            .clamp(100, 1000)
            .to_string();
        let (target, interval) = (path.target.to_string(), PING_INTERVAL.to_string());
        let patience = PING_PATIENCE.to_string();
        let arguments = [
            tool,
            &target,
            "--count",
            &count,
            "--interval",
            &interval,
            "--timeout",
            &patience,
        ];
        Errand::start(&self.crew, &self.dir, path.place, &arguments)?.result()
    }

    fn pings_beside(&self, path: &Path<'_>, rate: f64) -> Result<Latency> {
        // It begins before the pings and ends after them.
        let load = self.start_streams(path, 1, Some(rate), self.seconds + 1.0)?;
        std::thread::sleep(Duration::from_millis(300));
        let pinged = self.pings(path)?;
        load.result::<Streamed>()?;
        Ok(pinged)
    }

    /// Both ends of the bare data path.
    fn engines(&self, places: [&String; 2], underlay: [IpAddr; 2]) -> Result<Vec<Engine>> {
        let keys = [PrivateKey::generate()?, PrivateKey::generate()?];
        let mut engines = Vec::new();
        for (own, other) in [(0, 1), (1, 0)] {
            let spec = EngineSpec {
                interface: DEVICE.to_owned(),
                address: INNER[own].parse()?,
                port: endpoint(underlay[own]).port(),
                key: keys[own].to_base64().to_string(),
                peer: keys[other].public().0,
                endpoint: endpoint(underlay[other]),
            };
            engines.push(Engine::start(&self.crew, &self.dir, places[own], &spec)?);
        }
        Ok(engines)
    }

    /// Those who let the nodes on the way answer all probes.
    fn answerers(&self, places: &Places) -> Result<Vec<Held>> {
        let mut nodes = Vec::new();
        for side in [&places.from, &places.to] {
            for node in side.gateways.iter().chain([&side.node]) {
                let place = format!("{}/{node}", side.cluster);
                if !nodes.contains(&place) {
                    nodes.push(place);
                }
            }
        }
        let start = |place: &String| run::answerer(&self.crew, &self.dir, place);
        nodes.iter().map(start).collect()
    }

    /// The daemons whose work counts, by name and process. One that was killed a moment ago is started again.
    fn gateways(&self, places: &Places) -> Result<Vec<Watched>> {
        let mut found = Vec::new();
        for side in [&places.from, &places.to] {
            for gateway in &side.gateways {
                let name = format!("{}/{gateway}", side.cluster);
                let daemon = format!("{name}/gateway");
                let process = until_blocking(&daemon, PATIENCE, || {
                    let process = self.dir.container(&daemon)?.and_then(ProcessId::of);
                    process.with_context(|| {
                        format!("{daemon} does not run; `strait lab logs {daemon}` says why")
                    })
                })?;
                found.push((name, process));
            }
        }
        Ok(found)
    }

    fn pod(&self, side: &Side, serves: bool) -> Result<Vec<IpAddr>> {
        let mut argv = Vec::new();
        if serves {
            argv.extend(["strait", "lab-tool", "take-loads", "--port"].map(str::to_owned));
            argv.push(LOADS.to_string());
        }
        let request = PodRequest {
            cluster: side.cluster.clone(),
            node: side.node.clone(),
            namespace: NAMESPACE.to_owned(),
            name: label(),
            labels: [(LABEL.to_owned(), label())].into(),
            ports: if serves { vec![LOADS] } else { Vec::new() },
            argv,
        };
        Ok(control::run_pod(&self.dir, request)?.addresses)
    }
}

/// A test on one path and then on the other, so that a busy moment of the machine hits both.
struct Each<'a> {
    course: &'a Course,
    paths: &'a [&'a Path<'a>],
    /// The lab and this program.
    roots: &'a [i32],
}

impl Each<'_> {
    fn of<T>(&self, what: &str, measure: impl Fn(&Path<'_>) -> Result<T>) -> Result<Vec<T>> {
        let order = match self.paths {
            [_, _, ..] => " (pod to pod, then the bare data path)",
            _ => "",
        };
        self.course.say(&format!("{what}{order}"));
        let one = |path: &&Path<'_>| {
            let before = Moment::now(&path.processes, self.roots)?;
            let measured = measure(path);
            // First, as a gateway that ended is why a load failed.
            let work = Moment::now(&path.processes, self.roots)?.since(&before);
            let measured = measured?;
            let taken = work.others + work.stolen;
            let load = format!("{what}, {}", path.title);
            self.course.others.borrow_mut().push((load, taken, work.seconds));
            Ok(measured)
        };
        self.paths.iter().map(one).collect()
    }
}

/// Takes this process's pods out of a lab; there need not be any.
pub(super) fn clear(dir: &LabDir) -> Result<()> {
    let file = dir.running()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for cluster in file.topology.names() {
        let deleted = runtime.block_on(async {
            let client = objects::client(&dir.kubeconfig(cluster)).await?;
            let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
            let ours = ListParams::default().labels(&format!("{LABEL}={}", label()));
            for pod in pods.list(&ours).await? {
                let name = pod.metadata.name.unwrap_or_default();
                pods.delete(&name, &DeleteParams::default()).await?;
            }
            anyhow::Ok(())
        });
        deleted.with_context(|| format!("cannot remove the pods of the benchmark from {cluster}"))?;
    }
    let name = label();
    until_blocking("the end of the benchmark's pods", PATIENCE, || {
        let pods = control::status(dir)?.pods;
        let left = pods.iter().find(|pod| pod.name == name);
        ensure!(left.is_none(), "a pod of it still runs");
        Ok(())
    })
}
