//! The pod half of a kubelet, for one tenant on one node. Imports `tenant` and `services` of the agent.
//!
//! Two watches (`watch`) fill the stores of tenant pods and of the host pods made for them, and put the pod of each event
//! into a queue. A few workers (`sync`) take pods from it, one at a time per pod: `plan` decides from both sides' view what
//! the next step is, and it is taken by `start` (what the pod mounts, then the host pod), `follow` (changes to the host pod,
//! status back) or `stop` (the deletion handshake). What these steps share is in `kubelet`: reading pods, holding what they
//! need, events, status writes.
//!
//! The decisions are pure: `translate` (tenant pod → host pod and what it needs beside), `plan`, `status` with `conditions`
//! (host status → tenant status), and the comparison in `follow`. `volumes` keeps on the host what pods mount, `record`
//! remembers what the stores cannot hold, `events` forwards the host's events and emits the agent's own, `names` has the
//! names and marks of host objects.
//!
//! Nothing is polled: a pod that neither side changes costs nothing. What is known is rebuilt from both APIs at start, and
//! nothing is deleted before both have been read.
//!
//! Order: names ← error ← volumes ← translate ← conditions ← status ← plan ← record ← watch ← events ← kubelet ← start ←
//! follow ← stop ← sync

mod conditions;
mod error;
mod events;
mod follow;
mod kubelet;
mod names;
mod plan;
mod record;
mod start;
mod status;
mod stop;
mod sync;
mod translate;
mod volumes;
mod watch;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod life_tests;

use crate::services::Services;
use crate::tenant::{StoreWriters, Tenant};
use error::PodsError;
use events::Events;
use kubelet::Kubelet;
use names::PodKey;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use nestling_runtime::queue::Queue;
use record::Records;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use volumes::copies::Copies;
use volumes::leftovers::{self, Leftovers};
use watch::Watches;

/// Runs the pods of one tenant on this node until `shutdown`. API failures are retried for ever; pods keep running when
/// this ends. `services` is followed by the caller. `on_addresses` is called with the addresses of all pods of the tenant on
/// this node whenever they have changed: traffic from them is the tenant's. It is called from a watch, so it must not block.
pub(crate) async fn run(
    tenant: Arc<Tenant>,
    writers: StoreWriters,
    services: Arc<Services>,
    on_addresses: impl Fn(&BTreeSet<IpAddr>) + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> Result<(), PodsError> {
    // A failure on the way ends everything that was started.
    let shutdown = shutdown.child_token();
    let _end_all = shutdown.clone().drop_guard();
    let tasks = TaskTracker::new();
    let queue = Arc::new(Queue::<PodKey>::new());
    let records = Arc::new(Records::default());
    let events = Arc::new(Events::start(&tenant.kubelet, &tenant.node, &tasks, &shutdown));
    let copies = Copies::new(tenant.clone(), queue.clone(), shutdown.clone());

    let on_addresses = Box::new(on_addresses);
    let watches = Arc::new(Watches { tenant: tenant.clone(), queue: queue.clone(), records: records.clone(), on_addresses });
    let (watch, stop) = (watches.clone(), shutdown.clone());
    tasks.spawn(async move { watch.tenant_pods(writers.tenant, stop).await }.in_current_span());
    let stop = shutdown.clone();
    tasks.spawn(async move { watches.host_pods(writers.host, stop).await }.in_current_span());

    let work = async {
        let leftovers = list_leftovers(&tenant).await;
        tenant.stores.tenant.wait_until_ready().await.map_err(|_| PodsError::StoresDropped)?;
        tenant.stores.host.wait_until_ready().await.map_err(|_| PodsError::StoresDropped)?;
        services.synced().await;
        let kubelet = Arc::new(Kubelet { tenant, queue, records, services, copies: copies.clone(), events, leftovers });
        let (forwarder, stop) = (kubelet.clone(), shutdown.clone());
        tasks.spawn(async move { forwarder.events.forward(&forwarder.tenant, &forwarder.records, stop).await }.in_current_span());
        sync::adopt(&kubelet).await;
        sync::run(kubelet, sync::WORKERS, shutdown.clone()).await;
        Ok(())
    };
    let outcome = shutdown.run_until_cancelled(work).await.unwrap_or(Ok(()));
    shutdown.cancel();
    copies.stopped().await;
    tasks.close();
    tasks.wait().await;
    outcome
}

async fn list_leftovers(tenant: &Tenant) -> Leftovers {
    let mut backoff = Backoff::write();
    loop {
        match leftovers::list(tenant).await {
            Ok(leftovers) => return leftovers,
            Err(error) => {
                let delay = backoff.failed();
                tracing::warn!(error = %chain(&error), ?delay, "no pods are synced yet: host objects not listed, retrying");
                tokio::time::sleep(delay).await;
            }
        }
    }
}
