//! The tenant's Node object for this host node: registered as a kubelet registers itself, kept like the host's own Node,
//! and kept alive by a lease.
//!
//! `host` watches the host's Node once for all tenants. For each tenant, [`run`] watches the tenant's Node; whenever one
//! of the two changes, `register` writes what differs from what `status` (pure) computes, which at rest is nothing but a
//! heartbeat every five minutes. `lease` renews the node's lease.
//!
//! What the tenant sees is the host node's own: versions, system facts, runtime features, conditions. Allocatable is the
//! host's, cut to the tenant's share where it has one: the agent has no right to see what other tenants and the host run,
//! so it cannot subtract that. Where the host has no room left, the host pod waits for it in the host's scheduler.

mod host;
mod lease;
mod register;
mod status;

pub use host::HostNode;

use crate::tenant::Tenant;
use register::Keeper;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Keeps the tenant's Node until `shutdown`; failures are retried inside, and the first success of each part is logged.
pub async fn run(tenant: Arc<Tenant>, host: HostNode, shutdown: CancellationToken) {
    let (uid, known_uid) = watch::channel(None);
    let keeper = Keeper::new(tenant.clone(), host, uid);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keeper.run() => {}
        () = lease::run(tenant.kubelet.clone(), tenant.node.clone(), known_uid) => {}
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod register_tests;
