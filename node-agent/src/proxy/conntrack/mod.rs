//! Connections that the kernel still translates by rules that are gone.
//!
//! New rules reach new connections only. That is right for TCP, whose ends notice when the other is gone; but a UDP client
//! that keeps its socket (a resolver) would send to a dead endpoint as long as it sends, and a pod that gets the address
//! of a former one would inherit its connections, another tenant's perhaps. `cleanup` decides which entries those are,
//! `netlink` deletes them.

mod cleanup;
mod netlink;

pub(super) use cleanup::{ConntrackCleanup, is_stale_affinity};
pub(super) use netlink::Netlink;

use super::metrics::{Outcome, ProxyMetrics};
use super::table::{Family, ServiceTable};
use cleanup::Sweep;
use nestling_runtime::error::chain;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Blocking: callers give it a thread.
pub(crate) trait Conntrack: Send + Sync {
    /// Deletes the stale ones among the family's entries; their number.
    fn sweep(&self, family: Family, sweep: &Sweep) -> Result<u64, ConntrackError>;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConntrackError {
    #[error("opening a netlink socket")]
    Open {
        #[source]
        source: std::io::Error,
    },
    #[error("sending a request to the kernel")]
    Send {
        #[source]
        source: std::io::Error,
    },
    #[error("reading the kernel's answer")]
    Receive {
        #[source]
        source: std::io::Error,
    },
    #[error("decoding the kernel's answer")]
    Decode {
        #[source]
        source: netlink_packet_core::DecodeError,
    },
    #[error("the kernel refused the request")]
    Refused {
        #[source]
        source: std::io::Error,
    },
}

/// Leaves everything as it is: for tests of other things.
#[cfg(test)]
pub(super) struct Untouched;

#[cfg(test)]
impl Conntrack for Untouched {
    fn sweep(&self, _family: Family, _sweep: &Sweep) -> Result<u64, ConntrackError> {
        Ok(0)
    }
}

/// Runs sweeps of connection tracking, one at a time, on a thread of their own: a look through a full table takes a while,
/// and rules do not wait for it.
pub(super) struct Sweeper {
    conntrack: Arc<dyn Conntrack>,
    metrics: ProxyMetrics,
    /// For the next sweep, which waits for the running one, or after a failure for the next round.
    next: Sweep,
    is_due: bool,
    running: Option<JoinHandle<(Sweep, Result<u64, ConntrackError>)>>,
}

impl Sweeper {
    pub(super) fn new(conntrack: Arc<dyn Conntrack>, metrics: ProxyMetrics) -> Self {
        Self { conntrack, metrics, next: Sweep::default(), is_due: false, running: None }
    }

    pub(super) fn add(&mut self, cleanup: ConntrackCleanup) {
        self.is_due |= cleanup.needs_sweep();
        self.next.added.extend(cleanup.added);
        self.next.removed.extend(cleanup.removed);
    }

    /// There is something to sweep, and no sweep under way.
    pub(super) fn is_due(&self) -> bool {
        self.is_due && self.running.is_none()
    }

    /// `clients`: the pods whose tenants' Services are known, with those.
    pub(super) fn begin(&mut self, families: Vec<Family>, clients: BTreeMap<IpAddr, Arc<ServiceTable>>) {
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
    pub(super) async fn finished(&mut self) {
        if let Some(running) = self.running.as_mut() {
            let result = running.await;
            self.running = None;
            match result {
                Ok((sweep, Ok(deleted))) => {
                    self.done(sweep, deleted);
                    return;
                }
                Ok((sweep, Err(error))) => self.failed(sweep, &error),
                Err(error) => tracing::error!(%error, "sweep of connection tracking panicked"),
            }
        }
        std::future::pending::<()>().await;
    }

    /// Waits for the running sweep, if there is one.
    pub(super) async fn stopped(self) {
        if let Some(running) = self.running
            && let Err(error) = running.await
        {
            tracing::error!(%error, "sweep of connection tracking panicked");
        }
    }

    fn done(&mut self, mut sweep: Sweep, deleted: u64) {
        self.metrics.sweeps.get_or_create(&Outcome { outcome: "ok" }).inc();
        self.metrics.swept.inc_by(deleted);
        // Clients whose tenants' Services were not known are still to be judged, when those are.
        sweep.added.retain(|address| !sweep.clients.contains_key(address));
        sweep.removed.clear();
        self.next.merge(sweep);
    }

    fn failed(&mut self, sweep: Sweep, error: &ConntrackError) {
        self.metrics.sweeps.get_or_create(&Outcome { outcome: "error" }).inc();
        tracing::warn!(error = chain(error), "sweep of connection tracking failed; stale connections stay until the next one");
        self.next.merge(sweep);
        self.is_due = true;
    }
}
