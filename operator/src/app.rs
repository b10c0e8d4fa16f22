//! Wiring of both programs: what is started in which order, and what is waited for at the end.
//!
//! The operator ([`run`]): authorities of the installation → watches → lease → controller. Every replica goes up to the lease, so
//! that the next leader begins with filled stores.
//!
//! The control API ([`serve`]): authorities of the installation, which the operator makes → watches → API. Every replica serves.

use crate::config::{ControlConfig, OperatorConfig};
use crate::control::ControlService;
use crate::control::auth::TokenReviewer;
use crate::control::authorities::Authorities;
use crate::control::server::ControlListener;
use crate::control::snapshot::{self, TenantSnapshot};
use crate::events::Events;
use crate::host::client::WriteGuard;
use crate::host::queue::ReconcileQueue;
use crate::host::watches::{Links, Watching};
use crate::host::{ServedStores, Stores, secrets, watches};
use crate::metrics::{CallMetrics, ReconcileMetrics};
use crate::state::{Context, State};
use crate::{controller, etcd, installation};
use anyhow::{Context as _, bail};
use nestling_crds::labels;
use nestling_runtime::backoff::PerObject;
use nestling_runtime::lease::{Lease, LeaseParams};
use nestling_runtime::process::Process;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Name of the Lease of the replica that writes.
const LEASE: &str = "nestling-operator";
/// Pauses after failed reconciles of a cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs the operator until its process is asked to shut down.
pub async fn run(config: OperatorConfig, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, readiness, metrics } = process;
    let starting = readiness.pending(AUTHORITIES);
    let access = host_access().await?;
    let open = WriteGuard::open().client(access.clone())?;
    let installation = Arc::new(installation::ensure(&open, &config.namespace, config.ca_lifetime).await?);
    drop(starting);

    // Watches of every replica.
    let mut tasks = JoinSet::new();
    let links = Links { queue: ReconcileQueue::default(), granted: Arc::default() };
    let (stores, writers) = Stores::new();
    let watching = Watching { client: open.clone(), readiness, shutdown: shutdown.clone() };
    let secret_writer = watches::start(watching, &stores, writers, &links, &mut tasks);
    match shutdown.run_until_cancelled(stores.filled()).await {
        None => return Ok(()),
        Some(false) => bail!("a watch ended before its first list"),
        Some(true) => {}
    }
    let state = Arc::new(State::new(open.clone(), stores.clone()));
    let (remembered, until) = (state.clone(), shutdown.clone());
    tasks.spawn(async move { until.run_until_cancelled(remembered.sweep()).await.map_or((), |never| match never {}) });

    // What the leader does.
    let params = LeaseParams::new(&config.namespace, LEASE, &config.identity, labels::OPERATOR);
    let mut lease = Lease::hold(open.clone(), params);
    let mut leadership = lease.leadership();
    let guard = WriteGuard::leader(lease.leadership());
    let host = guard.client(access)?;
    let (events, write_events) = Events::new(host.clone(), &config.identity);
    let write_events = tokio::spawn(write_events);
    let ctx = Arc::new(Context {
        config,
        host,
        guard,
        stores: stores.clone(),
        state,
        queue: links.queue.clone(),
        installation,
        events,
        metrics: ReconcileMetrics::register(&metrics),
        backoff: PerObject::new(FIRST_PAUSE, LONGEST_PAUSE),
    });
    let lead = async {
        if shutdown.run_until_cancelled(leadership.acquired()).await.is_some() {
            ctx.metrics.leads(true);
            tasks.spawn(secrets::maintain(open, stores, secret_writer, links, shutdown.clone()));
            let (alarms, until) = (etcd::alarms::watch(ctx.clone()), shutdown.clone());
            tasks.spawn(async move { until.run_until_cancelled(alarms).await.map_or((), |never| match never {}) });
            controller::run(ctx.clone(), shutdown.clone()).await;
        }
        if shutdown.is_cancelled() { Ok(()) } else { bail!("the controller ended unexpectedly") }
    };
    tokio::select! {
        ended = lead => ended?,
        // Writes may still be under way when the lease cannot be renewed: the process ends.
        error = lease.lost() => bail!(error),
    }

    // From here on only the Events of the last reconciles are written.
    drop(ctx);
    write_events.abort();
    lease.release().await?;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Serves the control API until its process is asked to shut down.
pub async fn serve(config: ControlConfig, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, readiness, metrics } = process;
    let starting = readiness.pending(AUTHORITIES);
    let client = WriteGuard::open().client(host_access().await?)?;
    let Some(installation) = shutdown.run_until_cancelled(installation::wait(&client, &config.namespace)).await else { return Ok(()) };
    let installation = Arc::new(installation?);
    drop(starting);

    let mut tasks = JoinSet::new();
    let changed = Arc::new(Notify::new());
    let (stores, writers) = ServedStores::new();
    let watching = Watching { client: client.clone(), readiness, shutdown: shutdown.clone() };
    watches::serve(watching, writers, &changed, &mut tasks);
    let listener = ControlListener::bind(config.control_address, config.control_host(), installation.clone()).await?;
    match shutdown.run_until_cancelled(stores.filled()).await {
        None => return Ok(()),
        Some(false) => bail!("a watch ended before its first list"),
        Some(true) => {}
    }

    let authorities = Arc::new(Authorities::new(client.clone()));
    let (publish, snapshots) = watch::channel(Arc::new(TenantSnapshot::default()));
    tasks.spawn(snapshot::maintain(stores.clone(), authorities.clone(), changed, publish, shutdown.clone()));
    let service = ControlService {
        stores,
        authorities,
        snapshots,
        tokens: TokenReviewer::new(client),
        installation,
        system_namespace: config.namespace,
        lifetime: config.agent_certificate_lifetime,
        shutdown: shutdown.clone(),
        metrics: CallMetrics::register(&metrics),
    };
    listener.serve(service, shutdown).await?;
    while tasks.join_next().await.is_some() {}
    Ok(())
}

const AUTHORITIES: &str = "certificate authorities of the installation";

async fn host_access() -> anyhow::Result<kube::Config> {
    kube::Config::infer().await.context("cannot find the configuration of the host's API")
}
