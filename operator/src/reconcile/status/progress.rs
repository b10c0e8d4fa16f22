//! The outcome of a reconcile, and a control plane as the host and its own API report it. Pure.

use super::version;
use crate::conditions::{ConditionState, containers, is_ready, not_ready};
use crate::etcd::places::serves;
use crate::host::Stores;
use crate::model::metadata::component;
use crate::model::{ValidatedCluster, names};
use crate::reconcile::apply::OnHost;
use crate::reconcile::build::containers as programs;
use crate::reconcile::error::Error;
use crate::reconcile::subject::Subject;
use crate::state::{NoSpace, State};
use crate::tenant::observe::Observation;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use nestling_crds::v1alpha1::{AddonMode, ComponentStatus, EtcdMember};
use nestling_crds::versions::Version;
use std::sync::Arc;

/// What a reconcile came to.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// Everything is applied, and running or starting.
    Built(&'a Progress),
    /// Something was not applied; what there is.
    Failed(&'a Error, &'a Observed),
    Paused(&'a Observed),
    /// What the deletion still waits for.
    Deleting(&'a str),
}

/// A cluster that is set up on the host.
#[derive(Debug)]
pub(crate) struct Progress {
    pub cluster: ValidatedCluster,
    pub host: OnHost,
    pub observed: Observed,
    /// Whether what belongs inside the tenant could be applied.
    pub inside: Result<(), Error>,
    /// When the first certificate is to be renewed.
    pub renew_at: Timestamp,
}

/// A control plane as it is, whatever the spec says.
#[derive(Debug)]
pub(crate) struct Observed {
    /// `None` where there is none.
    pub members: Option<StatefulSet>,
    /// `None` unless the apiservers have pods of their own.
    pub apiserver: Option<Deployment>,
    pub controllers: Option<Deployment>,
    /// Its control-plane pods.
    pub pods: Vec<Arc<Pod>>,
    /// What the tenant's API shows.
    pub inside: Observation,
    pub etcd: ObservedEtcd,
    /// Whether CoreDNS is the tenant's own business.
    pub dns_unmanaged: bool,
}

/// The members of etcd, beside their pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObservedEtcd {
    /// Members that there should be.
    pub wanted: i32,
    /// Members that vote.
    pub voters: i32,
    /// What the work on members waits for.
    pub waits: Option<String>,
    /// Every member has other storage than it began in.
    pub is_lost: bool,
    /// etcd refuses writes.
    pub no_space: Option<NoSpace>,
}

impl ObservedEtcd {
    pub(crate) fn of(tenant: &TenantUid, wanted: i32, slots: i32, state: &State) -> Self {
        state.with(tenant, |state| Self {
            wanted,
            voters: state.members.listed.map_or(slots, |(_, voters)| voters),
            waits: state.members.waits.clone(),
            is_lost: false,
            no_space: state.no_space,
        })
    }
}

/// Replicas of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replicas {
    pub wanted: i32,
    pub existing: i32,
    pub ready: i32,
    pub updated: i32,
    /// The workload's controller has seen the spec that was applied last.
    pub observed: bool,
}

impl Replicas {
    pub(super) fn is_rolled_out(&self) -> bool {
        self.observed && self.updated == self.wanted && self.ready == self.wanted && self.existing == self.wanted
    }
}

impl From<&Deployment> for Replicas {
    fn from(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            wanted: deployment.spec.replicas.unwrap_or(1),
            existing: status.replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            observed: status.observed_generation == deployment.metadata.generation,
        }
    }
}

/// Why a Deployment cannot create pods.
fn failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))?.message.clone()
}

/// Pods of a part, its replicas, and why it cannot create pods.
type Part = (Vec<Arc<Pod>>, Replicas, Option<String>);

impl Observed {
    /// Right after everything was applied: the stores may not have seen that yet.
    pub(crate) fn applied(cluster: &ValidatedCluster, host: &OnHost, inside: Observation, etcd: ObservedEtcd, stores: &Stores) -> Self {
        let resources = &host.resources;
        Self {
            members: Some(resources.members.clone()),
            apiserver: resources.apiserver.clone(),
            controllers: Some(resources.controllers.clone()),
            pods: pods(&cluster.uid, stores),
            inside,
            etcd,
            dns_unmanaged: cluster.core_dns.mode == AddonMode::Unmanaged,
        }
    }

    /// As the stores have it. `inside` is `None` without a connection to the tenant.
    pub(crate) fn stored(subject: &Subject, inside: Option<Observation>, state: &State) -> Self {
        let (id, stores) = (&subject.id, &state.stores);
        let set = |name: &str| stores.stateful_sets.get(&ObjectRef::new(name).within(&id.namespace));
        let deployment = |name: &str| stores.deployments.get(&ObjectRef::new(name).within(&id.namespace)).map(|live| (*live).clone());
        let members = set(&names::control_plane(&id.name)).or_else(|| set(&names::etcd(&id.name))).map(|live| (*live).clone());
        let slots = members.as_ref().and_then(|set| set.annotations().get(names::SLOTS)?.parse().ok()).unwrap_or(1);
        Self {
            etcd: ObservedEtcd::of(&id.uid, slots, slots, state),
            members,
            apiserver: deployment(&names::apiserver(&id.name)),
            controllers: deployment(&names::controllers(&id.name)),
            pods: pods(&id.uid, stores),
            inside: inside.unwrap_or_default(),
            dns_unmanaged: subject.vc.spec.addons.core_dns.mode == AddonMode::Unmanaged,
        }
    }

    fn pods_of(&self, component: &str) -> Vec<Arc<Pod>> {
        let is_of = |pod: &&Arc<Pod>| pod.labels().get(labels::COMPONENT).is_some_and(|value| value == component);
        self.pods.iter().filter(is_of).cloned().collect()
    }

    /// Whether etcd's members have pods of their own.
    fn is_external(&self) -> bool {
        let selector = self.members.as_ref().and_then(|set| set.spec.selector.match_labels.as_ref());
        selector.and_then(|labels| labels.get(labels::COMPONENT)).is_some_and(|value| value == component::ETCD)
    }

    /// Pods and replicas of kube-apiserver.
    pub(super) fn api_server(&self) -> Part {
        if !self.is_external() {
            return (self.pods_of(component::CONTROL_PLANE), self.member_replicas(), None);
        }
        let replicas = self.apiserver.as_ref().map(Replicas::from).unwrap_or_default();
        (self.pods_of(component::APISERVER), replicas, self.apiserver.as_ref().and_then(failure))
    }

    /// Selector of the pods that the scale subresource counts.
    pub(super) fn selector(&self) -> Option<String> {
        let selector = match &self.apiserver {
            Some(deployment) => &deployment.spec.selector,
            None => &self.members.as_ref()?.spec.selector,
        };
        let pairs: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        Some(pairs.join(","))
    }

    pub(super) fn controllers(&self) -> Part {
        let replicas = self.controllers.as_ref().map(Replicas::from).unwrap_or_default();
        (self.pods_of(component::CONTROLLERS), replicas, self.controllers.as_ref().and_then(failure))
    }

    /// By the pods: the status of a StatefulSet whose pods the operator replaces tells no revisions apart.
    pub(super) fn member_replicas(&self) -> Replicas {
        let Some(set) = &self.members else { return Replicas::default() };
        let pods = self.member_pods();
        let template = set.annotations().get(names::TEMPLATE);
        Replicas {
            wanted: if set.spec.replicas == Some(0) { 0 } else { self.etcd.wanted },
            existing: count(pods.iter()),
            ready: count(pods.iter().filter(|pod| is_ready(pod))),
            updated: count(pods.iter().filter(|pod| pod.annotations().get(names::TEMPLATE) == template)),
            observed: true,
        }
    }

    /// The oldest version among the pods with a kube-apiserver; `None` while there are none.
    pub(crate) fn api_server_version(&self) -> Option<Version> {
        let (pods, _, _) = self.api_server();
        pods.iter().filter_map(|pod| pod.labels().get(labels::VERSION)?.parse().ok()).min()
    }

    fn member_pods(&self) -> Vec<Arc<Pod>> {
        self.pods_of(if self.is_external() { component::ETCD } else { component::CONTROL_PLANE })
    }

    pub(super) fn members(&self) -> Vec<EtcdMember> {
        let mut members: Vec<_> = self.member_pods().iter().map(|pod| EtcdMember { name: pod.name_any(), ready: serves(pod) }).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    pub(super) fn etcd(&self) -> ConditionState {
        let (pods, voters) = (self.member_pods(), self.etcd.voters);
        let ready = count(pods.iter().filter(|pod| serves(pod)));
        // A quorum serves.
        if ready > voters / 2 {
            match self.etcd.no_space {
                Some(NoSpace { full: Some((size, quota)), .. }) => return ConditionState::no("DatabaseFull", full(size, quota)),
                Some(_) => return ConditionState::no("NoSpace", "etcd has reached its quota and refuses writes; room is being made"),
                None => {}
            }
            return ConditionState::yes("Available", format!("{ready} of {voters} members are ready"));
        }
        if self.etcd.is_lost {
            return ConditionState::no(
                "DataLost",
                "the storage of all members of etcd was replaced, and the new one holds no data. Nestling does not begin an empty cluster in \
                 its place: restore the volumes, or delete the VirtualCluster and create it anew",
            );
        }
        not_ready(&pods, None)
    }

    pub(super) fn components(&self) -> Vec<ComponentStatus> {
        let (api_pods, api_server, _) = self.api_server();
        let (pods, controllers, _) = self.controllers();
        let members = self.members();
        let etcd = Replicas { ready: count(members.iter().filter(|member| member.ready)), ..self.member_replicas() };
        let one = |name: &str, pods: &[Arc<Pod>], replicas: Replicas| ComponentStatus {
            name: name.into(),
            version: version::running(name, pods),
            replicas: replicas.existing,
            ready_replicas: replicas.ready,
            updated_replicas: replicas.updated,
        };
        // Three programs share a pod; each is as ready as its container.
        let controller = |name: &str| {
            let ready = pods.iter().filter(|pod| containers(pod).any(|container| container.name == name && container.ready));
            one(name, &pods, Replicas { ready: count(ready), ..controllers })
        };
        vec![
            one(programs::ETCD, &self.member_pods(), etcd),
            one(programs::API_SERVER, &api_pods, api_server),
            controller(programs::CONTROLLER_MANAGER),
            controller(programs::SCHEDULER),
            controller(programs::CLOUD_CONTROLLER_MANAGER),
        ]
    }
}

fn full(size: u64, quota: u64) -> String {
    let mib = |bytes: u64| bytes >> 20;
    format!(
        "etcd refuses writes: objects fill {} MiB of its quota of {} MiB. Delete objects in the tenant (deleting is possible); room is made \
         for new ones every minute",
        mib(size),
        mib(quota)
    )
}

/// The control-plane pods of a tenant.
fn pods(tenant: &TenantUid, stores: &Stores) -> Vec<Arc<Pod>> {
    stores.pods.state_filter(|pod| pod.labels().get(labels::TENANT).is_some_and(|uid| uid == tenant.as_str()))
}

/// Enough replicas of a part that is no quorum: one.
pub(super) fn available((pods, replicas, failure): Part) -> ConditionState {
    // Counted on the pods themselves: the status of their owner is later.
    let ready = count(pods.iter().filter(|pod| is_ready(pod)));
    if ready > 0 {
        ConditionState::yes("Available", format!("{ready} of {} replicas are ready", replicas.wanted))
    } else {
        not_ready(&pods, failure)
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}
