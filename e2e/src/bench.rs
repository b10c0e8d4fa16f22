//! The published figures. Every figure is beside the same thing done by the host, or by the bare programs, in the same
//! run on the same machine: read the ratio, not the seconds.
//!
//! `start` times tenants from `apply` to Ready and bare programs, `pods` times pod starts on both sides, `memory` reads what cgroups are
//! charged with, `report` writes the tables.
//!
//! Order: memory ← report ← start ← pods

mod memory;
mod pods;
mod report;
mod start;

use crate::suite::{Kubectl, Tenant};
use anyhow::Result;
use nestling_hostcluster::Cache;
use nestling_hostcluster::programs::{self, Versions};
use report::{Report, Sample};
use std::path::Path;

/// How often each thing is done.
#[derive(Clone, Copy, Debug)]
pub struct Rounds {
    pub starts: usize,
    pub pods: usize,
    pub burst: usize,
    pub bursts: usize,
}

/// Runs all benchmarks and writes the tables to `output`.
pub fn run(rounds: Rounds, output: &Path) -> Result<()> {
    let host = Kubectl::host();
    let mut report = Report::new(&host)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let programs = runtime.block_on(programs::ensure(&Versions::load()?, &Cache::from_env()))?;
    let bare = repeat(rounds.starts, "bare etcd + kube-apiserver", || start::bare(&programs))?;
    let memory_medium = repeat(rounds.starts, "apply → Ready, etcd in memory", || start::tenant("{etcd: {storage: {medium: Memory}}}"))?;
    let volume = repeat(rounds.starts, "apply → Ready, etcd on a volume", || start::tenant("{}"))?;
    report.section(
        "One tenant, from `kubectl apply` to Ready",
        "Ready: etcd, kube-apiserver, controllers, nodes and CoreDNS all answer. Images are on the nodes. The bare start is etcd and kube-apiserver with a fresh data directory until `/readyz` answers.",
    );
    report.times(&[
        ("bare etcd + kube-apiserver", &bare),
        ("tenant, etcd in memory", &memory_medium),
        ("tenant, etcd on a volume", &volume),
    ]);

    let tenant = Tenant::create("bench", "{}")?;
    memory::settle();
    report.section(
        "Memory at rest",
        "Anonymous memory as the kernel charges it to the pods' cgroups; program text is shared between tenants on a node and not counted.",
    );
    report.memory(&memory::tenant(&tenant)?, &memory::installation(&host)?);

    let (on_host, in_tenant) = pods::single(&tenant, rounds.pods)?;
    report.section("Pod create → Ready", "POST of a pod until a watch shows it Ready, host and tenant in turn.");
    report.pair(&on_host, &in_tenant);

    let (on_host, in_tenant) = pods::burst(&tenant, rounds.burst, rounds.bursts)?;
    report.section(
        &format!("{} pods at once", rounds.burst),
        "A Deployment scaled from nothing until all its pods are Ready, host and tenant in turn.",
    );
    report.pair(&on_host, &in_tenant);

    report.write(output)
}

fn repeat(times: usize, what: &str, mut one: impl FnMut() -> Result<std::time::Duration>) -> Result<Sample> {
    let mut sample = Sample::default();
    for round in 1..=times {
        let took = one()?;
        println!("{what} {round}/{times}: {:.2} s", took.as_secs_f64());
        sample.push(took);
    }
    Ok(sample)
}
