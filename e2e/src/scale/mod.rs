//! What many tenants cost: the real operator against a real etcd and kube-apiserver, with simulated tenant APIs.
//!
//! `host` starts the host's API and applies the chart, `workloads` plays its controllers and kubelets, `fleet` serves the
//! tenants' APIs (`tenant_api`), `operator` runs the program and reads what it uses and asks, `clusters` creates
//! `VirtualClusters` and watches them, `others` is another client of the host. `report` writes the table.
//!
//! Order: host ← `tenant_api` ← fleet ← workloads ← operator ← clusters ← others ← report

mod clusters;
mod fleet;
mod host;
mod operator;
mod others;
mod report;
mod tenant_api;
mod workloads;

use crate::figures::Sample;
use anyhow::{Context as _, Result, ensure};
use clusters::Clusters;
use fleet::{Fleet, Mode};
use host::{Host, Tools};
use kube::Client;
use nestling_hostcluster::Cache;
use nestling_hostcluster::programs::{self, Versions};
use operator::{Audit, Operator};
pub use report::Plan;
use report::{Dead, Figures, Rest, Restart};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tenant_api::FIRST_NODES;
use tokio_util::sync::CancellationToken;

/// Until all tenants are Ready after they were created.
const CREATED: Duration = Duration::from_secs(3600);
/// Until a change has reached a tenant.
const CHANGED: Duration = Duration::from_secs(300);
/// Pause before anything is measured at rest.
const SETTLE: Duration = Duration::from_secs(60);
/// How long another client's reads are watched at rest.
const BASELINE: Duration = Duration::from_secs(60);
/// Pause between changes of live tenants.
const BETWEEN: Duration = Duration::from_millis(500);

/// Runs the benchmark and writes its table to `page`.
pub async fn run(plan: &Plan, page: &Path) -> Result<()> {
    let programs = match &plan.programs {
        Some(folder) => Tools::Folder(folder.clone()),
        None => Tools::Built(programs::ensure(&Versions::load()?, &Cache::from_env()).await?),
    };
    let host = Host::start(&programs, &plan.folder).await?;
    let admin = host.admin().await?;
    workloads::nodes(&admin).await?;
    others::prepare(&admin).await?;
    let (fleet, clusters) = (Arc::new(Fleet::default()), Arc::new(Clusters::default()));
    let bench =
        Bench { plan, admin: admin.clone(), names: clusters::names(plan.tenants), fleet: fleet.clone(), clusters: clusters.clone(), host };
    tokio::select! {
        figures = bench.measure() => report::publish(&figures?, plan, page),
        ended = workloads::play(&admin, &fleet) => ended.context("the host's workloads"),
        ended = clusters.follow(&admin) => ended,
        () = fleet.heartbeats() => Ok(()),
    }
}

struct Bench<'a> {
    plan: &'a Plan,
    host: Host,
    admin: Client,
    names: Vec<String>,
    fleet: Arc<Fleet>,
    clusters: Arc<Clusters>,
}

impl Bench<'_> {
    async fn measure(&self) -> Result<Figures> {
        let count = self.plan.tenants;
        println!("==> {count} tenants");
        let operator = Operator::start(&self.plan.operator, &self.host)?;
        let begun = Instant::now();
        clusters::create(&self.admin, &self.names).await?;
        self.clusters.wait(count, CREATED, |seen| seen.ready).await?;
        let created = begun.elapsed();
        println!("    all Ready after {:.0} s, {:?}", created.as_secs_f64(), operator.usage()?);

        println!("==> restart");
        let before = self.reads(tokio::time::sleep(BASELINE)).await?.0;
        let (operator, restart) = self.restart(operator, before).await?;
        println!("    every status true after {:.1} s", restart.took.as_secs_f64());

        println!("==> at rest");
        let rest = self.rest(&operator).await?;
        println!("    {rest:?}");

        println!("==> dead tenants");
        let dead = self.dead().await?;
        println!("    {:?}", operator.usage()?);
        operator.stop().await?;
        Ok(Figures { created, rest, restart, dead })
    }

    /// While the operator is away, every tenant gets one more node: a status is true again when it counts that node.
    async fn restart(&self, operator: Operator, before: Sample) -> Result<(Operator, Restart)> {
        operator.stop().await?;
        self.clusters.take_relapsed();
        self.fleet.add_nodes();
        let nodes = i32::try_from(FIRST_NODES + 1)?;
        let audit = Audit::begin(&self.host);
        let begun = Instant::now();
        let operator = Operator::start(&self.plan.operator, &self.host)?;
        let all_true = self.clusters.wait(self.plan.tenants, CREATED, |seen| seen.ready && seen.nodes == nodes);
        let (during, all_true) = self.reads(all_true).await?;
        all_true?;
        let took = begun.elapsed();
        let restart =
            Restart { took, before, during, calls: audit.calls()?, usage: operator.usage()?, relapsed: self.clusters.take_relapsed() };
        Ok((operator, restart))
    }

    /// Another client's reads while `other` runs.
    async fn reads<T>(&self, other: impl Future<Output = T>) -> Result<(Sample, T)> {
        let until = CancellationToken::new();
        let reading = tokio::spawn(others::read(self.host.other().await?, until.clone()));
        let result = other.await;
        until.cancel();
        Ok((reading.await??, result))
    }

    async fn rest(&self, operator: &Operator) -> Result<Rest> {
        tokio::time::sleep(SETTLE).await;
        let (audit, before, begun) = (Audit::begin(&self.host), operator.usage()?, Instant::now());
        tokio::time::sleep(self.plan.rest).await;
        let usage = operator.usage()?;
        let watched = begun.elapsed();
        let core = (usage.cpu_seconds - before.cpu_seconds) / watched.as_secs_f64();
        Ok(Rest { watched, core, usage, calls: audit.calls()? })
    }

    /// Every tenth tenant dies, half of them silently, and all of them have a change to carry out.
    async fn dead(&self) -> Result<Dead> {
        let every = self.plan.tenants.checked_div(self.plan.dead).unwrap_or(usize::MAX).max(1);
        let (mut dead, mut live) = (Vec::new(), Vec::new());
        for (index, name) in self.names.iter().enumerate() {
            if index % every == 0 && dead.len() < self.plan.dead { &mut dead } else { &mut live }.push(name.clone());
        }
        ensure!(!live.is_empty(), "no tenant stays alive");
        let before = self.changes(&live, 2).await?;
        for (index, name) in dead.iter().enumerate() {
            self.fleet.seat(name)?.set(if index % 2 == 0 { Mode::Silent } else { Mode::Refusing });
        }
        clusters::scale_coredns(&self.admin, &dead, 2).await?;
        let among = self.changes(&live, 3).await?;
        for name in &dead {
            self.fleet.seat(name)?.set(Mode::Serving);
        }
        let begun = Instant::now();
        for name in &dead {
            let left = CHANGED.saturating_sub(begun.elapsed());
            self.reached(name, 2, left).await?;
        }
        Ok(Dead { count: dead.len(), before, among, recovered: begun.elapsed() })
    }

    /// Changes the spec of some tenants, one after the other, each until the change has reached the tenant's API.
    async fn changes(&self, live: &[String], replicas: i64) -> Result<Sample> {
        let step = (live.len() / self.plan.changes.max(1)).max(1);
        let mut sample = Sample::default();
        for name in live.iter().step_by(step).take(self.plan.changes) {
            let begun = Instant::now();
            clusters::scale_coredns(&self.admin, std::slice::from_ref(name), replicas).await?;
            self.reached(name, replicas, CHANGED).await?;
            sample.push(begun.elapsed());
            tokio::time::sleep(BETWEEN).await;
        }
        Ok(sample)
    }

    async fn reached(&self, name: &str, replicas: i64, deadline: Duration) -> Result<()> {
        let mut coredns = self.fleet.seat(name)?.api.coredns();
        let reached = coredns.wait_for(|(applied, _)| *applied == replicas);
        tokio::time::timeout(deadline, reached).await.with_context(|| format!("{name} has not changed after {deadline:?}"))??;
        Ok(())
    }
}
