//! Growing pauses between attempts.

use kube::runtime::utils::Backoff;
use std::time::Duration;

/// Doubles from `first` to `longest`.
#[derive(Clone, Debug)]
pub struct RetryBackoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl RetryBackoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// For reads that are usually refused for some milliseconds only, when the Node authorizer lags behind.
    pub const fn watch() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_secs(20))
    }

    /// For writes.
    pub const fn write() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(60))
    }

    /// The pause after `failures` attempts failed in a row.
    pub fn after(failures: u32) -> Duration {
        let Self { first, longest, next: _ } = Self::write();
        first.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(longest)
    }

    /// The next pause.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        delay
    }
}

impl Iterator for RetryBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.delay())
    }
}

impl Backoff for RetryBackoff {
    fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<_> = RetryBackoff::new(Duration::from_secs(1), Duration::from_secs(5)).take(4).collect();
        assert_eq!(pauses, [1, 2, 4, 5].map(Duration::from_secs));
        assert_eq!(RetryBackoff::after(1), Duration::from_millis(200));
        assert_eq!(RetryBackoff::after(3), Duration::from_millis(800));
        assert_eq!(RetryBackoff::after(u32::MAX), Duration::from_secs(60));
    }
}
