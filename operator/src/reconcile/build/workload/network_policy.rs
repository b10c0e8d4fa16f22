//! Who reaches the tenant's pods: the tenant's own pods and its control plane, and no other pod of the host. What they may
//! reach is not restricted: a tenant's pods use the network as the host's do, and other tenants are closed by their own
//! policies. It holds on hosts whose network enforces `NetworkPolicies`.

use crate::reconcile::build::network_policy::{control_plane_pods, namespace};
use crate::reconcile::build::{metadata, names};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub fn network_policy(cluster: &ValidatedCluster) -> Option<NetworkPolicy> {
    let own = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let control_plane = NetworkPolicyPeer {
        namespace_selector: Some(namespace(&cluster.namespace)),
        pod_selector: Some(control_plane_pods(cluster)),
        ip_block: None,
    };
    cluster.network_policy.then(|| NetworkPolicy {
        metadata: metadata::in_workload_namespace(cluster, names::WORKLOAD),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule { from: Some(vec![own, control_plane]), ports: None }]),
            egress: None,
        }),
    })
}
