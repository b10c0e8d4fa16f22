//! Clusters that are due for a reconcile. Internally a set: a thousand changes of one cluster's objects are one entry.

use super::Cluster;
use futures::Stream;
use kube::runtime::reflector::ObjectRef;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Clones share one set; the order in which clusters leave it is unspecified.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReconcileQueue(Arc<Due>);

#[derive(Debug, Default)]
struct Due {
    clusters: Mutex<HashSet<ObjectRef<Cluster>>>,
    changed: Notify,
}

impl ReconcileQueue {
    pub(crate) fn add(&self, cluster: ObjectRef<Cluster>) {
        self.extend([cluster]);
    }

    pub(crate) fn extend(&self, clusters: impl IntoIterator<Item = ObjectRef<Cluster>>) {
        self.0.clusters.lock().unwrap_or_else(PoisonError::into_inner).extend(clusters);
        self.0.changed.notify_one();
    }

    /// The clusters as they fall due; never ends. For one consumer.
    pub(crate) fn stream(&self) -> impl Stream<Item = ObjectRef<Cluster>> + use<> {
        let due = self.0.clone();
        futures::stream::unfold((due, Vec::new()), |(due, mut batch): (Arc<Due>, Vec<_>)| async move {
            loop {
                if let Some(next) = batch.pop() {
                    return Some((next, (due, batch)));
                }
                batch = due.clusters.lock().unwrap_or_else(PoisonError::into_inner).drain().collect();
                if batch.is_empty() {
                    due.changed.notified().await;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt as _, StreamExt as _};
    use std::pin::pin;

    #[tokio::test]
    async fn a_cluster_is_due_once_until_it_is_taken() {
        let queue = ReconcileQueue::default();
        let mut due = pin!(queue.stream());
        assert!(due.next().now_or_never().is_none());
        let dev = ObjectRef::<Cluster>::new("dev").within("team");
        queue.add(dev.clone());
        queue.add(dev.clone());
        assert_eq!(due.next().await, Some(dev.clone()));
        assert!(due.next().now_or_never().is_none());
        queue.add(dev.clone());
        assert_eq!(due.next().await, Some(dev));
    }
}
