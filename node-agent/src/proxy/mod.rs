//! Every tenant's kube-proxy on one node.
//!
//! ```text
//! crate::services ─▶ services::run, one per tenant (with EndpointSlices, ServiceCIDRs, this node's zone)
//!    └─ endpoints ─ table::ServiceTable ────────────────▶ Proxy::set_services ┐
//! addresses of the tenant's pods, by their status ───────▶ Proxy::set_sources ┤
//! sandboxes::run: the same, earlier ─────────────────────────▶ Proxy::announce ┤
//!                                                                             ▼
//!                               desired::Desired ─ table::NodeTable ─▶ sync::Writer, one per node
//!                                    nft::plan ─ transaction ─▶ nft::Netfilter, then conntrack
//! ```
//! Everything between the API objects and the nft text is a function from data to data; see `nft` for the table in the
//! kernel.
//!
//! Connections are assigned to a tenant by their source address, so a pod has rules as soon as its address is known. Until
//! its tenant's Services are known, the tenant's Service ranges are closed to it: it must never reach a *host* Service of
//! the same address. What a former agent process left stays in force, tenant by tenant, until the tenant is known again.
//!
//! Hazard: a pod that can forge its source address (`NET_RAW`) can send packets by another tenant's rules; answers go to the
//! address's owner. CNI plugins that check sources, or `rp_filter`, prevent it.
//!
//! Not served: tenant pods on the host's network (they have the node's own address), and Service types other than
//! `ClusterIP` beyond the `ClusterIP` that they have too.

mod bridges;
mod conntrack;
mod desired;
pub mod endpoints;
mod locks;
mod metrics;
mod nft;
pub(crate) mod sandboxes;
pub mod services;
mod shared;
mod sources;
mod sync;
pub mod table;

#[cfg(test)]
pub(crate) use nft::FakeNetfilter;

use bridges::BridgeProbe;
use conntrack::Conntrack;
use desired::Desired;
use ipnet::IpNet;
use metrics::ProxyMetrics;
use nestling_crds::names::TenantUid;
use nestling_runtime::metrics::Metrics;
use nestling_runtime::readiness::Pending;
use nft::Netfilter;
use shared::Shared;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use sync::Writer;
use table::ServiceTable;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The seams to the node.
pub struct ProxyConfig {
    netfilter: Arc<dyn Netfilter>,
    conntrack: Arc<dyn Conntrack>,
    bridges: BridgeProbe,
    metrics: Metrics,
    /// Dropped when the packet filter has answered for the first time.
    ready: Option<Pending>,
}

impl ProxyConfig {
    /// The kernel of the network namespace that the process is in. Needs `CAP_NET_ADMIN` and `nft`.
    pub fn kernel(metrics: Metrics, ready: Option<Pending>) -> Self {
        Self {
            netfilter: Arc::new(nft::Nft::default()),
            conntrack: Arc::new(conntrack::Netlink),
            bridges: BridgeProbe::default(),
            metrics,
            ready,
        }
    }
}

/// The node's proxy. Clones are the same proxy.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared<Desired>>,
    tasks: TaskTracker,
}

impl Proxy {
    /// Starts the writer of the tables. The rules stay when it ends with `shutdown`.
    pub fn start(config: ProxyConfig, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared::default());
        let metrics = ProxyMetrics::register(&config.metrics);
        let writer = Writer::new(Arc::clone(&shared), &config.netfilter, config.conntrack, config.bridges, metrics);
        let tasks = TaskTracker::new();
        tasks.spawn(writer.run(config.ready, shutdown).instrument(tracing::info_span!("proxy")));
        tasks.close();
        Self { shared, tasks }
    }

    /// Over a packet filter in memory, until the test ends.
    #[cfg(test)]
    pub(crate) fn fake(netfilter: &Arc<FakeNetfilter>) -> Self {
        let config = ProxyConfig {
            netfilter: Arc::clone(netfilter) as Arc<dyn Netfilter>,
            conntrack: Arc::new(conntrack::Untouched),
            bridges: BridgeProbe { proc: "/nonexistent".into(), sys: "/nonexistent".into() },
            metrics: Metrics::default(),
            ready: None,
        };
        Self::start(config, CancellationToken::new())
    }

    /// The tenant is served here; until [`Proxy::set_services`] its Service ranges are closed, unless its rules are known
    /// already or inherited from a former process.
    pub fn expect(&self, tenant: &TenantUid, ranges: &[IpNet]) {
        self.shared.update(true, |desired| desired.expect(tenant, ranges));
    }

    pub fn set_services(&self, tenant: &TenantUid, table: &Arc<ServiceTable>) {
        self.shared.update(false, |desired| desired.set_table(tenant, table));
    }

    /// The addresses of the tenant's pods on this node, all of them: without pods on the host's network and without pods
    /// that have ended (their addresses are given to others). To be called only when all are known, for connections of
    /// an address that is left out are cut.
    pub fn set_sources(&self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) {
        self.shared.update(true, |desired| desired.set_sources(tenant, addresses));
    }

    /// A sandbox of the tenant has come up with these addresses. They count until [`Proxy::set_sources`] has them, or for
    /// a minute; for a tenant that is not expected yet, from when it is.
    pub(crate) fn announce(&self, sandbox: &str, tenant: &TenantUid, addresses: BTreeSet<IpAddr>) {
        self.shared.update(true, |desired| desired.announce(sandbox, tenant, addresses));
    }

    /// The sandbox has ended. Addresses that [`Proxy::set_sources`] has named stay until it leaves them out.
    pub(crate) fn retract(&self, sandbox: &str) {
        self.shared.update(false, |desired| desired.retract(sandbox));
    }

    /// The tenant is not served any more, and its pods are gone.
    pub(crate) fn remove(&self, tenant: &TenantUid) {
        self.shared.update(false, |desired| {
            desired.remove(tenant);
            true
        });
    }

    /// These are all the tenants of the node. Rules of others, left by a former process, are removed.
    pub fn keep_only(&self, tenants: BTreeSet<TenantUid>) {
        self.shared.update(false, |desired| {
            desired.keep_only(tenants);
            true
        });
    }

    /// Waits until every change so far is in the kernel; for ever once the writer has ended.
    pub async fn settled(&self) {
        self.shared.settled().await;
    }

    /// Waits for the writer to end, after `shutdown`.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}
