//! The outcome of a reconcile, and the parts of a control plane as the host reports them. Pure.

use super::version;
use crate::conditions::{ConditionState, containers, is_ready, not_ready};
use crate::model::ValidatedCluster;
use crate::model::metadata::component;
use crate::reconcile::apply::OnHost;
use crate::reconcile::build::containers as names;
use crate::reconcile::error::Error;
use crate::tenant::observe::Observation;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nestling_crds::labels;
use nestling_crds::v1alpha1::{ComponentStatus, EtcdMember};
use nestling_crds::versions::Version;
use std::sync::Arc;

/// What a reconcile came to.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// Everything is applied, and running or starting.
    Built(&'a Progress),
    Failed(&'a Error),
    Paused,
    /// What the deletion still waits for.
    Deleting(&'a str),
}

/// A cluster that is set up on the host.
#[derive(Debug)]
pub(crate) struct Progress {
    pub cluster: ValidatedCluster,
    pub host: OnHost,
    /// Its control-plane pods.
    pub pods: Vec<Arc<Pod>>,
    pub observation: Observation,
    /// Whether what belongs inside the tenant could be applied.
    pub inside: Result<(), Error>,
    /// When the first certificate is to be renewed.
    pub renew_at: Timestamp,
}

/// Replicas of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub wanted: i32,
    pub existing: i32,
    pub ready: i32,
    pub updated: i32,
    /// The workload's controller has seen the spec that was applied last.
    pub observed: bool,
}

impl Replicas {
    pub(crate) fn is_rolled_out(&self) -> bool {
        self.observed && self.updated == self.wanted && self.ready == self.wanted && self.existing == self.wanted
    }
}

impl From<&StatefulSet> for Replicas {
    fn from(set: &StatefulSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        Self {
            wanted: set.spec.replicas.unwrap_or(1),
            existing: status.replicas,
            ready: status.ready_replicas.unwrap_or(0),
            // Zero once all are of one revision.
            updated: if status.update_revision == status.current_revision { status.replicas } else { status.updated_replicas.unwrap_or(0) },
            observed: status.observed_generation == set.metadata.generation,
        }
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

impl Progress {
    fn pods_of(&self, component: &str) -> Vec<Arc<Pod>> {
        let is_of = |pod: &&Arc<Pod>| pod.labels().get(labels::COMPONENT).is_some_and(|value| value == component);
        self.pods.iter().filter(is_of).cloned().collect()
    }

    /// Pods and replicas of kube-apiserver.
    pub(crate) fn api_server(&self) -> (Vec<Arc<Pod>>, Replicas, Option<String>) {
        let resources = &self.host.resources;
        match &resources.apiserver {
            Some(deployment) => (self.pods_of(component::APISERVER), deployment.into(), failure(deployment)),
            None => (self.pods_of(component::CONTROL_PLANE), (&resources.members).into(), None),
        }
    }

    pub(crate) fn controllers(&self) -> (Vec<Arc<Pod>>, Replicas, Option<String>) {
        let deployment = &self.host.resources.controllers;
        (self.pods_of(component::CONTROLLERS), deployment.into(), failure(deployment))
    }

    /// The oldest version among the pods with a kube-apiserver; `None` while there are none.
    pub(crate) fn api_server_version(&self) -> Option<Version> {
        let (pods, _, _) = self.api_server();
        pods.iter().filter_map(|pod| pod.labels().get(labels::VERSION)?.parse().ok()).min()
    }

    fn member_pods(&self) -> Vec<Arc<Pod>> {
        let component = if self.host.resources.apiserver.is_some() { component::ETCD } else { component::CONTROL_PLANE };
        self.pods_of(component)
    }

    pub(crate) fn members(&self) -> Vec<EtcdMember> {
        let mut members: Vec<_> =
            self.member_pods().iter().map(|pod| EtcdMember { name: pod.name_any(), ready: member_serves(pod) }).collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    pub(crate) fn etcd(&self) -> ConditionState {
        let (pods, wanted) = (self.member_pods(), self.cluster.members);
        let ready = count(pods.iter().filter(|pod| member_serves(pod)));
        // A quorum serves.
        if ready > wanted / 2 {
            return ConditionState::yes("Available", format!("{ready} of {wanted} members are ready"));
        }
        not_ready(&pods, None)
    }

    pub(crate) fn components(&self) -> Vec<ComponentStatus> {
        let (api_pods, api_server, _) = self.api_server();
        let (pods, controllers, _) = self.controllers();
        let members = self.members();
        let etcd = Replicas { ready: count(members.iter().filter(|member| member.ready)), ..(&self.host.resources.members).into() };
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
            one(names::ETCD, &self.member_pods(), etcd),
            one(names::API_SERVER, &api_pods, api_server),
            controller(names::CONTROLLER_MANAGER),
            controller(names::SCHEDULER),
            controller(names::CLOUD_CONTROLLER_MANAGER),
        ]
    }
}

/// Enough replicas of a part that is no quorum: one.
pub(super) fn available((pods, replicas, failure): (Vec<Arc<Pod>>, Replicas, Option<String>)) -> ConditionState {
    // Counted on the pods themselves: the status of their owner is later.
    let ready = count(pods.iter().filter(|pod| is_ready(pod)));
    if ready > 0 {
        ConditionState::yes("Available", format!("{ready} of {} replicas are ready", replicas.wanted))
    } else {
        not_ready(&pods, failure)
    }
}

/// In a stacked pod etcd is a sidecar that serves before the pod is ready.
fn member_serves(pod: &Pod) -> bool {
    containers(pod).any(|container| container.name == names::ETCD && container.ready)
}

pub(super) fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}
