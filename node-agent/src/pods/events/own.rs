//! Events that the agent itself has to tell.

use crate::pods::key::PodKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use nestling_crds::names::{NodeName, hash65};

/// Who reports, toward the tenant: its kubelet.
pub const COMPONENT: &str = "kubelet";
/// Longest message that the events API takes, in bytes.
const MAX_MESSAGE: usize = 1024;
/// Room for the pod's name in an event's name.
const MAX_NAME: usize = 230;

pub fn warning(pod: &PodKey, node: &NodeName, reason: &str, message: &str, now: Timestamp) -> Event {
    let now = Time(now);
    Event {
        metadata: metadata(pod, &hash65(&[&pod.uid, reason, message])),
        involved_object: involved(pod, None),
        reason: Some(reason.to_owned()),
        message: Some(cut(message).to_owned()),
        type_: Some("Warning".into()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(source(node)),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.to_string()),
        ..Event::default()
    }
}

pub fn metadata(pod: &PodKey, hash: &str) -> ObjectMeta {
    let prefix: String = pod.name.chars().take(MAX_NAME).collect();
    ObjectMeta {
        name: Some(format!("{}.{hash}", prefix.trim_end_matches(['-', '.']))),
        namespace: Some(pod.namespace.clone()),
        ..ObjectMeta::default()
    }
}

pub fn involved(pod: &PodKey, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        field_path,
        kind: Some("Pod".into()),
        name: Some(pod.name.clone()),
        namespace: Some(pod.namespace.clone()),
        resource_version: None,
        uid: Some(pod.uid.clone()),
    }
}

pub fn source(node: &NodeName) -> EventSource {
    EventSource { component: Some(COMPONENT.into()), host: Some(node.to_string()) }
}

/// At most [`MAX_MESSAGE`] bytes, cut between characters.
pub fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "ä".repeat(600);
        assert_eq!(cut(&text).len(), 1024);
        assert_eq!(cut(&format!("x{text}")).len(), 1023);
        assert_eq!(cut("short"), "short");
    }
}
