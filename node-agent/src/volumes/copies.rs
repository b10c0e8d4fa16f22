//! Which pods want which copies: a copy is kept while some pod refers to it and goes when none does.

use super::copy::Copy;
pub use super::copy::CopyState;
use super::{Source, inventory::Inventory};
use crate::pods::backoff::RetryBackoff;
use crate::pods::key::PodKey;
use crate::pods::queue::Queue;
use crate::tenant::Tenant;
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
pub struct Copies {
    tenant: Arc<Tenant>,
    /// Woken for each pod that a change of state concerns.
    queue: Arc<Queue<PodKey>>,
    entries: Mutex<HashMap<Source, Entry>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

struct Entry {
    users: BTreeSet<PodKey>,
    wanted: watch::Sender<bool>,
    state: watch::Receiver<CopyState>,
}

impl Copies {
    pub fn new(tenant: Arc<Tenant>, queue: Arc<Queue<PodKey>>, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { tenant, queue, entries: Mutex::default(), tasks: TaskTracker::new(), shutdown })
    }

    /// `pod` refers to `sources`: their copies are made, if they are not there yet, and kept.
    pub fn acquire(self: &Arc<Self>, pod: &PodKey, sources: &BTreeSet<Source>, left: &Inventory) {
        let mut entries = self.entries();
        for source in sources {
            let entry = entries.entry(source.clone()).or_insert_with(|| {
                let host_name = source.host_name(&self.tenant.spec.uid, &self.tenant.node);
                self.start(source, left.copies.get(host_name.as_str()).map(|copy| copy.uid.clone()))
            });
            entry.users.insert(pod.clone());
            entry.wanted.send_replace(true);
        }
    }

    /// `pod` is gone.
    pub fn release(&self, pod: &PodKey) {
        for entry in self.entries().values_mut() {
            if entry.users.remove(pod) && entry.users.is_empty() {
                entry.wanted.send_replace(false);
            }
        }
    }

    /// The state of `sources`, waiting up to `patience` for those of which nothing is known.
    pub async fn states(&self, sources: &BTreeSet<Source>, patience: Duration) -> BTreeMap<Source, CopyState> {
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

    /// Names of the host copies that are wanted now.
    pub fn host_names(&self) -> BTreeSet<String> {
        self.entries().keys().map(|source| source.host_name(&self.tenant.spec.uid, &self.tenant.node).to_string()).collect()
    }

    /// Waits for the tasks after shutdown. The copies stay: pods that run need them.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(self: &Arc<Self>, source: &Source, host_uid: Option<String>) -> Entry {
        let (wanted, wanted_now) = watch::channel(true);
        let (state, state_now) = watch::channel(CopyState::Unknown);
        let copy = Copy::new(self.tenant.clone(), source.clone(), host_uid);
        let span = tracing::info_span!("copy", tenant = %self.tenant.spec.uid, source = %source);
        let copies = self.clone();
        let source = source.clone();
        self.tasks.spawn(async move { Box::pin(copies.run(copy, &source, &state, wanted_now)).await }.instrument(span));
        Entry { users: BTreeSet::new(), wanted, state: state_now }
    }

    /// The life of one copy. The entry leaves the map only after the host copy is gone, so a copy that is wanted again
    /// meanwhile is made by the same task, after the removal.
    async fn run(&self, mut copy: Copy, source: &Source, state: &watch::Sender<CopyState>, mut wanted: watch::Receiver<bool>) {
        let work = async {
            loop {
                let publish = |now: CopyState| {
                    if state.send_if_modified(|old| std::mem::replace(old, now.clone()) != now) {
                        self.wake(source);
                    }
                };
                copy.follow(publish, unwanted(&mut wanted)).await;
                let mut backoff = RetryBackoff::write();
                while !*wanted.borrow() {
                    match copy.remove().await {
                        Ok(()) if self.forget(source) => return,
                        Ok(()) => break,
                        Err(error) => {
                            tracing::warn!(%error, "copy not removed");
                            sleep(backoff.delay()).await;
                        }
                    }
                }
                state.send_replace(CopyState::Unknown);
            }
        };
        let _ended = self.shutdown.run_until_cancelled(work).await;
    }

    /// Drops the entry unless a pod wants it again.
    fn forget(&self, source: &Source) -> bool {
        let mut entries = self.entries();
        match entries.get(source) {
            Some(entry) if !entry.users.is_empty() => false,
            _ => {
                entries.remove(source);
                true
            }
        }
    }

    fn wake(&self, source: &Source) {
        let users: Vec<PodKey> = self.entries().get(source).map(|entry| entry.users.iter().cloned().collect()).unwrap_or_default();
        for pod in users {
            self.queue.add(pod);
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Source, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes when the copy has been unwanted for [`LINGER`].
async fn unwanted(wanted: &mut watch::Receiver<bool>) {
    loop {
        if wanted.wait_for(|wanted| !wanted).await.is_err() {
            return;
        }
        match timeout(LINGER, wanted.wait_for(|wanted| *wanted)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
