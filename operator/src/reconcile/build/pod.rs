//! What all control-plane pods share: hardening, placement, the hash of what their programs read at start, the rollout of
//! their Deployments, and how many may be evicted at once.

use crate::model::metadata::component;
use crate::model::{PlacementSettings, ValidatedCluster, metadata, names};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nestling_crds::labels;
use nestling_crds::names::hash65;
use nestling_crds::v1alpha1::{PodTemplate, Spread, Topology};
use std::collections::BTreeMap;

/// What a container is called in the pod's annotations, and the hash over what it reads at its start.
pub(super) type ConfigHashes<'a> = &'a [(&'a str, String)];

/// A pod of `part` with `inside` (containers, volumes, grace period) in the common frame.
pub(super) fn template(cluster: &ValidatedCluster, part: Part<'_>, hashes: ConfigHashes<'_>, inside: PodSpec) -> PodTemplateSpec {
    // Ours win.
    let PodTemplate { labels: mut all_labels, mut annotations } = cluster.pod_template.clone();
    all_labels.extend(metadata::pod_labels(cluster, part.component));
    let version = match part.component {
        component::CONTROL_PLANE | component::APISERVER => Some(cluster.version),
        component::CONTROLLERS => Some(cluster.controllers_version),
        // etcd has versions of its own.
        _ => None,
    };
    all_labels.extend(version.map(|version| (labels::VERSION.to_owned(), version.to_string())));
    annotations.extend(hashes.iter().map(|(name, hash)| (hash_annotation(name), hash.clone())));
    let pull_secrets: Vec<_> = cluster.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    let placed = place(cluster, part);
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(all_labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            security_context: Some(pod_security()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
            node_selector: placed.node_selector,
            tolerations: placed.tolerations,
            priority_class_name: placed.priority_class_name,
            affinity: placed.affinity,
            topology_spread_constraints: placed.topology_spread_constraints,
            ..inside
        }),
    }
}

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A workload, as far as its pods' places are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub component: &'static str,
    pub settings: &'a PlacementSettings,
    /// Label that tells one revision's pods from another's, where a new pod comes before the old one goes; without it the
    /// old pod would keep the new one from the only node that is left.
    pub revision_label: Option<&'static str>,
}

/// The placement half of a pod's spec.
fn place(cluster: &ValidatedCluster, part: Part<'_>) -> PodSpec {
    let settings = part.settings;
    PodSpec {
        node_selector: (!settings.node_selector.is_empty()).then(|| settings.node_selector.clone()),
        tolerations: (!settings.tolerations.is_empty()).then(|| settings.tolerations.clone()),
        priority_class_name: settings.priority_class.clone(),
        affinity: Some(Affinity {
            node_affinity: cluster.pinned_node.as_ref().map(|node| pinned(node.as_str())),
            pod_anti_affinity: anti_affinity(cluster, part),
            pod_affinity: None,
        })
        .filter(|affinity| affinity.node_affinity.is_some() || affinity.pod_anti_affinity.is_some()),
        topology_spread_constraints: zone_spread(cluster, part).map(|constraint| vec![constraint]),
        ..PodSpec::default()
    }
}

fn pinned(node: &str) -> NodeAffinity {
    // By the object's name: anybody who may label nodes could move a label.
    let by_name =
        NodeSelectorRequirement { key: "metadata.name".to_owned(), operator: "In".to_owned(), values: Some(vec![node.to_owned()]) };
    NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm { match_fields: Some(vec![by_name]), match_expressions: None }],
        }),
        preferred_during_scheduling_ignored_during_execution: None,
    }
}

/// Two replicas of one part on one node as the placement says. etcd apart from apiservers only as far as there is room: a host
/// of one node must carry topology `External` too.
fn anti_affinity(cluster: &ValidatedCluster, part: Part<'_>) -> Option<PodAntiAffinity> {
    if cluster.pinned_node.is_some() {
        return None;
    }
    let own = PodAffinityTerm { match_label_keys: revision(part), ..term(cluster, part.component) };
    let other = match part.component {
        component::ETCD => Some(component::APISERVER),
        component::APISERVER => Some(component::ETCD),
        _ => None,
    };
    let mut preferred: Vec<_> =
        other.map(|other| WeightedPodAffinityTerm { weight: 50, pod_affinity_term: term(cluster, other) }).into_iter().collect();
    let required = match part.settings.host_spread {
        Spread::Required => Some(vec![own]),
        Spread::Preferred => {
            preferred.push(WeightedPodAffinityTerm { weight: 100, pod_affinity_term: own });
            None
        }
    };
    Some(PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: required,
        preferred_during_scheduling_ignored_during_execution: (!preferred.is_empty()).then_some(preferred),
    })
}

fn term(cluster: &ValidatedCluster, component: &str) -> PodAffinityTerm {
    PodAffinityTerm {
        topology_key: HOST.to_owned(),
        label_selector: Some(metadata::label_selector(cluster, component)),
        ..PodAffinityTerm::default()
    }
}

fn zone_spread(cluster: &ValidatedCluster, part: Part<'_>) -> Option<TopologySpreadConstraint> {
    let when_unsatisfiable = match part.settings.zone_spread {
        Spread::Required => "DoNotSchedule",
        Spread::Preferred => "ScheduleAnyway",
    };
    cluster.pinned_node.is_none().then(|| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: ZONE.to_owned(),
        when_unsatisfiable: when_unsatisfiable.to_owned(),
        label_selector: Some(metadata::label_selector(cluster, part.component)),
        match_label_keys: revision(part),
        ..TopologySpreadConstraint::default()
    })
}

fn revision(part: Part<'_>) -> Option<Vec<String>> {
    part.revision_label.map(|label| vec![label.to_owned()])
}

const HASH_SCHEME: &str = "1";

/// Annotation of a pod template: what `component` reads at its start.
fn hash_annotation(component: &str) -> String {
    format!("nestling.dev/{component}-config")
}

/// Hash over some values of a Secret. A key that is missing differs from one that is empty.
pub(super) fn secret_hash(data: Option<&BTreeMap<String, ByteString>>, keys: &[&str]) -> String {
    hash_of(keys.iter().map(|key| (*key, data.and_then(|data| data.get(*key)).map(|value| String::from_utf8_lossy(&value.0).into_owned()))))
}

pub(super) fn hash_of<'a>(values: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut parts = vec![HASH_SCHEME.to_owned()];
    for (name, value) in values {
        parts.push(name.to_owned());
        parts.push(if value.is_some() { "present" } else { "missing" }.to_owned());
        parts.push(value.unwrap_or_default());
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    hash65(&parts)
}

/// Label by which a Deployment tells its revisions apart.
const REVISION_LABEL: &str = "pod-template-hash";

/// Older revisions that a Deployment keeps: the operator writes every revision itself; going back is a change of the
/// `VirtualCluster`.
const REVISION_HISTORY: i32 = 1;

/// A Deployment of `inside`. A new pod first, then one old pod goes.
pub(super) fn deployment(
    cluster: &ValidatedCluster,
    name: String,
    component: &'static str,
    hashes: ConfigHashes<'_>,
    inside: PodSpec,
) -> Deployment {
    let part = Part { component, settings: &cluster.placement, revision_label: Some(REVISION_LABEL) };
    let one_by_one = RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
    Deployment {
        metadata: metadata::owned(cluster, name),
        spec: DeploymentSpec {
            replicas: Some(cluster.running(cluster.replicas)),
            selector: metadata::label_selector(cluster, component),
            strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(one_by_one) }),
            revision_history_limit: Some(REVISION_HISTORY),
            template: template(cluster, part, hashes, inside),
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}

/// `PodDisruptionBudgets`, one for each component, named after its workload.
pub(super) fn disruption_budgets(cluster: &ValidatedCluster) -> Vec<PodDisruptionBudget> {
    let vc = cluster.name.as_str();
    let mut parts = vec![(names::controllers(vc), component::CONTROLLERS)];
    match cluster.topology {
        Topology::External => parts.extend([(names::etcd(vc), component::ETCD), (names::apiserver(vc), component::APISERVER)]),
        Topology::Stacked | Topology::SingleNode => parts.push((names::control_plane(vc), component::CONTROL_PLANE)),
    }
    parts.into_iter().map(|(name, component)| budget(cluster, name, component)).collect()
}

/// One pod at a time keeps the quorum of three and of five members. A single pod may be evicted: a budget that forbids it
/// would hold up every drain of its node for ever. A pod that is not ready protects nothing and never holds up a drain.
fn budget(cluster: &ValidatedCluster, name: String, component: &str) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata::owned(cluster, name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(metadata::label_selector(cluster, component)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// Pod Security Standard `restricted`. Everything runs as this user and group; Secrets and volumes belong to the group.
const USER: i64 = 65532;

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // Secrets and etcd's volume belong to this group.
        fs_group: Some(USER),
        // A volume whose root already fits is not walked through at every start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}
