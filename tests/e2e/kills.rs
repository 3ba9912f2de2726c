//! Every daemon dies at a random moment, while services come and go. Afterwards all is as it should be.
//!
//! `STRAIT_KILL_ROUNDS` says how often each daemon dies (once where it is not set), `STRAIT_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use strait_api::mcs::{ServiceExport, ServiceImport};
use strait_api::records::{Cluster, ExportedService, Gateway, Member};

use crate::lab::{Fetched, Lab, PORT, ensure, eventually, of_family};

const CLUSTERS: [&str; 2] = ["blue", "green"];
/// The longest pause between two deaths.
const PAUSE_MS: u64 = 600;

/// Numbers that a seed decides (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{variable}={text:?}: {e}")),
    )
}

#[test]
fn whoever_dies_and_whenever_nothing_is_lost() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("STRAIT_SEED").unwrap_or(now.as_nanos() as u64);
    let rounds = number("STRAIT_KILL_ROUNDS").unwrap_or(1);
    println!("repeat it with STRAIT_SEED={seed} STRAIT_KILL_ROUNDS={rounds}");
    let mut random = Random(seed | 1);

    let lab = Lab::up(&[]);
    lab.namespace(&CLUSTERS, "demo");
    let mut clients = BTreeMap::new();
    let mut servers = BTreeMap::new();
    for cluster in CLUSTERS {
        let node = format!("{cluster}/worker-1");
        servers.insert(
            cluster,
            of_family(&lab.serve(&node, "web-1", "demo", "web"), false),
        );
        clients.insert(cluster, of_family(&lab.idle(&node, "client"), false));
    }
    lab.export("blue", "demo", "web");
    let vip = eventually("the name in green", || {
        let found = lab.resolve("green/client", "green", "web.demo.svc.clusterset.local", false)?;
        found.first().copied().ok_or_else(|| "no address yet".to_owned())
    });
    let world = World {
        lab,
        clients,
        servers,
        vip,
    };
    eventually("the paths, before anybody dies", || world.works());
    let before = world.records().unwrap();

    let over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let (world, told) = (&world, Tell(Arc::clone(&over)));
        let killer = scope.spawn(move || {
            // It tells also where it panics: the other side must end.
            let _told = told;
            world.kill_all(&mut random, rounds);
        });
        world.live(&over);
        killer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });

    eventually("everything works again", || world.works());
    eventually("what came and went meanwhile is as it was left", || world.lived());
    eventually("every node is as it should be", || world.plans_are_empty());
    eventually("every record is there, and is the one that it was", || {
        let after = world.records()?;
        for (name, record) in &before {
            ensure(after.get(name) == Some(record), || {
                format!("{name} was {record}, and is {:?}", after.get(name))
            })?;
        }
        Ok(())
    });
    eventually(
        "the broker and the other cluster have each record as it is",
        || world.mirrored(),
    );
    assert_eq!(
        world.lab.leaks(),
        json!([]),
        "nothing went out in clear text meanwhile"
    );
}

/// Says that it is over when it goes.
struct Tell(Arc<AtomicBool>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct World {
    lab: Lab,
    /// Addresses of the client pods.
    clients: BTreeMap<&'static str, IpAddr>,
    /// Addresses of the pods web-1.
    servers: BTreeMap<&'static str, IpAddr>,
    /// Of `web`, in green.
    vip: IpAddr,
}

impl World {
    fn processes(&self) -> Vec<String> {
        let status = self.lab.status();
        let all = status["processes"].as_array().unwrap();
        let ids = all.iter().map(|p| p["id"].as_str().unwrap().to_owned());
        // A pod's own process is no daemon: CLUSTER/POD.
        ids.filter(|id| id.matches('/').count() == 2).collect()
    }

    /// Kills each daemon, broker and API server as often as said, in random order at random moments.
    fn kill_all(&self, random: &mut Random, rounds: u64) {
        for _ in 0..rounds {
            let mut victims = self.processes();
            assert!(victims.len() >= 13, "{victims:?}");
            random.shuffle(&mut victims);
            for victim in victims {
                thread::sleep(Duration::from_millis(random.below(PAUSE_MS as usize) as u64));
                println!("{victim} dies");
                // It may be about to be started again; it dies once it is there.
                eventually(&format!("the death of {victim}"), || {
                    self.lab.strait(&["lab", "kill", &victim])
                });
            }
        }
    }

    /// What goes on meanwhile: a service gets another endpoint and loses the first one, an export ends, and one
    /// of another service comes and goes until it is over.
    fn live(&self, over: &AtomicBool) {
        let Self { lab, .. } = self;
        eventually("a second endpoint", || {
            lab.try_serve("blue/gateway-1", "web-2", "demo", "web")
        });
        eventually("an export", || lab.try_export("green", "demo", "web"));
        eventually("a server of another service", || {
            lab.try_serve("green/worker-1", "api-1", "demo", "api")
        });
        eventually("the end of the first endpoint", || {
            delete::<Pod>(lab, "blue", "demo", "web-1")
        });
        eventually("the end of an export", || {
            delete::<ServiceExport>(lab, "green", "demo", "web")
        });
        loop {
            eventually("the other service's export", || {
                lab.try_export("green", "demo", "api")
            });
            eventually("the other service in blue", || {
                self.by_name("blue/client", "api", "api-1")
            });
            if over.load(Ordering::SeqCst) {
                return;
            }
            eventually("the end of its export", || {
                delete::<ServiceExport>(lab, "green", "demo", "api")
            });
            eventually("the end of its name in blue", || {
                let name = "api.demo.svc.clusterset.local";
                let found = lab.resolve("blue/client", "blue", name, false)?;
                ensure(found.is_empty(), || format!("still {found:?}"))
            });
        }
    }

    /// Whether that has come to be everywhere.
    fn lived(&self) -> Result<(), String> {
        self.by_name("blue/client", "api", "api-1")?;
        for cluster in CLUSTERS {
            let import = self.get::<ServiceImport>(cluster, "demo", "web")?;
            let exporters: Vec<String> = serde_json::to_value(&import)
                .ok()
                .and_then(|v| v["status"]["clusters"].as_array().cloned())
                .unwrap_or_default()
                .iter()
                .map(|c| c["cluster"].as_str().unwrap_or_default().to_owned())
                .collect();
            ensure(exporters == ["blue"], || {
                format!("{cluster}: web is exported by {exporters:?}")
            })?;
        }
        for _ in 0..5 {
            self.by_name("green/client", "web", "web-2")?;
        }
        Ok(())
    }

    fn by_name(&self, place: &str, service: &str, pod: &str) -> Result<(), String> {
        let server = format!("{service}.demo.svc.clusterset.local:80");
        let answer: Fetched = self.lab.tool(place, &["get", &server, "--timeout", "2"])?;
        ensure(answer.pod == pod, || {
            format!("{} answers for {service}", answer.pod)
        })
    }

    /// Whether traffic flows both ways, straight and by the VIP, under the clients' own addresses.
    fn works(&self) -> Result<(), String> {
        let Self { lab, .. } = self;
        let blues = of_cluster(lab, "blue")?;
        for (here, there) in [("blue", "green"), ("green", "blue")] {
            let server = match there {
                // Its first pod goes on the way; whichever is left.
                "blue" => blues.values().next().copied().ok_or("blue has no server")?,
                _ => self.servers[there],
            };
            let place = format!("{here}/client");
            let answer = lab.get(&place, SocketAddr::new(server, PORT))?;
            ensure(answer.cluster == there, || {
                format!("{} answers, not {there}", answer.cluster)
            })?;
            ensure(answer.client_ip == self.clients[here], || {
                format!("{there} sees {here}'s client as {}", answer.client_ip)
            })?;
        }
        let answer = lab.get("green/client", SocketAddr::new(self.vip, 80))?;
        ensure(answer.client_ip == self.clients["green"], || {
            format!("the VIP's server sees {}", answer.client_ip)
        })
    }

    fn plans_are_empty(&self) -> Result<(), String> {
        for cluster in CLUSTERS {
            for node in ["gateway-1", "worker-1"] {
                let place = format!("{cluster}/{node}/route-agent");
                let plan = self
                    .lab
                    .strait(&["lab", "exec", &place, "--", "strait", "plan"])?;
                ensure(plan.is_empty(), || format!("{cluster}/{node}: {plan}"))?;
            }
        }
        Ok(())
    }

    /// What must outlive every death, by name: identity and meaning of each record.
    fn records(&self) -> Result<BTreeMap<String, String>, String> {
        let mut all = BTreeMap::new();
        for server in ["broker", "blue", "green"] {
            let mut add = |found: Vec<(String, Value)>| {
                let named = found
                    .into_iter()
                    .map(|(n, v)| (format!("{server}: {n}"), v.to_string()));
                all.extend(named);
            };
            add(self.list::<Member>(server, |spec| spec)?);
            add(self.list::<Cluster>(server, |mut spec| {
                // When it was last said in whole.
                spec["fullSync"] = json!(null);
                spec
            })?);
            // Where it was seen last may change; who it is may not.
            add(self.list::<Gateway>(server, |spec| spec["keys"].clone())?);
            // Endpoints come and go with pods.
            add(self.list::<ExportedService>(server, |mut spec| {
                spec["endpoints"] = json!(null);
                spec
            })?);
            if server != "broker" {
                add(self.list::<ServiceImport>(server, |spec| spec["ips"].clone())?);
            }
        }
        Ok(all)
    }

    /// Whether the records of exports are the same everywhere, endpoints too: at home, at the broker, and abroad.
    fn mirrored(&self) -> Result<(), String> {
        let specs = |server: &str| -> Result<Vec<Value>, String> {
            let all = self.list::<ExportedService>(server, |spec| spec)?;
            let mut specs: Vec<Value> = all.into_iter().map(|(_, v)| v["is"].clone()).collect();
            specs.sort_by_key(|v| (v["clusterId"].to_string(), v["name"].to_string()));
            Ok(specs)
        };
        let at_broker = specs("broker")?;
        ensure(at_broker.len() == 2, || format!("{} exports", at_broker.len()))?;
        for cluster in CLUSTERS {
            let here = specs(cluster)?;
            ensure(here == at_broker, || {
                format!("{cluster} has {here:?}, the broker {at_broker:?}")
            })?;
        }
        Ok(())
    }

    fn list<K>(&self, server: &str, part: fn(Value) -> Value) -> Result<Vec<(String, Value)>, String>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let api: Api<K> = Api::all(self.lab.client(server));
        let list = self
            .lab
            .wait(api.list(&ListParams::default()))
            .map_err(|e| format!("{server}: {e}"))?;
        let named = |object: &K| {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let value = serde_json::to_value(object).map_err(|e| e.to_string())?;
            let part = part(value["spec"].clone());
            Ok((
                format!("{} {namespace}/{name}", K::kind(&())),
                json!({ "uid": object.uid(), "is": part }),
            ))
        };
        list.items.iter().map(named).collect()
    }

    fn get<K>(&self, cluster: &str, namespace: &str, name: &str) -> Result<K, String>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        let api: Api<K> = Api::namespaced(self.lab.client(cluster), namespace);
        self.lab
            .wait(api.get(name))
            .map_err(|e| format!("{cluster}: {e}"))
    }
}

/// Addresses of the pods of `web` in a cluster.
fn of_cluster(lab: &Lab, cluster: &str) -> Result<BTreeMap<String, IpAddr>, String> {
    let status = lab.status();
    let pods = status["pods"].as_array().ok_or("no pods")?;
    let of = |pod: &Value| {
        let name = pod["name"].as_str()?;
        let own = pod["cluster"] == cluster && name.starts_with("web-");
        let address = pod["addresses"][0].as_str()?.parse().ok()?;
        own.then(|| (name.to_owned(), address))
    };
    Ok(pods.iter().filter_map(of).collect())
}

fn delete<K>(lab: &Lab, cluster: &str, namespace: &str, name: &str) -> Result<(), String>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let api: Api<K> = Api::namespaced(lab.client(cluster), namespace);
    match lab.wait(api.delete(name, &DeleteParams::default())) {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}
