//! What is remembered of each pod beside the stores.

use super::key::PodKey;
use super::plan::Known;
use super::translate::Needs;
use crate::volumes::pod_secret::PodSecret;
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// What is known of one pod.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The host pod as the API answered its creation, until the watch shows it.
    pub made: Option<(Arc<Pod>, Instant)>,
    /// The store of host pods has had one. Set after the store took it, never before: see `Watches::take_host_event`.
    pub seen: bool,
    /// The host pod as it was when its removal was seen.
    pub last: Option<Arc<Pod>>,
    /// The tenant pod as our last status write returned it.
    pub posted: Option<Arc<Pod>>,
    /// The tenant pod as it was when its removal was seen.
    pub departed: Option<Arc<Pod>>,
    /// What the pod needs on the host, once it was translated.
    pub needs: Option<Arc<Needs>>,
    /// Copies of `needs` are held.
    pub acquired: bool,
    pub secret: Option<PodSecret>,
    /// What the tenant was told by events of the agent's own, so that it is told once.
    pub told: BTreeSet<String>,
    /// Attempts that failed in a row.
    pub failures: u32,
}

impl Record {
    /// `started`: the tenant pod's status has a start time, which only a realized pod gets.
    pub fn known(&self, started: bool) -> Known {
        if self.seen || self.last.is_some() || started {
            Known::Existed
        } else if self.made.is_some() {
            Known::Made
        } else {
            Known::Never
        }
    }
}

/// The records of a tenant's pods on this node.
#[derive(Debug, Default)]
pub struct Records(Mutex<HashMap<PodKey, Record>>);

impl Records {
    pub fn get(&self, key: &PodKey) -> Record {
        self.with(|records| records.get(key).cloned().unwrap_or_default())
    }

    /// Changes one record. Watches and the pod's own reconcile both do, each its own fields.
    pub fn update<T>(&self, key: &PodKey, change: impl FnOnce(&mut Record) -> T) -> T {
        self.with(|records| change(records.entry(key.clone()).or_default()))
    }

    pub fn remove(&self, key: &PodKey) {
        self.with(|records| drop(records.remove(key)));
    }

    pub fn keys(&self) -> Vec<PodKey> {
        self.with(|records| records.keys().cloned().collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<PodKey, Record>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
