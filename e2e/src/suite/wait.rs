//! Waiting for what must come true, and watching that what is true stays so.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(200);

/// Tries until it succeeds; past the deadline the last failure is the error.
pub fn eventually<T>(what: &str, deadline: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("not so within {deadline:?}: {what}"));
            }
            Err(_) => std::thread::sleep(PERIOD),
        }
    }
}

/// Looks again and again for `period`; the first failure is the error.
pub fn hold(what: &str, period: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + period;
    let mut looks = 0;
    while Instant::now() < end {
        look().with_context(|| format!("no longer so: {what}"))?;
        looks += 1;
        std::thread::sleep(PERIOD);
    }
    ensure!(looks > 0, "never looked: {what}");
    Ok(())
}
