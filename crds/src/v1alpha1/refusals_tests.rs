use super::*;
use crate::managed_flags::{API_SERVER, CONTROLLER_MANAGER, ManagedFlags, SCHEDULER};
use rstest::rstest;
use serde_json::{Value, json};

/// A `VirtualCluster` as an apiserver would store it, from a spec as a user writes it.
fn cluster(name: &str, spec: &Value) -> VirtualCluster {
    let object = json!({
        "apiVersion": "nestling.dev/v1alpha1",
        "kind": "VirtualCluster",
        "metadata": {"name": name, "namespace": "team-a"},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn refused(cluster: &VirtualCluster) -> String {
    let lines: Vec<String> = refusals(cluster).into_iter().map(|Refusal { field, message }| format!("{field}: {message}")).collect();
    lines.join("\n")
}

fn refused_of_change(from: &Value, to: &Value) -> String {
    let (from, to) = (cluster("dev", from), cluster("dev", to));
    to.validate_cel_update(&from).err().map(|errors| errors.to_string()).unwrap_or_default()
}

#[rstest]
#[case(json!({}))]
#[case(json!({"version": "v1.37"}))]
#[case(json!({"version": "v1.37.2", "topology": "SingleNode"}))]
#[case(json!({"topology": "External", "etcd": {"replicas": 1, "placement": {"nodeSelector": {"disk": "ssd"}}}}))]
#[case(json!({"network": {"serviceCIDR": "10.100.0.0/20", "clusterDomain": "dev.example"}}))]
#[case(json!({"controlPlane": {"apiServer": {"extraArgs": {"event-ttl": "2h"}, "certSANs": ["api.example.com", "*.example.com", "192.0.2.7", "2001:db8::1"]}}}))]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": ["*", "-cronjob-controller"], "extraArgs": {"leader-elect-lease-duration": "30s"}}}}))]
#[case(json!({"controlPlane": {"cloudControllerManager": {"controllers": ["-node"]}}}))]
#[case(json!({"etcd": {"storage": {"medium": "Memory", "size": "512Mi"}}}))]
#[case(json!({"expose": {"type": "LoadBalancer", "hostname": "api.example.com"}}))]
fn good_specs_are_taken(#[case] spec: Value) {
    assert_eq!(refused(&cluster("dev", &spec)), "");
}

#[rstest]
#[case(json!({"version": "1.37"}), "must look like v1.37 or v1.37.2")]
#[case(json!({"topology": "SingleNode", "controlPlane": {"replicas": 3}}), "must be 1 with topology SingleNode")]
#[case(json!({"controlPlane": {"replicas": 2}}), "must be odd with topology Stacked")]
#[case(json!({"controlPlane": {"replicas": 3}}), "more than one replica is not supported yet; use 1")]
#[case(json!({"controlPlane": {"replicas": 0}}), "not supported yet; use 1")]
#[case(json!({"etcd": {"replicas": 1}}), "spec.etcd.replicas is for topology External only")]
#[case(json!({"topology": "External", "etcd": {"replicas": 2}}), "must be odd: an even number of members")]
#[case(json!({"topology": "External", "etcd": {"replicas": 3}}), "more than one member is not supported yet; use 1")]
#[case(json!({"etcd": {"placement": {"zoneSpread": "Off"}}}), "use spec.controlPlane.placement")]
#[case(json!({"topology": "External", "etcd": {"endpoints": [{"url": "https://e:2379", "secretRef": {"name": "e"}}]}}), "not supported yet; leave it empty")]
#[case(json!({"etcd": {"backup": {"schedule": "0 * * * *"}}}), "backups are not supported yet")]
#[case(json!({"etcd": {"storage": {"medium": "Memory", "storageClassName": "fast"}}}), "exclude each other")]
#[case(json!({"etcd": {"storage": {"size": "0"}}}), "must be greater than zero")]
#[case(json!({"network": {"serviceCIDR": "10.100.0.0"}}), "must be a CIDR")]
#[case(json!({"network": {"serviceCIDR": "10.100.0.1/20"}}), "must not have host bits set")]
#[case(json!({"network": {"serviceCIDR": "10.0.0.0/8"}}), "between /12 and /28")]
#[case(json!({"network": {"serviceCIDR": "10.100.0.0/30"}}), "between /12 and /28")]
#[case(json!({"network": {"serviceCIDR": "fd00::/112"}}), "IPv6 is not supported yet; use an IPv4 range")]
#[case(json!({"network": {"clusterDomain": "Cluster.Local"}}), "must be a DNS domain")]
#[case(json!({"network": {"nodePorts": "External"}}), "External is not supported yet; use Internal")]
#[case(json!({"expose": {"type": "Gateway"}}), "Gateway is not supported yet; use LoadBalancer")]
#[case(json!({"expose": {"hostname": "https://api"}}), "must be a DNS name")]
#[case(json!({"nodes": {"staticPods": [{}]}}), "not supported yet; use a DaemonSet")]
#[case(json!({"controlPlane": {"apiServer": {"authorization": {"authorizers": []}}}}), "not supported yet; Node and RBAC are always on")]
#[case(json!({"hibernate": true}), "not supported yet; use spec.paused")]
#[case(json!({"controlPlane": {"apiServer": {"certSANs": ["not a name"]}}}), "must be a DNS name or an IP address")]
#[case(json!({"controlPlane": {"apiServer": {"extraArgs": {"--event-ttl": "2h"}}}}), "write flags without leading dashes")]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": ["*", "no such"]}}}), "must be '*', a controller's name")]
#[case(json!({"controlPlane": {"cloudControllerManager": {"controllers": ["service"]}}}), "known are '*', 'node' and '-node'")]
fn bad_specs_are_refused_with_a_way_out(#[case] spec: Value, #[case] message: &str) {
    let refusals = refused(&cluster("dev", &spec));
    assert!(refusals.contains(message), "{refusals:?}");
}

#[test]
fn a_refusal_names_its_field() {
    let refusals = refusals(&cluster("dev", &json!({"hibernate": true, "etcd": {"replicas": 1}})));
    let fields: Vec<&str> = refusals.iter().map(|refusal| refusal.field.as_str()).collect();
    assert_eq!(fields, ["spec", "spec.hibernate"]);
}

#[rstest]
#[case("a", true)]
#[case("abcdefghijklmnopqrstuvwxyz0123456789", true)]
#[case("abcdefghijklmnopqrstuvwxyz0123456789x", false)]
#[case("1st", false)]
#[case("dev.a", false)]
fn names_leave_room_for_the_names_made_from_them(#[case] name: &str, #[case] taken: bool) {
    assert_eq!(refused(&cluster(name, &json!({}))).is_empty(), taken);
}

#[rstest]
#[case(API_SERVER, "apiServer")]
#[case(CONTROLLER_MANAGER, "controllerManager")]
#[case(SCHEDULER, "scheduler")]
fn every_managed_flag_is_refused_with_its_own_name(#[case] managed: &[ManagedFlags], #[case] component: &str) {
    for group in managed {
        for flag in group.flags {
            let refusals = refused(&cluster("dev", &json!({"controlPlane": {component: {"extraArgs": {*flag: "x"}}}})));
            let message = format!("flag --{flag} is managed: {}", group.instead);
            assert!(refusals.contains(&message), "{refusals:?}\n{message}");
        }
    }
}

#[rstest]
#[case(json!({"version": "v1.36.3"}), json!({"version": "v1.37.2"}), "")]
#[case(json!({"version": "v1.37"}), json!({}), "")]
#[case(json!({"version": "v1.37.2"}), json!({"version": "v1.36.3"}), "downgrades")]
#[case(json!({"version": "v1.35"}), json!({"version": "v1.37"}), "skip a minor version")]
#[case(json!({}), json!({"topology": "External"}), "cannot be changed")]
#[case(json!({"topology": "External"}), json!({"topology": "Stacked"}), "not supported yet; create a new VirtualCluster")]
#[case(json!({}), json!({"network": {"serviceCIDR": "10.100.0.0/20"}}), "serviceCIDR is immutable")]
#[case(json!({"network": {"serviceCIDR": "10.100.0.0/20"}}), json!({}), "serviceCIDR is immutable")]
#[case(json!({}), json!({"network": {"clusterDomain": "other.local"}}), "clusterDomain is immutable")]
#[case(json!({}), json!({"etcd": {"storage": {"size": "16Gi"}}}), "etcd's volumes")]
#[case(json!({"etcd": {"storage": {"medium": "Memory"}}}), json!({}), "etcd's volumes")]
#[case(json!({}), json!({"paused": true, "nodes": {"selector": {"pool": "a"}}, "isolation": {"podSecurity": "privileged"}}), "")]
fn changes(#[case] from: Value, #[case] to: Value, #[case] message: &str) {
    let refusals = refused_of_change(&from, &to);
    assert!(if message.is_empty() { refusals.is_empty() } else { refusals.contains(message) }, "{refusals:?}");
}
