//! The namespace itself. Cluster-scoped, so nothing in a namespace can own it: the finalizer of the `VirtualCluster` removes it.

use crate::reconcile::build::metadata::{self, CLUSTER_NAMESPACE};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::labels;
use nestling_crds::v1alpha1::PodSecurity;

/// Label read by the `PodSecurity` admission of the host.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub fn namespace(cluster: &ValidatedCluster) -> Namespace {
    let level = match cluster.pod_security {
        PodSecurity::Privileged => "privileged",
        PodSecurity::Baseline => "baseline",
        PodSecurity::Restricted => "restricted",
    };
    let mut labels = metadata::labels(cluster);
    labels.extend(metadata::strings([
        (ENFORCE, level),
        (CLUSTER_NAMESPACE, cluster.namespace.as_str()),
        (labels::COMPONENT, metadata::component::WORKLOAD),
    ]));
    Namespace {
        metadata: ObjectMeta { name: Some(cluster.workload_namespace.to_string()), labels: Some(labels), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}
