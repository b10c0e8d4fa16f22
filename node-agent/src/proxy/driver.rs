//! The one task that writes the tables: it waits for something to change, has each table brought about, and has the
//! aftermath cleaned up.

use super::bridges::BridgeProbe;
use super::conntrack::Conntrack;
use super::metrics::ProxyMetrics;
use super::model::ServiceTable;
use super::netfilter::Netfilter;
use super::rules::{Family, Installed, Want, WantedTenant};
use super::shared::Shared;
use super::sweeper::Sweeper;
use super::table::Table;
use nestling_runtime::backoff::Steps;
use nestling_runtime::readiness::Pending;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
mod tests;

/// Changes of Services that come within this time go into one transaction. New pods do not wait.
const BATCH: Duration = Duration::from_millis(20);
/// How long the rules of another version of the agent stay while what tenants have becomes known, before they are replaced.
const FOREIGN_HOLD: Duration = Duration::from_secs(10);
/// How often the table is looked for: a host tool that flushes all rules flushes these too.
const PRESENCE_CHECK: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);

pub struct Driver {
    shared: Arc<Shared>,
    bridges: BridgeProbe,
    metrics: ProxyMetrics,
    tables: Vec<Table>,
    sweeper: Sweeper,
    /// When another version's table goes; None until the tenants of the node are known.
    foreign_until: Option<Instant>,
    steps: Steps,
    retry_at: Option<Instant>,
}

impl Driver {
    pub fn new(
        shared: Arc<Shared>,
        netfilter: &Arc<dyn Netfilter>,
        conntrack: Arc<dyn Conntrack>,
        bridges: BridgeProbe,
        metrics: ProxyMetrics,
    ) -> Self {
        Self {
            shared,
            bridges,
            tables: Family::ALL.map(|family| Table::new(family, Arc::clone(netfilter), metrics.clone())).into(),
            sweeper: Sweeper::new(conntrack, metrics.clone()),
            metrics,
            foreign_until: None,
            steps: Steps::new(RETRY, RETRY_AT_MOST),
            retry_at: None,
        }
    }

    /// Ends with `shutdown`, and leaves the rules as they are: connections outlive the agent.
    /// `ready` is dropped when the packet filter has answered.
    pub async fn run(mut self, mut ready: Option<Pending>, shutdown: CancellationToken) {
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
            self.round().await;
        }
        self.sweeper.stopped().await;
    }

    /// Lets more changes come, unless one is urgent.
    async fn batch(&self, shutdown: &CancellationToken) {
        let until = async {
            while !self.shared.is_urgent() {
                self.shared.changed().await;
            }
        };
        tokio::select! {
            _ = timeout(BATCH, until) => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn round(&mut self) {
        self.retry_at = None;
        if !self.shared.is_complete() {
            for table in &mut self.tables {
                table.look_again().await;
            }
        }
        if !self.foreign_may_go() {
            return;
        }
        let installed: BTreeMap<Family, Installed> =
            self.tables.iter().filter_map(|table| Some((table.family, table.installed()?.clone()))).collect();
        let bridges = Family::ALL.map(|family| (family, self.bridges.hiding(family))).into();
        let (told, want) = self.shared.want(&installed, bridges);
        let mut is_done = true;
        for table in &mut self.tables {
            match table.bring_about(&want).await {
                Some(aftermath) => self.sweeper.add(aftermath),
                None => is_done = false,
            }
        }
        if is_done {
            self.steps.succeeded();
            if let Some(since) = told.since {
                self.metrics.latency.observe(since.elapsed().as_secs_f64());
            }
            self.shared.applied(told.generation);
        } else {
            self.shared.postponed(told);
            self.retry_at = Some(Instant::now() + self.steps.failed());
        }
        self.count(&want);
        self.begin_sweep();
    }

    /// A foreign table stays until everything that would replace it is known, or for so long after the tenants are known.
    fn foreign_may_go(&mut self) -> bool {
        if !self.tables.iter().any(Table::is_foreign) || self.shared.is_complete() {
            return true;
        }
        if !self.shared.knows_tenants() {
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
            for (address, tenant) in &installed.sources {
                let table = installed.tenants.get(tenant).and_then(|tenant| tenant.table.as_ref());
                if let Some(table) = table.filter(|table| !table.is_closed) {
                    clients.insert(*address, Arc::clone(table));
                }
            }
        }
        clients
    }

    fn count(&self, want: &Want) {
        let frontends = want.tenants.values().map(|tenant| match tenant {
            WantedTenant::Table(table) => table.frontends.len(),
            WantedTenant::Keep => 0,
        });
        let gauges = [
            (&self.metrics.frontends, frontends.sum()),
            (&self.metrics.tenants, want.tenants.len()),
            (&self.metrics.sources, want.sources.len()),
        ];
        for (gauge, count) in gauges {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
