use super::testing::{check, cluster, config, reads, vc};
use super::*;
use crate::model::{ValidatedCluster, VersionChange};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Taint};
use nestling_crds::names::NodeName;
use nestling_crds::v1alpha1::{Release, VirtualClusterStatus};
use nestling_crds::versions::{Known, Version};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn problems(spec: &Value) -> String {
    match check(spec) {
        Ok(_) => String::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn an_empty_spec_is_a_working_cluster() {
    let cluster = cluster(&json!({}));
    assert_eq!(cluster.version.to_string(), "v1.37.2");
    assert_eq!(cluster.images.api_server, "registry.k8s.io/kube-apiserver:v1.37.2");
    assert_eq!((cluster.replicas, cluster.members), (1, 1));
    assert_eq!(cluster.etcd.quota_bytes, (8 << 30) / 3);
    // Two segments of the WAL and the next one, the database and a copy of it fit.
    let small = self::cluster(&json!({"etcd": {"storage": {"medium": "Memory", "size": "256Mi"}}})).etcd;
    assert!(small.quota_bytes * 2 + 3 * (64 << 20) < 256 << 20 && small.quota_bytes > 28 << 20, "{}", small.quota_bytes);
    assert_eq!(cluster.control_url, "https://nestling-control-api.nestling-system.svc:8443");
    assert_eq!(cluster.owner.controller, Some(true));
}

#[rstest]
#[case(json!({"version": "v1.37"}))]
#[case(json!({"topology": "SingleNode", "nodes": {"selector": {"matchLabels": {"disk": "hdd"}}}}))]
#[case(json!({"topology": "External", "etcd": {"replicas": 1}}))]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": ["*", "-cronjob", "-ttl-controller"]}}}))]
#[case(json!({"controlPlane": {"cloudControllerManager": {"controllers": ["-node"]}}}))]
#[case(json!({"controlPlane": {"apiServer": {"extraArgs": [{"name": "event-ttl", "value": "2h"}, {"name": "v", "value": "4"}], "certSANs": ["*.example.com", "2001:db8::1"]}}}))]
#[case(json!({"controlPlane": {"scheduler": {"profiles": [{"schedulerName": "default-scheduler"}, {"schedulerName": "packing"}]}}}))]
#[case(json!({"controlPlane": {"apiServer": {"authentication": {"jwt": []}, "audit": {"rules": [{"level": "Metadata"}]}}}}))]
#[case(json!({"etcd": {"storage": {"medium": "Memory", "size": "512Mi"}}}))]
#[case(json!({"expose": {"type": "LoadBalancer", "hostname": "api.example.com"}}))]
#[case(json!({"isolation": {"podSecurity": "restricted", "quota": {"pods": "100", "requests.cpu": "4"}}}))]
fn good_specs_pass(#[case] spec: Value) {
    assert_eq!(problems(&spec), "");
}

#[rstest]
#[case(json!({"version": "v1.12"}), "spec.version version v1.12 is not known")]
#[case(json!({"controlPlane": {"replicas": 2}}), "spec.controlPlane.replicas must be odd with topology Stacked")]
#[case(json!({"controlPlane": {"replicas": 0}}), "spec.controlPlane.replicas must be at least 1; use spec.hibernate")]
#[case(json!({"topology": "External", "etcd": {"replicas": 4}}), "spec.etcd.replicas must be odd")]
#[case(json!({"etcd": {"replicas": 1}}), "spec.etcd.replicas is for topology External")]
#[case(json!({"etcd": {"external": {"endpoints": ["https://a:2379"], "secretRef": {"name": "s"}}}}), "spec.etcd.external an etcd of your own is not supported yet")]
#[case(json!({"nodes": {"selector": {"disk": "ssd"}}}), "spec.nodes.selector.disk is not a field: spec.nodes.selector is a label selector; write labels under spec.nodes.selector.matchLabels")]
#[case(json!({"network": {"serviceCIDR": "10.200.0.0/20"}}), "spec.network.serviceCIDR is the field's former name: use serviceCIDRs")]
#[case(json!({"controlPlane": {"apiServer": {"encryption": {"secretRef": {"name": "keys"}}}}}), "spec.controlPlane.apiServer.encryption.secretRef Secret keys does not exist")]
#[case(json!({"controlPlane": {"apiServer": {"admission": {"plugins": [{"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": {"kubeConfigFile": "/x"}}}]}}}}), "credentials do not belong into the spec")]
#[case(json!({"etcd": {"backup": {"schedule": "@daily"}}}), "spec.etcd.backup backups are not supported yet")]
#[case(json!({"etcd": {"storage": {"size": "lots"}}}), "spec.etcd.storage.size \"lots\" must be a quantity")]
#[case(json!({"etcd": {"storage": {"size": "16Mi"}}}), "at least 256Mi")]
#[case(json!({"etcd": {"storage": {"medium": "Memory", "storageClassName": "fast"}}}), "exclude each other")]
#[case(json!({"hibernate": true, "etcd": {"storage": {"medium": "Memory"}}}), "spec.hibernate needs etcd on a volume")]
#[case(json!({"network": {"nodePorts": "External"}}), "spec.network.nodePorts External is not supported yet")]
#[case(json!({"network": {"serviceCIDRs": ["10.96.0.0/20"]}}), "10.96.0.0/20 overlaps 10.96.0.0/16, which the host uses")]
#[case(json!({"network": {"serviceCIDRs": ["172.30.0.0/24"]}}), "overlaps 172.30.0.1/32")]
#[case(json!({"network": {"serviceCIDRs": ["10.200.0.1/24"]}}), "spec.network.serviceCIDRs must not have host bits set")]
#[case(json!({"network": {"serviceCIDRs": ["10.0.0.0/8"]}}), "must be between /12 and /28")]
#[case(json!({"network": {"serviceCIDRs": ["fd00::/112"]}}), "IPv6 is not supported yet")]
#[case(json!({"network": {"serviceCIDRs": ["wide"]}}), "must be a CIDR")]
#[case(json!({"network": {"clusterDomain": "Cluster.Local"}}), "spec.network.clusterDomain must be a DNS domain")]
#[case(json!({"expose": {"type": "Gateway"}}), "spec.expose.type Gateway is not supported yet")]
#[case(json!({"expose": {"hostname": "not a name"}}), "spec.expose.hostname must be a DNS name")]
#[case(json!({"nodes": {"staticPods": [{}]}}), "spec.nodes.staticPods static pods are not supported yet")]
#[case(json!({"nodes": {"capacity": {"cpu": "many"}}}), "spec.nodes.capacity[cpu] \"many\" must be a quantity")]
#[case(json!({"topology": "SingleNode", "nodes": {"selector": {"matchLabels": {"disk": "tape"}}}}), "SingleNode needs a Ready host node")]
#[case(json!({"isolation": {"quota": {"pods": "-1"}}}), "spec.isolation.quota[pods]")]
#[case(json!({"controlPlane": {"apiServer": {"extraArgs": [{"name": "etcd_servers", "value": "x"}]}}}), "flag --etcd_servers is managed: use spec.etcd")]
#[case(json!({"controlPlane": {"apiServer": {"extraArgs": [{"name": "--v", "value": "4"}]}}}), "without leading dashes")]
#[case(json!({"controlPlane": {"apiServer": {"certSANs": ["a b"]}}}), "spec.controlPlane.apiServer.certSANs each must be a DNS name")]
#[case(json!({"controlPlane": {"apiServer": {"resources": {"requests": {"cpu": "1 core"}}}}}), "spec.controlPlane.apiServer.resources.requests[cpu]")]
#[case(json!({"controlPlane": {"apiServer": {"authorization": {"authorizers": []}}}}), "authorization is not supported yet")]
#[case(json!({"controlPlane": {"apiServer": {"authentication": {"kind": "Policy"}}}}), "kind must be AuthenticationConfiguration")]
#[case(json!({"controlPlane": {"apiServer": {"authentication": {"anonymous": {"enabled": false}}}}}), "anonymous must let /livez and /readyz in")]
#[case(json!({"controlPlane": {"apiServer": {"audit": {"apiVersion": "v1"}}}}), "audit apiVersion must be audit.k8s.io/v1")]
#[case(json!({"controlPlane": {"apiServer": {"admission": {"plugins": [{"name": "PodSecurity", "path": "/x"}]}}}}), "plugins[].path is not supported")]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": ["*", "-cronjobs"]}}}), "\"-cronjobs\" is not known; known are")]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": ["nodeipam"]}}}), "pods get their addresses from the host's network")]
#[case(json!({"controlPlane": {"controllerManager": {"controllers": []}}}), "must not be empty")]
#[case(json!({"controlPlane": {"cloudControllerManager": {"controllers": ["service"]}}}), "spec.controlPlane.cloudControllerManager.controllers known are '*', 'node' and '-node'")]
#[case(json!({"controlPlane": {"scheduler": {"profiles": [{"name": "x"}]}}}), "spec.controlPlane.scheduler.profiles[0] has an unknown key name")]
#[case(json!({"controlPlane": {"scheduler": {"profiles": [{}, {"schedulerName": "default-scheduler"}]}}}), "the same schedulerName")]
#[case(json!({"controlPlane": {"scheduler": {"extraArgs": [{"name": "config", "value": "x"}]}}}), "use spec.controlPlane.scheduler.profiles")]
fn bad_specs_say_what_to_do(#[case] spec: Value, #[case] expected: &str) {
    let problems = problems(&spec);
    assert!(problems.contains(expected), "{problems}");
}

#[test]
fn all_problems_are_told_at_once() {
    let spec = json!({"version": "v1.12", "network": {"serviceCIDRs": ["wide"], "nodePorts": "External"}, "expose": {"type": "Gateway"}});
    assert_eq!(check(&spec).unwrap_err().len(), 4);
}

fn with_status(spec: &Value, status: VirtualClusterStatus) -> VirtualCluster {
    VirtualCluster { status: Some(status), ..vc(spec) }
}

#[test]
fn the_range_in_force_stays() {
    let in_force = VirtualClusterStatus { service_cidrs: vec!["10.96.0.0/20".into()], ..VirtualClusterStatus::default() };
    // Even where the host has grown into it.
    let kept = validate(&with_status(&json!({}), in_force.clone()), &reads(), &config()).unwrap();
    assert_eq!(kept.service_cidr.to_string(), "10.96.0.0/20");
    assert_eq!(kept.kubernetes_address.to_string(), "10.96.0.1");
    assert_eq!(kept.dns_address.to_string(), "10.96.0.10");

    let other = with_status(&json!({"network": {"serviceCIDRs": ["10.200.0.0/20"]}}), in_force);
    let problems = validate(&other, &reads(), &config()).unwrap_err();
    assert!(problems[0].message.contains("immutable"), "{problems:?}");
}

#[test]
fn tenants_may_ask_for_the_same_range() {
    let mut reads = reads();
    reads.taken = vec![(TenantUid::new("other"), "10.200.0.0/20".parse().unwrap())];
    let spec = json!({"network": {"serviceCIDRs": ["10.200.0.0/20"]}});
    assert!(validate(&vc(&spec), &reads, &config()).is_ok());
}

/// Of a later operator: longer, without 1.36, with other companions of 1.37.2.
const LATER: &[Known] = &[
    Known { version: Version { minor: 37, patch: 2 }, etcd_tag: "3.7.9-0", coredns_tag: "v1.99.0" },
    Known { version: Version { minor: 37, patch: 5 }, etcd_tag: "3.7.9-0", coredns_tag: "v1.99.0" },
    Known { version: Version { minor: 38, patch: 0 }, etcd_tag: "3.7.9-0", coredns_tag: "v1.99.0" },
];

fn later() -> OperatorConfig {
    OperatorConfig { versions: LATER, cloud_controller_image: "nestling/cloud-controller:later".into(), ..config() }
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// A cluster that runs `running` everywhere, after its spec became `spec`.
fn upgraded(
    running: &str,
    spec: &Value,
    config: &OperatorConfig,
    change: impl FnOnce(&mut Dereferenced, &mut VirtualClusterStatus),
) -> Result<ValidatedCluster, Vec<Invalid>> {
    let mut reads = reads();
    reads.running.api_servers = vec![(Some(version(running)), true)];
    reads.running.controllers = Some((version(running), "nestling/cloud-controller:before".into()));
    let release = Release {
        kubernetes: running.into(),
        etcd: "3.7.0-0".into(),
        core_dns: "v1.14.6".into(),
        cloud_controller_manager: "nestling/cloud-controller:before".into(),
    };
    let mut status = VirtualClusterStatus { release: Some(release), version: Some(running.into()), ..VirtualClusterStatus::default() };
    change(&mut reads, &mut status);
    validate(&with_status(spec, status), &reads, config)
}

#[rstest]
#[case(json!({}))]
#[case(json!({"version": "v1.37"}))]
#[case(json!({"version": "v1.37.2"}))]
fn an_operator_that_knows_more_versions_changes_nothing(#[case] spec: Value) {
    let first = validate(&vc(&spec), &reads(), &config()).unwrap();
    let status = VirtualClusterStatus { release: Some(first.release.clone()), ..VirtualClusterStatus::default() };
    let then = validate(&with_status(&spec, status), &reads(), &later()).unwrap();
    assert_eq!((then.version, then.controllers_version, &then.images), (first.version, first.controllers_version, &first.images));
    assert_eq!((then.release, then.version_change), (first.release, None));
}

#[test]
fn a_version_that_is_no_longer_known_runs_on_and_is_refused_for_new_clusters() {
    for spec in [json!({}), json!({"version": "v1.36"}), json!({"version": "v1.36.3"})] {
        let cluster = upgraded("v1.36.3", &spec, &later(), |_, _| {}).unwrap();
        assert_eq!((cluster.version, cluster.images.etcd.as_str()), (version("v1.36.3"), "registry.k8s.io/etcd:3.7.0-0"));
    }
    let refused = validate(&vc(&json!({"version": "v1.36.3"})), &reads(), &later()).unwrap_err();
    assert!(refused[0].to_string().contains("spec.version version v1.36.3 is not known"), "{refused:?}");
}

#[test]
fn kube_apiserver_goes_first_and_the_controllers_follow() {
    let spec = json!({"version": "v1.37.2"});
    let begun = upgraded("v1.36.3", &spec, &config(), |_, _| {}).unwrap();
    assert_eq!((begun.version, begun.controllers_version), (version("v1.37.2"), version("v1.36.3")));
    assert_eq!(begun.images.scheduler, "registry.k8s.io/kube-scheduler:v1.36.3");
    // Its image belongs to the pod of the controllers, which is not to change yet.
    assert_eq!(begun.images.cloud_controller, "nestling/cloud-controller:before");
    assert!(matches!(&begun.version_change, Some(VersionChange::UnderWay(message)) if message.contains("from v1.36.3 to v1.37.2")));

    let on_the_way = |api_servers: Vec<(Option<Version>, bool)>| {
        let change = |reads: &mut Dereferenced, status: &mut VirtualClusterStatus| {
            reads.running.api_servers = api_servers;
            status.release = Some(begun.release.clone());
        };
        upgraded("v1.36.3", &spec, &config(), change).unwrap().controllers_version
    };
    let (old, new) = (Some(version("v1.36.3")), Some(version("v1.37.2")));
    for waits in [vec![], vec![(new, false)], vec![(new, true), (old, true)], vec![(None, true)]] {
        assert_eq!(on_the_way(waits.clone()), version("v1.36.3"), "{waits:?}");
    }
    assert_eq!(on_the_way(vec![(new, true), (new, true)]), version("v1.37.2"));

    // Not over before the last old pod is gone.
    let applied = |pods: Vec<Option<Version>>| {
        let change = |reads: &mut Dereferenced, status: &mut VirtualClusterStatus| {
            reads.running.controllers = Some((version("v1.37.2"), "x".into()));
            reads.running.api_servers = vec![(new, true)];
            reads.running.controller_pods = pods;
            status.release = Some(begun.release.clone());
        };
        upgraded("v1.36.3", &spec, &config(), change).unwrap().version_change
    };
    assert!(matches!(applied(vec![new, old]), Some(VersionChange::UnderWay(message)) if message.contains("from v1.36.3")));
    assert_eq!(applied(vec![new, new]), None);
}

#[test]
fn minor_versions_are_not_skipped_or_lowered() {
    let problem =
        |running: &str, asked: &str| upgraded(running, &json!({"version": asked}), &config(), |_, _| {}).unwrap_err()[0].message.clone();
    assert!(problem("v1.37.2", "v1.36").contains("downgrade"));
    assert!(problem("v1.35.0", "v1.37").contains("one minor version at a time"));
    // The previous patch is the way out of a bad one, also in the middle of the change to it.
    let back = upgraded("v1.37.5", &json!({"version": "v1.37.2"}), &later(), |reads, _| {
        reads.running.controllers = Some((version("v1.37.2"), "x".into()));
        reads.running.api_servers = vec![(Some(version("v1.37.5")), false)];
    });
    assert_eq!(back.unwrap().version, version("v1.37.2"));
}

#[rstest]
#[case::slot(|reads: &mut Dereferenced, _: &mut VirtualClusterStatus| reads.may_change_version = false, "other clusters")]
#[case::unsettled(|reads: &mut Dereferenced, _: &mut VirtualClusterStatus| reads.running.api_servers = vec![(Some(version("v1.36.3")), false)], "all of the control plane to run v1.36.3")]
#[case::old_nodes(|_: &mut Dereferenced, status: &mut VirtualClusterStatus| status.nodes.oldest_kubelet = Some("v1.33.1".into()), "kubelet v1.33.1")]
fn a_change_waits_for_what_it_needs(#[case] change: fn(&mut Dereferenced, &mut VirtualClusterStatus), #[case] message: &str) {
    let cluster = upgraded("v1.36.3", &json!({"version": "v1.37.2"}), &config(), change).unwrap();
    assert_eq!((cluster.version, cluster.release.kubernetes.as_str()), (version("v1.36.3"), "v1.36.3"));
    assert!(matches!(&cluster.version_change, Some(VersionChange::Waiting(why)) if why.contains(message)), "{:?}", cluster.version_change);
}

#[test]
fn a_single_node_cluster_stays_where_it_is() {
    let spec = json!({"topology": "SingleNode", "nodes": {"selector": {"matchLabels": {"disk": "ssd"}}}});
    let mut reads = reads();
    let chosen = validate(&vc(&spec), &reads, &config()).unwrap().pinned_node.unwrap();
    assert!(["node-1", "node-2"].contains(&chosen.as_str()));
    // Pods could not go to a cordoned node.
    let cordon = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let node = reads.host_nodes.iter_mut().find(|node| node.name == chosen).unwrap();
    node.taints = vec![cordon];
    let other = validate(&vc(&spec), &reads, &config()).unwrap().pinned_node.unwrap();
    assert!(other != chosen && ["node-1", "node-2"].contains(&other.as_str()));
    // Its volume is there, whatever has become of the node.
    reads.pinned_node = Some(NodeName::new("node-gone"));
    assert_eq!(validate(&vc(&spec), &reads, &config()).unwrap().pinned_node, Some(NodeName::new("node-gone")));
    // Others are not pinned.
    assert_eq!(validate(&vc(&json!({})), &reads, &config()).unwrap().pinned_node, None);
}

#[test]
fn anonymous_requests_reach_health_only() {
    let files = cluster(&json!({})).api_server.files;
    let authentication: Value = serde_json::from_str(&files.authentication).unwrap();
    assert_eq!(authentication["anonymous"]["conditions"], json!([{"path": "/livez"}, {"path": "/readyz"}, {"path": "/healthz"}]));
    assert_eq!(authentication["kind"], "AuthenticationConfiguration");
}

fn encrypted(file: &str) -> Result<ValidatedCluster, Vec<Invalid>> {
    let data = BTreeMap::from([("encryption.yaml".to_owned(), ByteString(file.as_bytes().to_vec()))]);
    let reads = Dereferenced { encryption: Some(Secret { data: Some(data), ..Secret::default() }), ..reads() };
    let spec = json!({"controlPlane": {"apiServer": {"encryption": {"secretRef": {"name": "keys"}}}}});
    validate(&vc(&spec), &reads, &config())
}

#[test]
fn encryption_is_read_from_its_secret() {
    let key = "c2VjcmV0IGlzIHNlY3VyZSwgaXMgaXQ/IFllcywgaXM=";
    let file = format!(
        "resources: [{{resources: [secrets], providers: [{{secretbox: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]"
    );
    let files = encrypted(&file).unwrap().api_server.files;
    let content: Value = serde_json::from_str(&files.encryption.unwrap()).unwrap();
    assert_eq!(
        (content["kind"].as_str(), content["resources"][0]["providers"][1].clone()),
        (Some("EncryptionConfiguration"), json!({"identity": {}}))
    );
}

#[rstest]
#[case("[]", "is not a YAML object")]
#[case("kind: Policy", "kind must be EncryptionConfiguration")]
#[case("resources: []", "resources must be a list and not empty")]
#[case("resources: [{resources: [secrets], providers: [{kms: {}}]}]", "provider kms is not supported yet")]
#[case("resources: [{resources: [secrets], providers: [{vault: {}}]}]", "providers are identity, secretbox, aescbc and aesgcm")]
#[case(
    "resources: [{resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: dG9wc2VjcmV0}]}}]}]",
    "a base64 secret of [16, 24, 32] bytes"
)]
fn bad_encryption_is_told_without_its_content(#[case] file: &str, #[case] expected: &str) {
    let problems = encrypted(file).unwrap_err();
    let text = problems[0].to_string();
    assert!(text.contains("key encryption.yaml of Secret keys") && text.contains(expected) && !text.contains("dG9w"), "{text}");
}

#[test]
fn images_come_from_where_the_spec_says() {
    let spec = json!({"images": {"registry": "registry.example.com/k8s", "overrides": {"etcd": "other.example/etcd:x", "coredns": "other.example/dns:y"}}});
    let images = cluster(&spec).images;
    assert_eq!(images.api_server, "registry.example.com/k8s/kube-apiserver:v1.37.2");
    assert_eq!((images.etcd.as_str(), images.coredns.as_str()), ("other.example/etcd:x", "other.example/dns:y"));
}
