//! Metrics of reconciles and of the control API.

use nestling_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::time::Instant;
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

/// Counts and durations of reconciles, and whether this replica leads.
#[derive(Clone, Debug)]
pub(crate) struct ReconcileMetrics {
    duration: Histogram,
    failures: Family<FailureLabels, Counter>,
    leader: Gauge,
}

impl ReconcileMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
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
    pub(crate) fn measure(&self) -> Measure {
        Measure { started: Instant::now(), duration: self.duration.clone() }
    }

    pub(crate) fn failed(&self, reason: &'static str) {
        self.failures.get_or_create(&FailureLabels { reason }).inc();
    }

    pub(crate) fn leads(&self, held: bool) {
        self.leader.set(i64::from(held));
    }
}

pub(crate) struct Measure {
    started: Instant,
    duration: Histogram,
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.duration.observe(self.started.elapsed().as_secs_f64());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

/// Calls of the control API, by method and outcome.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallMetrics {
    calls: Family<CallLabels, Counter>,
    streams: Family<MethodLabels, Gauge>,
}

impl CallMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let families = Self::default();
        metrics.register("control", |registry| {
            registry.register("calls", "Calls of the control API", families.calls.clone());
            registry.register("streams", "Open streams of the control API", families.streams.clone());
        });
        families
    }

    /// Counts a call; returns its outcome.
    pub(crate) fn count<T>(&self, method: &'static str, outcome: Result<T, Status>) -> Result<T, Status> {
        let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.calls.get_or_create(&CallLabels { method, code: format!("{code:?}") }).inc();
        outcome
    }

    /// Counts a stream as open until the guard is dropped.
    pub(crate) fn stream(&self, method: &'static str) -> OpenStream {
        let gauge = self.streams.get_or_create(&MethodLabels { method }).clone();
        gauge.inc();
        OpenStream(gauge)
    }
}

pub(crate) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
