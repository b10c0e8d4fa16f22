//! What every request needs: shared by all connections of the server.

use super::authorize::Authorizer;
use super::limits::{Limits, PerTenant};
use super::logs::LogRoots;
use super::metrics::Metrics;
use crate::cri::Cri;
use crate::tenant::Tenants;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Context {
    pub tenants: Tenants,
    pub cri: Arc<dyn Cri>,
    pub log_roots: LogRoots,
    pub limits: Limits,
    pub per_tenant: Arc<PerTenant>,
    pub authorizer: Authorizer,
    pub metrics: Metrics,
    /// The tasks that streams live in after their request was answered; the server waits for them.
    pub streams: TaskTracker,
    /// No new requests.
    pub drain: CancellationToken,
    /// Nothing goes on.
    pub cut: CancellationToken,
}
