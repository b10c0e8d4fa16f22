//! The workers, and the step from both sides' view of a pod to what is done.

use super::backoff::RetryBackoff;
use super::error::{PodsError, report};
use super::events::Events;
use super::key::PodKey;
use super::ownership::{self, Owner};
use super::plan::{Plan, plan};
use super::queue::Queue;
use super::record::{Record, Records};
use super::rewrite::Rewrite;
use super::services::Services;
use super::status;
use super::translate::{Context, Needs, Translation, translate};
use super::watch::version;
use crate::tenant::Tenant;
use crate::volumes::copies::Copies;
use crate::volumes::inventory::{self, Inventory};
use crate::volumes::pod_secret::PodSecret;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Pods of one tenant that are worked on at the same time. Each may hold a connection to either API.
const WORKERS: usize = 16;
/// How long workers may finish what they began, after shutdown.
const DRAIN: Duration = Duration::from_secs(5);

pub struct Reconciler {
    pub tenant: Arc<Tenant>,
    pub queue: Arc<Queue<PodKey>>,
    pub records: Arc<Records>,
    pub services: Arc<Services>,
    pub copies: Arc<Copies>,
    pub events: Arc<Events>,
    /// What an earlier life of the agent left.
    pub left: Inventory,
}

/// One pod as both sides show it, and its next step.
pub struct View {
    pub record: Record,
    pub tenant: Option<Arc<Pod>>,
    pub host: Option<Arc<Pod>>,
    pub plan: Plan,
}

/// Works through the queue until `shutdown`.
pub async fn run(reconciler: Arc<Reconciler>, shutdown: CancellationToken) {
    let mut workers = JoinSet::new();
    loop {
        while workers.len() >= WORKERS {
            if let Some(outcome) = workers.join_next().await {
                ended(outcome);
            }
        }
        let Some(key) = shutdown.run_until_cancelled(reconciler.queue.next()).await else { break };
        while let Some(outcome) = workers.try_join_next() {
            ended(outcome);
        }
        let reconciler = reconciler.clone();
        let span = tracing::info_span!("pod", namespace = %key.namespace, pod = %key.name, uid = %key.uid);
        workers.spawn(async move { reconciler.work(&key).await }.instrument(span));
    }
    let drained = async { while workers.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        workers.shutdown().await;
    }
}

impl Reconciler {
    /// Takes over what an earlier life of the agent left: copies that pods still want are kept up to date again, the rest
    /// is removed. Runs once both stores are full.
    pub async fn adopt(&self) {
        let mut pods = BTreeSet::new();
        for pod in self.tenant.stores.tenant.state() {
            let Some(key) = PodKey::of_tenant(&pod) else { continue };
            self.needs(&key, &pod);
            if !status::is_terminal(pod.status.as_ref().and_then(|status| status.phase.as_ref())) {
                self.acquire(&key, &pod);
                pods.insert(key.uid);
            }
        }
        for key in self.tenant.stores.host.state().iter().filter_map(|pod| PodKey::of_host(pod)) {
            // Of a pod that the tenant has no more too: its Secret goes with the host pod.
            self.records.update(&key, |record| record.secret = self.left_secret(&key));
            pods.insert(key.uid);
        }
        if let Err(error) = inventory::sweep(&self.tenant, &self.left, &self.copies.host_names(), &pods).await {
            // Only leftovers: the next start finds them again.
            tracing::warn!(error = %report(&error), "leftovers not removed");
        }
    }

    async fn work(&self, key: &PodKey) {
        // Also when the worker is dropped on the way: the key would never be handed out again.
        let _done = Done { queue: &self.queue, key };
        match self.reconcile(key).await {
            Ok(next) => {
                if self.records.get(key).failures > 0 {
                    self.records.update(key, |record| record.failures = 0);
                }
                if let Some(delay) = next {
                    self.queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                let failures = self.records.update(key, |record| {
                    record.failures = record.failures.saturating_add(1);
                    record.failures
                });
                let delay = RetryBackoff::after(failures);
                tracing::warn!(error = %report(&error), failures, ?delay, "pod not reconciled, retrying");
                self.queue.add_after(key.clone(), delay);
            }
        }
    }

    /// One step for one pod. Returns when to look again by itself; events bring it back earlier.
    pub async fn reconcile(&self, key: &PodKey) -> Result<Option<Duration>, PodsError> {
        let View { record, tenant, host, plan } = self.view(key)?;
        tracing::debug!(?plan, "reconciling");
        match (plan, tenant, host) {
            (Plan::Realize, Some(tenant), _) => self.realize(key, &tenant).await,
            (Plan::AwaitHost, _, _) => self.check_made(key, &record).await,
            (Plan::Mirror, Some(tenant), Some(host)) => self.mirror(key, &tenant, &host).await,
            (Plan::Stopping, Some(tenant), Some(host)) => self.mirror_status(key, &tenant, &host).await.map(|()| None),
            (Plan::Disrupt, Some(tenant), _) => self.disrupt(key, &tenant, &record).await,
            (Plan::Ended, _, _) => self.release(key, &record).await.map(|()| None),
            (Plan::Stop { grace }, Some(tenant), Some(host)) => {
                self.stop(&host, grace).await?;
                self.mirror_status(key, &tenant, &host).await.map(|()| None)
            }
            (Plan::Finish, Some(tenant), _) => self.finish(key, &tenant, &record).await,
            (Plan::Kill { grace }, _, Some(host)) => self.kill(key, &host, grace, &record).await,
            (Plan::Forget, _, _) => self.forget(key, &record).await.map(|()| None),
            // Waiting for a watch event; the other combinations cannot come of `plan`.
            _ => Ok(None),
        }
    }

    /// What is known of a pod now, and what follows from it. The record is read before the stores: see
    /// [`super::watch::Watches::take_host_event`].
    pub fn view(&self, key: &PodKey) -> Result<View, PodsError> {
        let record = self.records.get(key);
        let tenant = self.tenant_pod(key, &record);
        let host = self.host_pod(key)?;
        let started = tenant.as_ref().and_then(|pod| pod.status.as_ref()).is_some_and(|status| status.start_time.is_some());
        let plan = plan(tenant.as_deref(), host.as_deref(), record.departed.as_deref(), record.known(started));
        Ok(View { record, tenant, host, plan })
    }

    /// The tenant pod as newest known: the watch may not have shown our own last write yet, and working from what it
    /// shows would write the same again.
    fn tenant_pod(&self, key: &PodKey, record: &Record) -> Option<Arc<Pod>> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let shown = self.tenant.stores.tenant.get(&reference).filter(|pod| pod.metadata.uid.as_ref() == Some(&key.uid))?;
        match &record.posted {
            Some(posted) if version(posted) > version(&shown) => Some(posted.clone()),
            _ => Some(shown),
        }
    }

    fn host_pod(&self, key: &PodKey) -> Result<Option<Arc<Pod>>, PodsError> {
        let name = key.host_name(&self.tenant.spec.uid);
        let reference = ObjectRef::new(name.as_str()).within(self.tenant.spec.workload_namespace.as_str());
        match self.tenant.stores.host.get(&reference) {
            Some(host) if !ownership::realizes(&host.metadata, &self.tenant, key) => Err(PodsError::ForeignHostPod(name.to_string())),
            host => Ok(host),
        }
    }

    pub fn owner(&self) -> Owner<'_> {
        Owner::of(&self.tenant)
    }

    pub fn translation(&self, key: &PodKey, pod: &Pod, keys: &BTreeMap<crate::volumes::Source, Arc<BTreeSet<String>>>) -> Translation {
        let services = self.services.visible_from(&key.namespace);
        translate(key, pod, &Context { owner: self.owner(), services: &services, keys })
    }

    /// What the pod needs on the host, found out once.
    pub fn needs(&self, key: &PodKey, pod: &Pod) -> Arc<Needs> {
        if let Some(needs) = self.records.get(key).needs {
            return needs;
        }
        let needs = Arc::new(self.translation(key, pod, &BTreeMap::new()).needs);
        self.records.update(key, |record| {
            record.needs = Some(needs.clone());
            record.secret = record.secret.take().or_else(|| self.left_secret(key));
        });
        needs
    }

    /// What the pod needs, wanted from now until [`Reconciler::release`].
    pub fn acquire(&self, key: &PodKey, pod: &Pod) -> Arc<Needs> {
        let needs = self.needs(key, pod);
        if !self.records.update(key, |record| std::mem::replace(&mut record.acquired, true)) {
            self.copies.acquire(key, &needs.sources, &self.left);
        }
        needs
    }

    fn left_secret(&self, key: &PodKey) -> Option<PodSecret> {
        let left = self.left.pod_secrets.get(key.secret_name(&self.tenant.spec.uid).as_str())?;
        Some(left.secret.clone())
    }

    pub fn rewrite(&self, key: &PodKey, host: Option<&Pod>) -> Rewrite {
        let needs = self.records.get(key).needs.unwrap_or_default();
        Rewrite::new(&self.owner(), key, host, &needs)
    }

    /// Tells the tenant why its pod does not run, once for each cause.
    pub fn tell(&self, key: &PodKey, reason: &str, message: &str) {
        if self.records.update(key, |record| record.told.insert(format!("{reason}: {message}"))) {
            tracing::info!(reason, text = message, "told the tenant");
            self.events.warn(key, reason, message);
        }
    }

    pub fn remember_secret(&self, key: &PodKey, secret: Option<PodSecret>) {
        self.records.update(key, |record| record.secret = secret);
    }
}

fn ended(outcome: Result<(), JoinError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "a worker ended unexpectedly");
    }
}

/// Gives a key back to the queue.
struct Done<'a> {
    queue: &'a Queue<PodKey>,
    key: &'a PodKey,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.queue.done(self.key);
    }
}
