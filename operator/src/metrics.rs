//! How reconciling goes.

use nestling_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    reason: &'static str,
}

/// Counts and durations of reconciles, and whether this replica leads.
#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    duration: Histogram,
    failures: Family<Failure, Counter>,
    leader: Gauge,
}

impl ReconcileMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let families = Self {
            // 1 ms to 65 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            failures: Family::default(),
            leader: Gauge::default(),
        };
        metrics.register("reconcile", |registry| {
            registry.register("duration_seconds", "Duration of reconciles", families.duration.clone());
            registry.register("failures", "Reconciles that failed, by reason", families.failures.clone());
        });
        metrics.register("lease", |registry| {
            registry.register("held", "1 while this replica holds the lease", families.leader.clone());
        });
        families
    }

    /// Measures until the guard is dropped.
    pub fn measure(&self) -> Measure {
        Measure { started: Instant::now(), duration: self.duration.clone() }
    }

    pub fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&Failure { reason }).inc();
    }

    pub fn leads(&self, held: bool) {
        self.leader.set(i64::from(held));
    }
}

pub struct Measure {
    started: Instant,
    duration: Histogram,
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.duration.observe(self.started.elapsed().as_secs_f64());
    }
}
