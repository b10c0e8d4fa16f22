//! How long to wait before the next attempt: doubling from a base to a cap, for one thing ([`Steps`]) or for each of
//! many objects ([`Backoff`]). A success starts it over.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Delays of one retry loop.
#[derive(Clone, Debug)]
pub struct Steps {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Steps {
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The delay after one more failure.
    pub fn failed(&mut self) -> Duration {
        let delay = self.base.saturating_mul(2u32.saturating_pow(self.failures)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Delays per object, shared by all who work on the objects.
///
/// Objects that vanish need not be reported: an object that has not failed for ten times the cap is forgotten.
#[derive(Debug)]
pub struct Backoff<K> {
    base: Duration,
    cap: Duration,
    objects: Mutex<HashMap<K, (Steps, Instant)>>,
}

impl<K: Hash + Eq> Backoff<K> {
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, objects: Mutex::new(HashMap::new()) }
    }

    /// The delay before `object` is tried again, after one more failure.
    pub fn failed(&self, object: K) -> Duration {
        let now = Instant::now();
        let forget_after = self.cap.saturating_mul(10);
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() == objects.capacity() {
            objects.retain(|_, (_, last)| now.duration_since(*last) < forget_after);
        }
        let (steps, last) = objects.entry(object).or_insert_with(|| (Steps::new(self.base, self.cap), now));
        *last = now;
        steps.failed()
    }

    pub fn succeeded(&self, object: &K) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(1);
    const CAP: Duration = Duration::from_secs(5);

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let mut steps = Steps::new(BASE, CAP);
        let delays: Vec<u64> = (0..5).map(|_| steps.failed().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5]);
        steps.succeeded();
        assert_eq!(steps.failed(), BASE);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_do_not_share_delays() {
        let backoff = Backoff::new(BASE, CAP);
        backoff.failed("a");
        assert_eq!(backoff.failed("a").as_secs(), 2);
        assert_eq!(backoff.failed("b").as_secs(), 1);
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed("a").as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_long_silent_are_forgotten() {
        let backoff = Backoff::new(BASE, CAP);
        for object in 0..1000 {
            backoff.failed(object);
            tokio::time::advance(CAP).await;
        }
        assert!(backoff.objects.lock().unwrap().len() < 100);
    }
}
