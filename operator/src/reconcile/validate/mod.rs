//! Step two: from what a user asked for and what the world is like to a [`ValidatedCluster`], past which nothing can be
//! invalid. Pure.
//!
//! The CRD's CEL rules refuse at admission what can be told from the object alone; here is what needs more (known versions,
//! the host's ranges and nodes, upstream's files), and a second wall behind those rules. The spec is taken apart without
//! `..`: a field that nobody handles does not compile. All problems are reported at once.

mod addresses;
mod cluster;
mod config_files;
mod controllers;
mod etcd;
mod flags;
mod images;
mod later;
mod pin;
mod problems;
mod quantity;
mod scheduler;
mod sections;
mod version;

pub use cluster::*;
pub use problems::Invalid;

use super::dereference::Dereferenced;
use crate::config::OperatorConfig;
use addresses::Addresses;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_crds::v1alpha1::{Topology, VirtualCluster, VirtualClusterSpec};
use problems::Problems;

/// Port of the control API at its Service.
const CONTROL_PORT: u16 = 8443;

/// Everything that is wrong with a spec, or what it means.
pub fn validate(vc: &VirtualCluster, reads: &Dereferenced, config: &OperatorConfig) -> Result<ValidatedCluster, Vec<Invalid>> {
    let mut problems = Problems::default();
    let cluster = understand(vc, reads, config, &mut problems);
    match cluster {
        Some(cluster) if problems.is_empty() => Ok(cluster),
        _ => Err(problems.into_inner()),
    }
}

/// `None` only with a problem.
fn understand(vc: &VirtualCluster, reads: &Dereferenced, config: &OperatorConfig, problems: &mut Problems) -> Option<ValidatedCluster> {
    let VirtualClusterSpec {
        version,
        topology,
        control_plane,
        etcd,
        network,
        expose,
        nodes,
        isolation,
        // The controller looks at it before anything else.
        paused: _,
        hibernate,
        deletion_policy,
    } = &vc.spec;
    let status = vc.status.as_ref();
    later::hibernate(*hibernate, problems);
    later::replicas(control_plane.replicas, problems);

    let identity = identity(vc, problems);
    let known = version::known(version.as_deref(), status.and_then(|status| status.version.as_deref()), problems);
    let storage = etcd::storage(etcd, problems);
    let addresses = identity.as_ref().and_then(|identity| {
        let accepted = status.and_then(|status| status.service_cidr.as_deref());
        Addresses::find(network, accepted, &identity.uid, reads, config, problems)
    });
    let pinned_node = match (*topology, &identity) {
        (Topology::SingleNode, Some(identity)) => pin::node(nodes, &control_plane.placement, &identity.uid, reads, problems),
        _ => None,
    };
    let members = etcd::members(*topology, etcd, control_plane.replicas, problems);
    let api_server = sections::api_server(&control_plane.api_server, problems);
    let controller_manager = sections::controller_manager(&control_plane.controller_manager, problems);
    let scheduler = scheduler::settings(&control_plane.scheduler, problems);
    let cloud_controllers = controllers::cloud(&control_plane.cloud_controller_manager.controllers, problems);
    let expose = sections::expose(expose, problems);
    let (node_selector, node_capacity) = sections::nodes(nodes, problems);
    let (pod_security, network_policy, quota) = sections::isolation(isolation, problems);

    let identity = identity?;
    let known = known?;
    let Addresses { service_cidr, kubernetes, dns, cluster_domain } = addresses?;
    let etcd::Sized { storage, quota_bytes } = storage?;
    Some(ValidatedCluster {
        workload_namespace: WorkloadNamespace::for_cluster(&identity.namespace, &identity.name, &identity.uid),
        uid: identity.uid,
        name: identity.name,
        namespace: identity.namespace,
        owner: identity.owner,
        system_namespace: config.namespace.clone(),
        control_url: format!("https://{}:{CONTROL_PORT}", config.control_host()),
        version: known.version,
        images: images::images(&known, config),
        topology: *topology,
        replicas: control_plane.replicas,
        members,
        pinned_node,
        service_cidr,
        kubernetes_address: kubernetes,
        dns_address: dns,
        cluster_domain,
        api_server,
        controller_manager,
        scheduler,
        cloud_controllers,
        placement: sections::placement(&control_plane.placement),
        etcd_placement: sections::placement(&etcd.placement),
        storage,
        etcd_quota_bytes: quota_bytes,
        expose,
        node_selector,
        node_capacity,
        pod_security,
        network_policy,
        quota,
        deletion_policy: *deletion_policy,
    })
}

/// Who the object is.
struct Identity {
    uid: TenantUid,
    name: String,
    namespace: String,
    owner: OwnerReference,
}

fn identity(vc: &VirtualCluster, problems: &mut Problems) -> Option<Identity> {
    let name = vc.metadata.name.clone().unwrap_or_default();
    if name.len() > crate::reconcile::build::names::MAX_CLUSTER_NAME {
        problems.add("metadata.name", "is too long: the names of the cluster's pods are made from it");
    }
    let identity = vc.metadata.uid.clone().zip(vc.metadata.namespace.clone()).zip(vc.controller_owner_ref(&()));
    let Some(((uid, namespace), owner)) = identity else {
        problems.add("metadata", "has no uid or namespace: it does not come from an apiserver");
        return None;
    };
    Some(Identity { uid: TenantUid::new(uid), name, namespace, owner })
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
