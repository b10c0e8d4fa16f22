//! Wiring: what is started in which order, and what is waited for at the end.
//!
//! Authorities of the installation → watches → control API → lease → controller. Up to the lease every replica goes all
//! the way, so that the next leader begins with warm stores.

use crate::config::OperatorConfig;
use crate::context::Context;
use crate::control::directory::{self, Directory};
use crate::control::server::ControlListener;
use crate::control::service::{ControlService, Parts};
use crate::control::tokens::Reviewed;
use crate::events::Events;
use crate::guard::WriteGuard;
use crate::metrics::ReconcileMetrics;
use crate::reconcile::status::Written;
use crate::stores::secrets::Secrets;
use crate::stores::wake::Wake;
use crate::stores::{self, Stores};
use crate::tenant::Tenants;
use crate::{apply::verified::Verified, controller, installation};
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
/// Pauses after failures, per cluster.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs the operator until its process is told to leave.
pub async fn run(config: OperatorConfig, process: Process) -> anyhow::Result<()> {
    let Process { shutdown, readiness, metrics } = process;
    let starting = readiness.pending("certificate authorities of the installation");
    let access = kube::Config::infer().await.context("cannot find out how to reach the host's API")?;
    let open = WriteGuard::open().client(access.clone())?;
    let installation = Arc::new(installation::ensure(&open, &config.namespace, config.ca_lifetime).await?);
    drop(starting);

    // Watches of every replica.
    let mut watches = JoinSet::new();
    let (wake, served) = (Wake::default(), Arc::new(Notify::new()));
    let (stores, writers) = Stores::new();
    let links = stores::Links { wake: wake.clone(), served: served.clone(), readiness: readiness.clone(), stop: shutdown.clone() };
    stores::start(open.clone(), &stores, writers, links, &mut watches);
    let listener = ControlListener::bind(config.control_address, config.control_host(), installation.clone()).await?;
    match shutdown.run_until_cancelled(stores.filled()).await {
        None => return Ok(()),
        Some(false) => bail!("a watch ended before its first list"),
        Some(true) => {}
    }

    // What every replica serves.
    let secrets = Arc::new(Secrets::new(open.clone(), stores.clone()));
    let (publish, directory) = watch::channel(Arc::new(Directory::default()));
    watches.spawn(directory::maintain(stores.clone(), secrets.clone(), served, publish, shutdown.clone()));
    let parts = Parts {
        stores: stores.clone(),
        secrets: secrets.clone(),
        directory,
        tokens: Arc::new(Reviewed::new(open.clone())),
        installation: installation.clone(),
        system_namespace: config.namespace.clone(),
        lifetime: config.agent_certificate_lifetime,
        stop: shutdown.clone(),
    };
    let control = tokio::spawn(listener.serve(ControlService::new(parts, &metrics), shutdown.clone()));

    // What the leader does.
    let params = LeaseParams::new(&config.namespace, LEASE, &config.identity, labels::OPERATOR);
    let mut lease = Lease::hold(open, params);
    let mut leadership = lease.leadership();
    let guard = WriteGuard::leader(lease.leadership());
    let host = guard.client(access)?;
    let (events, write_events) = Events::new(host.clone(), &config.identity);
    let write_events = tokio::spawn(write_events);
    let ctx = Arc::new(Context {
        host,
        stores,
        secrets,
        installation,
        tenants: Tenants::new(guard, wake.clone()),
        events,
        metrics: ReconcileMetrics::register(&metrics),
        backoff: PerObject::new(FIRST_PAUSE, LONGEST_PAUSE),
        verified: Verified::default(),
        written: Written::default(),
        config,
    });
    let serve = async { control.await.context("the control API has crashed")?.context("the control API has failed") };
    let lead = async {
        if shutdown.run_until_cancelled(leadership.acquired()).await.is_some() {
            ctx.metrics.leads(true);
            controller::run(ctx.clone(), wake, shutdown.clone()).await;
        }
        if shutdown.is_cancelled() { Ok(()) } else { bail!("the controller has ended by itself") }
    };
    tokio::select! {
        ended = async { tokio::try_join!(serve, lead) } => ended.map(drop)?,
        // Whoever cannot renew may still have writes under way: the process ends rather than trust itself.
        error = lease.lost() => bail!(error),
    }

    // Nothing writes any more, but for the Events of the last reconciles.
    drop(ctx);
    write_events.abort();
    lease.release().await?;
    while watches.join_next().await.is_some() {}
    Ok(())
}
