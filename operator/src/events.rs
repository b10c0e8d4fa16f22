//! Events on clusters, as `kubectl describe` shows them. They are written concurrently with reconciles, which do not wait
//! for them: while the host's API is slow, Events are dropped.

use crate::conditions::cut;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use nestling_crds::labels;
use nestling_runtime::error::chain;
use tokio::sync::mpsc;

/// Events waiting to be written.
const QUEUE: usize = 256;
/// Longest note that events.k8s.io takes, in bytes.
const NOTE: usize = 1024;

/// Accepts Events; clones share one queue.
#[derive(Clone, Debug)]
pub(crate) struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// The queue, and the task that writes its Events until every clone is dropped.
    pub(crate) fn new(client: Client, identity: &str) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, mut queue) = mpsc::channel::<(Event, ObjectReference)>(QUEUE);
        let reporter = Reporter { controller: labels::OPERATOR.into(), instance: Some(identity.into()) };
        // One recorder for all, for it folds repetitions into a series.
        let recorder = Recorder::new(client, reporter);
        let work = async move {
            while let Some((event, regarding)) = queue.recv().await {
                if let Err(error) = recorder.publish(&event, &regarding).await {
                    tracing::debug!(reason = event.reason, error = chain(&error), "cannot write an Event");
                }
            }
        };
        (Self(sender), work)
    }

    /// Queues an Event about `regarding`.
    pub(crate) fn send(&self, type_: EventType, regarding: &ObjectReference, reason: &str, note: &str) {
        let note = Some(cut(note, NOTE).to_owned()).filter(|note| !note.is_empty());
        let event = Event { type_, reason: reason.into(), note, action: "Reconcile".into(), secondary: None };
        if self.0.try_send((event, regarding.clone())).is_err() {
            tracing::debug!(reason, "Event dropped: the queue is full");
        }
    }
}
