//! What tenants' tasks tell the driver: the newest word of each, not a queue of words.

use super::desired::Desired;
use super::rules::{Family, Installed, Want};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub struct Shared {
    state: Mutex<State>,
    notify: Notify,
    /// The generation whose rules are in the kernel.
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    desired: Desired,
    /// Counts changes of `desired`.
    generation: u64,
    /// The first change that is not taken up yet.
    since: Option<Instant>,
    is_urgent: bool,
}

/// What a round of the driver is about.
#[derive(Clone, Copy)]
pub struct Told {
    pub generation: u64,
    pub since: Option<Instant>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { state: Mutex::default(), notify: Notify::new(), applied: watch::Sender::new(0) }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `change` says whether it changed anything. An urgent change does not wait for others.
    pub fn tell(&self, is_urgent: bool, change: impl FnOnce(&mut Desired) -> bool) {
        let mut state = self.state();
        if change(&mut state.desired) {
            state.generation += 1;
            state.since.get_or_insert_with(Instant::now);
            state.is_urgent |= is_urgent;
            drop(state);
            self.notify.notify_one();
        }
    }

    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    pub fn is_urgent(&self) -> bool {
        self.state().is_urgent
    }

    pub fn knows_tenants(&self) -> bool {
        self.state().desired.knows_tenants()
    }

    pub fn is_complete(&self) -> bool {
        self.state().desired.is_complete()
    }

    pub fn want(&self, installed: &BTreeMap<Family, Installed>, bridges: BTreeMap<Family, BTreeSet<String>>) -> (Told, Want) {
        let mut state = self.state();
        state.is_urgent = false;
        let told = Told { generation: state.generation, since: state.since.take() };
        state.desired.expire(Instant::now());
        (told, state.desired.want(installed, bridges))
    }

    /// It did not work out.
    pub fn postponed(&self, told: Told) {
        let mut state = self.state();
        state.since = told.since.or(state.since);
    }

    pub fn applied(&self, generation: u64) {
        self.applied.send_replace(generation);
    }

    /// Waits until everything told so far is in the kernel; for ever once the driver has ended.
    pub async fn settled(&self) {
        let generation = self.state().generation;
        // The sender lives as long as `self`.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= generation).await;
    }
}
