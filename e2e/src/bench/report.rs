//! The Markdown that samples become.

use super::rest::{Rest, Usage};
use crate::figures::{Sample, publish};
use crate::suite::Kubectl;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// n, minimum, median and maximum, as columns.
fn row(sample: &Sample) -> String {
    let s = |d: Duration| format!("{:.2}", d.as_secs_f64());
    format!("{} | {} | {} | {}", sample.count(), s(sample.percentile(1)), s(sample.percentile(50)), s(sample.percentile(100)))
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
            "Written by `make bench`. Machine: {cores} cores, kernel {}, {} nodes, kubelet {}, {}. All nodes, the host's control plane and the tenants share these cores. Times in seconds.\n",
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
            self.line(&format!("| {name} | {} | {ratio:.2} |", row(sample)));
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
        self.line(&format!("| host | {} |\n| tenant | {} |", row(host), row(tenant)));
        self.line(&format!("\ntenant ÷ host: {:.2} at the median, {:.2} at p99", tenant.ratio(host, 50), tenant.ratio(host, 99)));
    }

    pub(crate) fn tenant(&mut self, title: &str, rest: &Rest) {
        self.usages(title, &rest.tenant);
        let sum = |value: fn(&Usage) -> f64| rest.tenant.iter().map(value).sum::<f64>();
        let (anonymous, shared, cpu) = (sum(|row| row.anonymous), sum(|row| row.shared), sum(|row| row.millicores));
        self.line(&format!("| **sum** | **{anonymous:.0}** | **{shared:.0}** | **{cpu:.1}** |"));
        self.line(&format!("\nWrites to its etcd: {:.2} per second.", rest.writes_per_second));
    }

    pub(crate) fn usages(&mut self, title: &str, rows: &[Usage]) {
        self.line(&format!("\n| {title} | anonymous MiB | tmpfs MiB | mcore |\n| --- | --- | --- | --- |"));
        for row in rows {
            self.line(&format!("| {} | {:.0} | {:.0} | {:.1} |", row.name, row.anonymous, row.shared, row.millicores));
        }
    }

    pub(crate) fn write(&self, output: &Path) -> Result<()> {
        publish(output, "make bench", &self.0)
    }

    fn line(&mut self, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{text}");
    }
}
