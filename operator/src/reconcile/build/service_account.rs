//! `ServiceAccount` `<vc>-cloud-controller`. It has no right on the host: its token, for the audience of the control API
//! alone, says for which tenant a cloud controller manager speaks.

use super::{metadata, names};
use crate::reconcile::validate::ValidatedCluster;
use k8s_openapi::api::core::v1::ServiceAccount;

pub fn service_account(cluster: &ValidatedCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::owned(cluster, names::cloud_controller(&cluster.name)),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
