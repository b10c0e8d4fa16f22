//! State that many tasks change and one task acts on: the newest state counts, not the changes that led to it.

use super::locks::{Mutex, MutexGuard};
use std::sync::PoisonError;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    /// The generation that has been acted on.
    applied: watch::Sender<u64>,
}

#[derive(Default)]
struct State<T> {
    content: T,
    /// Counts changes of the content.
    generation: u64,
    /// The first change that is not acted on yet.
    since: Option<Instant>,
    is_urgent: bool,
}

/// One attempt to act on the newest state.
#[derive(Clone, Copy)]
pub(super) struct Round {
    generation: u64,
    /// The first change of the round.
    pub(super) since: Option<Instant>,
}

impl<T: Default> Default for Shared<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State::default()), changed: Notify::new(), applied: watch::Sender::new(0) }
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `change` returns whether it changed anything. An urgent change does not wait for others.
    pub(super) fn update(&self, is_urgent: bool, change: impl FnOnce(&mut T) -> bool) {
        let mut state = self.state();
        if change(&mut state.content) {
            state.generation += 1;
            state.since.get_or_insert_with(Instant::now);
            state.is_urgent |= is_urgent;
            drop(state);
            self.changed.notify_one();
        }
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.state().content)
    }

    /// Waits for a change since the last call.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.state().is_urgent
    }

    /// Begins a round with what `take` makes of the state.
    pub(super) fn begin<R>(&self, take: impl FnOnce(&mut T) -> R) -> (Round, R) {
        let mut state = self.state();
        state.is_urgent = false;
        let round = Round { generation: state.generation, since: state.since.take() };
        (round, take(&mut state.content))
    }

    /// The round has succeeded.
    pub(super) fn applied(&self, round: Round) {
        self.applied.send_replace(round.generation);
    }

    /// The round has failed and is to be tried again.
    pub(super) fn failed(&self, round: Round) {
        let mut state = self.state();
        state.since = round.since.or(state.since);
    }

    /// Waits until every change so far has been acted on; for ever if no task does so any more.
    pub(super) async fn settled(&self) {
        let generation = self.state().generation;
        // Fails only without a sender, which lives as long as `self`.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= generation).await;
    }
}
