//! Which pods refer to which tenant ConfigMaps and Secrets: a copy on the host is kept while some pod refers to its source
//! and is deleted when none does.

use super::copy::Copy;
pub(crate) use super::copy::CopyState;
use super::leftovers::Leftovers;
use crate::pods::names::{PodKey, Source};
use crate::tenant::Tenant;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use nestling_runtime::queue::Queue;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// How long an unreferenced copy stays: pods that come and go one after the other (Jobs, rollouts) share it.
const LINGER: Duration = Duration::from_secs(5);

/// The copies of one tenant on this node.
pub(crate) struct Copies {
    tenant: Arc<Tenant>,
    /// Gets each pod that a change of state concerns.
    queue: Arc<Queue<PodKey>>,
    entries: Mutex<HashMap<Source, Entry>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct Entry {
    pods: BTreeSet<PodKey>,
    /// Whether `pods` has any.
    referenced: watch::Sender<bool>,
    state: watch::Receiver<CopyState>,
}

impl Copies {
    pub(crate) fn new(tenant: Arc<Tenant>, queue: Arc<Queue<PodKey>>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { tenant, queue, entries: Mutex::default(), tasks: TaskTracker::new(), shutdown })
    }

    /// `pod` refers to `sources`: their copies are made, if they are not there yet, and kept.
    pub(crate) fn acquire(self: &Arc<Self>, pod: &PodKey, sources: &BTreeSet<Source>, leftovers: &Leftovers) {
        let mut entries = self.entries();
        for source in sources {
            let entry = entries.entry(source.clone()).or_insert_with(|| {
                let host_name = source.host_name(&self.tenant.spec.uid, &self.tenant.node);
                self.start(source, leftovers.copies.get(host_name.as_str()).map(|copy| copy.uid.clone()))
            });
            entry.pods.insert(pod.clone());
            entry.referenced.send_replace(true);
        }
    }

    /// `pod` refers to no source any more.
    pub(crate) fn release(&self, pod: &PodKey) {
        for entry in self.entries().values_mut() {
            if entry.pods.remove(pod) && entry.pods.is_empty() {
                entry.referenced.send_replace(false);
            }
        }
    }

    /// The state of `sources`, after waiting at most `patience` for those of which nothing is known.
    pub(crate) async fn states(&self, sources: &BTreeSet<Source>, patience: Duration) -> BTreeMap<Source, CopyState> {
        let receivers: Vec<_> = {
            let entries = self.entries();
            sources.iter().filter_map(|source| Some((source.clone(), entries.get(source)?.state.clone()))).collect()
        };
        let known = async {
            for (_, mut state) in receivers.clone() {
                // A closed channel means shutdown; the state then stays what it is.
                drop(state.wait_for(|state| *state != CopyState::Unknown).await.map(drop));
            }
        };
        drop(timeout(patience, known).await);
        receivers.into_iter().map(|(source, state)| (source, state.borrow().clone())).collect()
    }

    /// Names of the host copies that are kept now.
    pub(crate) fn host_names(&self) -> BTreeSet<String> {
        self.entries().keys().map(|source| source.host_name(&self.tenant.spec.uid, &self.tenant.node).to_string()).collect()
    }

    /// Waits for the tasks after shutdown. The copies stay: running pods need them.
    pub(crate) async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Starts the task of one copy; `host_uid` is the copy that an earlier process left.
    fn start(self: &Arc<Self>, source: &Source, host_uid: Option<String>) -> Entry {
        let (referenced, is_referenced) = watch::channel(true);
        let (publish, state) = watch::channel(CopyState::Unknown);
        let copy = Copy::new(self.tenant.clone(), source.clone(), host_uid);
        let span = tracing::info_span!("copy", tenant = %self.tenant.spec.uid, source = %source);
        let copies = self.clone();
        let source = source.clone();
        self.tasks.spawn(async move { Box::pin(copies.run(copy, &source, &publish, is_referenced)).await }.instrument(span));
        Entry { pods: BTreeSet::new(), referenced, state }
    }

    /// Keeps one copy until it is deleted. The entry leaves the map only after the host copy is gone, so a source that is
    /// referred to again meanwhile is copied by the same task, after the deletion.
    async fn run(&self, mut copy: Copy, source: &Source, state: &watch::Sender<CopyState>, mut referenced: watch::Receiver<bool>) {
        let work = async {
            loop {
                let publish = |now: CopyState| {
                    if state.send_if_modified(|old| std::mem::replace(old, now.clone()) != now) {
                        self.requeue_pods(source);
                    }
                };
                copy.follow(publish, unreferenced(&mut referenced)).await;
                let mut backoff = Backoff::write();
                while !*referenced.borrow() {
                    match copy.delete().await {
                        Ok(()) if self.forget(source) => return,
                        Ok(()) => break,
                        Err(error) => {
                            let delay = backoff.failed();
                            tracing::warn!(error = %chain(&error), ?delay, "unreferenced copy not deleted, retrying");
                            sleep(delay).await;
                        }
                    }
                }
                state.send_replace(CopyState::Unknown);
            }
        };
        let _ended = self.shutdown.run_until_cancelled(work).await;
    }

    /// Drops the entry unless a pod refers to the source again.
    fn forget(&self, source: &Source) -> bool {
        let mut entries = self.entries();
        match entries.get(source) {
            Some(entry) if !entry.pods.is_empty() => false,
            _ => {
                entries.remove(source);
                true
            }
        }
    }

    fn requeue_pods(&self, source: &Source) {
        let pods: Vec<PodKey> = self.entries().get(source).map(|entry| entry.pods.iter().cloned().collect()).unwrap_or_default();
        for pod in pods {
            self.queue.add(pod);
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Source, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes when no pod has referred to the copy for [`LINGER`].
async fn unreferenced(referenced: &mut watch::Receiver<bool>) {
    loop {
        if referenced.wait_for(|referenced| !referenced).await.is_err() {
            return;
        }
        match timeout(LINGER, referenced.wait_for(|referenced| *referenced)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
