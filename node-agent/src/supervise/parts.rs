//! The parts of a tenant as one: when one of them ends, the others are stopped, and all are started again after a pause.

use nestling_runtime::backoff::Backoff;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

const RESTART: Duration = Duration::from_millis(500);
const RESTART_AT_MOST: Duration = Duration::from_secs(30);
/// Parts that have run so long have not failed to start.
const SETTLED: Duration = Duration::from_secs(60);
/// How long parts may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// Calls `run`, with a token that stops it, whenever it has ended, until `stop`.
pub(super) async fn keep_running<F: Future<Output = ()>>(stop: &CancellationToken, mut run: impl FnMut(CancellationToken) -> F) {
    let mut pauses = Backoff::new(RESTART, RESTART_AT_MOST);
    while !stop.is_cancelled() {
        let started = Instant::now();
        run(stop.child_token()).await;
        if started.elapsed() >= SETTLED {
            pauses.succeeded();
        }
        let _: Option<()> = stop.run_until_cancelled(sleep(pauses.failed())).await;
    }
}

/// Parts that run.
pub(super) struct Parts {
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Parts {
    /// None yet. `stop` stops all of them.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop }
    }

    /// Starts a part, which is to end with `stop`.
    pub(super) fn start<R: Outcome>(&mut self, name: &'static str, part: impl Future<Output = R> + Send + 'static) {
        let reported = async move {
            part.await.report(name);
            name
        };
        self.tasks.spawn(reported.in_current_span());
    }

    /// Waits until a part ends, then stops the others.
    pub(super) async fn ended(mut self) {
        match self.stop.run_until_cancelled(self.tasks.join_next()).await {
            Some(Some(Ok(name))) => tracing::warn!(part = name, "a part of the tenant ended; starting all of them again"),
            Some(Some(Err(error))) => tracing::error!(%error, "a part of the tenant ended unexpectedly"),
            Some(None) | None => {}
        }
        self.stop.cancel();
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP, rest).await.is_err() {
            tracing::warn!(limit = ?STOP, "a part of the tenant did not stop");
            self.tasks.shutdown().await;
        }
    }
}

/// What a part returns when it ends. A failure is logged here, once.
pub(super) trait Outcome {
    fn report(self, name: &'static str);
}

impl Outcome for () {
    fn report(self, _name: &'static str) {}
}

impl<E: std::error::Error + 'static> Outcome for Result<(), E> {
    fn report(self, name: &'static str) {
        if let Err(error) = self {
            tracing::error!(part = name, error = &error as &dyn std::error::Error, "a part of the tenant failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What happened, with the milliseconds since the start of the test.
    #[derive(Clone)]
    struct Log(Instant, Arc<Mutex<Vec<(u128, &'static str)>>>);

    impl Log {
        fn new() -> Self {
            Self(Instant::now(), Arc::default())
        }

        fn add(&self, what: &'static str) {
            self.1.lock().unwrap().push((self.0.elapsed().as_millis(), what));
        }

        fn entries(&self) -> Vec<(u128, &'static str)> {
            self.1.lock().unwrap().clone()
        }

        fn times(&self, of: &str) -> Vec<u128> {
            self.entries().into_iter().filter(|(_, what)| *what == of).map(|(at, _)| at).collect()
        }
    }

    /// Runs a part that works until it is stopped, and takes a second to stop, beside `other`, for a time.
    async fn run_beside<R, F>(log: &Log, time: Duration, other: impl Fn() -> F)
    where
        R: Outcome,
        F: Future<Output = R> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let run = |stop: CancellationToken| {
            let mut parts = Parts::new(stop.clone());
            let log = log.clone();
            parts.start("steady", async move {
                log.add("start");
                stop.cancelled().await;
                sleep(Duration::from_secs(1)).await;
                log.add("stop");
            });
            parts.start("other", other());
            parts.ended()
        };
        let end = async {
            sleep(time).await;
            stop.cancel();
        };
        tokio::join!(keep_running(&stop, run), end);
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_start_again_when_one_fails_and_the_others_have_stopped() {
        let log = Log::new();
        let fails = || async {
            sleep(Duration::from_secs(5)).await;
            Err(std::io::Error::other("broken"))
        };
        run_beside(&log, Duration::from_secs(20), fails).await;
        let expected = [(0, "start"), (6_000, "stop"), (6_500, "start"), (12_500, "stop"), (13_500, "start"), (19_500, "stop")];
        assert_eq!(log.entries(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn all_parts_start_again_when_one_panics() {
        let log = Log::new();
        let panics = || async {
            sleep(Duration::from_secs(1)).await;
            panic!("a bug");
        };
        run_beside::<(), _>(&log, Duration::from_secs(3), panics).await;
        assert_eq!(log.times("start"), [0, 2_500]);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_half_a_minute_and_start_over_after_a_minute_of_work() {
        let log = Log::new();
        let began = Instant::now();
        let fails = move || async move { sleep(Duration::from_secs(if began.elapsed().as_secs() < 200 { 0 } else { 60 })).await };
        run_beside(&log, Duration::from_secs(400), fails).await;
        let starts = log.times("start");
        // The time from each start to the next, without the second that the steady part takes to stop.
        let pauses: Vec<u128> = starts.windows(2).map(|pair| pair[1] - pair[0] - 1_000).collect();
        assert_eq!(pauses[..8], [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pauses[pauses.len() - 2..], [60_500, 60_500], "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_starts_nothing_again() {
        let log = Log::new();
        run_beside(&log, Duration::from_secs(100), std::future::pending::<()>).await;
        assert_eq!(log.entries(), [(0, "start"), (101_000, "stop")], "the part that does not stop is ended");
        assert_eq!(log.0.elapsed(), Duration::from_secs(100) + STOP);
    }
}
