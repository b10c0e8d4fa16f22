//! The tenant's Node object for this host node: registered as a kubelet registers itself, kept like the host's own Node,
//! and kept alive by a lease.
//!
//! `host` watches the host's Node once for all tenants. For each tenant, [`run`] watches the tenant's Node; whenever one
//! of the two changes, `desired` (pure, with `capacity` and `conditions`) says what the tenant should see and `patch`
//! (pure) what must be written for that, which at rest is nothing but a heartbeat every five minutes. `lease` renews.
//!
//! What the tenant sees is the host node's own: versions, system facts, runtime features, conditions. Allocatable is the
//! host's, cut to the tenant's share where it has one: the agent has no right to see what other tenants and the host run,
//! so it cannot subtract that. Where the host has no room left, the host pod waits for it in the host's scheduler.

mod capacity;
mod conditions;
mod desired;
mod host;
mod lease;
mod patch;
mod quantity;
mod register;

pub use host::HostNode;

use crate::tenant::Tenant;
use register::Keeper;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Calls to the tenant's API that take longer are given up.
const CALL: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("cannot {what}")]
    Api {
        what: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("cannot {what}: no answer within {CALL:?}")]
    Timeout { what: &'static str },
    #[error("cannot write the change of the Node")]
    Patch(#[source] serde_json::Error),
}

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

/// A call to the tenant's API with its time limit; `what` completes "cannot …".
async fn call<T>(what: &'static str, future: impl Future<Output = Result<T, kube::Error>>) -> Result<T, NodeError> {
    match tokio::time::timeout(CALL, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(NodeError::Api { what, source }),
        Err(_) => Err(NodeError::Timeout { what }),
    }
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod register_tests;
