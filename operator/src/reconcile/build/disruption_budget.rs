//! `PodDisruptionBudgets`, one for each component, named after its workload.

use crate::model::metadata::component;
use crate::model::{ValidatedCluster, metadata, names};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nestling_crds::v1alpha1::Topology;

pub fn disruption_budgets(cluster: &ValidatedCluster) -> Vec<PodDisruptionBudget> {
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
