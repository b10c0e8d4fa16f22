//! The published figures. Every figure is beside the same thing done by the host, or by the bare programs, in the same
//! run on the same machine: read the ratio, not the seconds.
//!
//! `start` times tenants from `apply` to Ready and bare programs, `pods` times pod starts on both sides, `rest` reads what cgroups are
//! charged with, `report` writes the tables.
//!
//! Order: rest ← report ← pods ← start

mod pods;
mod report;
mod rest;
mod start;

use crate::figures::Sample;
use crate::suite::{Kubectl, Tenant};
use anyhow::Result;
use nestling_hostcluster::Cache;
use nestling_hostcluster::programs::{self, Versions};
use report::Report;
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
    let (in_memory, in_memory_phases) = starts(rounds.starts, "apply → Ready, etcd in memory", "{etcd: {storage: {medium: Memory}}}")?;
    let (volume, volume_phases) = starts(rounds.starts, "apply → Ready, etcd on a volume", "{}")?;
    let (three, _) = starts(rounds.starts, "apply → Ready, three replicas, etcd in memory", THREE)?;
    let host_pod = repeat(rounds.starts, "host pod", || start::host_pod(false))?;
    let claim = repeat(rounds.starts, "host pod with a claim", || start::host_pod(true))?;
    report.section(
        "One tenant, from `kubectl apply` to Ready",
        "Ready: etcd, kube-apiserver, controllers, nodes and CoreDNS all answer. Images are on the nodes. The bare start is etcd and kube-apiserver with a fresh data directory until `/readyz` answers.",
    );
    report.times(&[
        ("bare etcd + kube-apiserver", &bare),
        ("tenant, etcd in memory", &in_memory),
        ("tenant, etcd on a volume", &volume),
        ("tenant of three replicas, etcd in memory", &three),
        ("host pod", &host_pod),
        ("host pod with a claim", &claim),
    ]);
    report.phases(&[("etcd in memory", in_memory_phases), ("etcd on a volume", volume_phases)]);

    let rest_of_three = {
        let tenant = Tenant::create("three", THREE)?;
        rest::settle();
        rest::measure(&tenant)?
    };
    let tenant = Tenant::create("bench", "{}")?;
    rest::settle();
    report.section(
        "At rest",
        "Anonymous memory and tmpfs (etcd's data with `medium: Memory`) as the kernel charges them to the pods' cgroups; program text is shared between tenants on a node and not counted. CPU over a minute, in thousandths of a core.",
    );
    let rest = rest::measure(&tenant)?;
    report.tenant("idle tenant", &rest);
    report.tenant("idle tenant of three replicas, etcd in memory", &rest_of_three);
    report.usages("installation", &rest.installation);

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

/// A tenant that survives the loss of a node.
const THREE: &str = "{controlPlane: {replicas: 3}, etcd: {storage: {medium: Memory}}}";

fn repeat(times: usize, what: &str, mut one: impl FnMut() -> Result<std::time::Duration>) -> Result<Sample> {
    let mut sample = Sample::default();
    for round in 1..=times {
        let took = one()?;
        println!("{what} {round}/{times}: {:.2} s", took.as_secs_f64());
        sample.push(took);
    }
    Ok(sample)
}

/// Starts of a tenant: until Ready, and by phase.
fn starts(times: usize, what: &str, spec: &str) -> Result<(Sample, Vec<(&'static str, Sample)>)> {
    let mut all = Vec::new();
    let ready = repeat(times, what, || {
        let phases = start::tenant(spec)?;
        let ready = phases.ready();
        all.push(phases);
        Ok(ready)
    })?;
    Ok((ready, start::by_phase(&all)))
}
