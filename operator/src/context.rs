//! What every reconcile has at hand.

use crate::apply::verified::Verified;
use crate::config::OperatorConfig;
use crate::events::Events;
use crate::metrics::ReconcileMetrics;
use crate::pki::installation::InstallationCas;
use crate::reconcile::status::Written;
use crate::stores::secrets::Secrets;
use crate::stores::{Cluster, Stores};
use crate::tenant::Tenants;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt as _};
use nestling_crds::names::TenantUid;
use nestling_runtime::backoff::PerObject;
use std::collections::HashSet;
use std::sync::Arc;

pub struct Context {
    pub config: OperatorConfig,
    /// Writes only while the lease is held.
    pub host: Client,
    pub stores: Stores,
    pub secrets: Arc<Secrets>,
    pub installation: Arc<InstallationCas>,
    pub tenants: Tenants,
    pub events: Events,
    pub metrics: ReconcileMetrics,
    /// Pauses after failures, per cluster.
    pub backoff: PerObject<ObjectRef<Cluster>>,
    /// Which host objects are known to be as they should.
    pub verified: Verified,
    /// The statuses that we wrote last.
    pub written: Written,
}

impl Context {
    /// Forgets what is kept in memory of clusters that are no more.
    pub fn sweep(&self) {
        let live: HashSet<TenantUid> =
            self.stores.clusters.state().iter().filter_map(|cluster| cluster.uid()).map(TenantUid::new).collect();
        self.verified.retain(&live);
        self.written.retain(&live);
        self.tenants.retain(&live);
        self.secrets.sweep();
    }
}
