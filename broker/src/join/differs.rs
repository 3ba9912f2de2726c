//! What a claim that was accepted says otherwise than the one at hand, and the way on.

use strait_api::records::JoinClaim;

use crate::output::list;

/// A sentence for whoever wants to join with `wanted` where `accepted` was accepted.
pub(super) fn sentence(request: &str, accepted: &JoinClaim, wanted: &JoinClaim) -> String {
    let mut differences = Vec::new();
    let mut compare = |what: &str, there: String, here: String| {
        if there != here {
            differences.push(format!("{what} {there}, here {here}"));
        }
    };
    compare(
        "cluster ID",
        accepted.cluster_id.to_string(),
        wanted.cluster_id.to_string(),
    );
    compare("UID", accepted.uid.clone(), wanted.uid.clone());
    compare("pods", list(&accepted.pod_cidrs), list(&wanted.pod_cidrs));
    compare(
        "Services",
        list(&accepted.service_cidrs),
        list(&wanted.service_cidrs),
    );
    compare("VIPs", list(&accepted.vip_cidrs), list(&wanted.vip_cidrs));
    compare(
        "fingerprint",
        accepted.key_fingerprint.clone(),
        wanted.key_fingerprint.clone(),
    );
    let differences = differences.join("; ");
    let way = if accepted.uid != wanted.uid {
        format!(
            "the token was used by another cluster: make a new one for this cluster, and evict {} if you do not know it",
            accepted.cluster_id
        )
    } else if accepted.cluster_id != wanted.cluster_id {
        format!(
            "join with --cluster-id {}, or evict {} and make a new token",
            accepted.cluster_id, accepted.cluster_id
        )
    } else if accepted.key_fingerprint != wanted.key_fingerprint {
        "make a new token: the cluster may join again under its ID with it".to_owned()
    } else {
        "join with what was accepted (--pod-cidr, --service-cidr, --vip-cidr), or make a new token".to_owned()
    };
    format!(
        "join request {request} was accepted for another claim: {differences}; {way} (`strait broker token create`)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_the_way_on() {
        let claim = |id: &str, uid: &str, pods: &str, key: &str| JoinClaim {
            cluster_id: id.parse().unwrap(),
            uid: uid.to_owned(),
            pod_cidrs: vec![pods.parse().unwrap()],
            service_cidrs: vec![],
            vip_cidrs: vec![],
            key_fingerprint: key.to_owned(),
        };
        let accepted = claim("blue", "u1", "10.1.0.0/16", "SHA256:a");
        let said = |wanted: &JoinClaim| sentence("join-1", &accepted, wanted);
        let ranges = said(&claim("blue", "u1", "10.2.0.0/16", "SHA256:a"));
        assert!(
            ranges.contains("pods 10.1.0.0/16, here 10.2.0.0/16; join with what"),
            "{ranges}"
        );
        let key = said(&claim("blue", "u1", "10.1.0.0/16", "SHA256:b"));
        assert!(
            key.contains("fingerprint SHA256:a, here SHA256:b; make a new token"),
            "{key}"
        );
        let id = said(&claim("green", "u1", "10.1.0.0/16", "SHA256:a"));
        assert!(
            id.contains("cluster ID blue, here green") && id.contains("--cluster-id blue"),
            "{id}"
        );
        let other = said(&claim("blue", "u2", "10.1.0.0/16", "SHA256:b"));
        assert!(
            other.contains("UID u1, here u2") && other.contains("evict blue"),
            "{other}"
        );
    }
}
