//! The table of figures.

use super::operator::{Calls, Usage};
use crate::figures::{self, Sample};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub tenants: usize,
    /// Tenants of these whose API dies.
    pub dead: usize,
    /// How long the operator is watched at rest.
    pub rest: Duration,
    /// Changes of live tenants that are timed, before and after the others die.
    pub changes: usize,
    pub operator: PathBuf,
    /// Folder with etcd, kube-apiserver, kubectl and helm; `None` are those of the local host cluster, which are built if need be.
    pub programs: Option<PathBuf>,
    /// For logs and data; must be empty.
    pub folder: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Figures {
    /// From the first create until all are Ready.
    pub(crate) created: Duration,
    pub(crate) rest: Rest,
    pub(crate) restart: Restart,
    pub(crate) dead: Dead,
}

#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) watched: Duration,
    /// Share of a core.
    pub(crate) core: f64,
    pub(crate) usage: Usage,
    pub(crate) calls: Calls,
}

#[derive(Debug)]
pub(crate) struct Restart {
    pub(crate) took: Duration,
    pub(crate) before: Sample,
    pub(crate) during: Sample,
    pub(crate) calls: Calls,
    pub(crate) usage: Usage,
    /// Clusters that were shown as not Ready meanwhile.
    pub(crate) relapsed: usize,
}

#[derive(Debug)]
pub(crate) struct Dead {
    pub(crate) count: usize,
    pub(crate) before: Sample,
    pub(crate) among: Sample,
    /// Until the change had reached all of them after they came back.
    pub(crate) recovered: Duration,
}

pub(crate) fn publish(figures: &Figures, plan: &Plan, page: &Path) -> Result<()> {
    figures::publish(page, "make bench-scale", &text(figures, plan)?)
}

fn text(figures: &Figures, plan: &Plan) -> Result<String> {
    let Figures { created, rest, restart, dead } = figures;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    let s = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let hours = rest.watched.as_secs_f64() / 3600.0;
    #[allow(clippy::cast_precision_loss)] // for display
    let per_hour = rest.calls.written() as f64 / hours;
    let three = |sample: &Sample| {
        let times = [50, 99, 100].map(|percent| ms(sample.percentile(percent)));
        format!("{}, {}, {} (n = {})", times[0], times[1], times[2], sample.count())
    };
    let rows = [
        ("anonymous memory at rest".to_owned(), "≤ 256 MiB".to_owned(), format!("{:.0} MiB", rest.usage.anonymous)),
        (format!("CPU at rest, over {}", s(rest.watched)), "≤ 1 % of a core".to_owned(), format!("{:.2} %", rest.core * 100.0)),
        ("writes to the host at rest, leases apart".to_owned(), "0 per hour".to_owned(), format!("{per_hour:.0} per hour")),
        ("sockets at rest".to_owned(), String::new(), rest.usage.connections.to_string()),
        ("restart: every status true again".to_owned(), "≤ 60 s".to_owned(), s(restart.took)),
        (
            "restart: what the operator asks of the host".to_owned(),
            String::new(),
            format!("{} GETs, {} writes", restart.calls.gets(), restart.calls.written()),
        ),
        ("restart: tenants shown as not Ready meanwhile".to_owned(), "0".to_owned(), restart.relapsed.to_string()),
        ("restart: most memory resident".to_owned(), String::new(), format!("{:.0} MiB", restart.usage.peak)),
        ("another client's GET before the restart: p50, p99, max".to_owned(), String::new(), three(&restart.before)),
        ("another client's GET during the restart".to_owned(), "as before".to_owned(), three(&restart.during)),
        ("a change reaches a tenant, all alive: p50, p99, max".to_owned(), String::new(), three(&dead.before)),
        (format!("a change reaches a live tenant, {} dead", dead.count), "≤ 2 s".to_owned(), three(&dead.among)),
        ("dead tenants come back: the change has reached all".to_owned(), String::new(), s(dead.recovered)),
        (format!("{} tenants created, all Ready", plan.tenants), String::new(), s(*created)),
    ];
    let rows: Vec<String> = rows.iter().map(|(what, goal, figure)| format!("| {what} | {goal} | {figure} |\n")).collect();
    let rows = rows.concat();
    Ok(format!(
        "## {} tenants, one operator

Written by `make bench-scale`. The operator, etcd and kube-apiserver are the real ones; the tenants' APIs, the host's controllers and its kubelets are played by one program. All share {cores} cores (kernel {}, load average {} at the end). Each tenant has three nodes that report every five minutes. *Restart:* while the operator is away, every tenant gets a fourth node; its status is true again when it counts it. The other client is another service account that sends 50 GETs a second. *Dead:* half of the dead APIs keep their connections and answer nothing, half refuse connections; each has a change to carry out.

| | goal | figure |
| --- | --- | --- |
{rows}",
        plan.tenants,
        kernel.trim(),
        load.join(" "),
    ))
}
