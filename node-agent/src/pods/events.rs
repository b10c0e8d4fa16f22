//! Events on tenant pods: those of the host's kubelet, with the tenant's names, and the agent's own.
//!
//! Both are written by a few writers, and an event always by the same one, so its counts stay in order. Names are derived
//! from what happened, so an agent that restarts repeats nothing. Events are best effort, as everywhere in Kubernetes:
//! when the tenant's apiserver cannot keep up, they are dropped rather than held.

use super::names::{Owner, PodKey, TenantText};
use super::record::Records;
use crate::tenant::Tenant;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Config};
use nestling_crds::labels;
use nestling_crds::names::{NodeName, hash65};
use nestling_runtime::kube::{call, follow};
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Writers that work side by side.
const WRITERS: usize = 4;
/// Events that may wait for one writer.
const DEPTH: usize = 256;
/// Of the events that exist when the watch begins, those younger than this are forwarded: an agent that was replaced has
/// not forwarded them.
const CATCH_UP: SignedDuration = SignedDuration::from_secs(60);
/// Who reports, toward the tenant: its kubelet.
const COMPONENT: &str = "kubelet";
/// Longest message that the events API takes, in bytes.
const MAX_MESSAGE: usize = 1024;
/// Room for the pod's name in an event's name.
const MAX_NAME: usize = 230;

/// Writes events into a tenant.
#[derive(Debug)]
pub(crate) struct Events {
    writers: Vec<mpsc::Sender<Event>>,
    hasher: RandomState,
    node: NodeName,
}

impl Events {
    /// Starts the writers; they end with `shutdown`.
    pub(crate) fn start(client: &kube::Client, node: &NodeName, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let writer = |_| {
            let (sender, receiver) = mpsc::channel(DEPTH);
            let (client, shutdown) = (client.clone(), shutdown.clone());
            tasks.spawn(async move { shutdown.run_until_cancelled(write_all(client, receiver)).await });
            sender
        };
        Self { writers: (0..WRITERS).map(writer).collect(), hasher: RandomState::new(), node: node.clone() }
    }

    /// Emits a Warning about something that keeps a pod from running.
    pub(crate) fn warn(&self, pod: &PodKey, reason: &str, message: &str) {
        self.send(warning(pod, &self.node, reason, message, Timestamp::now()));
    }

    /// Forwards the events of the host's kubelet about the pods of `tenant` until `shutdown`.
    pub(crate) async fn forward(&self, tenant: &Tenant, records: &Records, shutdown: CancellationToken) {
        let api: Api<Event> = Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str());
        // The scheduler's events name host nodes and other tenants' pods; the kubelet's concern the pod alone.
        let config = Config::default().fields("involvedObject.kind=Pod,source=kubelet");
        let start = Timestamp::now();
        let is_recent = |event: &Event| last_occurrence(event).is_some_and(|at| start.duration_since(at) < CATCH_UP);
        follow(api, config, "host events", shutdown, |event| match event {
            watcher::Event::InitApply(event) if is_recent(&event) => self.forward_one(tenant, records, &event),
            watcher::Event::Apply(event) => self.forward_one(tenant, records, &event),
            watcher::Event::Init | watcher::Event::InitApply(_) | watcher::Event::InitDone | watcher::Event::Delete(_) => {}
        })
        .await;
    }

    fn forward_one(&self, tenant: &Tenant, records: &Records, event: &Event) {
        let Some((key, host)) = subject(tenant, event) else { return };
        let needs = records.get(&key).needs.unwrap_or_default();
        let text = TenantText::new(Owner::of(tenant), &key, Some(&host), &needs.sources);
        self.send(forwarded(event, &key, &text, &self.node));
    }

    fn send(&self, event: Event) {
        let name = event.metadata.name.as_deref().unwrap_or_default();
        let index = usize::try_from(self.hasher.hash_one(name) % WRITERS as u64).unwrap_or_default();
        if self.writers.get(index).is_none_or(|writer| writer.try_send(event).is_err()) {
            tracing::debug!("event dropped: too many are waiting for the tenant's apiserver");
        }
    }
}

/// The pod of this node that a host event is about. Other nodes' agents get the same events.
fn subject(tenant: &Tenant, event: &Event) -> Option<(PodKey, Arc<Pod>)> {
    let name = event.involved_object.name.as_deref()?;
    let reference = ObjectRef::new(name).within(tenant.spec.workload_namespace.as_str());
    let host = tenant.stores.host.get(&reference)?;
    (host.metadata.uid == event.involved_object.uid).then_some(())?;
    Some((PodKey::of_host(&host)?, host))
}

/// When the event last happened.
fn last_occurrence(event: &Event) -> Option<Timestamp> {
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    last.or(series).or(event.event_time.as_ref().map(|time| time.0))
}

/// The tenant's event for an event of the host's kubelet.
fn forwarded(event: &Event, key: &PodKey, text: &TenantText, node: &NodeName) -> Event {
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
    let time = |micro: &MicroTime| micro.0.into();
    Event {
        reason: reason.clone(),
        message: message.as_ref().map(|message| cut(&text.of(message)).to_owned()),
        type_: type_.clone(),
        count: series.as_ref().and_then(|series| series.count).or(*count).or(Some(1)),
        first_timestamp: first_timestamp.clone().or(event_time.as_ref().map(time)),
        last_timestamp: last_timestamp.clone().or(event_time.as_ref().map(time)),
        ..blank(key, node, &[metadata.uid.as_deref().unwrap_or_default()], involved_object.field_path.clone())
    }
}

fn warning(pod: &PodKey, node: &NodeName, reason: &str, message: &str, now: Timestamp) -> Event {
    let now = Time(now);
    Event {
        reason: Some(reason.to_owned()),
        message: Some(cut(message).to_owned()),
        type_: Some("Warning".into()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        ..blank(pod, node, &[&pod.uid, reason, message], None)
    }
}

/// An event on `pod` from this node, named after `cause`.
fn blank(pod: &PodKey, node: &NodeName, cause: &[&str], field_path: Option<String>) -> Event {
    let prefix: String = pod.name.chars().take(MAX_NAME).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", prefix.trim_end_matches(['-', '.']), hash65(cause))),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            field_path,
            kind: Some("Pod".into()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            resource_version: None,
            uid: Some(pod.uid.clone()),
        },
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.to_string()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.to_string()),
        ..Event::default()
    }
}

/// At most [`MAX_MESSAGE`] bytes, cut between characters.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

async fn write_all(client: kube::Client, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        if let Err(error) = write(&client, &event).await {
            tracing::debug!(%error, "event not written and dropped");
        }
    }
}

/// Creates the event, or increases its count when it exists.
async fn write(client: &kube::Client, event: &Event) -> kube::Result<()> {
    let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or_default());
    if event.count.is_some_and(|count| count > 1) {
        match set_count(&api, event).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => return answer,
        }
    }
    let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
    match call(api.create(&params, event)).await {
        Ok(_) => Ok(()),
        // Nodes may not read events, so whether it has the same count already is not known: setting it again is harmless.
        Err(kube::Error::Api(status)) if status.is_already_exists() => set_count(&api, event).await,
        Err(error) => Err(error),
    }
}

async fn set_count(api: &Api<Event>, event: &Event) -> kube::Result<()> {
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let mut patch = json!({ "lastTimestamp": event.last_timestamp, "message": event.message });
    if let Some(count) = event.count.filter(|count| *count > 1) {
        patch["count"] = json!(count);
    }
    call(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures;
    use crate::pods::names::Source;

    #[test]
    fn host_names_do_not_leak() {
        let tenant = fixtures::tenant_spec();
        let node = fixtures::node();
        let owner = Owner { tenant: &tenant, node: &node };
        let key = fixtures::key();
        let source = Source::config_map("shop", "settings");
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
        let text = TenantText::new(owner, &key, Some(&host), &[source].into());
        insta::assert_yaml_snapshot!(forwarded(&event, &key, &text, &node));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "ä".repeat(600);
        assert_eq!(cut(&text).len(), 1024);
        assert_eq!(cut(&format!("x{text}")).len(), 1023);
        assert_eq!(cut("short"), "short");
    }
}
