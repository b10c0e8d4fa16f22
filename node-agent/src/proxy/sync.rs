//! The one task that writes the tables: it waits for a change, brings each family's table up to date, and has what the
//! change leaves behind cleaned up.

use super::bridges::BridgeProbe;
use super::conntrack::{Conntrack, ConntrackCleanup, Sweeper, is_stale_affinity};
use super::desired::Desired;
use super::metrics::{Outcome, ProxyMetrics};
use super::nft::{Approach, Command, Installed, Key, Listing, Netfilter, NetfilterError, TenantMap, Transaction, plan};
use super::shared::Shared;
use super::table::{Family, NodeTable, ServiceTable};
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use nestling_runtime::readiness::Pending;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Changes of Services that come within this time go into one transaction. New pods do not wait.
const BATCH: Duration = Duration::from_millis(20);
/// How long the rules of another version of the agent stay while the tenants' Services and pods become known, before they
/// are replaced.
pub(super) const FOREIGN_HOLD: Duration = Duration::from_secs(10);
/// How often the table is looked for: a host tool that flushes all rules flushes these too.
const PRESENCE_CHECK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);
/// Entries of session affinity time out between being read and being deleted, which fails; a few attempts find a moment
/// in which none does.
const AFFINITY_ATTEMPTS: u32 = 3;

pub(super) struct Writer {
    shared: Arc<Shared<Desired>>,
    bridges: BridgeProbe,
    metrics: ProxyMetrics,
    tables: [Table; 2],
    sweeper: Sweeper,
    /// When another version's table is replaced; None until the tenants of the node are known.
    foreign_until: Option<Instant>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared<Desired>>,
        netfilter: &Arc<dyn Netfilter>,
        conntrack: Arc<dyn Conntrack>,
        bridges: BridgeProbe,
        metrics: ProxyMetrics,
    ) -> Self {
        Self {
            shared,
            bridges,
            tables: Family::ALL.map(|family| Table::new(family, Arc::clone(netfilter), metrics.clone())),
            sweeper: Sweeper::new(conntrack, metrics.clone()),
            metrics,
            foreign_until: None,
            backoff: Backoff::new(RETRY, RETRY_AT_MOST),
            retry_at: None,
        }
    }

    /// Ends with `shutdown`, and leaves the rules as they are: connections outlive the agent.
    /// `ready` is dropped when the packet filter has answered.
    pub(super) async fn run(mut self, mut ready: Option<Pending>, shutdown: CancellationToken) {
        for table in &mut self.tables {
            table.read().await;
        }
        let mut presence = interval(PRESENCE_CHECK);
        presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        presence.reset();
        loop {
            if !self.tables.iter().any(Table::is_unknown) {
                drop(ready.take());
            }
            let retry_at = self.retry_at;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.shared.changed() => self.batch(&shutdown).await,
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
                _ = presence.tick() => {
                    for table in &mut self.tables {
                        table.check_presence().await;
                    }
                }
                () = self.sweeper.finished() => {
                    self.begin_sweep();
                    continue;
                }
            }
            self.sync().await;
        }
        self.sweeper.stopped().await;
    }

    /// Waits for more changes, unless one is urgent.
    async fn batch(&self, shutdown: &CancellationToken) {
        let until_urgent = async {
            while !self.shared.is_urgent() {
                self.shared.changed().await;
            }
        };
        tokio::select! {
            _ = timeout(BATCH, until_urgent) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// One round: the kernel gets what is desired now.
    async fn sync(&mut self) {
        self.retry_at = None;
        if !self.shared.read(Desired::is_complete) {
            for table in &mut self.tables {
                table.read_after_failure().await;
            }
        }
        if !self.may_replace_foreign() {
            return;
        }
        let nothing = NodeTable::default();
        let families = self.tables.each_ref().map(|table| {
            let installed = table.installed().map_or(&nothing, |installed| &installed.table);
            (table.family, installed, self.bridges.bypassing(table.family))
        });
        let (round, desired) = self.shared.begin(|desired| desired.tables(families));
        let mut is_done = true;
        for (table, desired) in self.tables.iter_mut().zip(&desired) {
            match table.sync(desired).await {
                Some(cleanup) => self.sweeper.add(cleanup),
                None => is_done = false,
            }
        }
        if is_done {
            self.backoff.succeeded();
            if let Some(since) = round.since {
                self.metrics.latency.observe(since.elapsed().as_secs_f64());
            }
            self.shared.applied(round);
        } else {
            self.shared.failed(round);
            self.retry_at = Some(Instant::now() + self.backoff.failed());
        }
        self.metrics.count(&desired);
        self.begin_sweep();
    }

    /// Another version's table stays until everything that would replace it is known, or for [`FOREIGN_HOLD`] after the
    /// tenants are known.
    fn may_replace_foreign(&mut self) -> bool {
        if !self.tables.iter().any(Table::is_foreign) || self.shared.read(Desired::is_complete) {
            return true;
        }
        if !self.shared.read(Desired::knows_tenants) {
            return false;
        }
        let deadline = *self.foreign_until.get_or_insert_with(|| Instant::now() + FOREIGN_HOLD);
        if Instant::now() >= deadline {
            return true;
        }
        self.retry_at = Some(deadline);
        false
    }

    fn begin_sweep(&mut self) {
        if self.sweeper.is_due() {
            let families = self.tables.iter().filter(|table| table.installed().is_some()).map(|table| table.family).collect();
            self.sweeper.begin(families, self.clients());
        }
    }

    /// Pods whose tenants' Services are known, with those.
    fn clients(&self) -> BTreeMap<IpAddr, Arc<ServiceTable>> {
        let mut clients = BTreeMap::new();
        for installed in self.tables.iter().filter_map(Table::installed) {
            for (address, tenant) in &installed.table.sources {
                let services = installed.table.tenants.get(tenant).and_then(Option::as_ref);
                if let Some(services) = services.filter(|services| !services.is_closed) {
                    clients.insert(*address, Arc::clone(services));
                }
            }
        }
        clients
    }
}

/// One family's table in the kernel.
struct Table {
    family: Family,
    netfilter: Arc<dyn Netfilter>,
    metrics: ProxyMetrics,
    kernel: Kernel,
    /// Since the last transaction that was applied.
    failures: u32,
}

/// What the kernel has, as far as is known.
enum Kernel {
    Known(Option<Installed>),
    /// Another version's table.
    Foreign,
    /// Not read yet, or not readable, or a transaction failed.
    Unknown,
}

impl Table {
    fn new(family: Family, netfilter: Arc<dyn Netfilter>, metrics: ProxyMetrics) -> Self {
        Self { family, netfilter, metrics, kernel: Kernel::Unknown, failures: 0 }
    }

    fn is_unknown(&self) -> bool {
        matches!(self.kernel, Kernel::Unknown)
    }

    fn is_foreign(&self) -> bool {
        matches!(self.kernel, Kernel::Foreign)
    }

    fn installed(&self) -> Option<&Installed> {
        match &self.kernel {
            Kernel::Known(installed) => installed.as_ref(),
            Kernel::Foreign | Kernel::Unknown => None,
        }
    }

    async fn read(&mut self) {
        let family = self.family;
        self.kernel = match self.netfilter.list(family).await {
            Ok(Listing::Absent) => Kernel::Known(None),
            Ok(Listing::Inherited(installed)) => {
                let (tenants, sources) = (installed.table.tenants.len(), installed.table.sources.len());
                tracing::info!(?family, tenants, sources, "taking over the rules of a former process");
                Kernel::Known(Some(installed))
            }
            Ok(Listing::Foreign) => {
                tracing::info!(?family, "found rules of another version; replacing them once the tenants are known");
                Kernel::Foreign
            }
            Err(error) => {
                tracing::warn!(?family, error = chain(&error), "listing the rules failed, retrying");
                self.failures += 1;
                Kernel::Unknown
            }
        }
    }

    /// Reads again after the first failure, while there may be rules of tenants that this process does not know itself:
    /// they would be lost in a replacement, which comes after the second.
    async fn read_after_failure(&mut self) {
        if self.is_unknown() && self.failures == 1 {
            self.read().await;
        }
    }

    async fn check_presence(&mut self) {
        if self.installed().is_none() {
            return;
        }
        match self.netfilter.is_present(self.family).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(family = ?self.family, "the table was removed by another program; restoring it");
                // There is nothing to read.
                self.failures = 2;
                self.kernel = Kernel::Unknown;
            }
            Err(error) => tracing::warn!(family = ?self.family, error = chain(&error), "looking for the table failed, retrying"),
        }
    }

    /// Brings the table up to date. None: it failed, and is to be tried again.
    async fn sync(&mut self, desired: &NodeTable) -> Option<ConntrackCleanup> {
        let (approach, before) = match std::mem::replace(&mut self.kernel, Kernel::Unknown) {
            Kernel::Known(before) => (Approach::Change, before),
            Kernel::Foreign | Kernel::Unknown => (Approach::Replace, None),
        };
        let (transaction, after) = plan(self.family, approach, before.as_ref(), desired);
        if transaction.commands.is_empty() {
            self.kernel = Kernel::Known(after);
            return Some(ConntrackCleanup::default());
        }
        let begun = Instant::now();
        let result = self.netfilter.apply(&transaction).await;
        self.metrics.apply.observe(begun.elapsed().as_secs_f64());
        let outcome = result.as_ref().err().map_or("ok", NetfilterError::reason);
        self.metrics.transactions.get_or_create(&Outcome { outcome }).inc();
        if let Err(error) = result {
            tracing::warn!(family = ?self.family, ?approach, error = chain(&error), "applying rules failed, retrying");
            self.failures += 1;
            return None;
        }
        self.failures = 0;
        let (old, new) = (before.as_ref().map(|before| &before.table), after.as_ref().map(|after| &after.table));
        let mut cleanup = ConntrackCleanup::between(old, new);
        if approach == Approach::Replace {
            // Which pods had which rules before is not known: none is new.
            cleanup.added.clear();
            cleanup.udp_changed = true;
        }
        self.clean_up_affinity(&cleanup, after.as_ref()).await;
        self.kernel = Kernel::Known(after);
        Some(cleanup)
    }

    /// Removes endpoints that are gone from session affinity. A client of such an endpoint would fail until its entry
    /// times out, so a failure here is worth a warning, not a replacement of the table.
    async fn clean_up_affinity(&self, cleanup: &ConntrackCleanup, after: Option<&Installed>) {
        for tenant in &cleanup.affinity_changed {
            let services = after.and_then(|after| after.table.tenants.get(tenant)).and_then(Option::as_ref);
            let Some(services) = services else { continue };
            for attempt in 1..=AFFINITY_ATTEMPTS {
                let result = match self.netfilter.affinity(self.family, tenant).await {
                    Ok(mut entries) => {
                        entries.retain(|entry| is_stale_affinity(services, entry));
                        let keys: Vec<Key> = entries.iter().map(|entry| Key::Client(entry.client, entry.frontend)).collect();
                        let commands = vec![Command::DeleteElements(TenantMap::Affinity.of(tenant), keys)];
                        if entries.is_empty() { Ok(()) } else { self.netfilter.apply(&Transaction { family: self.family, commands }).await }
                    }
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => break,
                    Err(error) if attempt == AFFINITY_ATTEMPTS => {
                        tracing::warn!(
                            %tenant,
                            error = chain(&error),
                            "cleaning up session affinity failed; clients may keep to endpoints that are gone until their entries time out"
                        );
                    }
                    Err(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
