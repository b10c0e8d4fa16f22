//! The StatefulSet that holds etcd: `<vc>-control-plane` with an apiserver in each pod, or `<vc>-etcd` alone.

use crate::model::metadata::component;
use crate::model::names::PINNED_NODE;
use crate::model::{Membership, Storage, ValidatedCluster, metadata, names};
use crate::pki::PkiSecrets;
use crate::reconcile::build::pod::{Part, template};
use crate::reconcile::build::{apiserver, etcd};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec, Secret, Volume,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::names::hash65;
use nestling_crds::v1alpha1::Topology;
use serde_json::json;
use std::collections::BTreeMap;

/// etcd alone: its last words are a snapshot of the raft log, no clients to drain.
const ETCD_GRACE_SECONDS: i64 = 30;

pub(super) fn members(cluster: &ValidatedCluster, pki: &PkiSecrets, apiserver_files: &Secret) -> StatefulSet {
    let name = names::members_set(&cluster.name, cluster.topology);
    let component = match cluster.topology {
        Topology::External => component::ETCD,
        Topology::Stacked | Topology::SingleNode => component::CONTROL_PLANE,
    };
    let template = template_hash(cluster, pki, apiserver_files);
    let mut pod = pod(cluster, pki, apiserver_files);
    let annotations = pod.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(names::TEMPLATE.to_owned(), template.clone());
    if !cluster.membership.formed {
        let all: Vec<String> = (0..cluster.membership.slots).map(|ordinal| names::member(&name, ordinal)).collect();
        let list = names::initial_cluster(&cluster.namespace, &all);
        annotations.insert(names::INITIAL_CLUSTER.to_owned(), list);
        annotations.extend(candidate());
    }
    let mut annotations = metadata::strings([
        (names::FORMED, if cluster.membership.formed { "true" } else { "false" }),
        (names::SLOTS, &cluster.membership.slots.to_string()),
        (names::TEMPLATE, &template),
    ]);
    annotations.extend(cluster.pinned_node.as_ref().map(|node| (PINNED_NODE.to_owned(), node.to_string())));
    StatefulSet {
        metadata: ObjectMeta { annotations: Some(annotations), ..metadata::owned(cluster, name) },
        spec: StatefulSetSpec {
            replicas: Some(cluster.running(cluster.membership.slots)),
            selector: metadata::label_selector(cluster, component),
            // Members find each other; none may wait for another's readiness.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator knows which pod can go next ([`crate::etcd::plan`]).
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None }),
            // Who owns a claim is said by the claim ([`claims`]). Never by scaling: a member's volume goes when the member has left
            // etcd, and not before.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            volume_claim_templates: claim_spec(cluster).map(|spec| {
                let metadata = ObjectMeta { name: Some(names::DATA_VOLUME.to_owned()), ..ObjectMeta::default() };
                vec![PersistentVolumeClaim { metadata, spec: Some(spec), status: None }]
            }),
            template: pod,
            ..StatefulSetSpec::default()
        },
        ..StatefulSet::default()
    }
}

/// Tells templates apart whose pods differ. What depends on how many members and replicas there are does not count: it is in force
/// from the next start of a pod on, and scaling restarts nobody.
fn template_hash(cluster: &ValidatedCluster, pki: &PkiSecrets, apiserver_files: &Secret) -> String {
    let alone = Membership { slots: 1, formed: true };
    let alone = ValidatedCluster { members: 1, replicas: 1, membership: alone, ..cluster.clone() };
    hash65(&[&json!(pod(&alone, pki, apiserver_files)).to_string()])
}

fn pod(cluster: &ValidatedCluster, pki: &PkiSecrets, apiserver_files: &Secret) -> PodTemplateSpec {
    match cluster.topology {
        Topology::External => etcd_pod(cluster, pki),
        Topology::Stacked | Topology::SingleNode => control_plane_pod(cluster, pki, apiserver_files),
    }
}

fn control_plane_pod(cluster: &ValidatedCluster, pki: &PkiSecrets, apiserver_files: &Secret) -> PodTemplateSpec {
    let mut volumes = etcd::volumes(cluster);
    volumes.extend(apiserver::volumes(cluster));
    volumes.extend(memory(cluster));
    // A native sidecar: starts before the apiserver and ends after it.
    let etcd = Container { restart_policy: Some("Always".to_owned()), ..etcd::container(cluster) };
    let part = Part { component: component::CONTROL_PLANE, settings: &cluster.placement, revision_label: None };
    let hashes = [(etcd::NAME, etcd::start_hash(pki)), (apiserver::NAME, apiserver::start_hash(pki, apiserver_files))];
    let inside = PodSpec {
        init_containers: Some(vec![etcd]),
        containers: vec![apiserver::container(cluster)],
        volumes: Some(volumes),
        termination_grace_period_seconds: Some(apiserver::grace_period(cluster)),
        ..PodSpec::default()
    };
    template(cluster, part, &hashes, inside)
}

fn etcd_pod(cluster: &ValidatedCluster, pki: &PkiSecrets) -> PodTemplateSpec {
    let mut volumes = etcd::volumes(cluster);
    volumes.extend(memory(cluster));
    let part = Part { component: component::ETCD, settings: &cluster.etcd.placement, revision_label: None };
    let inside = PodSpec {
        containers: vec![etcd::container(cluster)],
        volumes: Some(volumes),
        termination_grace_period_seconds: Some(ETCD_GRACE_SECONDS),
        ..PodSpec::default()
    };
    template(cluster, part, &[(etcd::NAME, etcd::start_hash(pki))], inside)
}

fn memory(cluster: &ValidatedCluster) -> Option<Volume> {
    let Storage::Memory { bytes } = &cluster.etcd.storage else { return None };
    Some(Volume {
        name: names::DATA_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity(format!("{}Mi", bytes.div_ceil(1 << 20)))),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    })
}

/// The claims that the StatefulSet finds under the names that it would give them.
pub(super) fn claims(cluster: &ValidatedCluster) -> Vec<PersistentVolumeClaim> {
    let Some(spec) = claim_spec(cluster) else { return Vec::new() };
    let set = names::members_set(&cluster.name, cluster.topology);
    let annotations = (!cluster.membership.formed).then(candidate);
    let claim = |ordinal| PersistentVolumeClaim {
        metadata: ObjectMeta { annotations: annotations.clone(), ..metadata::kept_with_data(cluster, names::claim(&set, ordinal)) },
        spec: Some(spec.clone()),
        status: None,
    };
    (0..cluster.membership.slots).map(claim).collect()
}

/// Noted at what is made while etcd forms: a member may begin there.
fn candidate() -> BTreeMap<String, String> {
    metadata::strings([(names::MEMBER, names::CANDIDATE)])
}

fn claim_spec(cluster: &ValidatedCluster) -> Option<PersistentVolumeClaimSpec> {
    let Storage::Volume { size, class } = &cluster.etcd.storage else { return None };
    Some(PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: class.clone(),
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), size.clone())])),
            limits: None,
        }),
        ..PersistentVolumeClaimSpec::default()
    })
}
