//! The pod half of a kubelet, for one tenant on one node.
//!
//! Two watches (`watch`) fill the stores of tenant pods and of the host pods that realize them, and put the pod of each
//! event into a `queue`. A few workers (`reconcile`) take pods from it, one at a time per pod: `plan` decides from both
//! sides' view what the next step is, and `realize` (make the host pod), `mirror` (status back, changes over) or
//! `remove` (the deletion handshake) takes it. The decisions themselves are pure: `translate` (tenant pod → host pod),
//! `updates` (changes of a running pod), `status` (host pod → tenant status), `rewrite` (host names in texts). `record`
//! remembers what the stores cannot tell, `events` reports to the tenant, `services` knows what containers' environments
//! show.
//!
//! Nothing is polled: a pod that neither side changes costs nothing. What is known is rebuilt from both APIs at start, and
//! nothing is removed before both have been read.

pub mod backoff;
mod error;
mod events;
pub mod key;
mod mirror;
pub mod ownership;
mod plan;
pub mod queue;
mod realize;
mod reconcile;
mod record;
mod remove;
mod rewrite;
mod services;
mod status;
mod translate;
mod updates;
mod watch;

#[cfg(test)]
pub mod fixtures;
#[cfg(test)]
mod handshake_tests;

pub use error::{PodsError, report};

use crate::tenant::{StoreWriters, Tenant};
use crate::volumes::copies::Copies;
use crate::volumes::inventory;
use backoff::RetryBackoff;
use events::{Events, Mirror};
use key::PodKey;
use queue::Queue;
use reconcile::Reconciler;
use record::Records;
use services::Services;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use watch::Watches;

/// Runs the pods of one tenant on this node until `shutdown`. API failures are retried for ever; pods keep running when
/// this ends. `on_addresses` is called with the addresses of all pods of the tenant on this node whenever they have changed:
/// traffic from them is the tenant's. It is called from a watch, so it must not block.
pub async fn run(
    tenant: Arc<Tenant>,
    writers: StoreWriters,
    on_addresses: impl Fn(&BTreeSet<IpAddr>) + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> Result<(), PodsError> {
    let span = tracing::info_span!("pods", tenant = %tenant.spec.uid, cluster = %format!("{}/{}", tenant.spec.namespace, tenant.spec.name));
    run_all(tenant, writers, Box::new(on_addresses), shutdown).instrument(span).await
}

async fn run_all(
    tenant: Arc<Tenant>,
    writers: StoreWriters,
    on_addresses: Box<dyn Fn(&BTreeSet<IpAddr>) + Send + Sync>,
    shutdown: CancellationToken,
) -> Result<(), PodsError> {
    // A failure on the way ends everything that was started.
    let shutdown = shutdown.child_token();
    let _end_all = shutdown.clone().drop_guard();
    let tasks = TaskTracker::new();
    let queue = Arc::new(Queue::<PodKey>::new());
    let records = Arc::new(Records::default());
    let services = Arc::new(Services::new());
    let events = Arc::new(Events::start(&tenant.kubelet, &tenant.node, &tasks, &shutdown));
    let copies = Copies::new(tenant.clone(), queue.clone(), shutdown.clone());

    let watches = Arc::new(Watches { tenant: tenant.clone(), queue: queue.clone(), records: records.clone(), on_addresses });
    let StoreWriters { tenant: tenant_writer, host: host_writer } = writers;
    let (watch, stop) = (watches.clone(), shutdown.clone());
    tasks.spawn(async move { watch.tenant_pods(tenant_writer, stop).await }.in_current_span());
    let stop = shutdown.clone();
    tasks.spawn(async move { watches.host_pods(host_writer, stop).await }.in_current_span());
    let (list, client, stop) = (services.clone(), tenant.kubelet.clone(), shutdown.clone());
    tasks.spawn(async move { list.run(client, stop).await }.in_current_span());
    let mirror = Mirror { tenant: tenant.clone(), records: records.clone(), events: events.clone() };
    let stop = shutdown.clone();

    let work = async {
        let inventory = {
            let mut backoff = RetryBackoff::write();
            loop {
                match inventory::take(&tenant).await {
                    Ok(inventory) => break inventory,
                    Err(error) => {
                        tracing::warn!(%error, "cannot list host objects yet");
                        tokio::time::sleep(backoff.delay()).await;
                    }
                }
            }
        };
        tenant.stores.tenant.wait_until_ready().await.map_err(|_| PodsError::StoresGone)?;
        tenant.stores.host.wait_until_ready().await.map_err(|_| PodsError::StoresGone)?;
        services.synced().await;
        tasks.spawn(async move { mirror.run(stop).await }.in_current_span());
        let reconciler = Arc::new(Reconciler { tenant, queue, records, services, copies: copies.clone(), events, left: inventory });
        reconciler.adopt().await;
        reconcile::run(reconciler, shutdown.clone()).await;
        Ok(())
    };
    let outcome = shutdown.run_until_cancelled(work).await.unwrap_or(Ok(()));
    shutdown.cancel();
    copies.stopped().await;
    tasks.close();
    tasks.wait().await;
    outcome
}
