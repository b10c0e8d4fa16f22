//! The control plane: version and images, the settings of each component, placement, exposure, and what surrounds the
//! tenant's pods.

use crate::model::{
    ApiServerSettings, CloudControllerManagerSettings, ControllerManagerSettings, ExposeSettings, HostNode, PlacementSettings, San,
    SchedulerSettings,
};
use crate::reconcile::dereference::Dereferenced;
use crate::reconcile::validate::problems::{Problems, check_quantities, checked_resources, is_dns_name};
use crate::reconcile::validate::{config_files, controllers, problems};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nestling_crds::managed_flags;
use nestling_crds::names::{NodeName, TenantUid, hash65};
use nestling_crds::v1alpha1::{
    ApiServer, CloudControllerManager, ControllerManager, Expose, Isolation, Kubeconfig, NodeSelector, Nodes, Placement, PodSecurity, Raw,
    Scheduler,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) fn api_server(api_server: &ApiServer, encryption_secret: Option<&Secret>, problems: &mut Problems) -> ApiServerSettings {
    const FIELD: &str = "spec.controlPlane.apiServer";
    let ApiServer { extra_args, resources, cert_sans, authentication, authorization: _, audit, encryption, admission } = api_server;
    ApiServerSettings {
        extra_args: problems::extra_args(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::API_SERVER, problems),
        resources: checked_resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
        cert_sans: cert_sans.iter().filter_map(|name| san(name, problems)).collect(),
        files: config_files::files(
            config_files::Given { authentication, audit, encryption, encryption_secret, admission },
            FIELD,
            problems,
        ),
    }
}

fn san(name: &str, problems: &mut Problems) -> Option<San> {
    if let Ok(address) = name.parse() {
        return Some(San::Ip(address));
    }
    if is_dns_name(name.strip_prefix("*.").unwrap_or(name)) {
        return Some(San::Dns(name.to_owned()));
    }
    problems.add("spec.controlPlane.apiServer.certSANs", format!("{name:?} must be a DNS name or an IP address"));
    None
}

pub(super) fn controller_manager(manager: &ControllerManager, problems: &mut Problems) -> ControllerManagerSettings {
    const FIELD: &str = "spec.controlPlane.controllerManager";
    let ControllerManager { controllers, extra_args, resources } = manager;
    ControllerManagerSettings {
        controllers: controllers::controller_manager(controllers, problems),
        extra_args: problems::extra_args(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::CONTROLLER_MANAGER, problems),
        resources: checked_resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
    }
}

pub(super) fn cloud_controller_manager(manager: &CloudControllerManager, problems: &mut Problems) -> CloudControllerManagerSettings {
    const FIELD: &str = "spec.controlPlane.cloudControllerManager";
    let CloudControllerManager { controllers, extra_args, resources } = manager;
    CloudControllerManagerSettings {
        controllers: controllers::cloud(controllers, problems),
        extra_args: problems::extra_args(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::CLOUD_CONTROLLER_MANAGER, problems),
        resources: checked_resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
    }
}

const SCHEDULER: &str = "spec.controlPlane.scheduler";
/// Of `KubeSchedulerProfile`. kube-scheduler reads its configuration strictly: a key it does not know ends it.
const PROFILE_KEYS: &[&str] = &["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"];

pub(super) fn scheduler(scheduler: &Scheduler, problems: &mut Problems) -> SchedulerSettings {
    let Scheduler { profiles, extra_args, resources } = scheduler;
    check_profiles(profiles, problems);
    SchedulerSettings {
        profiles: profiles.iter().map(|profile| Value::Object(profile.0.clone())).collect(),
        extra_args: problems::extra_args(&format!("{SCHEDULER}.extraArgs"), extra_args, managed_flags::SCHEDULER, problems),
        resources: checked_resources(&format!("{SCHEDULER}.resources"), resources.as_ref(), problems),
    }
}

fn check_profiles(profiles: &[Raw], problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for (index, Raw(profile)) in profiles.iter().enumerate() {
        let field = format!("{SCHEDULER}.profiles[{index}]");
        if let Some(key) = profile.keys().find(|key| !PROFILE_KEYS.contains(&key.as_str())) {
            problems.add(&field, format!("has an unknown key {key}; known are {}", PROFILE_KEYS.join(", ")));
        }
        // Upstream's default: a profile without a name is the default scheduler.
        let name = profile.get("schedulerName").map_or(Some("default-scheduler"), Value::as_str);
        match name {
            Some(name) if !name.is_empty() => {
                if !names.insert(name) {
                    problems.add(&field, format!("has the same schedulerName as another profile: {name}"));
                }
            }
            _ => problems.add(&field, "schedulerName must be a name"),
        }
    }
}

/// The node the cluster is on already, whatever has become of it (its volume may exist only there). Else one that may
/// carry both the control plane and the tenant's pods; which one depends on the tenant, so that tenants spread.
pub(super) fn pinned_node(
    nodes: &Nodes,
    placement: &Placement,
    tenant: &TenantUid,
    reads: &Dereferenced,
    problems: &mut Problems,
) -> Option<NodeName> {
    if let Some(node) = &reads.pinned_node {
        return Some(node.clone());
    }
    let carries = |node: &HostNode| placement.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let fits =
        |node: &&HostNode| node.ready && nodes.selector.matches(&node.labels) && carries(node) && node.admits(&placement.tolerations);
    // Rendezvous hashing: a node that comes or goes changes the choice of few.
    let chosen = reads.host_nodes.iter().filter(fits).max_by_key(|node| hash65(&["pin", tenant.as_str(), node.name.as_str()]));
    if chosen.is_none() {
        problems.add(
            "spec.topology",
            "SingleNode needs a Ready host node with the labels of spec.nodes.selector and spec.controlPlane.placement.nodeSelector, and with no \
             taint that spec.controlPlane.placement.tolerations does not tolerate; there is none",
        );
    }
    chosen.map(|node| node.name.clone())
}

pub(super) fn placement(placement: &Placement) -> PlacementSettings {
    let Placement { node_selector, tolerations, priority_class_name, host_spread, zone_spread } = placement;
    PlacementSettings {
        node_selector: node_selector.clone(),
        tolerations: tolerations.clone(),
        priority_class: (!priority_class_name.is_empty()).then(|| priority_class_name.clone()),
        host_spread: *host_spread,
        zone_spread: *zone_spread,
    }
}

pub(super) fn expose(expose: &Expose, problems: &mut Problems) -> ExposeSettings {
    let Expose { type_, hostname, annotations, source_ranges, load_balancer_class } = expose;
    if !hostname.is_empty() && !is_dns_name(hostname) && hostname.parse::<IpAddr>().is_err() {
        problems.add("spec.expose.hostname", format!("{hostname:?} must be a DNS name or an IP address"));
    }
    ExposeSettings {
        type_: *type_,
        hostname: (!hostname.is_empty()).then(|| hostname.clone()),
        annotations: annotations.clone(),
        source_ranges: source_ranges.clone(),
        load_balancer_class: load_balancer_class.clone(),
    }
}

/// `None` also with a problem.
pub(super) fn lifetime(kubeconfig: &Kubeconfig, problems: &mut Problems) -> Option<SignedDuration> {
    let Kubeconfig { lifetime } = kubeconfig;
    let parse = |text: &String| {
        text.parse().map_err(|_| problems.add("spec.kubeconfig.lifetime", format!("{text:?} must be a duration such as 8760h or 90m"))).ok()
    };
    lifetime.as_ref().and_then(parse)
}

pub(super) fn nodes(nodes: &Nodes, problems: &mut Problems) -> (NodeSelector, BTreeMap<String, Quantity>) {
    // Labels go to agents by way of the snapshot.
    let Nodes { selector, labels: _, capacity, static_pods: _ } = nodes;
    if let Some(key) = selector.former.keys().next() {
        problems.add(
            format!("spec.nodes.selector.{key}"),
            "is not a field: spec.nodes.selector is a label selector; write labels under spec.nodes.selector.matchLabels",
        );
    }
    check_quantities("spec.nodes.capacity", capacity, problems);
    (selector.clone(), capacity.clone())
}

pub(super) fn isolation(isolation: &Isolation, problems: &mut Problems) -> (PodSecurity, bool, BTreeMap<String, Quantity>) {
    let Isolation { pod_security, network_policy, quota } = isolation;
    check_quantities("spec.isolation.quota", quota, problems);
    (*pod_security, *network_policy, quota.clone())
}
