//! The proxy's figures, `nestling_proxy_*`.

use super::table::{NodeTable, ServiceTable};
use nestling_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    /// `ok`, or what failed.
    pub(super) outcome: &'static str,
}

#[derive(Clone)]
pub(super) struct ProxyMetrics {
    /// By outcome.
    pub(super) transactions: Family<Outcome, Counter>,
    /// Seconds in the packet filter.
    pub(super) apply: Histogram,
    /// Seconds from the first change of a round to its rules in the kernel.
    pub(super) latency: Histogram,
    pub(super) tenants: Gauge,
    pub(super) sources: Gauge,
    pub(super) frontends: Gauge,
    /// Connections deleted because their endpoint or client is gone.
    pub(super) swept: Counter,
    pub(super) sweeps: Family<Outcome, Counter>,
}

impl ProxyMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let this = Self {
            transactions: Family::default(),
            apply: seconds(),
            latency: seconds(),
            tenants: Gauge::default(),
            sources: Gauge::default(),
            frontends: Gauge::default(),
            swept: Counter::default(),
            sweeps: Family::default(),
        };
        metrics.register("proxy", |registry| {
            registry.register("transactions", "Transactions sent to the packet filter", this.transactions.clone());
            registry.register("apply_seconds", "Time that the packet filter took for a transaction", this.apply.clone());
            registry.register("latency_seconds", "Time from a change to its rules", this.latency.clone());
            registry.register("tenants", "Tenants with rules on this node", this.tenants.clone());
            registry.register("sources", "Pod addresses with rules on this node", this.sources.clone());
            registry.register("frontends", "Service addresses and ports of all tenants", this.frontends.clone());
            registry.register("swept_connections", "Connections deleted because their rules are gone", this.swept.clone());
            registry.register("sweeps", "Sweeps of the connection tracking table", this.sweeps.clone());
        });
        this
    }

    /// What the node's rules are to be, both families together.
    pub(super) fn count(&self, desired: &[NodeTable]) {
        // A tenant is counted once, though it can be in both families' tables.
        let tenants: BTreeMap<_, _> = desired.iter().flat_map(|table| &table.tenants).collect();
        let frontends = tenants.values().filter_map(|services| services.as_deref()).map(ServiceTable::frontends).sum();
        let sources = desired.iter().map(|table| table.sources.len()).sum();
        for (gauge, count) in [(&self.frontends, frontends), (&self.tenants, tenants.len()), (&self.sources, sources)] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
