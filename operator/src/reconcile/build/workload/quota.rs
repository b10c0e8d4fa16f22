//! How much of the host the tenant's pods may take.

use crate::reconcile::build::{metadata, names};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec};

pub fn quota(cluster: &ValidatedCluster) -> Option<ResourceQuota> {
    (!cluster.quota.is_empty()).then(|| ResourceQuota {
        metadata: metadata::in_workload_namespace(cluster, names::WORKLOAD),
        spec: Some(ResourceQuotaSpec { hard: Some(cluster.quota.clone()), ..ResourceQuotaSpec::default() }),
        ..ResourceQuota::default()
    })
}
