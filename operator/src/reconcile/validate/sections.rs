//! The sections of a spec that need little more than being taken apart.

use super::addresses::is_dns_name;
use super::cluster::{ApiServerSettings, ControllerManagerSettings, ExposeSettings, PlacementSettings, San};
use super::problems::Problems;
use super::{config_files, controllers, flags, later, quantity};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nestling_crds::managed_flags;
use nestling_crds::v1alpha1::{ApiServer, ControllerManager, Expose, Isolation, Nodes, Placement, PodSecurity};
use std::collections::BTreeMap;

pub(super) fn api_server(api_server: &ApiServer, problems: &mut Problems) -> ApiServerSettings {
    const FIELD: &str = "spec.controlPlane.apiServer";
    let ApiServer { extra_args, resources, cert_sans, authentication, authorization, audit, encryption, admission } = api_server;
    flags::check(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::API_SERVER, problems);
    later::authorization(authorization.as_ref(), problems);
    ApiServerSettings {
        extra_args: extra_args.clone(),
        resources: self::resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
        cert_sans: cert_sans.iter().filter_map(|name| san(name, problems)).collect(),
        files: config_files::files(config_files::Given { authentication, audit, encryption, admission }, FIELD, problems),
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
    flags::check(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::CONTROLLER_MANAGER, problems);
    ControllerManagerSettings {
        controllers: controllers::controller_manager(controllers, problems),
        extra_args: extra_args.clone(),
        resources: self::resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
    }
}

pub(super) fn resources(field: &str, resources: Option<&ResourceRequirements>, problems: &mut Problems) -> Option<ResourceRequirements> {
    let resources = resources?;
    for (part, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if let Some(quantities) = quantities {
            quantity::check(&format!("{field}.{part}"), quantities, problems);
        }
    }
    Some(resources.clone())
}

pub(super) fn placement(placement: &Placement) -> PlacementSettings {
    let Placement { node_selector, tolerations, priority_class_name, zone_spread } = placement;
    PlacementSettings {
        node_selector: node_selector.clone(),
        tolerations: tolerations.clone(),
        priority_class: (!priority_class_name.is_empty()).then(|| priority_class_name.clone()),
        zone_spread: *zone_spread,
    }
}

pub(super) fn expose(expose: &Expose, problems: &mut Problems) -> ExposeSettings {
    let Expose { type_, hostname, annotations } = expose;
    later::expose_type(*type_, problems);
    if !hostname.is_empty() && !is_dns_name(hostname) {
        problems.add("spec.expose.hostname", format!("{hostname:?} must be a DNS name"));
    }
    ExposeSettings { type_: *type_, hostname: (!hostname.is_empty()).then(|| hostname.clone()), annotations: annotations.clone() }
}

pub(super) fn nodes(nodes: &Nodes, problems: &mut Problems) -> (BTreeMap<String, String>, BTreeMap<String, Quantity>) {
    let Nodes { selector, capacity, static_pods } = nodes;
    later::static_pods(static_pods, problems);
    quantity::check("spec.nodes.capacity", capacity, problems);
    (selector.clone(), capacity.clone())
}

pub(super) fn isolation(isolation: &Isolation, problems: &mut Problems) -> (PodSecurity, bool, BTreeMap<String, Quantity>) {
    let Isolation { pod_security, network_policy, quota } = isolation;
    quantity::check("spec.isolation.quota", quota, problems);
    (*pod_security, *network_policy, quota.clone())
}
