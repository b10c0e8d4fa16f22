//! What agents may do in the workload namespace. The role is the chart's; it is bound nowhere else.

use crate::reconcile::build::{metadata, names};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

pub fn role_binding(cluster: &ValidatedCluster) -> RoleBinding {
    RoleBinding {
        metadata: metadata::in_workload_namespace(cluster, names::AGENT),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: names::AGENT_ROLE.to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::AGENT.to_owned(),
            namespace: Some(cluster.system_namespace.clone()),
            ..Subject::default()
        }]),
    }
}
