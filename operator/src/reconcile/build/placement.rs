//! Where control-plane pods go: spread over host nodes always, over zones as asked, pinned with topology `SingleNode`.

use super::metadata;
use super::metadata::component;
use crate::reconcile::validate::{PlacementSettings, ValidatedCluster};
use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodAntiAffinity, PodSpec,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use nestling_crds::v1alpha1::ZoneSpread;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A workload, as far as its pods' places are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub component: &'static str,
    pub settings: &'a PlacementSettings,
    /// Label that tells one revision's pods from another's, where a new pod comes before the old one goes; without it the
    /// old pod would keep the new one from the only node that is left.
    pub revision_label: Option<&'static str>,
}

/// The placement half of a pod's spec.
pub fn place(cluster: &ValidatedCluster, part: Part<'_>) -> PodSpec {
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

/// Never two replicas of one part on one node. etcd apart from apiservers only as far as there is room: a host of one node
/// must carry topology `External` too.
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
    Some(PodAntiAffinity {
        required_during_scheduling_ignored_during_execution: Some(vec![own]),
        preferred_during_scheduling_ignored_during_execution: other
            .map(|other| vec![WeightedPodAffinityTerm { weight: 100, pod_affinity_term: term(cluster, other) }]),
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
        ZoneSpread::Off => return None,
        ZoneSpread::Required => "DoNotSchedule",
        ZoneSpread::Preferred => "ScheduleAnyway",
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
