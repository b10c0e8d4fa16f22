//! Keeps the members of tenants' etcds as they should be: what readiness alone tells is settled within a reconcile ([`settle`]);
//! where members come, go or are replaced, a task of the cluster takes one step of [`plan`](super::plan) after the other ([`keep`]).

use super::EtcdError;
use super::client::{EtcdClient, Listed, Progress};
use super::places::{Places, holds, serves, ticket};
use super::plan::{Facts, Holds, MemberFacts, PodFacts, Step, Ticket, next};
use super::reach::{ReachError, connect};
use crate::events::Events;
use crate::host::client::WriteGuard;
use crate::host::queue::ReconcileQueue;
use crate::model::{Membership, names};
use crate::state::{Context, Members, State};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::EventType;
use kube::runtime::reflector::Lookup as _;
use kube::{Api, Client, Resource};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_runtime::error::chain;
use nestling_runtime::kube::{call, delete_exact, is_gone_or_changed};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Pause between two steps, unless something changes on the host; and when nothing has been done for a minute.
const PAUSE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
const LONG_PAUSE: Duration = Duration::from_secs(10);

/// The members that a cluster should have.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Target {
    pub(crate) places: Places,
    pub(crate) wanted: i32,
    /// Hash of the template that pods should be of.
    pub(crate) template: String,
}

#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("cannot change {object}")]
    Host { object: String, source: kube::Error },
}

/// What follows from readiness alone: storage of members that serve is noted as theirs, and their tickets are taken back. A member that is
/// alone and in memory keeps its ticket. The pod of a lone member, or of one that waits for the first quorum, is replaced if it is
/// outdated.
pub(crate) async fn settle(target: &Target, membership: Membership, host: &Client, state: &State) -> Result<(), kube::Error> {
    let Target { places, wanted, template } = target;
    let is_alone = membership.slots == 1 && *wanted == 1;
    let pods: Vec<_> = (0..membership.slots).filter_map(|ordinal| Some((ordinal, places.pod(ordinal, &state.stores)?))).collect();
    // Some of a quorum may have data already.
    let may_lose_data = places.in_memory && pods.iter().any(|(_, pod)| serves(pod));
    for (ordinal, pod) in &pods {
        let facts = places.place(*ordinal, template, "", &state.stores).pod;
        let is_outdated = facts.is_some_and(|pod| pod.outdated && !pod.ending);
        if is_outdated && (is_alone || !membership.formed && !may_lose_data) {
            delete_exact(&Api::<Pod>::namespaced(host.clone(), &places.namespace), &pod.metadata, None).await?;
        } else if !membership.formed && is_alone && ticket(pod).is_none() {
            let list = initial_cluster(target, &[*ordinal]);
            annotate::<Pod>(host, &places.namespace, &pod.metadata, names::INITIAL_CLUSTER, list.into()).await?;
        } else if membership.formed && serves(pod) {
            take_ticket(target, *ordinal, names::FOUNDER, host, state).await?;
        } else if membership.formed && places.in_memory && holds(&pod.metadata) == Holds::Candidate && ticket(pod).is_some() {
            // A restart of the node would let it begin a second time, when it may have voted.
            annotate::<Pod>(host, &places.namespace, &pod.metadata, names::INITIAL_CLUSTER, Value::Null).await?;
        }
    }
    Ok(())
}

/// Whether the host shows all members as they should be.
fn is_at_rest(target: &Target, membership: Membership, state: &State) -> bool {
    let Target { places, wanted, template } = target;
    let is_right = |ordinal| {
        let place = places.place(ordinal, template, "", &state.stores);
        if ordinal < *wanted {
            let is_right = |pod: PodFacts| pod.ready && !pod.outdated && !pod.ending && pod.ticket == Ticket::None;
            place.storage.is_some_and(|storage| storage != Holds::Nothing) && place.pod.is_some_and(is_right)
        } else {
            place.storage.is_none()
        }
    };
    membership.slots == *wanted && Places::ordinals().all(is_right)
}

/// Goes on with the members of an etcd that has formed, until they are as `target` wants them. Of a lone member there is nothing
/// to do.
pub(crate) fn keep(tenant: &TenantUid, target: Target, membership: Membership, ctx: &Context) {
    let is_alone = membership.slots == 1 && target.wanted == 1;
    let is_due = membership.formed && !is_alone && !is_at_rest(&target, membership, &ctx.state);
    let mut hash = DefaultHasher::new();
    target.hash(&mut hash);
    let hash = hash.finish();
    ctx.state.with(tenant, |state| match &state.members.task {
        Some((under_way, changed, _)) if *under_way == hash => changed.notify_one(),
        _ if !is_due => {
            state.members.task = None;
            state.members.waits = None;
        }
        _ => {
            let changed = Arc::new(Notify::new());
            let span = tracing::info_span!(parent: None, "etcd", members = format!("{}/{}", target.places.namespace, target.places.set));
            let keeper = Keeper {
                tenant: tenant.clone(),
                target,
                host: ctx.host.clone(),
                guard: ctx.guard.clone(),
                state: ctx.state.clone(),
                events: ctx.events.clone(),
                queue: ctx.queue.clone(),
                changed: changed.clone(),
                silent: BTreeMap::new(),
            };
            state.members.task = Some((hash, changed, AbortOnDropHandle::new(tokio::spawn(keeper.run().instrument(span)))));
        }
    });
}

/// Ends the work on a cluster's members.
pub(crate) fn stop(tenant: &TenantUid, state: &State) {
    state.with(tenant, |state| state.members = Members::default());
}

struct Keeper {
    tenant: TenantUid,
    target: Target,
    host: Client,
    guard: WriteGuard,
    state: Arc<State>,
    events: Events,
    queue: ReconcileQueue,
    /// The host has changed.
    changed: Arc<Notify>,
    /// Since when members do not answer.
    silent: BTreeMap<u64, Instant>,
}

impl Keeper {
    async fn run(mut self) {
        let mut acted = Instant::now();
        loop {
            let waits = match Box::pin(self.turn()).await {
                Ok(Step::Done) => break,
                Ok(Step::Wait(what)) => Some(what),
                Ok(_) => {
                    acted = Instant::now();
                    None
                }
                Err(error) => Some(chain(&error)),
            };
            if self.state.with(&self.tenant, |state| std::mem::replace(&mut state.members.waits, waits.clone()) != waits) {
                if let Some(why) = waits {
                    tracing::info!(why, "the work on the members of etcd waits");
                }
                self.enqueue();
            }
            tokio::select! {
                () = sleep(if acted.elapsed() < PATIENCE { PAUSE } else { LONG_PAUSE }) => {}
                () = self.changed.notified() => {}
            }
        }
        tracing::info!("etcd has the members that it should have");
        self.enqueue();
        self.state.with(&self.tenant, |state| {
            state.members.waits = None;
            state.members.task = None;
        });
    }

    /// Looks, and takes the next step.
    async fn turn(&mut self) -> Result<Step, StepError> {
        let stores = &self.state.stores;
        let pods: Vec<Arc<Pod>> = Places::ordinals().filter_map(|ordinal| self.target.places.pod(ordinal, stores)).collect();
        let etcd = connect(&self.tenant, &pods, &self.state).await?;
        let listed = etcd.list().await?;
        let mut by_ordinal: BTreeMap<i32, Listed> = BTreeMap::new();
        for member in listed {
            let Some(ordinal) = self.ordinal(&member) else {
                return Ok(Step::Wait(format!(
                    "etcd has member {:x} ({}), which is not of this cluster",
                    member.id,
                    member.peer_urls.join(",")
                )));
            };
            by_ordinal.insert(ordinal, member);
        }
        self.publish(&by_ordinal);
        let list = initial_cluster(&self.target, &by_ordinal.keys().copied().collect::<Vec<_>>());
        let facts = self.facts(&by_ordinal, &list, &etcd.progress().await);
        let step = next(&facts);
        if !matches!(step, Step::Done | Step::Wait(_)) {
            if !self.guard.allows() {
                return Ok(Step::Wait("this replica of the operator does not hold the lease".into()));
            }
            self.take(&step, &list, &facts, &etcd).await?;
        }
        Ok(step)
    }

    fn ordinal(&self, member: &Listed) -> Option<i32> {
        Places::ordinals().find(|ordinal| member.peer_urls == [self.peer_url(*ordinal)])
    }

    fn peer_url(&self, ordinal: i32) -> String {
        let places = &self.target.places;
        names::peer_url(&places.namespace, &names::member(&places.set, ordinal))
    }

    fn publish(&self, members: &BTreeMap<i32, Listed>) {
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let reach = members.keys().next_back().map_or(0, |highest| highest + 1);
        let listed = Some((reach, count(members.values().filter(|member| !member.is_learner).count())));
        if self.state.with(&self.tenant, |state| std::mem::replace(&mut state.members.listed, listed) != listed) {
            self.enqueue();
        }
    }

    /// `list` is the value of `--initial-cluster` with these members.
    fn facts(&mut self, members: &BTreeMap<i32, Listed>, list: &str, progress: &[Progress]) -> Facts {
        let of = |id| progress.iter().find(|progress| progress.id == id);
        self.silent.retain(|id, _| members.values().any(|member| member.id == *id) && of(*id).is_none());
        let mut fact = |member: &Listed| {
            let applied = of(member.id).map(|progress| progress.applied);
            let silent = match applied {
                Some(_) => Duration::ZERO,
                None => self.silent.entry(member.id).or_insert_with(Instant::now).elapsed(),
            };
            MemberFacts { id: member.id, started: !member.name.is_empty(), learner: member.is_learner, applied, silent }
        };
        let Target { places, wanted, template } = &self.target;
        Facts {
            wanted: *wanted,
            in_memory: places.in_memory,
            members: members.iter().map(|(ordinal, member)| (*ordinal, fact(member))).collect(),
            places: Places::ordinals().map(|ordinal| (ordinal, places.place(ordinal, template, list, &self.state.stores))).collect(),
            leader: progress.iter().map(|progress| progress.leader).find(|leader| *leader != 0).unwrap_or(0),
            committed: progress.iter().map(|progress| progress.committed).max().unwrap_or(0),
        }
    }

    async fn take(&self, step: &Step, list: &str, facts: &Facts, etcd: &EtcdClient) -> Result<(), StepError> {
        let places = &self.target.places;
        let member = |ordinal: &i32| names::member(&places.set, *ordinal);
        let id = |ordinal: &i32| facts.members.get(ordinal).map_or(0, |member| member.id);
        let failed = |ordinal: &i32| {
            let object = member(ordinal);
            move |source| StepError::Host { object, source }
        };
        match step {
            Step::Done | Step::Wait(_) => {}
            Step::TakeTicket(ordinal) => {
                let id = format!("{:x}", id(ordinal));
                take_ticket(&self.target, *ordinal, &id, &self.host, &self.state).await.map_err(failed(ordinal))?;
            }
            Step::GiveTicket(ordinal) => {
                let Some(pod) = places.pod(*ordinal, &self.state.stores) else { return Ok(()) };
                note(&self.target, *ordinal, &format!("{:x}", id(ordinal)), &self.host, &self.state).await.map_err(failed(ordinal))?;
                let given = annotate::<Pod>(&self.host, &places.namespace, &pod.metadata, names::INITIAL_CLUSTER, list.into()).await;
                given.map_err(failed(ordinal))?;
                tracing::info!(member = member(ordinal), "may begin in an empty directory");
            }
            Step::Add(ordinal) => {
                etcd.add_learner(&self.peer_url(*ordinal)).await?;
                self.report("MemberAdded", &format!("member {} was added to etcd as a learner", member(ordinal)));
            }
            Step::Promote(ordinal) => {
                etcd.promote(id(ordinal)).await?;
                self.report("MemberPromoted", &format!("member {} of etcd has caught up and votes now", member(ordinal)));
            }
            Step::MoveLeader(from, to) => {
                etcd.move_leader(id(from), id(to)).await?;
                tracing::info!(from = member(from), to = member(to), "moved the leader of etcd");
            }
            Step::Remove(ordinal) => {
                etcd.remove(id(ordinal)).await?;
                self.report("MemberRemoved", &format!("member {} was removed from etcd", member(ordinal)));
            }
            Step::Restart(ordinal) => {
                let Some(pod) = places.pod(*ordinal, &self.state.stores) else { return Ok(()) };
                self.delete::<Pod>(&pod.metadata).await.map_err(failed(ordinal))?;
                tracing::info!(member = member(ordinal), "pod deleted: another one of the new template follows");
            }
            Step::Discard(ordinal) => {
                let (pod, storage) = (places.pod(*ordinal, &self.state.stores), places.storage(*ordinal, &self.state.stores));
                if let Some(pod) = pod {
                    self.delete::<Pod>(&pod.metadata).await.map_err(failed(ordinal))?;
                }
                if let Some(claim) = storage.filter(|_| !places.in_memory) {
                    self.delete::<PersistentVolumeClaim>(&claim).await.map_err(failed(ordinal))?;
                }
                tracing::info!(member = member(ordinal), "storage of a former member deleted");
            }
        }
        Ok(())
    }

    async fn delete<K>(&self, meta: &ObjectMeta) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        delete_exact(&Api::<K>::namespaced(self.host.clone(), &self.target.places.namespace), meta, None).await.map(drop)
    }

    fn report(&self, reason: &str, note: &str) {
        tracing::info!(reason, note);
        if let Some(cluster) = self.state.stores.cluster(&self.tenant) {
            self.events.send(EventType::Normal, &cluster.object_ref(&()), reason, note);
        }
    }

    fn enqueue(&self) {
        if let Some(cluster) = self.state.stores.cluster(&self.tenant) {
            self.queue.add(cluster.to_object_ref(()));
        }
    }
}

/// The value of `--initial-cluster` for these members.
fn initial_cluster(target: &Target, ordinals: &[i32]) -> String {
    let places = &target.places;
    let members: Vec<String> = ordinals.iter().map(|ordinal| names::member(&places.set, *ordinal)).collect();
    names::initial_cluster(&places.namespace, &members)
}

/// The storage first: with a ticket and no note a pod goes on as before. A founder stays one.
async fn take_ticket(target: &Target, ordinal: i32, member: &str, host: &Client, state: &State) -> Result<(), kube::Error> {
    let places = &target.places;
    if places.storage(ordinal, &state.stores).is_some_and(|storage| matches!(holds(&storage), Holds::Nothing | Holds::Candidate)) {
        note(target, ordinal, member, host, state).await?;
    }
    if let Some(pod) = places.pod(ordinal, &state.stores).filter(|pod| ticket(pod).is_some()) {
        annotate::<Pod>(host, &places.namespace, &pod.metadata, names::INITIAL_CLUSTER, Value::Null).await?;
    }
    Ok(())
}

/// Notes whose data the ordinal's storage has, or will have.
async fn note(target: &Target, ordinal: i32, member: &str, host: &Client, state: &State) -> Result<(), kube::Error> {
    let places = &target.places;
    let Some(storage) = places.storage(ordinal, &state.stores) else { return Ok(()) };
    if places.in_memory {
        annotate::<Pod>(host, &places.namespace, &storage, names::MEMBER, member.into()).await
    } else {
        annotate::<PersistentVolumeClaim>(host, &places.namespace, &storage, names::MEMBER, member.into()).await
    }
}

/// Sets or removes an annotation of the very object; one that is gone or was replaced is left.
async fn annotate<K>(host: &Client, namespace: &str, meta: &ObjectMeta, annotation: &str, value: Value) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api = Api::<K>::namespaced(host.clone(), namespace);
    let patch = json!({"metadata": {"uid": meta.uid, "annotations": {annotation: value}}});
    let params = PatchParams { field_manager: Some(labels::OPERATOR.into()), ..PatchParams::default() };
    match call(api.patch_metadata(meta.name.as_deref().unwrap_or_default(), &params, &Patch::Merge(patch))).await {
        Err(kube::Error::Api(status)) if is_gone_or_changed(&status) => Ok(()),
        result => result.map(drop),
    }
}
