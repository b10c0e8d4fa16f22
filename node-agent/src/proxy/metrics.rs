//! The proxy's figures, `nestling_proxy_*`.

use nestling_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok`, or what failed.
    pub outcome: &'static str,
}

#[derive(Clone)]
pub struct ProxyMetrics {
    /// By outcome.
    pub transactions: Family<Outcome, Counter>,
    /// Seconds in the packet filter.
    pub apply: Histogram,
    /// Seconds from the first change that was told to its rules in the kernel.
    pub latency: Histogram,
    pub tenants: Gauge,
    pub sources: Gauge,
    pub frontends: Gauge,
    /// Connections deleted because their endpoint or client is gone.
    pub swept: Counter,
    pub sweeps: Family<Outcome, Counter>,
}

impl ProxyMetrics {
    pub fn register(metrics: &Metrics) -> Self {
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
            registry.register("transactions", "Transactions given to the packet filter", this.transactions.clone());
            registry.register("apply_seconds", "Time that the packet filter took for a transaction", this.apply.clone());
            registry.register("latency_seconds", "Time from a change to its rules", this.latency.clone());
            registry.register("tenants", "Tenants with rules on this node", this.tenants.clone());
            registry.register("sources", "Pod addresses with rules on this node", this.sources.clone());
            registry.register("frontends", "Service addresses and ports of all tenants", this.frontends.clone());
            registry.register("swept_connections", "Connections deleted because their rules are gone", this.swept.clone());
            registry.register("sweeps", "Looks through the connection tracking table", this.sweeps.clone());
        });
        this
    }
}
