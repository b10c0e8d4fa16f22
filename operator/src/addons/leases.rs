//! Leases that controllers of a hibernated cluster hold still. kube-controller-manager and the others do not give theirs up when
//! they end, and their successors would wait for the end of a lease that nobody renews: meanwhile endpoints of restarted pods are
//! stale.

use crate::apply::ApplyError;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use nestling_runtime::kube::{call, delete_exact};

const NAMESPACE: &str = "kube-system";
const HOLDERS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"];

/// Deletes the controllers' leases that were last renewed before the cluster woke, when no controller of today ran yet.
pub(super) async fn release(client: &Client, resumed_at: Timestamp) -> Result<(), ApplyError> {
    let api: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    try_join_all(HOLDERS.map(|name| release_one(&api, name, resumed_at))).await.map(drop)
}

async fn release_one(api: &Api<Lease>, name: &str, resumed_at: Timestamp) -> Result<(), ApplyError> {
    let object = || format!("Lease {name}");
    let live = call(api.get_opt(name)).await.map_err(|source| ApplyError::Read { object: object(), source })?;
    let is_left_over = |lease: &Lease| lease.spec.as_ref()?.renew_time.as_ref().map(|renewed| renewed.0 < resumed_at);
    let Some(lease) = live.filter(|lease| is_left_over(lease) == Some(true)) else { return Ok(()) };
    delete_exact(api, &lease.metadata, None).await.map(drop).map_err(|source| ApplyError::Delete { object: object(), source })
}
