//! What a person at the terminal sees while the cluster is built and started: one line per step, on standard error.

use std::future::Future;
use std::time::{Duration, Instant};

pub fn say(line: &str) {
    eprintln!("{line}");
}

/// Runs `work`, telling at the start what it is, every `every` that it still runs, and at the end how long it took.
pub async fn step<T, E>(label: &str, every: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let started = Instant::now();
    say(&format!("{label} …"));
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        tokio::select! {
            result = &mut work => {
                let seconds = started.elapsed().as_secs_f64();
                say(&format!("{label} {} {seconds:.1} s", if result.is_ok() { "done in" } else { "FAILED after" }));
                return result;
            }
            _ = tick.tick() => say(&format!("{label} … {} s", started.elapsed().as_secs())),
        }
    }
}
