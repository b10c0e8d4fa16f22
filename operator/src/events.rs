//! Events on clusters, for the person who looks at `kubectl describe`. They are written beside the reconcile, which
//! does not wait for them; when the host's API is slow, Events are lost before time is.

use crate::conditions::cut;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use nestling_crds::labels;
use tokio::sync::mpsc;

/// Events waiting to be written.
const QUEUE: usize = 256;
/// Longest note that events.k8s.io takes, in bytes.
const NOTE: usize = 1024;

/// Takes Events; clones share one queue.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// The queue, and what works it off until every clone is dropped.
    pub fn new(client: Client, identity: &str) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        let reporter = Reporter { controller: labels::OPERATOR.into(), instance: Some(identity.into()) };
        // One for all: it is what folds repetitions into a series.
        let recorder = Recorder::new(client, reporter);
        let work = async move {
            while let Some((event, regarding)) = queue.recv().await {
                if let Err(error) = recorder.publish(&event, &regarding).await {
                    tracing::debug!(reason = event.reason, error = &error as &dyn std::error::Error, "cannot write an Event");
                }
            }
        };
        (Self(sender), work)
    }

    pub fn normal(&self, regarding: &ObjectReference, reason: &str, note: &str) {
        self.send(EventType::Normal, regarding, reason, note);
    }

    pub fn warning(&self, regarding: &ObjectReference, reason: &str, note: &str) {
        self.send(EventType::Warning, regarding, reason, note);
    }

    fn send(&self, type_: EventType, regarding: &ObjectReference, reason: &str, note: &str) {
        let note = Some(cut(note, NOTE).to_owned()).filter(|note| !note.is_empty());
        let event = Event { type_, reason: reason.into(), note, action: "Reconcile".into(), secondary: None };
        if self.0.try_send((event, regarding.clone())).is_err() {
            tracing::debug!(reason, "an Event was dropped: the queue is full");
        }
    }
}
