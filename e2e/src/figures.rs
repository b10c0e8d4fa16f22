//! Samples, and the page on which figures are published: each program that measures owns one part of it and leaves the others
//! alone.

use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// Times of one thing done several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<Duration>);

impl FromIterator<Duration> for Sample {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut times: Vec<Duration> = times.into_iter().collect();
        times.sort();
        Self(times)
    }
}

impl Sample {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort();
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Nearest-rank percentile, 0 to 100.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len().max(1));
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    pub(crate) fn ratio(&self, to: &Self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() / to.percentile(percent).as_secs_f64()
    }
}

/// Writes `text` as the part of `page` that `program` owns, and prints it.
pub(crate) fn publish(page: &Path, program: &str, text: &str) -> Result<()> {
    let present = match std::fs::read_to_string(page) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok("# Benchmarks\n".to_owned()),
        other => other,
    };
    let present = present.with_context(|| format!("read {}", page.display()))?;
    std::fs::write(page, with_part(&present, program, text)).with_context(|| format!("write {}", page.display()))?;
    print!("{text}");
    Ok(())
}

fn with_part(page: &str, program: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {program} -->\n"), format!("<!-- end of {program} -->\n"));
    let text = text.trim_matches('\n');
    let (before, after) = match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => (page[..from].to_owned(), &page[to + end.len()..]),
        _ => (format!("{}\n\n", page.trim_end()), ""),
    };
    format!("{before}{begin}\n{text}\n\n{end}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut sample = Sample::default();
        for ms in [40, 10, 30, 20] {
            sample.push(Duration::from_millis(ms));
        }
        assert_eq!(sample.percentile(50), Duration::from_millis(20));
        assert_eq!(sample.percentile(99), Duration::from_millis(40));
        assert_eq!(sample.percentile(1), Duration::from_millis(10));
    }

    #[test]
    fn a_program_replaces_its_own_part_of_the_page() {
        let page = with_part("# Benchmarks\n", "make bench", "first\n");
        let page = with_part(&page, "make bench-scale", "other\n");
        let again = with_part(&page, "make bench", "second\n");
        assert_eq!(again, page.replace("first", "second"));
        assert!(again.contains("other") && again.starts_with("# Benchmarks\n\n<!-- make bench -->\n\nsecond\n"), "{again}");
    }
}
