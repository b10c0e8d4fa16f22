//! How long to wait before the next attempt: doubling from a first pause to a longest one, for one retry loop
//! ([`Backoff`]) or for each of many objects ([`PerObject`]). A success starts it over.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Pauses of one retry loop. Also an endless iterator, and as such a back-off of kube's watchers.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// Pauses up to this one double freely; it is then kept for so many failures before they double on.
    eager: (Duration, u32),
    failures: u32,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, eager: (longest, 0), failures: 0 }
    }

    /// 10 ms to 20 s, for reads and watches: the Node authorizer refuses what it does not know yet for some milliseconds. For the
    /// first 30 s at most 160 ms: an API that has just been created comes up within that time, and its user waits for it.
    pub const fn watch() -> Self {
        Self { eager: (Duration::from_millis(160), 185), ..Self::new(Duration::from_millis(10), Duration::from_secs(20)) }
    }

    /// 200 ms to 60 s, for writes.
    pub const fn write() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(60))
    }

    /// The pause after so many failures in a row, of which there is at least one.
    pub fn after(&self, failures: u32) -> Duration {
        let doubled = |failures: u32| self.first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)));
        let (eager, kept) = self.eager;
        if doubled(failures) <= eager { doubled(failures) } else { doubled(failures.saturating_sub(kept)).max(eager).min(self.longest) }
    }

    /// The pause after one more failure.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.after(self.failures)
    }

    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.failed())
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.succeeded();
    }
}

/// Pauses per object, shared by all who work on the objects.
///
/// Objects that vanish need not be reported: an object that has not failed for ten times the longest pause is forgotten.
#[derive(Debug)]
pub struct PerObject<K> {
    fresh: Backoff,
    objects: Mutex<HashMap<K, (Backoff, Instant)>>,
}

impl<K: Hash + Eq> PerObject<K> {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { fresh: Backoff::new(first, longest), objects: Mutex::new(HashMap::new()) }
    }

    /// The pause before `object` is tried again, after one more failure.
    pub fn failed(&self, object: K) -> Duration {
        let now = Instant::now();
        let forget_after = self.fresh.longest.saturating_mul(10);
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if objects.len() == objects.capacity() {
            objects.retain(|_, (_, last)| now.duration_since(*last) < forget_after);
        }
        let (backoff, last) = objects.entry(object).or_insert_with(|| (self.fresh.clone(), now));
        *last = now;
        backoff.failed()
    }

    pub fn succeeded(&self, object: &K) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let pauses: Vec<u64> = backoff.by_ref().take(5).map(|pause| pause.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        backoff.succeeded();
        assert_eq!(backoff.failed(), FIRST);
    }

    #[test]
    fn the_pause_follows_from_the_number_of_failures() {
        assert_eq!(Backoff::write().after(1), Duration::from_millis(200));
        assert_eq!(Backoff::write().after(3), Duration::from_millis(800));
        assert_eq!(Backoff::write().after(u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn watches_are_tried_often_for_half_a_minute_and_then_less_and_less() {
        let pauses: Vec<u64> = Backoff::watch().take(200).map(|pause| u64::try_from(pause.as_millis()).unwrap()).collect();
        assert_eq!(pauses[..6], [10, 20, 40, 80, 160, 160]);
        let eager = pauses.iter().position(|pause| *pause > 160).unwrap();
        assert!((28_000..32_000).contains(&pauses[..eager].iter().sum::<u64>()));
        assert_eq!(pauses[eager..eager + 8], [320, 640, 1280, 2560, 5120, 10_240, 20_000, 20_000]);
        assert_eq!(Backoff::watch().after(u32::MAX), Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn objects_do_not_share_pauses() {
        let backoff = PerObject::new(FIRST, LONGEST);
        backoff.failed("a");
        assert_eq!(backoff.failed("a").as_secs(), 2);
        assert_eq!(backoff.failed("b").as_secs(), 1);
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed("a").as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_no_longer_fail_are_forgotten() {
        let backoff = PerObject::new(FIRST, LONGEST);
        for object in 0..1000 {
            backoff.failed(object);
            tokio::time::advance(LONGEST).await;
        }
        assert!(backoff.objects.lock().unwrap().len() < 100);
    }
}
