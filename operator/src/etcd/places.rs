//! What the host has of etcd's members: pods, and the claims with their data. Read from the stores.

use crate::conditions::{containers, is_ready};
use crate::etcd::plan::{Holds, Place, PodFacts, Ticket};
use crate::host::Stores;
use crate::model::metadata::component;
use crate::model::{ETCD, Membership, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use nestling_crds::labels;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// More than a cluster may have.
const MAX_MEMBERS: i32 = 9;

/// Where the members of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Places {
    pub(crate) namespace: String,
    /// Name of their StatefulSet.
    pub(crate) set: String,
    pub(crate) in_memory: bool,
}

impl Places {
    pub(crate) fn pod(&self, ordinal: i32, stores: &Stores) -> Option<Arc<Pod>> {
        stores.pods.get(&ObjectRef::new(&names::member(&self.set, ordinal)).within(&self.namespace))
    }

    /// Metadata of what has the ordinal's data: a claim, or the pod.
    pub(crate) fn storage(&self, ordinal: i32, stores: &Stores) -> Option<ObjectMeta> {
        let meta = if self.in_memory {
            self.pod(ordinal, stores)?.metadata.clone()
        } else {
            let claim = stores.claims.get(&ObjectRef::new(&names::claim(&self.set, ordinal)).within(&self.namespace))?;
            claim.metadata.clone()
        };
        Some(meta).filter(|meta| meta.deletion_timestamp.is_none())
    }

    /// An ordinal as the host has it. `template` is the hash of the template that pods should be of, and `list` the value of
    /// `--initial-cluster` that fits now.
    pub(crate) fn place(&self, ordinal: i32, template: &str, list: &str, stores: &Stores) -> Place {
        let storage = self.storage(ordinal, stores);
        let pod = self.pod(ordinal, stores).map(|pod| PodFacts {
            ready: is_ready(&pod),
            outdated: self.is_known(template, stores) && pod.annotations().get(names::TEMPLATE).is_none_or(|other| other != template),
            ticket: match ticket(&pod) {
                None => Ticket::None,
                Some(ticket) if ticket == list => Ticket::Valid,
                Some(_) => Ticket::Stale,
            },
            ending: pod.metadata.deletion_timestamp.is_some(),
        });
        Place { pod, storage: storage.as_ref().map(holds) }
    }

    /// Whether the StatefulSet controller makes pods of this template: a pod that is deleted earlier comes back as it was.
    fn is_known(&self, template: &str, stores: &Stores) -> bool {
        stores.stateful_sets.get(&ObjectRef::new(&self.set).within(&self.namespace)).is_some_and(|set| {
            let observed = set.status.as_ref().and_then(|status| status.observed_generation);
            observed == set.metadata.generation && set.annotations().get(names::TEMPLATE).is_some_and(|known| known == template)
        })
    }

    pub(crate) fn ordinals() -> std::ops::Range<i32> {
        0..MAX_MEMBERS
    }

    /// How far etcd is. `set` is the live `StatefulSet`, and `listed` how many ordinals etcd's own list reaches to, if known.
    pub(crate) fn membership(&self, set: Option<&StatefulSet>, wanted: i32, listed: Option<i32>, stores: &Stores) -> Membership {
        let is_used = |ordinal: &i32| {
            let storage = self.storage(*ordinal, stores);
            storage.is_some_and(|storage| matches!(holds(&storage), Holds::Founder | Holds::Member(_)))
        };
        let used = Self::ordinals().rfind(is_used);
        let noted = |annotation: &str| set.and_then(|set| set.annotations().get(annotation));
        let slots: Option<i32> = noted(names::SLOTS).and_then(|slots| slots.parse().ok());
        let slots = slots.or(used.map(|highest| highest + 1)).unwrap_or(wanted);
        // Alone and in memory, a member begins anew whenever its pod does: there is nothing to lose.
        if self.in_memory && slots == 1 && wanted == 1 {
            return Membership { slots, formed: false };
        }
        if noted(names::FORMED).is_some_and(|value| value == "true") || used.is_some() {
            return Membership { slots: listed.unwrap_or(slots), formed: true };
        }
        let serving = (0..slots).filter(|ordinal| self.serves(*ordinal, stores)).count();
        Membership { slots, formed: set.is_some() && i32::try_from(serving).unwrap_or(0) > slots / 2 }
    }

    /// Whether every member has other storage than it began in.
    pub(crate) fn is_lost(&self, membership: Membership, stores: &Stores) -> bool {
        let is_new = |ordinal| self.storage(ordinal, stores).is_some_and(|storage| holds(&storage) == Holds::Nothing);
        membership.formed && (0..membership.slots).all(|ordinal| is_new(ordinal) && !self.serves(ordinal, stores))
    }

    fn serves(&self, ordinal: i32, stores: &Stores) -> bool {
        self.pod(ordinal, stores).is_some_and(|pod| serves(&pod))
    }
}

/// Whose data it has.
pub(crate) fn holds(storage: &ObjectMeta) -> Holds {
    match storage.annotations.as_ref().and_then(|all| all.get(names::MEMBER)).map(String::as_str) {
        None => Holds::Nothing,
        Some(names::CANDIDATE) => Holds::Candidate,
        Some(names::FOUNDER) => Holds::Founder,
        // One that cannot be read is nobody's: its data is not built on.
        Some(id) => Holds::Member(u64::from_str_radix(id, 16).unwrap_or(0)),
    }
}

/// With what its member begins in an empty directory.
pub(crate) fn ticket(pod: &Pod) -> Option<&str> {
    pod.annotations().get(names::INITIAL_CLUSTER).map(String::as_str)
}

/// Whether the pod's member is a voter that has a quorum, by its probe. In a stacked pod etcd is a sidecar that serves before the
/// pod is ready.
pub(crate) fn serves(pod: &Pod) -> bool {
    containers(pod).any(|container| container.name == ETCD && container.ready)
}

pub(crate) fn is_member(pod: &Pod) -> bool {
    let of = pod.labels().get(labels::COMPONENT).map(String::as_str);
    matches!(of, Some(component::CONTROL_PLANE | component::ETCD))
}

/// Where a port of the pod is reached.
pub(crate) fn address(pod: &Pod, port: i32) -> Option<SocketAddr> {
    let address: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    Some((address, u16::try_from(port).ok()?).into())
}
