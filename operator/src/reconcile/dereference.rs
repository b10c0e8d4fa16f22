//! Step one: everything that the later steps need to know of the world, read before anything is decided. All of it comes
//! from the stores, but for the contents of Secrets.

use crate::apply::{ApplyError, Ownership, ownership};
use crate::conditions::is_ready;
use crate::etcd::places::Places;
use crate::host::Stores;
use crate::model::metadata::component;
use crate::model::names;
use crate::model::names::PINNED_NODE;
use crate::model::{HostNode, Membership};
use crate::pki;
use crate::pki::installation::InstallationCas;
use crate::reconcile::retained;
use crate::reconcile::subject::{Identity, Subject};
use crate::state::Context;
use futures::future::try_join_all;
use ipnet::IpNet;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::{NodeName, TenantUid};
use nestling_crds::v1alpha1::StorageMedium;
use nestling_crds::v1alpha1::conditions::CHANGING_VERSION;
use nestling_crds::versions;
use nestling_crds::versions::Version;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The world as one reconcile sees it.
#[derive(Clone, Debug)]
pub struct Dereferenced {
    /// Ranges that the host itself uses: its ServiceCIDRs, the pod ranges of its nodes, their addresses.
    pub host_ranges: Vec<IpNet>,
    /// Service ranges of the other tenants.
    pub taken: Vec<(TenantUid, IpNet)>,
    pub host_nodes: Vec<HostNode>,
    /// How far etcd is with its members.
    pub membership: Membership,
    /// Where a `SingleNode` cluster lives already.
    pub pinned_node: Option<NodeName>,
    /// Service range of the cluster whose data is taken over.
    pub adopted_range: Option<String>,
    /// The cluster's existing PKI Secrets, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// The user's Secret with the encryption configuration, if the spec names one and it exists. Read each time: it is not
    /// ours, so it is not watched.
    pub encryption: Option<Secret>,
    pub running: Running,
    /// Whether the cluster may change its version now: not too many others do.
    pub may_change_version: bool,
    pub installation: Arc<InstallationCas>,
}

/// The versions that a control plane runs.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Of each pod with a kube-apiserver, and whether it is ready.
    pub api_servers: Vec<(Option<Version>, bool)>,
    /// Version and image of the cloud-controller-manager that the controllers' Deployment was last applied with.
    pub controllers: Option<(Version, String)>,
    /// Of each pod of that Deployment.
    pub controller_pods: Vec<Option<Version>>,
}

impl Running {
    /// Whether all of the control plane is of this version.
    pub fn is_all(&self, version: Version) -> bool {
        self.api_servers_are(version)
            && self.controllers.as_ref().is_some_and(|(controllers, _)| *controllers == version)
            && self.controllers_to_replace(version).is_none()
    }

    /// Version of a controllers pod that has another version, and is to be replaced.
    pub fn controllers_to_replace(&self, version: Version) -> Option<Version> {
        self.controller_pods.iter().flatten().copied().find(|other| *other != version)
    }

    /// Whether every kube-apiserver is of this version and ready.
    pub fn api_servers_are(&self, version: Version) -> bool {
        !self.api_servers.is_empty() && self.api_servers.iter().all(|api_server| *api_server == (Some(version), true))
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DereferenceError {
    #[error("cannot read Secret {name}")]
    Secret {
        name: String,
        #[source]
        source: kube::Error,
    },
    /// It is in the way, or being deleted.
    #[error(transparent)]
    Object(#[from] ApplyError),
    #[error("Secret {secret} is gone")]
    KeysLost { secret: String },
    #[error("cannot read StatefulSet {name}")]
    StatefulSet {
        name: String,
        #[source]
        source: kube::Error,
    },
}

pub(crate) async fn dereference(subject: &Subject, ctx: &Context) -> Result<Dereferenced, DereferenceError> {
    let stores = &ctx.stores;
    let running = running(subject, stores);
    let may_change_version = may_change_version(subject, &running, ctx);
    let secrets = pki_secrets(&subject.id, ctx).await?;
    let adopt = subject.vc.spec.etcd.adopt.as_deref();
    for (name, secret) in &secrets {
        // Keys of another cluster are not built on, not even before they would be refused.
        match ownership(&secret.metadata, &subject.id.uid, adopt, stores) {
            Ownership::Own | Ownership::Adoptable => {}
            other => return Err(other.refusal(format!("Secret {name}"), &secret.metadata).into()),
        }
    }
    let ca = secrets.get(&names::ca(&subject.id.name)).filter(|_| adopt.is_some());
    let adopted_range = ca.and_then(|ca| ca.annotations().get(labels::SERVICE_RANGE).cloned());
    let adopts = retained::may_claim(subject, ctx).await?;
    let set = members_set(subject, ctx).await?;
    keys_are_there(subject, &secrets, adopts || set.is_some())?;
    let listed = ctx.state.with(&subject.id.uid, |state| state.members.listed.map(|(reach, _)| reach));
    Ok(Dereferenced {
        membership: places(subject).membership(set.as_deref(), subject.vc.spec.etcd_members(), listed, stores),
        pinned_node: set.and_then(|set| set.annotations().get(PINNED_NODE).map(NodeName::new)),
        running,
        may_change_version,
        encryption: encryption(subject, ctx).await?,
        secrets,
        adopted_range,
        host_ranges: host_ranges(stores),
        taken: taken(stores, &subject.id.uid),
        host_nodes: stores.nodes.state().iter().map(|node| HostNode::from(&**node)).collect(),
        installation: ctx.installation.clone(),
    })
}

fn running(subject: &Subject, stores: &Stores) -> Running {
    let version = |labels: &BTreeMap<String, String>| labels.get(labels::VERSION)?.parse::<Version>().ok();
    // An evicted pod stays behind, and nothing replaces it.
    let is_over = |pod: &Pod| matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Failed" | "Succeeded"));
    let is_own = |pod: &Pod| pod.labels().get(labels::TENANT).is_some_and(|uid| uid == subject.id.uid.as_str());
    let pods = stores.pods.state_filter(|pod| is_own(pod) && !is_over(pod));
    let (mut api_servers, mut controller_pods) = (Vec::new(), Vec::new());
    for pod in pods {
        match pod.labels().get(labels::COMPONENT).map(String::as_str) {
            Some(component::APISERVER | component::CONTROL_PLANE) => api_servers.push((version(pod.labels()), is_ready(&pod))),
            Some(component::CONTROLLERS) => controller_pods.push(version(pod.labels())),
            _ => {}
        }
    }
    let deployment = stores.deployments.get(&ObjectRef::new(&names::controllers(&subject.id.name)).within(&subject.id.namespace));
    let controllers = deployment.and_then(|deployment| {
        let image = deployment.annotations().get(names::CLOUD_CONTROLLER_IMAGE)?.clone();
        Some((version(deployment.labels())?, image))
    });
    Running { api_servers, controllers, controller_pods }
}

/// A cluster in the middle of a change goes on; one that has not begun waits for a slot.
fn may_change_version(subject: &Subject, running: &Running, ctx: &Context) -> bool {
    let status = subject.status();
    let release = status.release.as_ref().and_then(|release| release.kubernetes.parse::<Version>().ok());
    // A new cluster is no change.
    let Some(release) = release else { return true };
    if subject.vc.spec.hibernate {
        ctx.state.keep_version(&subject.id.uid);
        return false;
    }
    let under_way = running.controllers.as_ref().is_some_and(|(controllers, _)| *controllers != release)
        || running.controllers_to_replace(release).is_some();
    let asks = matches!(versions::change(ctx.config.versions, release, subject.vc.spec.version.as_deref()), Ok(Some(_)));
    let others = ctx.stores.clusters.state().into_iter().filter_map(|other| {
        let other = other.0.as_ref().ok()?;
        let changes = other.status.as_ref()?.conditions.iter().any(|condition| condition.reason == CHANGING_VERSION);
        changes.then(|| other.uid().map(TenantUid::new))?
    });
    ctx.state.change_version(&subject.id.uid, under_way, asks, &others.collect(), ctx.config.max_concurrent_rollouts)
}

/// The cluster's PKI Secrets that there are, by name, whoever owns them.
pub(super) async fn pki_secrets(id: &Identity, ctx: &Context) -> Result<BTreeMap<String, Secret>, DereferenceError> {
    let reads = pki::secret_names(&id.name).map(|name| async move {
        match ctx.state.secret(&id.uid, &id.namespace, &name).await {
            Ok(secret) => Ok(secret.map(|secret| (name, (*secret).clone()))),
            Err(source) => Err(DereferenceError::Secret { name, source }),
        }
    });
    Ok(try_join_all(reads).await?.into_iter().flatten().collect())
}

async fn encryption(subject: &Subject, ctx: &Context) -> Result<Option<Secret>, DereferenceError> {
    let encryption = subject.vc.spec.control_plane.api_server.encryption.as_ref();
    let Some(reference) = encryption.and_then(|encryption| encryption.secret_ref.as_ref()) else { return Ok(None) };
    let api: Api<Secret> = Api::namespaced(ctx.host.clone(), &subject.id.namespace);
    let name = &reference.name;
    api.get_opt(name).await.map_err(|source| DereferenceError::Secret { name: name.clone(), source })
}

/// Authorities and keys are made once. Where there is data that was made with them, their loss is not repaired silently: new
/// ones would cut off everybody who trusts or holds the old ones.
fn keys_are_there(subject: &Subject, secrets: &BTreeMap<String, Secret>, has_data: bool) -> Result<(), DereferenceError> {
    let name = &subject.id.name;
    let may_replace = subject.vc.annotations().get(labels::NEW_KEYS).is_some_and(|value| value == "true");
    let lost = [names::ca(name), names::service_account_keys(name)].into_iter().find(|name| !secrets.contains_key(name));
    match lost {
        Some(secret) if has_data && !may_replace => Err(DereferenceError::KeysLost { secret }),
        _ => Ok(()),
    }
}

fn host_ranges(stores: &Stores) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = Vec::new();
    for service_cidr in stores.service_cidrs.state() {
        let cidrs = service_cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        ranges.extend(cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()));
    }
    for node in stores.nodes.state() {
        let pods = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
        ranges.extend(pods.filter_map(|cidr| cidr.parse::<IpNet>().ok()));
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        ranges.extend(addresses.filter_map(|address| address.address.parse::<IpAddr>().ok()).map(IpNet::from));
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn taken(stores: &Stores, uid: &TenantUid) -> Vec<(TenantUid, IpNet)> {
    let others = stores.clusters.state();
    let taken = others.iter().filter_map(|other| {
        let other = other.0.as_ref().ok()?;
        let range = other.status.as_ref()?.service_cidrs.first()?.parse().ok()?;
        Some((TenantUid::new(other.uid()?), range))
    });
    taken.filter(|(other, _)| other != uid).collect()
}

/// Where the members of the cluster's etcd are.
pub(super) fn places(subject: &Subject) -> Places {
    let (id, spec) = (&subject.id, &subject.vc.spec);
    Places {
        namespace: id.namespace.clone(),
        set: names::members_set(&id.name, spec.topology),
        in_memory: spec.etcd.storage.medium == Some(StorageMedium::Memory),
    }
}

/// The `StatefulSet` of the members says what was decided once, so one that the store does not know is asked for: the store may be
/// behind our own write of a moment ago.
async fn members_set(subject: &Subject, ctx: &Context) -> Result<Option<Arc<StatefulSet>>, DereferenceError> {
    let name = names::members_set(&subject.id.name, subject.vc.spec.topology);
    if let Some(set) = ctx.stores.stateful_sets.get(&ObjectRef::new(&name).within(&subject.id.namespace)) {
        return Ok(Some(set));
    }
    let api: Api<StatefulSet> = Api::namespaced(ctx.host.clone(), &subject.id.namespace);
    let set = api.get_opt(&name).await.map_err(|source| DereferenceError::StatefulSet { name, source })?;
    Ok(set.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Stores;
    use crate::host::testing::cluster;
    use crate::reconcile::subject;
    use crate::state::testing::context;
    use nestling_runtime::testing::ApiServer;
    use serde_json::json;

    #[tokio::test]
    async fn the_secret_of_encryption_is_read_anew_each_time() {
        let (stores, mut writers) = Stores::new();
        let spec = json!({"controlPlane": {"apiServer": {"encryption": {"secretRef": {"name": "keys"}}}}});
        cluster(&mut writers.clusters, json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": spec}));
        let api = ApiServer::new();
        let ctx = context(&api.client(), stores.clone());
        let subject = subject::read(&stores.clusters.state()[0], &ctx).unwrap().1.unwrap();
        let read = async || dereference(&subject, &ctx).await.unwrap().encryption;
        assert!(read().await.is_none());
        // Not ours: no label, and so in no watch.
        for value in ["first", "second"] {
            let secret = json!({"metadata": {"namespace": "team", "name": "keys"}, "data": {}, "type": value});
            api.put(&serde_json::from_value::<Secret>(secret).unwrap());
            assert_eq!(read().await.unwrap().type_.as_deref(), Some(value));
        }
    }
}
