//! Service → the facts that rules are made of.

use super::{Affinity, Protocol};
use k8s_openapi::api::core::v1::Service;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Objects with this label belong to another proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Put by upstream's controllers on the slices of headless Services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Upstream's `DefaultClientIPServiceAffinitySeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// What rules need of a Service that has `ClusterIPs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub addresses: BTreeSet<IpAddr>,
    pub ports: Vec<PortFacts>,
    /// `internalTrafficPolicy: Local`.
    pub local_only: bool,
    pub affinity: Option<Affinity>,
}

/// One port of a Service. Slices give the same port, by name and protocol, its number on the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

impl ServiceFacts {
    /// None when the proxy has nothing to do with the Service (upstream's `ShouldSkipService`).
    pub fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)) || spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        // `None`, the mark of a headless Service, and the empty string are no addresses.
        let addresses: BTreeSet<IpAddr> =
            spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|address| address.parse().ok()).collect();
        if addresses.is_empty() {
            return None;
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(PortFacts {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
            })
        });
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let seconds = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
            Affinity { seconds: seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS) }
        });
        Some(Self { addresses, ports: ports.collect(), local_only: spec.internal_traffic_policy.as_deref() == Some("Local"), affinity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn facts(spec: &serde_json::Value) -> Option<ServiceFacts> {
        ServiceFacts::of(&serde_json::from_value(json!({"metadata": {"namespace": "a", "name": "b"}, "spec": spec})).unwrap())
    }

    #[rstest]
    #[case::external_name(json!({"type": "ExternalName", "externalName": "x.y"}))]
    #[case::headless(json!({"clusterIP": "None", "clusterIPs": ["None"]}))]
    #[case::not_allocated_yet(json!({"clusterIP": ""}))]
    fn skipped(#[case] spec: serde_json::Value) {
        assert_eq!(facts(&spec), None);
    }

    #[test]
    fn another_proxys_service_is_skipped() {
        let service = json!({"metadata": {"labels": {PROXY_NAME_LABEL: "x"}}, "spec": {"clusterIP": "10.96.0.1"}});
        assert_eq!(ServiceFacts::of(&serde_json::from_value(service).unwrap()), None);
    }

    #[test]
    fn a_load_balancer_has_its_cluster_ip_half() {
        let facts = facts(&json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ports": [{"name": "web", "port": 80, "nodePort": 30000}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "internalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}
        }))
        .unwrap();
        assert_eq!(facts.addresses, ["10.96.0.1", "fd00::1"].map(|a| a.parse().unwrap()).into());
        assert_eq!(
            facts.ports.iter().map(|p| (p.name.as_str(), p.protocol, p.port)).collect::<Vec<_>>(),
            [("web", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]
        );
        assert!(facts.local_only);
        assert_eq!(facts.affinity, Some(Affinity { seconds: 60 }));
    }

    #[test]
    fn affinity_has_upstreams_default() {
        let facts = facts(&json!({"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP"})).unwrap();
        assert_eq!(facts.affinity, Some(Affinity { seconds: 10_800 }));
    }
}
