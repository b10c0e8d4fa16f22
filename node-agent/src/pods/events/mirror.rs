//! What the host's kubelet says of a host pod, told of the tenant pod.

use super::{Events, own};
use crate::pods::key::PodKey;
use crate::pods::ownership::Owner;
use crate::pods::record::Records;
use crate::pods::rewrite::Rewrite;
use crate::pods::watch::follow;
use crate::tenant::Tenant;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Config};
use nestling_crds::names::{NodeName, hash65};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Of the events that are there when the watch begins, those younger than this are told: an agent that was replaced has
/// not told them.
const CATCH_UP: SignedDuration = SignedDuration::from_secs(60);

/// The mirror of one tenant's events.
pub struct Mirror {
    pub tenant: Arc<Tenant>,
    pub records: Arc<Records>,
    pub events: Arc<Events>,
}

impl Mirror {
    pub async fn run(&self, shutdown: CancellationToken) {
        let api: Api<Event> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        // The scheduler's events name host nodes and other tenants' pods; the kubelet's speak of the pod alone.
        let config = Config::default().fields("involvedObject.kind=Pod,source=kubelet");
        let start = Timestamp::now();
        follow(api, config, "host events", shutdown, |event| match event {
            watcher::Event::InitApply(event) if at(&event).is_some_and(|at| start.duration_since(at) < CATCH_UP) => self.tell(&event),
            watcher::Event::Apply(event) => self.tell(&event),
            watcher::Event::Init | watcher::Event::InitApply(_) | watcher::Event::InitDone | watcher::Event::Delete(_) => {}
        })
        .await;
    }

    fn tell(&self, event: &Event) {
        let Some((key, host)) = self.subject(event) else { return };
        let needs = self.records.get(&key).needs.unwrap_or_default();
        let rewrite = Rewrite::new(&Owner::of(&self.tenant), &key, Some(&host), &needs);
        self.events.send(mirrored(event, &key, &rewrite, &self.tenant.node));
    }

    /// The pod of this node that the event is about. Other nodes' agents see the same events.
    fn subject(&self, event: &Event) -> Option<(PodKey, Arc<Pod>)> {
        let name = event.involved_object.name.as_deref()?;
        let reference = ObjectRef::new(name).within(self.tenant.spec.workload_namespace.as_str());
        let host = self.tenant.stores.host.get(&reference)?;
        (host.metadata.uid == event.involved_object.uid).then_some(())?;
        Some((PodKey::of_host(&host)?, host))
    }
}

/// When the event last happened.
fn at(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    last.or(series).or(event.event_time.as_ref().map(|time| time.0))
}

/// The tenant's twin of a host event.
fn mirrored(event: &Event, key: &PodKey, rewrite: &Rewrite, node: &NodeName) -> Event {
    let Event {
        action: _, // not set by kubelets
        count,
        event_time,
        first_timestamp,
        involved_object,
        last_timestamp,
        message,
        metadata,
        reason,
        related: _, // names another host object
        reporting_component: _,
        reporting_instance: _,
        series,
        source: _,
        type_,
    } = event;
    let time = |micro: &k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime| micro.0.into();
    Event {
        metadata: own::metadata(key, &hash65(&[metadata.uid.as_deref().unwrap_or_default()])),
        involved_object: own::involved(key, involved_object.field_path.clone()),
        reason: reason.clone(),
        message: message.as_ref().map(|text| own::cut(&rewrite.text(text)).to_owned()),
        type_: type_.clone(),
        count: series.as_ref().and_then(|series| series.count).or(*count).or(Some(1)),
        first_timestamp: first_timestamp.clone().or(event_time.as_ref().map(time)),
        last_timestamp: last_timestamp.clone().or(event_time.as_ref().map(time)),
        source: Some(own::source(node)),
        reporting_component: Some(own::COMPONENT.into()),
        reporting_instance: Some(node.to_string()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures;
    use crate::pods::translate::Needs;
    use crate::volumes::Source;

    #[test]
    fn host_names_do_not_leak() {
        let tenant = fixtures::tenant_spec();
        let node = fixtures::node();
        let owner = Owner { tenant: &tenant, node: &node };
        let key = fixtures::key();
        let source = Source::config_map("shop", "settings");
        let needs = Needs { sources: [source.clone()].into(), ..Needs::default() };
        let host_name = key.host_name(&tenant.uid);
        let host: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "host-uid", "name": host_name}})).unwrap();
        let event: Event = serde_json::from_value(serde_json::json!({
            "metadata": {"uid": "event-uid", "name": "x"},
            "involvedObject": {"kind": "Pod", "name": host_name, "uid": "host-uid", "fieldPath": "spec.containers{web}"},
            "reason": "BackOff", "type": "Warning", "count": 3,
            "message": format!(
                "Back-off restarting failed container web in pod {host_name}_{}(host-uid): configmap \"{}\" not found",
                tenant.workload_namespace, source.host_name(&tenant.uid, &node),
            ),
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z",
            "source": {"component": "kubelet", "host": "node-1"},
        }))
        .unwrap();
        let twin = mirrored(&event, &key, &Rewrite::new(&owner, &key, Some(&host), &needs), &node);
        insta::assert_yaml_snapshot!(twin);
    }
}
