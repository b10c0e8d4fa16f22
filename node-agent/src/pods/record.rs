//! What is remembered of each pod beside the stores.

use super::names::PodKey;
use super::plan::Known;
use super::translate::Needs;
use super::volumes::pod_secret::PodSecret;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// What is known of one pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The host pod as the API answered its creation, until the watch delivers it.
    pub(crate) created: Option<(Arc<Pod>, Instant)>,
    /// The store of host pods has had one. Set after the store took it, never before: see `Watches::take_host_event`.
    pub(crate) observed: bool,
    /// The host pod as its Delete event had it.
    pub(crate) last_host: Option<Arc<Pod>>,
    /// The tenant pod as our last status write returned it.
    pub(crate) written: Option<Arc<Pod>>,
    /// The tenant pod as its Delete event had it.
    pub(crate) deleted: Option<Arc<Pod>>,
    /// What the pod needs on the host, once it was translated.
    pub(crate) needs: Option<Arc<Needs>>,
    /// Copies of `needs` are held.
    pub(crate) holds_copies: bool,
    pub(crate) secret: Option<PodSecret>,
    /// Reason and message of the events that the agent emitted of its own, so that it repeats none.
    pub(crate) emitted: BTreeSet<String>,
    /// Attempts that failed in a row.
    pub(crate) failures: u32,
}

impl Record {
    /// `started`: the tenant pod's status has a start time, which only a pod with a host pod gets.
    pub(crate) fn known(&self, started: bool) -> Known {
        if self.observed || self.last_host.is_some() || started {
            Known::Existed
        } else if self.created.is_some() {
            Known::Created
        } else {
            Known::Never
        }
    }
}

/// The records of a tenant's pods on this node.
#[derive(Debug, Default)]
pub(crate) struct Records(Mutex<HashMap<PodKey, Record>>);

impl Records {
    /// A copy of the record; an empty one for a pod without.
    pub(crate) fn get(&self, key: &PodKey) -> Record {
        self.with(|records| records.get(key).cloned().unwrap_or_default())
    }

    /// Changes one record. Watches and the pod's own worker both do, each its own fields.
    pub(crate) fn update<T>(&self, key: &PodKey, change: impl FnOnce(&mut Record) -> T) -> T {
        self.with(|records| change(records.entry(key.clone()).or_default()))
    }

    pub(crate) fn remove(&self, key: &PodKey) {
        self.with(|records| drop(records.remove(key)));
    }

    pub(crate) fn keys(&self) -> Vec<PodKey> {
        self.with(|records| records.keys().cloned().collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<PodKey, Record>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
