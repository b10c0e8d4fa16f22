//! Runs sweeps of connection tracking, one at a time, on a thread of their own: a look through a full table takes a while,
//! and rules do not wait for it.

use super::aftermath::Aftermath;
use super::conntrack::{Conntrack, ConntrackError, Sweep};
use super::metrics::{Outcome, ProxyMetrics};
use super::model::ServiceTable;
use super::report;
use super::rules::Family;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;

pub struct Sweeper {
    conntrack: Arc<dyn Conntrack>,
    metrics: ProxyMetrics,
    /// What the next sweep is about. Waits for the running one, or after a failure for the next round.
    next: Sweep,
    is_due: bool,
    running: Option<JoinHandle<(Sweep, Result<u64, ConntrackError>)>>,
}

impl Sweeper {
    pub fn new(conntrack: Arc<dyn Conntrack>, metrics: ProxyMetrics) -> Self {
        Self { conntrack, metrics, next: Sweep::default(), is_due: false, running: None }
    }

    pub fn add(&mut self, aftermath: Aftermath) {
        self.is_due |= aftermath.calls_for_sweep();
        self.next.fresh.extend(aftermath.fresh);
        self.next.departed.extend(aftermath.departed);
    }

    /// There is something to sweep, and no sweep under way.
    pub fn is_due(&self) -> bool {
        self.is_due && self.running.is_none()
    }

    /// `clients` are the pods by whose tenants' Services connections are judged.
    pub fn begin(&mut self, families: Vec<Family>, clients: BTreeMap<IpAddr, Arc<ServiceTable>>) {
        let mut sweep = std::mem::take(&mut self.next);
        sweep.clients = clients;
        self.is_due = false;
        let conntrack = Arc::clone(&self.conntrack);
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut deleted = 0;
            for family in families {
                match conntrack.sweep(family, &sweep) {
                    Ok(count) => deleted += count,
                    Err(error) => return (sweep, Err(error)),
                }
            }
            (sweep, Ok(deleted))
        }));
    }

    /// Waits for the running sweep; for ever if there is none, or if it failed, so that the next round tries again and
    /// not this one.
    pub async fn finished(&mut self) {
        if let Some(running) = self.running.as_mut() {
            let result = running.await;
            self.running = None;
            match result {
                Ok((sweep, Ok(deleted))) => {
                    self.done(sweep, deleted);
                    return;
                }
                Ok((sweep, Err(error))) => self.failed(sweep, &error),
                Err(error) => tracing::error!(%error, "a sweep ended badly"),
            }
        }
        std::future::pending::<()>().await;
    }

    /// Waits for the running sweep, if there is one.
    pub async fn stopped(self) {
        if let Some(running) = self.running
            && let Err(error) = running.await
        {
            tracing::error!(%error, "a sweep ended badly");
        }
    }

    fn done(&mut self, mut sweep: Sweep, deleted: u64) {
        self.metrics.sweeps.get_or_create(&Outcome { outcome: "ok" }).inc();
        self.metrics.swept.inc_by(deleted);
        // Clients whose tenants' Services were not known are still to be judged, when those are.
        sweep.fresh.retain(|address| !sweep.clients.contains_key(address));
        sweep.departed.clear();
        self.next.merge(sweep);
    }

    fn failed(&mut self, sweep: Sweep, error: &ConntrackError) {
        self.metrics.sweeps.get_or_create(&Outcome { outcome: "error" }).inc();
        tracing::warn!(error = %report(error), "stale connections were not removed");
        self.next.merge(sweep);
        self.is_due = true;
    }
}
