//! The one task that writes the table: it waits for something to change, works out one transaction per address family,
//! applies it, and has the aftermath cleaned up.

use super::aftermath::{Aftermath, is_misremembered};
use super::bridges::BridgeProbe;
use super::conntrack::{Conntrack, ConntrackError, Sweep};
use super::metrics::{Outcome, ProxyMetrics};
use super::netfilter::{Listing, Netfilter, NetfilterError};
use super::rules::{Approach, Family, Installed, Want, forget, plan};
use super::shared::Shared;
use nestling_runtime::backoff::Steps;
use nestling_runtime::readiness::Pending;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Changes of Services that come within this time go into one transaction. New pods do not wait.
const BATCH: Duration = Duration::from_millis(20);
/// How long the rules of another version of the agent stay while what tenants have becomes known, before they are replaced.
const FOREIGN_HOLD: Duration = Duration::from_secs(10);
/// How often the table is looked for: a host tool that flushes all rules flushes these too.
const PRESENCE_CHECK: Duration = Duration::from_secs(60);
/// Session affinity times out while it is read; a few attempts find a quiet moment.
const FORGET_ATTEMPTS: u32 = 3;

/// What the kernel has of one family's table, as far as is known.
enum Kernel {
    Known(Option<Installed>),
    /// Another version's table.
    Foreign,
    /// A transaction failed, or the table could not be read.
    Unknown {
        failures: u32,
    },
}

pub struct Driver {
    shared: Arc<Shared>,
    netfilter: Arc<dyn Netfilter>,
    conntrack: Arc<dyn Conntrack>,
    bridges: BridgeProbe,
    metrics: ProxyMetrics,
    kernel: BTreeMap<Family, Kernel>,
    /// When another version's table goes; None until the tenants of the node are known.
    foreign_until: Option<Instant>,
    steps: Steps,
    retry_at: Option<Instant>,
    /// To be swept, not begun.
    sweep: Option<Sweep>,
    /// What the last sweep could not do; the next one does it too.
    unswept: Sweep,
    sweeping: Option<JoinHandle<(Sweep, Result<u64, ConntrackError>)>>,
}

impl Driver {
    pub fn new(
        shared: Arc<Shared>,
        netfilter: Arc<dyn Netfilter>,
        conntrack: Arc<dyn Conntrack>,
        bridges: BridgeProbe,
        metrics: ProxyMetrics,
    ) -> Self {
        Self {
            shared,
            netfilter,
            conntrack,
            bridges,
            metrics,
            kernel: BTreeMap::new(),
            foreign_until: None,
            steps: Steps::new(Duration::from_millis(100), Duration::from_secs(30)),
            retry_at: None,
            sweep: None,
            unswept: Sweep::default(),
            sweeping: None,
        }
    }

    /// Ends with `shutdown`, and leaves the rules as they are: connections outlive the agent.
    /// `ready` is dropped when the packet filter has answered.
    pub async fn run(mut self, mut ready: Option<Pending>, shutdown: CancellationToken) {
        for family in Family::ALL {
            let kernel = self.read(family, 0).await;
            self.kernel.insert(family, kernel);
        }
        if !self.is_in_the_dark() {
            drop(ready.take());
        }
        let mut presence = interval(PRESENCE_CHECK);
        presence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        presence.reset();
        loop {
            let retry_at = self.retry_at;
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.shared.changed() => self.batch(&shutdown).await,
                () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
                _ = presence.tick() => self.check_presence().await,
                swept = finished(&mut self.sweeping) => {
                    if self.swept(swept) {
                        self.begin_sweep();
                    }
                    continue;
                }
            }
            self.round().await;
            if !self.is_in_the_dark() {
                drop(ready.take());
            }
        }
        if self.sweeping.is_some() {
            let swept = finished(&mut self.sweeping).await;
            self.swept(swept);
        }
    }

    fn is_in_the_dark(&self) -> bool {
        self.kernel.values().any(|kernel| matches!(kernel, Kernel::Unknown { .. }))
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

    async fn read(&self, family: Family, failures: u32) -> Kernel {
        match self.netfilter.list(family).await {
            Ok(Listing::Absent) => Kernel::Known(None),
            Ok(Listing::Inherited(installed)) => {
                tracing::info!(
                    ?family,
                    tenants = installed.tenants.len(),
                    sources = installed.sources.len(),
                    "taking over the rules of a former agent"
                );
                Kernel::Known(Some(installed))
            }
            Ok(Listing::Foreign) => {
                tracing::info!(?family, "replacing the rules of another version of the agent when all tenants are known");
                Kernel::Foreign
            }
            Err(error) => {
                tracing::warn!(?family, error = %report(&error), "cannot read the rules that are there");
                Kernel::Unknown { failures: failures + 1 }
            }
        }
    }

    async fn check_presence(&mut self) {
        for family in Family::ALL {
            if !matches!(self.kernel.get(&family), Some(Kernel::Known(Some(_)))) {
                continue;
            }
            match self.netfilter.is_present(family).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(?family, "somebody removed the rules; restoring them");
                    self.kernel.insert(family, Kernel::Unknown { failures: 2 });
                }
                Err(error) => tracing::warn!(?family, error = %report(&error), "cannot see whether the rules are still there"),
            }
        }
    }

    async fn round(&mut self) {
        self.retry_at = None;
        for family in Family::ALL {
            // The first failure, while there may be rules that this process does not know itself: look again. They would be
            // lost in a replacement, which is what comes after the second.
            if matches!(self.kernel.get(&family), Some(Kernel::Unknown { failures: 1 })) && !self.shared.is_complete() {
                let kernel = self.read(family, 1).await;
                self.kernel.insert(family, kernel);
            }
        }
        if !self.foreign_may_go() {
            return;
        }
        let installed: BTreeMap<Family, Installed> = self
            .kernel
            .iter()
            .filter_map(|(family, kernel)| match kernel {
                Kernel::Known(Some(installed)) => Some((*family, installed.clone())),
                _ => None,
            })
            .collect();
        let bridges = Family::ALL.map(|family| (family, self.bridges.hiding(family))).into();
        let (told, want) = self.shared.want(&installed, bridges);
        let mut is_done = true;
        for family in Family::ALL {
            is_done &= self.bring_about(family, &want).await;
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
        let is_foreign = self.kernel.values().any(|kernel| matches!(kernel, Kernel::Foreign));
        if !is_foreign || self.shared.is_complete() {
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

    /// False: it failed, and is to be tried again.
    async fn bring_about(&mut self, family: Family, want: &Want) -> bool {
        let (approach, before, failures) = match self.kernel.remove(&family) {
            Some(Kernel::Known(before)) => (Approach::Change, before, 0),
            Some(Kernel::Unknown { failures }) => (Approach::Replace, None, failures),
            Some(Kernel::Foreign) | None => (Approach::Replace, None, 0),
        };
        let (text, after) = plan(family, approach, before.as_ref(), want);
        if text.is_empty() {
            self.kernel.insert(family, Kernel::Known(after));
            return true;
        }
        let begun = Instant::now();
        let result = self.netfilter.apply(&text).await;
        self.metrics.apply.observe(begun.elapsed().as_secs_f64());
        let outcome = result.as_ref().err().map_or("ok", NetfilterError::reason);
        self.metrics.transactions.get_or_create(&Outcome { outcome }).inc();
        if let Err(error) = result {
            tracing::warn!(?family, ?approach, error = %report(&error), "rules were not applied");
            self.kernel.insert(family, Kernel::Unknown { failures: failures + 1 });
            return false;
        }
        let mut aftermath = Aftermath::of(before.as_ref(), after.as_ref());
        if approach == Approach::Replace {
            // Who was served by which rules before is not known: nothing is new.
            aftermath.fresh.clear();
            aftermath.is_udp_touched = true;
        }
        self.forget(family, &aftermath, after.as_ref()).await;
        if aftermath.calls_for_sweep() {
            let sweep = self.sweep.get_or_insert_default();
            sweep.fresh.extend(aftermath.fresh);
            sweep.departed.extend(aftermath.departed);
        }
        self.kernel.insert(family, Kernel::Known(after));
        true
    }

    /// Takes from session affinity the endpoints that are gone. A client of such an endpoint would fail until its entry
    /// times out, so failing here is worth a warning, not a rebuild.
    async fn forget(&self, family: Family, aftermath: &Aftermath, after: Option<&Installed>) {
        for tenant in &aftermath.forgetful {
            let Some(table) = after.and_then(|after| after.tenants.get(tenant)?.table.clone()) else { continue };
            for attempt in 1..=FORGET_ATTEMPTS {
                let result = match self.netfilter.remembered(family, tenant).await {
                    Ok(mut entries) => {
                        entries.retain(|entry| is_misremembered(&table, entry));
                        if entries.is_empty() { Ok(()) } else { self.netfilter.apply(&forget(family, tenant, &entries)).await }
                    }
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => break,
                    Err(error) if attempt == FORGET_ATTEMPTS => {
                        tracing::warn!(%tenant, error = %report(&error), "session affinity may keep clients at endpoints that are gone");
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn count(&self, want: &Want) {
        let frontends: usize = want
            .tenants
            .values()
            .map(|tenant| if let super::rules::WantedTenant::Table(table) = tenant { table.frontends.len() } else { 0 })
            .sum();
        let set = |gauge: &prometheus_client::metrics::gauge::Gauge, count: usize| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.metrics.frontends, frontends);
        set(&self.metrics.tenants, want.tenants.len());
        set(&self.metrics.sources, want.sources.len());
    }

    /// One sweep at a time, on a thread of its own; what comes meanwhile waits for the next.
    fn begin_sweep(&mut self) {
        if self.sweeping.is_some() {
            return;
        }
        let Some(mut sweep) = self.sweep.take() else { return };
        sweep.merge(std::mem::take(&mut self.unswept));
        let mut families = Vec::new();
        sweep.clients.clear();
        for (family, kernel) in &self.kernel {
            let Kernel::Known(Some(installed)) = kernel else { continue };
            families.push(*family);
            for (address, tenant) in &installed.sources {
                // Services not known yet: nothing can be judged by them.
                if let Some(table) = installed.tenants.get(tenant).and_then(|tenant| tenant.table.as_ref()).filter(|table| !table.is_closed)
                {
                    sweep.clients.insert(*address, Arc::clone(table));
                }
            }
        }
        let conntrack = Arc::clone(&self.conntrack);
        self.sweeping = Some(tokio::task::spawn_blocking(move || {
            let mut deleted = 0;
            for family in families {
                match conntrack.sweep(family, &sweep) {
                    Ok(count) => deleted += count,
                    Err(error) => return (sweep, Err(error)),
                }
            }
            (sweep, Ok(deleted))
        }));
    }

    /// False: it failed, and waits for the next round.
    fn swept(&mut self, result: Option<(Sweep, Result<u64, ConntrackError>)>) -> bool {
        let Some((mut sweep, result)) = result else { return false };
        let outcome = if result.is_ok() { "ok" } else { "error" };
        self.metrics.sweeps.get_or_create(&Outcome { outcome }).inc();
        match result {
            Ok(deleted) => {
                self.metrics.swept.inc_by(deleted);
                // Clients whose Services are not known yet are still to be judged.
                sweep.fresh.retain(|address| !sweep.clients.contains_key(address));
                sweep.departed.clear();
                self.unswept.merge(sweep);
                true
            }
            Err(error) => {
                tracing::warn!(error = %report(&error), "stale connections were not removed");
                self.unswept.merge(sweep);
                self.sweep.get_or_insert_default();
                false
            }
        }
    }
}

/// Never, when there is no task.
async fn finished<T>(task: &mut Option<JoinHandle<T>>) -> Option<T> {
    let result = match task.as_mut() {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    };
    *task = None;
    result.inspect_err(|error| tracing::error!(%error, "a task of the proxy ended badly")).ok()
}

/// The error with its causes, in one line.
fn report(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::super::conntrack::Untouched;
    use super::super::model::ServiceTable;
    use super::super::netfilter::Fake;
    use super::super::rules::{InstalledTenant, TenantKey};
    use super::super::{Proxy, ProxyConfig};
    use super::*;
    use nestling_crds::names::TenantUid;
    use nestling_runtime::metrics::Metrics;
    use std::net::IpAddr;

    fn start(fake: &Arc<Fake>) -> Proxy {
        let config = ProxyConfig {
            netfilter: Arc::clone(fake) as Arc<dyn Netfilter>,
            conntrack: Arc::new(Untouched),
            bridges: BridgeProbe { proc: "/nonexistent".into(), sys: "/nonexistent".into() },
            metrics: Metrics::default(),
            ready: None,
        };
        Proxy::start(config, CancellationToken::new())
    }

    fn uid(name: &str) -> TenantUid {
        TenantUid::new(name)
    }

    fn pod(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn table(ranges: &[&str]) -> Arc<ServiceTable> {
        Arc::new(ServiceTable { is_closed: false, ..ServiceTable::closed(ranges.iter().map(|range| range.parse().unwrap())) })
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_come_together_are_one_transaction() {
        let fake = Arc::new(Fake::default());
        let proxy = start(&fake);
        for tenant in 0..50 {
            proxy.set_services(&uid(&tenant.to_string()), &table(&["10.96.0.0/16"]));
        }
        proxy.settled().await;
        assert_eq!(fake.applied().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_pod_does_not_wait() {
        let fake = Arc::new(Fake::default());
        let proxy = start(&fake);
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        proxy.settled().await;
        let begun = Instant::now();
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        proxy.settled().await;
        assert!(begun.elapsed() < Duration::from_millis(2), "{:?}", begun.elapsed());
        assert!(fake.applied()[1].contains("add element ip nestling sources { 10.0.0.1 : goto tenant-a }"));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_table_is_replaced() {
        let fake = Arc::new(Fake::default());
        let proxy = start(&fake);
        proxy.keep_only([uid("a")].into());
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        proxy.settled().await;
        fake.fail(3);
        proxy.set_services(&uid("a"), &table(&["10.97.0.0/16"]));
        proxy.settled().await;
        let applied = fake.applied();
        assert_eq!(applied.len(), 2);
        assert!(applied[1].starts_with("add table ip nestling\ndelete table ip nestling\n"), "{}", applied[1]);
        assert!(applied[1].contains("10.97.0.0/16") && applied[1].contains("10.0.0.1 : goto tenant-a"));
    }

    #[tokio::test(start_paused = true)]
    async fn rules_of_tenants_that_are_not_known_yet_stay() {
        let fake = Arc::new(Fake::default());
        let key = |name: &str| TenantKey::of(&uid(name));
        let installed = Installed {
            tenants: [(key("a"), InstalledTenant::default()), (key("b"), InstalledTenant::default())].into(),
            sources: [(pod(1), key("a")), (pod(2), key("b"))].into(),
            bridges: None,
        };
        fake.inherit(Family::V4, Listing::Inherited(installed));
        let proxy = start(&fake);
        proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        proxy.settled().await;
        let text = fake.applied().concat();
        assert!(text.contains("services-a") && !text.contains("-b") && !text.contains("delete"), "{text}");

        proxy.keep_only([uid("a")].into());
        proxy.settled().await;
        let text = fake.applied().concat();
        assert!(
            text.contains("delete element ip nestling sources { 10.0.0.2 }") && text.contains("delete map ip nestling services-b"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_of_another_version_stays_until_all_is_known() {
        let fake = Arc::new(Fake::default());
        fake.inherit(Family::V4, Listing::Foreign);
        let proxy = start(&fake);
        proxy.keep_only([uid("a"), uid("b")].into());
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        tokio::time::sleep(FOREIGN_HOLD / 2).await;
        assert!(fake.applied().is_empty());
        proxy.settled().await;
        assert!(fake.applied()[0].starts_with("add table ip nestling\ndelete table ip nestling\n"), "the hold has ended");

        let fake = Arc::new(Fake::default());
        fake.inherit(Family::V4, Listing::Foreign);
        let proxy = start(&fake);
        proxy.keep_only([uid("a")].into());
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        let begun = Instant::now();
        proxy.settled().await;
        assert!(begun.elapsed() < FOREIGN_HOLD, "nobody else to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_leaves_takes_its_rules_along() {
        let fake = Arc::new(Fake::default());
        let proxy = start(&fake);
        proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        proxy.settled().await;
        proxy.remove(&uid("a"));
        proxy.settled().await;
        let text = fake.applied().pop().unwrap();
        assert!(
            text.contains("delete element ip nestling sources { 10.0.0.1 }") && text.contains("delete chain ip nestling tenant-a"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_table_stays_while_the_operator_is_away() {
        let fake = Arc::new(Fake::default());
        fake.inherit(Family::V4, Listing::Foreign);
        let proxy = start(&fake);
        proxy.set_services(&uid("a"), &table(&["10.96.0.0/16"]));
        tokio::time::sleep(3 * FOREIGN_HOLD).await;
        assert!(fake.applied().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_has_rules_from_its_sandbox_on() {
        let fake = Arc::new(Fake::default());
        let proxy = start(&fake);
        proxy.announce("s", &uid("a"), [pod(1)].into());
        proxy.settled().await;
        assert!(fake.applied().is_empty(), "nobody knows the tenant's ranges");
        proxy.expect(&uid("a"), &["10.96.0.0/16".parse().unwrap()]);
        proxy.settled().await;
        assert!(fake.applied()[0].contains("add element ip nestling sources { 10.0.0.1 : goto tenant-a }"));
        proxy.set_sources(&uid("a"), &[pod(1)].into());
        proxy.settled().await;
        assert_eq!(fake.applied().len(), 1, "its status changes nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_waits_for_the_packet_filter() {
        let readiness = nestling_runtime::readiness::Readiness::default();
        let fake = Arc::new(Fake::default());
        let config = ProxyConfig { netfilter: Arc::clone(&fake) as Arc<dyn Netfilter>, ..ProxyConfig::kernel(Metrics::default()) };
        let proxy = Proxy::start(ProxyConfig { ready: Some(readiness.pending("rules")), ..config }, CancellationToken::new());
        assert!(!readiness.is_ready());
        proxy.expect(&uid("a"), &[]);
        proxy.settled().await;
        assert!(readiness.is_ready());
    }
}
