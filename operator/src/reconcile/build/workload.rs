//! The workload namespace, in which agents create the tenant's pods, and what restricts them there.
//!
//! It contains no Secret of the control plane, so agents, which can create pods in it, cannot mount the key of a CA.

use crate::model::metadata::CLUSTER_NAMESPACE;
use crate::model::{ValidatedCluster, metadata, names};
use crate::reconcile::build::network_policy::{by_name, control_plane_pods};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ResourceQuotaSpec};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use nestling_crds::labels;
use nestling_crds::v1alpha1::PodSecurity;

/// Label read by the `PodSecurity` admission of the host.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub(super) fn namespace(cluster: &ValidatedCluster) -> Namespace {
    let level = match cluster.pod_security {
        PodSecurity::Privileged => "privileged",
        PodSecurity::Baseline => "baseline",
        PodSecurity::Restricted => "restricted",
    };
    let mut all = metadata::labels(cluster);
    all.extend(metadata::strings([
        (ENFORCE, level),
        (CLUSTER_NAMESPACE, cluster.namespace.as_str()),
        (labels::COMPONENT, metadata::component::WORKLOAD),
    ]));
    Namespace {
        metadata: ObjectMeta {
            name: Some(cluster.workload_namespace.to_string()),
            labels: Some(all),
            annotations: Some(metadata::strings([(labels::OWNER_UID, cluster.uid.as_str())])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// Rights of the node agents.
pub(super) fn role_binding(cluster: &ValidatedCluster) -> RoleBinding {
    bind(
        metadata::in_workload_namespace(cluster, names::AGENT),
        ("ClusterRole", names::AGENT_ROLE),
        names::AGENT,
        &cluster.system_namespace,
    )
}

/// Rights of the operator itself.
pub(super) fn operator_binding(cluster: &ValidatedCluster) -> RoleBinding {
    let metadata = metadata::in_workload_namespace(cluster, names::OPERATOR);
    bind(metadata, ("ClusterRole", names::OPERATOR_WORKLOAD_ROLE), labels::OPERATOR, &cluster.system_namespace)
}

/// Binds a role, by kind and name, to a service account of the chart.
pub(crate) fn bind(metadata: ObjectMeta, (kind, role): (&str, &str), account: &str, system_namespace: &str) -> RoleBinding {
    RoleBinding {
        metadata,
        role_ref: RoleRef { api_group: Some("rbac.authorization.k8s.io".to_owned()), kind: kind.to_owned(), name: role.to_owned() },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: account.to_owned(),
            namespace: Some(system_namespace.to_owned()),
            ..Subject::default()
        }]),
    }
}

pub(super) fn network_policy(cluster: &ValidatedCluster) -> Option<NetworkPolicy> {
    let own = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() };
    let control_plane = NetworkPolicyPeer {
        namespace_selector: Some(by_name(&cluster.namespace)),
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

pub(super) fn quota(cluster: &ValidatedCluster) -> Option<ResourceQuota> {
    (!cluster.quota.is_empty()).then(|| ResourceQuota {
        metadata: metadata::in_workload_namespace(cluster, names::WORKLOAD),
        spec: Some(ResourceQuotaSpec { hard: Some(cluster.quota.clone()), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    })
}
