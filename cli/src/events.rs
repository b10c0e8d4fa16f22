//! Events of a `VirtualCluster`.

use crate::host::Host;
use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, ResourceExt, api::ListParams};
use nestling_crds::v1alpha1::VirtualCluster;

/// More are never shown: Kubernetes keeps events for an hour, and similar ones are counted in one.
const LIMIT: u32 = 500;

/// One event, with the newest time and the count of its series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterEvent {
    pub kind: String,
    pub reason: String,
    pub source: String,
    pub message: String,
    pub count: i32,
    pub last: Option<Timestamp>,
}

/// Oldest first.
pub(crate) async fn of(host: &Host, cluster: &VirtualCluster) -> Result<Vec<ClusterEvent>> {
    let uid = cluster.uid().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(host.client.clone(), &host.namespace);
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(LIMIT);
    let list = api.list(&params).await.context("cannot list events")?;
    let mut events: Vec<ClusterEvent> = list.items.into_iter().map(cluster_event).collect();
    events.sort_by_key(|event| event.last);
    Ok(events)
}

/// Both generations of the API fill this one type: old writers `count` and `lastTimestamp`, new ones `series` and `eventTime`.
fn cluster_event(event: Event) -> ClusterEvent {
    let series = event.series.as_ref();
    let last = series
        .and_then(|series| series.last_observed_time.as_ref().map(|time| time.0))
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let count = series.and_then(|series| series.count).or(event.count).unwrap_or(1);
    let source = event.reporting_component.filter(|name| !name.is_empty()).or_else(|| event.source.and_then(|source| source.component));
    ClusterEvent {
        kind: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        source: source.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        count,
        last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_series_has_its_last_time_and_count() {
        let event = json!({
            "metadata": {"name": "e"}, "involvedObject": {}, "type": "Warning", "reason": "R", "message": "M", "reportingComponent": "nestling-operator",
            "eventTime": "2026-11-23T06:00:00.000000Z", "series": {"count": 4, "lastObservedTime": "2026-11-23T06:03:00.000000Z"},
        });
        let made = cluster_event(serde_json::from_value(event).unwrap());
        assert_eq!((made.count, made.last), (4, Some("2026-11-23T06:03:00Z".parse().unwrap())));
    }

    #[test]
    fn an_event_of_the_old_kind_is_read_too() {
        let event = json!({
            "metadata": {"name": "e"}, "involvedObject": {}, "source": {"component": "old"}, "count": 2, "lastTimestamp": "2026-11-23T06:00:00Z",
        });
        let made = cluster_event(serde_json::from_value(event).unwrap());
        assert_eq!((made.source.as_str(), made.count), ("old", 2));
    }
}
