//! The files that kubelet puts into every pod: how names are resolved there.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use strait_linux::mounts::{Cover, Mounts};

use crate::names::CLUSTER_ZONE;

/// The mounts of a pod: the machine's, but for what says how names are resolved. `dir` is the pod's own.
pub(crate) fn mounts(
    dir: &Path,
    namespace: &str,
    name: &str,
    addresses: &[IpAddr],
    dns: &[IpAddr],
) -> Result<Mounts> {
    let mut files = vec![
        ("/etc/resolv.conf", resolv_conf(dns, namespace)),
        ("/etc/hosts", hosts(name, addresses)),
    ];
    // A machine's own sources of names (systemd-resolved, mDNS) know nothing of the pod's.
    if let Ok(machine) = fs::read_to_string("/etc/nsswitch.conf") {
        files.push(("/etc/nsswitch.conf", nsswitch(&machine)));
    }
    let mut covers = Vec::new();
    for (path, text) in files {
        let target = PathBuf::from(path);
        if !target.exists() {
            tracing::warn!(
                "there is no {path} on this machine, so the pod {namespace}/{name} has none either; `touch {path}` helps"
            );
            continue;
        }
        let source = dir.join(target.file_name().unwrap_or_default());
        fs::write(&source, text).with_context(|| format!("cannot write {}", source.display()))?;
        covers.push(Cover::File { source, target });
    }
    // The machine's cache of names would answer before any file is read.
    let cache = PathBuf::from("/run/nscd");
    if cache.is_dir() {
        covers.push(Cover::Empty(cache));
    }
    Ok(Mounts::covered(&covers)?)
}

fn resolv_conf(dns: &[IpAddr], namespace: &str) -> String {
    let servers: String = dns.iter().map(|ip| format!("nameserver {ip}\n")).collect();
    format!(
        "search {namespace}.svc.{CLUSTER_ZONE} svc.{CLUSTER_ZONE} {CLUSTER_ZONE}\n{servers}options ndots:5\n"
    )
}

fn hosts(name: &str, addresses: &[IpAddr]) -> String {
    let own: String = addresses.iter().map(|ip| format!("{ip}\t{name}\n")).collect();
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{own}"
    )
}

fn nsswitch(machine: &str) -> String {
    let others = machine.lines().filter(|l| !l.trim_start().starts_with("hosts:"));
    let kept: String = others.map(|l| format!("{l}\n")).collect();
    format!("{kept}hosts: files dns\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_asks_the_clusters_dns_as_kubelet_has_it() {
        let dns = ["10.101.0.10".parse().unwrap(), "fd96:1::a".parse().unwrap()];
        assert_eq!(
            resolv_conf(&dns, "demo"),
            "search demo.svc.cluster.local svc.cluster.local cluster.local\n\
             nameserver 10.101.0.10\nnameserver fd96:1::a\noptions ndots:5\n"
        );
        assert!(hosts("web", &["10.1.2.10".parse().unwrap()]).ends_with("\n10.1.2.10\tweb\n"));
    }

    #[test]
    fn no_other_source_of_names_comes_before_dns() {
        let machine = "passwd: files systemd\n hosts: files mymachines resolve [!UNAVAIL=return] dns\n";
        assert_eq!(nsswitch(machine), "passwd: files systemd\nhosts: files dns\n");
    }
}
