//! Samples and the Markdown they become.

use super::rest::Usage;
use crate::suite::Kubectl;
use anyhow::{Context, Result};
use std::fmt::Write as _;
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

    /// Nearest-rank percentile, 0 to 100.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len().max(1));
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    fn ratio(&self, to: &Self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() / to.percentile(percent).as_secs_f64()
    }

    fn row(&self) -> String {
        let s = |d: Duration| format!("{:.2}", d.as_secs_f64());
        format!("{} | {} | {} | {}", self.0.len(), s(self.percentile(1)), s(self.percentile(50)), s(self.percentile(100)))
    }
}

pub(crate) struct Report(String);

impl Report {
    pub(crate) fn new(host: &Kubectl) -> Result<Self> {
        let nodes = host.json(&["get", "nodes"])?;
        let nodes = nodes["items"].as_array().context("nodes are a list")?;
        let info = nodes.first().map(|node| node["status"]["nodeInfo"].clone()).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let text = |key: &str| info[key].as_str().unwrap_or("?").to_owned();
        Ok(Self(format!(
            "# Benchmarks\n\nWritten by `make bench`. Machine: {cores} cores, kernel {}, {} nodes, kubelet {}, {}. All nodes, the host's control plane and the tenants share these cores. Times in seconds.\n",
            text("kernelVersion"),
            nodes.len(),
            text("kubeletVersion"),
            text("containerRuntimeVersion"),
        )))
    }

    pub(crate) fn section(&mut self, title: &str, what: &str) {
        self.line(&format!("\n## {title}\n\n{what}\n"));
    }

    /// Rows against the first.
    pub(crate) fn times(&mut self, rows: &[(&str, &Sample)]) {
        self.line("| | n | min | median | max | median ÷ first |\n| --- | --- | --- | --- | --- | --- |");
        for (name, sample) in rows {
            let ratio = rows.first().map_or(1.0, |(_, first)| sample.ratio(first, 50));
            self.line(&format!("| {name} | {} | {ratio:.2} |", sample.row()));
        }
    }

    /// The median time of each phase, one column per kind of start.
    pub(crate) fn phases(&mut self, kinds: &[(&str, Vec<(&'static str, Sample)>)]) {
        let names: Vec<&str> = kinds.iter().map(|(name, _)| *name).collect();
        self.line(&format!("\n| phase, median s after `kubectl apply` | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(kinds.len())));
        let phases = kinds.first().map_or_else(Vec::new, |(_, phases)| phases.iter().map(|(name, _)| *name).collect());
        for (row, phase) in phases.iter().enumerate() {
            let times: Vec<String> = kinds.iter().map(|(_, phases)| format!("{:.2}", phases[row].1.percentile(50).as_secs_f64())).collect();
            self.line(&format!("| {phase} | {} |", times.join(" | ")));
        }
    }

    pub(crate) fn pair(&mut self, host: &Sample, tenant: &Sample) {
        self.line("| | n | min | median | max |\n| --- | --- | --- | --- | --- |");
        self.line(&format!("| host | {} |\n| tenant | {} |", host.row(), tenant.row()));
        self.line(&format!("\ntenant ÷ host: {:.2} at the median, {:.2} at p99", tenant.ratio(host, 50), tenant.ratio(host, 99)));
    }

    pub(crate) fn rest(&mut self, tenant: &[Usage], installation: &[Usage], writes_per_second: f64) {
        for (title, rows) in [("idle tenant", tenant), ("installation", installation)] {
            self.line(&format!("\n| {title} | anonymous MiB | tmpfs MiB | mcore |\n| --- | --- | --- | --- |"));
            for row in rows {
                self.line(&format!("| {} | {:.0} | {:.0} | {:.1} |", row.name, row.anonymous, row.shared, row.millicores));
            }
            if title == "idle tenant" {
                let sum = |value: fn(&Usage) -> f64| rows.iter().map(value).sum::<f64>();
                let (anonymous, shared, cpu) = (sum(|row| row.anonymous), sum(|row| row.shared), sum(|row| row.millicores));
                self.line(&format!("| **sum** | **{anonymous:.0}** | **{shared:.0}** | **{cpu:.1}** |"));
            }
        }
        self.line(&format!("\nWrites to the idle tenant's etcd: {writes_per_second:.2} per second."));
    }

    pub(crate) fn write(&self, output: &Path) -> Result<()> {
        std::fs::write(output, &self.0).with_context(|| format!("write {}", output.display()))?;
        print!("{}", self.0);
        Ok(())
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{text}");
    }
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
}
