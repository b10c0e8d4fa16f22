//! What a reconcile has at hand ([`Context`]), and what this replica remembers of each cluster ([`State`]), so that it neither
//! reads nor writes the same thing twice. What is remembered can be lost at any time: it is read or made again.

use crate::config::OperatorConfig;
use crate::events::Events;
use crate::host::client::WriteGuard;
use crate::host::queue::ReconcileQueue;
use crate::host::{Cluster, Stores};
use crate::metrics::ReconcileMetrics;
use crate::pki::installation::InstallationCas;
use crate::tenant::lanes::Lanes;
use crate::tenant::observe::Observation;
use crate::tenant::{ConnectError, Connection, Target, Tenant};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::VirtualClusterStatus;
use nestling_runtime::backoff::PerObject;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Pause between removals of what is remembered of deleted clusters.
const SWEEP: Duration = Duration::from_secs(60);

pub(crate) struct Context {
    pub(crate) config: OperatorConfig,
    /// Writes only while the lease is held.
    pub(crate) host: Client,
    /// For clients of tenants, which are bound by the lease as well.
    pub(crate) guard: WriteGuard,
    pub(crate) stores: Stores,
    pub(crate) state: Arc<State>,
    pub(crate) queue: ReconcileQueue,
    pub(crate) installation: Arc<InstallationCas>,
    pub(crate) events: Events,
    pub(crate) metrics: ReconcileMetrics,
    /// Pauses after failed reconciles.
    pub(crate) backoff: PerObject<ObjectRef<Cluster>>,
}

/// One entry per cluster, with the host API that entries are read from.
pub(crate) struct State {
    client: Client,
    pub(crate) stores: Stores,
    /// Calls into tenants pass through these.
    pub(crate) lanes: Arc<Lanes>,
    clusters: Mutex<HashMap<TenantUid, ClusterState>>,
    /// Clusters that change their version, or may begin to.
    changing: Mutex<HashSet<TenantUid>>,
}

#[derive(Default)]
pub(crate) struct ClusterState {
    /// As written last. Only the operator writes it, and the watch may be behind: a status computed from an older one would
    /// be written again.
    pub(crate) status: Option<VirtualClusterStatus>,
    /// Host objects that are known to be as applied, by kind, namespace and name.
    pub(crate) verified: HashMap<String, Verified>,
    pub(crate) addons: Addons,
    /// Members of its etcd that come, go or are replaced.
    pub(crate) members: Members,
    /// A member of its etcd has raised alarm `NOSPACE`.
    pub(crate) no_space: Option<NoSpace>,
    /// UID of the `RoleBinding` that gives the operator its rights in the cluster's namespace, once they are in force.
    pub(crate) access: Option<String>,
    connection: Option<Connection>,
    secrets: HashMap<String, Arc<Secret>>,
}

/// The members of an etcd of which some come, go or are replaced.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// How many ordinals etcd's list of members reaches to, and how many of the members vote; `None` if it has not been read.
    pub(crate) listed: Option<(i32, i32)>,
    /// What is waited for, or why the last step failed.
    pub(crate) waits: Option<String>,
    /// The work on them: the hash of what they should be, and a signal that the host has changed.
    pub(crate) task: Option<(u64, Arc<Notify>, AbortOnDropHandle<()>)>,
}

/// An etcd that has reached its quota and refuses writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoSpace {
    /// When the last attempt to make room ended; `None` while one is under way.
    pub(crate) ended: Option<Instant>,
    /// Size and quota in bytes of a database that an attempt has left full.
    pub(crate) full: Option<(u64, u64)>,
}

/// The add-ons in a tenant. Settings are known by their hash.
#[derive(Debug, Default)]
pub(crate) enum Addons {
    #[default]
    Unknown,
    /// Tried until it succeeds or this is dropped.
    Applying { settings: u64, failure: Option<Failure>, _task: AbortOnDropHandle<()> },
    /// Found or made right.
    Applied { settings: u64, at: Instant },
}

/// Why something failed.
pub(crate) type Failure = Arc<dyn StdError + Send + Sync>;

/// The hash that an object was applied with, and the version of the object that was seen to have it: the generation where
/// the kind has one, for status writes do not count; the resourceVersion elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    hash: String,
    uid: Option<String>,
    generation: Option<i64>,
    resource_version: Option<String>,
}

impl Verified {
    /// `None` if `live` carries no version.
    pub(crate) fn new(hash: &str, live: &ObjectMeta) -> Option<Self> {
        let generation = live.generation.filter(|generation| *generation > 0);
        let resource_version = live.resource_version.clone().filter(|_| generation.is_none());
        let (hash, uid) = (hash.to_owned(), live.uid.clone());
        (generation.is_some() || resource_version.is_some()).then_some(Self { hash, uid, generation, resource_version })
    }
}

impl State {
    pub(crate) fn new(client: Client, stores: Stores) -> Self {
        Self { client, stores, lanes: Arc::default(), clusters: Mutex::default(), changing: Mutex::default() }
    }

    /// Reads or changes what is remembered of a cluster; `act` must not block.
    pub(crate) fn with<R>(&self, cluster: &TenantUid, act: impl FnOnce(&mut ClusterState) -> R) -> R {
        act(self.clusters.lock().unwrap_or_else(PoisonError::into_inner).entry(cluster.clone()).or_default())
    }

    /// A Secret of a cluster, with its contents; `None` if there is none. Only the metadata of Secrets is watched, so that
    /// the operator does not pull every Secret of the host through a watch: contents are read once per version. A Secret
    /// that is missing in the store is read from the API all the same: the store may be behind, and a missing CA would be
    /// replaced by a new one.
    pub(crate) async fn secret(&self, cluster: &TenantUid, namespace: &str, name: &str) -> kube::Result<Option<Arc<Secret>>> {
        if let Some(watched) = self.stores.secrets.get(&ObjectRef::new(name).within(namespace))
            && let Some(known) = self.with(cluster, |state| state.secrets.get(name).cloned())
            && known.metadata.resource_version == watched.metadata.resource_version
        {
            return Ok(Some(known));
        }
        let live = Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
        let live = live.map(|mut secret| {
            secret.metadata.managed_fields = None;
            Arc::new(secret)
        });
        self.with(cluster, |state| match &live {
            Some(secret) => state.secrets.insert(name.to_owned(), secret.clone()),
            None => state.secrets.remove(name),
        });
        Ok(live)
    }

    /// The connection to a tenant, opened when first needed and again when its address, its CA or the operator's identity
    /// in it changes. `changed` is called after each change of what is observed through it.
    pub(crate) fn connect(
        &self,
        cluster: &TenantUid,
        target: &Target<'_>,
        guard: &WriteGuard,
        changed: impl Fn() + Send + Sync + 'static,
        now: Timestamp,
    ) -> Result<Tenant, ConnectError> {
        let known = self
            .with(cluster, |state| state.connection.as_ref().map(|connection| (connection.is_to(target, now), connection.tenant.clone())));
        // The last observation stays until the new connection has one of its own.
        let observed = match known {
            Some((true, tenant)) => return Ok(tenant),
            Some((false, tenant)) => tenant.observation.borrow().clone(),
            None => Observation::default(),
        };
        // Opened outside the lock, for it signs a certificate; a cluster has one reconcile at a time.
        let connection = Connection::open(target, guard, self.lanes.clone(), observed, changed, now)?;
        let tenant = connection.tenant.clone();
        self.with(cluster, |state| {
            state.connection = Some(connection);
            state.addons = Addons::Unknown;
        });
        Ok(tenant)
    }

    /// Whether a cluster may change its version. One that is in the middle of it goes on; one that `asks` may begin if fewer
    /// than `limit` others change theirs: those known here, and `others`, which say so in their status.
    pub(crate) fn change_version(
        &self,
        cluster: &TenantUid,
        under_way: bool,
        asks: bool,
        others: &HashSet<TenantUid>,
        limit: usize,
    ) -> bool {
        let mut changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        changing.remove(cluster);
        if !under_way && !asks {
            return true;
        }
        let busy = changing.iter().chain(others).filter(|other| *other != cluster).collect::<HashSet<_>>().len();
        let may = under_way || busy < limit;
        if may {
            changing.insert(cluster.clone());
        }
        may
    }

    /// The cluster does not change its version after all.
    pub(crate) fn keep_version(&self, cluster: &TenantUid) {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }

    /// Closes the connection to a tenant.
    pub(crate) fn disconnect(&self, cluster: &TenantUid) {
        self.with(cluster, |state| {
            state.connection = None;
            state.addons = Addons::Unknown;
        });
    }

    /// Forgets deleted clusters.
    fn retain_existing(&self) {
        let existing: HashSet<TenantUid> =
            self.stores.clusters.state().iter().filter_map(|cluster| cluster.uid()).map(TenantUid::new).collect();
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| existing.contains(uid));
        self.changing.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid| existing.contains(uid));
        self.lanes.retain(&existing);
    }

    /// Forgets deleted clusters now and then. To be started when the stores are filled.
    pub(crate) async fn sweep(&self) -> Infallible {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.retain_existing();
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::pki::installation::generate;
    use clap::Parser as _;
    use nestling_runtime::metrics::Metrics;

    /// A context for reconciles against `client`, with these stores.
    pub(crate) fn context(client: &Client, stores: Stores) -> Context {
        Context {
            config: OperatorConfig::parse_from(["nestling-operator", "--identity", "test"]),
            host: client.clone(),
            guard: WriteGuard::open(),
            state: Arc::new(State::new(client.clone(), stores.clone())),
            stores,
            queue: ReconcileQueue::default(),
            installation: Arc::new(generate(Timestamp::now(), jiff::SignedDuration::from_hours(100)).unwrap()),
            events: Events::new(client.clone(), "test").0,
            metrics: ReconcileMetrics::register(&Metrics::default()),
            backoff: PerObject::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{cluster, filled};
    use crate::pki::installation::generate;
    use jiff::SignedDuration;
    use nestling_runtime::testing::ApiServer;
    use serde_json::json;

    fn uid() -> TenantUid {
        TenantUid::new("vc-1")
    }

    /// Any authority will do for a tenant; and its certificate.
    fn ca() -> (Secret, String) {
        let installation = generate(Timestamp::now(), SignedDuration::from_hours(100)).unwrap();
        let data = installation.to_secret("x").data.unwrap();
        let data = data.into_iter().filter_map(|(key, value)| Some((key.strip_prefix("control-")?.to_owned(), value))).collect();
        (Secret { data: Some(data), ..Secret::default() }, installation.control_ca().to_owned())
    }

    #[tokio::test]
    async fn a_connection_is_kept_until_its_address_or_identity_changes() {
        nestling_runtime::tls::install_provider();
        let state = State::new(ApiServer::new().client(), Stores::new().0);
        let (ca, ca_bundle) = ca();
        let connect = |url, now| {
            let target = Target { tenant: &uid(), cluster: "team/dev".into(), url, ca: &ca, ca_bundle: &ca_bundle };
            state.connect(&uid(), &target, &WriteGuard::open(), || {}, now).unwrap().observation
        };
        let (here, there, now) = ("https://127.0.0.1:1", "https://127.0.0.1:2", Timestamp::now());
        let first = connect(here, now);
        state.with(&uid(), |state| state.addons = Addons::Applied { settings: 1, at: Instant::now() });
        assert!(connect(here, now).same_channel(&first));

        let moved = connect(there, now);
        assert!(!moved.same_channel(&first));
        // Another address may be another cluster: its add-ons are checked again.
        assert!(state.with(&uid(), |state| matches!(state.addons, Addons::Unknown)));
        // The identity lives for 24 hours and is replaced 8 hours before its end.
        assert!(connect(there, now + SignedDuration::from_hours(15)).same_channel(&moved));
        let renewed = connect(there, now + SignedDuration::from_hours(17));
        assert!(!renewed.same_channel(&moved));

        state.disconnect(&uid());
        // The observer ends with its connection.
        tokio::task::yield_now().await;
        assert!(!connect(there, now).same_channel(&renewed));
    }

    #[tokio::test]
    async fn what_is_remembered_of_a_cluster_goes_with_the_cluster() {
        let stores =
            filled(|writers| cluster(&mut writers.clusters, json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}})));
        let state = State::new(ApiServer::new().client(), stores);
        for uid in ["vc-1", "vc-0"] {
            state.with(&TenantUid::new(uid), |state| state.status = Some(VirtualClusterStatus::default()));
        }
        state.retain_existing();
        let remembers = |uid| state.with(&TenantUid::new(uid), |state| state.status.is_some());
        // A cluster that cannot be decoded exists as well.
        assert_eq!((remembers("vc-1"), remembers("vc-0")), (true, false));
    }

    #[tokio::test]
    async fn so_many_clusters_change_their_version_at_once() {
        let state = State::new(ApiServer::new().client(), Stores::new().0);
        let uid = |name: &str| TenantUid::new(name);
        let asks =
            |name, others: &[&str]| state.change_version(&uid(name), false, true, &others.iter().map(|other| uid(other)).collect(), 2);
        assert!(asks("a", &[]) && asks("a", &["a"]) && asks("b", &[]));
        assert!(!asks("c", &[]));
        // One that has begun goes on, whatever the limit.
        assert!(state.change_version(&uid("d"), true, false, &HashSet::new(), 2));
        // "a" and "d" are done, and one that this replica does not know of is under way.
        for done in ["a", "d"] {
            assert!(state.change_version(&uid(done), false, false, &HashSet::new(), 2));
        }
        assert!(!asks("c", &["x"]) && asks("c", &[]));
        // Its spec turns out to be invalid.
        state.keep_version(&uid("c"));
        assert!(asks("e", &[]));
    }

    #[tokio::test]
    async fn a_secret_is_read_once_per_version_and_always_if_the_store_lacks_it() {
        let api = ApiServer::new();
        let (stores, mut writers) = Stores::new();
        let state = State::new(api.client(), stores);
        let read = async || state.secret(&uid(), "team", "dev-ca").await.unwrap();
        assert!(read().await.is_none());
        let secret: Secret = serde_json::from_value(json!({"metadata": {"namespace": "team", "name": "dev-ca"}})).unwrap();
        let live = api.put(&secret);
        // The watch has not delivered it yet.
        assert!(read().await.is_some() && read().await.is_some());
        assert_eq!(api.count("get", "secrets"), 3);
        crate::host::testing::meta(&mut writers.secrets, &serde_json::to_value(&live.metadata).unwrap());
        assert!(read().await.is_some() && read().await.is_some());
        assert_eq!(api.count("get", "secrets"), 3);
    }
}
