//! Clusters for tests: a spec as a user writes it, and a host of three nodes.

use super::{Invalid, validate};
use crate::config::OperatorConfig;
use crate::model::{HostNode, Membership, ValidatedCluster};
use crate::pki::installation;
use crate::reconcile::dereference::{Dereferenced, Running};
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::v1alpha1::VirtualCluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const UID: &str = "6c9f9a0e-5a43-4c1c-9a53-0f6f3a9f7e11";

pub(crate) fn now() -> Timestamp {
    "2026-11-23T07:00:00Z".parse().unwrap()
}

pub(crate) fn vc(spec: &Value) -> VirtualCluster {
    let object = json!({
        "apiVersion": "nestling.dev/v1alpha1",
        "kind": "VirtualCluster",
        "metadata": {"name": "dev", "namespace": "team-a", "uid": UID},
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

pub(crate) fn config() -> OperatorConfig {
    OperatorConfig::parse_from(["nestling-operator", "--identity=test"])
}

pub(crate) fn reads() -> Dereferenced {
    let nodes = [("node-1", "ssd"), ("node-2", "ssd"), ("node-3", "hdd")];
    Dereferenced {
        host_ranges: ["10.96.0.0/16", "10.244.1.0/24", "172.30.0.1/32"].map(|range| range.parse().unwrap()).to_vec(),
        taken: Vec::new(),
        host_nodes: nodes
            .map(|(name, disk)| HostNode { labels: BTreeMap::from([("disk".into(), disk.into())]), ..HostNode::named(name) })
            .to_vec(),
        membership: Membership { slots: 1, formed: false },
        pinned_node: None,
        adopted_range: None,
        secrets: BTreeMap::new(),
        encryption: None,
        running: Running::default(),
        may_change_version: true,
        installation: Arc::new(installation::generate(now(), SignedDuration::from_hours(87600)).unwrap()),
    }
}

pub(crate) fn check(spec: &Value) -> Result<ValidatedCluster, Vec<Invalid>> {
    validate(&vc(spec), &reads(), &config())
}

/// With a Secret of encryption keys, should the spec name one.
pub(crate) fn cluster(spec: &Value) -> ValidatedCluster {
    let file = "resources: [{resources: [secrets], providers: [{identity: {}}]}]";
    let data = BTreeMap::from([("encryption.yaml".to_owned(), ByteString(file.as_bytes().to_vec()))]);
    let vc = vc(spec);
    let membership = Membership { slots: vc.spec.etcd_members(), formed: false };
    let reads = Dereferenced { encryption: Some(Secret { data: Some(data), ..Secret::default() }), membership, ..reads() };
    validate(&vc, &reads, &config()).unwrap()
}
