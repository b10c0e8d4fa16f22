//! Every tenant's kube-proxy on one node.
//!
//! ```text
//! tenant::run, one per tenant: Services, EndpointSlices, ServiceCIDRs, this node's zone
//!    └─ model::Catalogue ─ ServiceTable ─▶ Proxy::set_services ┐
//! pods::run: addresses of the tenant's pods ─▶ Proxy::set_sources ┤
//! sandboxes::run: the same, earlier ─────────────▶ Proxy::announce ┤
//!                                                              ▼
//!                       shared::Shared (desired state) ─▶ driver::Driver, one per node
//!                              rules::plan ─ text ─▶ netfilter::Netfilter, then aftermath ─▶ conntrack::Conntrack
//! ```
//! Everything between the API objects and the nft text is a function from data to data; see `rules` for the table.
//!
//! A connection is judged by its source address, so a pod has rules as soon as its address is told. Before its tenant's
//! Services are known, the tenant's Service ranges are closed to it: it must never reach a *host* Service of the same
//! address. What a former agent process left stays in force, tenant by tenant, until the tenant is known again.
//!
//! Hazard: a pod that may forge its source address (`NET_RAW`) can send packets by another tenant's rules; answers go to the
//! address's owner. CNI plugins that check sources, or `rp_filter`, prevent it.
//!
//! Not served: tenant pods on the host's network (they have the node's own address), and Service types other than
//! `ClusterIP` beyond the `ClusterIP` that they have too.

mod aftermath;
mod bridges;
pub mod conntrack;
mod desired;
mod driver;
mod feed;
mod metrics;
pub mod model;
pub mod netfilter;
pub mod rules;
pub mod sandboxes;
mod shared;
mod sources;
mod sweeper;
mod table;
pub mod tenant;

pub use bridges::BridgeProbe;

use conntrack::Conntrack;
use driver::Driver;
use ipnet::IpNet;
use metrics::ProxyMetrics;
use model::ServiceTable;
use nestling_crds::names::TenantUid;
use nestling_runtime::metrics::Metrics;
use nestling_runtime::readiness::Pending;
use netfilter::Netfilter;
use shared::Shared;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// The seams to the node.
pub struct ProxyConfig {
    pub netfilter: Arc<dyn Netfilter>,
    pub conntrack: Arc<dyn Conntrack>,
    pub bridges: BridgeProbe,
    pub metrics: Metrics,
    /// Dropped when the packet filter has answered for the first time.
    pub ready: Option<Pending>,
}

impl ProxyConfig {
    /// The kernel of the network namespace that the process is in. Needs `CAP_NET_ADMIN` and `nft`.
    pub fn kernel(metrics: Metrics) -> Self {
        Self {
            netfilter: Arc::new(netfilter::Nft::default()),
            conntrack: Arc::new(conntrack::Netlink),
            bridges: BridgeProbe::default(),
            metrics,
            ready: None,
        }
    }
}

/// The node's proxy. Clones are the same proxy.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

impl Proxy {
    /// Starts the driver. The rules stay when it ends with `shutdown`.
    pub fn start(config: ProxyConfig, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared::default());
        let metrics = ProxyMetrics::register(&config.metrics);
        let driver = Driver::new(Arc::clone(&shared), &config.netfilter, config.conntrack, config.bridges, metrics);
        let tasks = TaskTracker::new();
        tasks.spawn(driver.run(config.ready, shutdown).instrument(tracing::info_span!("proxy")));
        tasks.close();
        Self { shared, tasks }
    }

    /// The tenant is served here; until [`Proxy::set_services`] its Service ranges are closed, unless its rules are known
    /// already or inherited from a former process.
    pub fn expect(&self, tenant: &TenantUid, ranges: &[IpNet]) {
        self.shared.tell(true, |desired| desired.expect(tenant, ranges));
    }

    pub fn set_services(&self, tenant: &TenantUid, table: &Arc<ServiceTable>) {
        self.shared.tell(false, |desired| desired.set_table(tenant, table));
    }

    /// The addresses of the tenant's pods on this node, all of them: without pods on the host's network and without pods
    /// that have ended (their addresses are given to others). To be called only when all are known, for connections of
    /// an address that is left out are cut.
    pub fn set_sources(&self, tenant: &TenantUid, addresses: &BTreeSet<IpAddr>) {
        self.shared.tell(true, |desired| desired.set_sources(tenant, addresses));
    }

    /// A sandbox of the tenant has come up with these addresses. They count until [`Proxy::set_sources`] has them, or for
    /// a minute. For a tenant that is not expected they count once it is.
    pub fn announce(&self, sandbox: &str, tenant: &TenantUid, addresses: BTreeSet<IpAddr>) {
        self.shared.tell(true, |desired| desired.announce(sandbox, tenant, addresses));
    }

    /// The sandbox has ended. Addresses that [`Proxy::set_sources`] has named stay until it does not.
    pub fn retract(&self, sandbox: &str) {
        self.shared.tell(false, |desired| desired.retract(sandbox));
    }

    /// The tenant is not served any more, and its pods are gone.
    pub fn remove(&self, tenant: &TenantUid) {
        self.shared.tell(false, |desired| {
            desired.remove(tenant);
            true
        });
    }

    /// These are all the tenants of the node: the operator has told the full set. Rules of others, left by a former process,
    /// are removed.
    pub fn keep_only(&self, tenants: BTreeSet<TenantUid>) {
        self.shared.tell(false, |desired| {
            desired.keep_only(tenants);
            true
        });
    }

    /// Waits until everything told so far is in the kernel; for ever once the driver has ended.
    pub async fn settled(&self) {
        self.shared.settled().await;
    }

    /// Waits for the driver to end, after `shutdown`.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

/// The error with its causes, in one line.
fn report(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
