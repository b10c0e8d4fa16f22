//! One connection per tenant, made when first needed and remade when its address, its CA or our identity in it changes.

use super::connection::{ConnectError, connect};
use super::observe::{Observation, observe};
use crate::guard::WriteGuard;
use crate::pki;
use crate::stores::Cluster;
use crate::stores::wake::Wake;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::names::TenantUid;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::apply::Kept;

/// Our identity in a tenant lives 24 hours; it is remade well before.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(8);

/// The tenants that this replica speaks to.
pub struct Tenants {
    guard: WriteGuard,
    wake: Wake,
    connections: Mutex<HashMap<TenantUid, Connection>>,
}

struct Connection {
    url: String,
    ca_bundle: String,
    renew_at: Timestamp,
    tenant: Arc<Tenant>,
    observer: JoinHandle<()>,
}

/// A tenant's API and what is known of it.
pub struct Tenant {
    pub client: Client,
    pub observation: watch::Receiver<Observation>,
    /// Which objects inside are known to be as they should.
    pub kept: Kept,
}

impl Tenants {
    pub fn new(guard: WriteGuard, wake: Wake) -> Self {
        Self { guard, wake, connections: Mutex::default() }
    }

    /// The connection to tenant `uid` at `url`. `ca` is its `<vc>-ca` Secret, `ca_bundle` the public part in PEM.
    pub fn connect(
        &self,
        uid: &TenantUid,
        cluster: &ObjectRef<Cluster>,
        url: &str,
        ca: &Secret,
        ca_bundle: &str,
        now: Timestamp,
    ) -> Result<Arc<Tenant>, ConnectError> {
        let mut connections = self.lock();
        if let Some(connection) = connections.get(uid)
            && connection.url == url
            && connection.ca_bundle == ca_bundle
            && now < connection.renew_at
        {
            return Ok(connection.tenant.clone());
        }
        let identity = pki::super_admin(ca, now)?;
        let client = connect(url, ca_bundle, &identity, &self.guard)?;
        // What was known stays known while the new connection finds out for itself.
        let known = connections.get(uid).map(|old| old.tenant.observation.borrow().clone()).unwrap_or_default();
        let (sender, observation) = watch::channel(known);
        let (wake, cluster) = (self.wake.clone(), cluster.clone());
        let span = tracing::info_span!(parent: None, "tenant", %cluster);
        let observing = observe(client.clone(), sender, move || wake.cluster(cluster.clone()));
        let connection = Connection {
            url: url.into(),
            ca_bundle: ca_bundle.into(),
            renew_at: identity.not_after - RENEW_BEFORE,
            tenant: Arc::new(Tenant { client, observation, kept: Kept::default() }),
            observer: tokio::spawn(observing.instrument(span)),
        };
        let tenant = connection.tenant.clone();
        connections.insert(uid.clone(), connection);
        Ok(tenant)
    }

    /// Closes the connection to a tenant that goes.
    pub fn forget(&self, uid: &TenantUid) {
        self.lock().remove(uid);
    }

    /// Closes the connections to tenants that are no more.
    pub fn retain(&self, clusters: &HashSet<TenantUid>) {
        self.lock().retain(|uid, _| clusters.contains(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantUid, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.observer.abort();
    }
}
