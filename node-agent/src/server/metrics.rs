//! Counts of the kubelet API. Labels are of fixed sets: a caller cannot make series.

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: &'static str,
    code: u16,
}

#[derive(Clone, Default)]
pub struct Metrics {
    answers: Family<Answer, Counter>,
    streams: Gauge,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests to the kubelet API, by function and answer", self.answers.clone());
        registry.register("streams", "Exec, attach and port-forward streams that are open", self.streams.clone());
    }

    pub fn answered(&self, route: &'static str, status: StatusCode) {
        self.answers.get_or_create(&Answer { route, code: status.as_u16() }).inc();
    }

    /// Counts a stream until dropped.
    pub fn stream(&self) -> OpenStream {
        self.streams.inc();
        OpenStream(self.streams.clone())
    }
}

pub struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_was_answered_and_what_is_open() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.answered("exec", StatusCode::SWITCHING_PROTOCOLS);
        let open = metrics.stream();
        drop(metrics.stream());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("requests_total{route=\"exec\",code=\"101\"} 1"), "{text}");
        assert!(text.contains("streams 1"), "{text}");
        drop(open);
    }
}
