//! Calls of the control API, by method and outcome.

use nestling_runtime::metrics::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(super) struct CallMetrics {
    calls: Family<Call, Counter>,
    streams: Family<Method, Gauge>,
}

impl CallMetrics {
    pub fn register(metrics: &Metrics) -> Self {
        let families = Self::default();
        metrics.register("control", |registry| {
            registry.register("calls", "Calls of the control API", families.calls.clone());
            registry.register("streams", "Open streams of the control API", families.streams.clone());
        });
        families
    }

    /// Counts a call and hands its outcome on.
    pub fn count<T>(&self, method: &'static str, outcome: Result<T, Status>) -> Result<T, Status> {
        let code = outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.calls.get_or_create(&Call { method, code: format!("{code:?}") }).inc();
        outcome
    }

    /// Counts a stream as open until the guard is dropped.
    pub fn stream(&self, method: &'static str) -> OpenStream {
        let gauge = self.streams.get_or_create(&Method { method }).clone();
        gauge.inc();
        OpenStream(gauge)
    }
}

pub(super) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
