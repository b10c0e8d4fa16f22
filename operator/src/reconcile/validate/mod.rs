//! Step two: from what a user asked for and what the world is like to a [`ValidatedCluster`], past which nothing can be
//! invalid. Pure.
//!
//! The CRD's CEL rules refuse at admission what can be told from the object alone; here is what needs more (known versions,
//! the host's ranges and nodes, upstream's files), and a second wall behind those rules. The spec is taken apart without
//! `..`: a field that nobody handles does not compile. All problems are reported at once.

mod config_files;
mod control_plane;
mod controllers;
mod etcd;
mod network;
mod problems;
mod version;

pub(crate) use network::{DNS_INDEX, nth};
pub(crate) use problems::Invalid;

use super::dereference::Dereferenced;
use crate::config::OperatorConfig;
use crate::model::ValidatedCluster;
use crate::model::names::MAX_CLUSTER_NAME;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use nestling_control_api::consts;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use nestling_crds::v1alpha1::{Addons, Topology, VirtualCluster, VirtualClusterSpec, refusals};
use network::Addresses;
use problems::Problems;
use version::Versions;

/// Everything that is wrong with a spec, or what it means.
pub fn validate(vc: &VirtualCluster, reads: &Dereferenced, config: &OperatorConfig) -> Result<ValidatedCluster, Vec<Invalid>> {
    let mut problems = Problems::new(refusals(vc));
    let cluster = understand(vc, reads, config, &mut problems);
    match cluster {
        Some(cluster) if problems.is_empty() => Ok(cluster),
        _ => Err(problems.into_inner()),
    }
}

/// `None` only with a problem.
fn understand(vc: &VirtualCluster, reads: &Dereferenced, config: &OperatorConfig, problems: &mut Problems) -> Option<ValidatedCluster> {
    let VirtualClusterSpec {
        // By `Versions`.
        version: _,
        topology,
        control_plane,
        etcd,
        network,
        expose,
        nodes,
        addons,
        images,
        isolation,
        kubeconfig,
        // The controller looks at it before anything else.
        paused: _,
        hibernate,
        // Goes to agents by way of the snapshot.
        hibernated_pods: _,
        deletion_policy,
    } = &vc.spec;
    let status = vc.status.as_ref();

    let identity = identity(vc, problems);
    let versions = Versions::find(vc, reads, config, problems);
    if *topology != Topology::External && etcd.replicas.is_some() {
        problems.add("spec.etcd.replicas", "is for topology External; else there are as many members as spec.controlPlane.replicas");
    }
    let etcd_settings = etcd::settings(etcd, problems);
    let addresses = identity.as_ref().and_then(|identity| {
        let accepted = status.and_then(|status| status.service_cidrs.first().map(String::as_str)).or(reads.adopted_range.as_deref());
        Addresses::find(network, accepted, &identity.uid, reads, config, problems)
    });
    let pinned_node = match (*topology, &identity) {
        (Topology::SingleNode, Some(identity)) => {
            control_plane::pinned_node(nodes, &control_plane.placement, &identity.uid, reads, problems)
        }
        _ => None,
    };
    let api_server = control_plane::api_server(&control_plane.api_server, reads.encryption.as_ref(), problems);
    let controller_manager = control_plane::controller_manager(&control_plane.controller_manager, problems);
    let scheduler = control_plane::scheduler(&control_plane.scheduler, problems);
    let cloud_controller_manager = control_plane::cloud_controller_manager(&control_plane.cloud_controller_manager, problems);
    let expose = control_plane::expose(expose, problems);
    let (node_selector, node_capacity) = control_plane::nodes(nodes, problems);
    let kubeconfig_lifetime = control_plane::lifetime(kubeconfig, problems);
    let Addons { core_dns } = addons;
    let pull_secrets = images.pull_secrets.iter().map(|secret| secret.name.clone()).collect();
    let (pod_security, network_policy, quota) = control_plane::isolation(isolation, problems);

    let identity = identity?;
    let versions = versions?;
    let Addresses { service_cidr, kubernetes, dns, cluster_domain } = addresses?;
    Some(ValidatedCluster {
        workload_namespace: WorkloadNamespace::for_cluster(&identity.namespace, &identity.name, &identity.uid),
        uid: identity.uid,
        name: identity.name,
        namespace: identity.namespace,
        owner: identity.owner,
        system_namespace: config.namespace.clone(),
        control_url: consts::control_url(&config.namespace),
        images: versions.images(images, config),
        version: versions.version,
        controllers_version: versions.controllers,
        release: versions.release,
        version_change: versions.change,
        topology: *topology,
        replicas: control_plane.replicas,
        members: vc.spec.etcd_members(),
        membership: reads.membership,
        hibernate: *hibernate,
        pinned_node,
        service_cidr,
        kubernetes_address: kubernetes,
        dns_address: dns,
        cluster_domain,
        api_server,
        controller_manager,
        scheduler,
        cloud_controller_manager,
        feature_gates: control_plane.feature_gates.clone(),
        placement: control_plane::placement(&control_plane.placement),
        pod_template: control_plane.pod_template.clone(),
        pull_secrets,
        core_dns: core_dns.clone(),
        kubeconfig_lifetime,
        etcd: etcd_settings?,
        expose,
        node_selector,
        node_capacity,
        pod_security,
        network_policy,
        quota,
        deletion_policy: *deletion_policy,
        adopt: vc.spec.etcd.adopt.clone(),
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
    if name.len() > MAX_CLUSTER_NAME {
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
