//! The whole status out of what was applied and observed. Pure.

use super::exposure::exposed;
use super::progress::{Outcome, Progress, Replicas, available};
use crate::conditions::{ConditionState, condition};
use crate::model::VersionChange;
use crate::pki::expiries;
use crate::reconcile::error::Error;
use crate::tenant::observe::Dns;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use nestling_crds::v1alpha1::{AddonMode, EtcdStatus, KubeconfigRef, Phase, VirtualClusterStatus, conditions};
use nestling_runtime::error::chain;

/// Of all conditions, those that a cluster must have to be `Ready`, in the order in which they come true.
const NEEDED: [&str; 6] = [
    conditions::ETCD_READY,
    conditions::API_SERVER_READY,
    conditions::CONTROLLERS_READY,
    conditions::NODES_READY,
    conditions::ADDONS_READY,
    conditions::EXPOSED,
];

/// The status after this outcome. Fields that an outcome has no bearing on stay as they were.
pub(crate) fn compute(
    previous: &VirtualClusterStatus,
    generation: Option<i64>,
    outcome: &Outcome<'_>,
    now: Timestamp,
) -> VirtualClusterStatus {
    let mut status = VirtualClusterStatus { observed_generation: generation, ..previous.clone() };
    let mut changes: Vec<(&str, ConditionState)> = Vec::new();
    match outcome {
        Outcome::Built(progress) => {
            facts(&mut status, progress);
            changes = built(progress, previous);
            status.phase = Some(if is(&changes, conditions::READY) {
                Phase::Ready
            } else if is(&changes, conditions::DEGRADED) {
                Phase::Degraded
            } else {
                Phase::Provisioning
            });
        }
        Outcome::Failed(Error::Invalid(invalid)) => {
            let message = chain(&Error::Invalid(invalid.clone()));
            changes.push((conditions::VALID, ConditionState::no("Invalid", message.clone())));
            changes.push((conditions::PROGRESSING, ConditionState::no("Invalid", "waiting for a change of the spec")));
            // What runs keeps running with the last valid spec.
            if !was_ready(previous) {
                changes.push((conditions::READY, ConditionState::no("Invalid", message)));
                status.phase = Some(Phase::Invalid);
            }
        }
        Outcome::Failed(error) => {
            let message = chain(*error);
            if !was_ready(previous) {
                changes.push((conditions::READY, ConditionState::no(error.reason(), message.clone())));
                status.phase = status.phase.filter(|phase| *phase == Phase::Degraded).or(Some(Phase::Provisioning));
            }
            changes.push((conditions::PROGRESSING, ConditionState::yes(error.reason(), "retrying")));
            if !error.is_a_wait() {
                changes.push((conditions::DEGRADED, ConditionState::yes(error.reason(), message)));
            }
        }
        Outcome::Paused => {
            status.phase = Some(Phase::Paused);
            changes.push((conditions::PROGRESSING, ConditionState::no("Paused", "spec.paused is true")));
        }
        Outcome::Deleting(remains) => {
            status.phase = Some(Phase::Deleting);
            changes.push((conditions::READY, ConditionState::no("Deleting", *remains)));
            changes.push((conditions::PROGRESSING, ConditionState::yes("Deleting", *remains)));
        }
    }
    for (type_, state) in changes {
        let next = condition(&previous.conditions, type_, &state, generation, now);
        put(&mut status.conditions, next);
    }
    status
}

fn facts(status: &mut VirtualClusterStatus, progress: &Progress) {
    let Progress { cluster, host, observation, .. } = progress;
    if let Some(version) = progress.api_server_version() {
        status.version = Some(version.to_string());
    }
    status.release = Some(cluster.release.clone());
    status.endpoint = Some(host.endpoint.url.clone());
    status.kubeconfig_ref =
        Some(KubeconfigRef { name: host.pki.secrets.admin_kubeconfig.name_any(), key: crate::model::keys::KUBECONFIG.into() });
    status.workload_namespace = Some(cluster.workload_namespace.to_string());
    status.service_cidrs = vec![cluster.service_cidr.to_string()];
    status.certificates = expiries(&host.pki.secrets);
    status.components = progress.components();
    status.etcd = EtcdStatus { members: progress.members() };
    if let Some(nodes) = &observation.nodes {
        status.nodes = nodes.clone();
    }
    let (_, api_server, _) = progress.api_server();
    status.replicas = api_server.existing;
    status.selector = selector(progress);
}

/// Selector of the pods that the scale subresource counts.
fn selector(progress: &Progress) -> String {
    let resources = &progress.host.resources;
    let selector = match &resources.apiserver {
        Some(deployment) => &deployment.spec.selector,
        None => &resources.members.spec.selector,
    };
    let pairs: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn built(progress: &Progress, previous: &VirtualClusterStatus) -> Vec<(&'static str, ConditionState)> {
    let mut changes = vec![
        (conditions::VALID, ConditionState::yes("Accepted", "")),
        (conditions::ETCD_READY, progress.etcd()),
        (conditions::API_SERVER_READY, api_server(progress)),
        (conditions::CONTROLLERS_READY, available(progress.controllers())),
        (conditions::NODES_READY, nodes(progress)),
        (conditions::ADDONS_READY, addons(progress)),
        (conditions::EXPOSED, exposed(&progress.cluster.expose, &progress.host.service)),
    ];
    let ready = match changes.iter().find(|(type_, state)| NEEDED.contains(type_) && !state.is_true()) {
        None => ConditionState::yes("Ready", ""),
        Some((type_, state)) => ConditionState::no(state.reason.clone(), format!("{type_}: {}", state.message)),
    };
    let progressing = progressing(progress, &ready);
    let degraded = degraded(progress, previous, &ready);
    changes.extend([(conditions::READY, ready), (conditions::PROGRESSING, progressing), (conditions::DEGRADED, degraded)]);
    changes
}

/// Ready pods, and an answer to the operator itself, at the address that agents use.
fn api_server(progress: &Progress) -> ConditionState {
    let state = available(progress.api_server());
    if state.is_true() && !progress.observation.api_answered {
        return ConditionState::no("WaitingForAnswer", format!("{} has not answered /readyz yet", progress.host.endpoint.host_url));
    }
    state
}

fn nodes(progress: &Progress) -> ConditionState {
    match &progress.observation.nodes {
        None => ConditionState::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(nodes) if nodes.total == 0 => ConditionState::no("WaitingForNodes", no_nodes(progress)),
        Some(nodes) if nodes.ready == 0 => ConditionState::no("WaitingForNodes", format!("none of {} nodes is ready", nodes.total)),
        Some(nodes) => ConditionState::yes("Available", format!("{} of {} nodes are ready", nodes.ready, nodes.total)),
    }
}

fn no_nodes(progress: &Progress) -> String {
    let selector = &progress.cluster.node_selector;
    if selector.is_empty() {
        return "no node agent has registered its node yet".into();
    }
    format!("no node agent on a host node with {selector} has registered its node yet")
}

fn addons(progress: &Progress) -> ConditionState {
    if let Err(error) = &progress.inside {
        return ConditionState::no(error.reason(), chain(error));
    }
    if progress.cluster.core_dns.mode == AddonMode::Unmanaged {
        return ConditionState::yes("Unmanaged", "spec.addons.coreDNS.mode is Unmanaged");
    }
    match &progress.observation.dns {
        None => ConditionState::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(dns) if dns.available > 0 => ConditionState::yes("Available", "CoreDNS is available"),
        Some(dns) if !dns.exists => ConditionState::no("WaitingForCoreDNS", "CoreDNS has not been created yet"),
        Some(Dns { failure: Some(failure), .. }) => ConditionState::no(failure.reason.clone(), format!("CoreDNS: {}", failure.message)),
        Some(_) => ConditionState::no("WaitingForCoreDNS", "CoreDNS is starting"),
    }
}

fn progressing(progress: &Progress, ready: &ConditionState) -> ConditionState {
    match &progress.cluster.version_change {
        Some(VersionChange::UnderWay(message)) => return ConditionState::yes(conditions::CHANGING_VERSION, message.clone()),
        Some(VersionChange::Waiting(message)) if ready.is_true() => return ConditionState::yes("WaitingToChangeVersion", message.clone()),
        Some(VersionChange::Waiting(_)) | None => {}
    }
    if !ready.is_true() {
        return ConditionState::yes(&ready.reason, ready.message.clone());
    }
    let (_, api_server, _) = progress.api_server();
    let (_, controllers, _) = progress.controllers();
    let members = Replicas::from(&progress.host.resources.members);
    let rolling: Vec<&str> = [("etcd", members), ("kube-apiserver", api_server), ("controllers", controllers)]
        .into_iter()
        .filter_map(|(name, replicas)| (!replicas.is_rolled_out()).then_some(name))
        .collect();
    if rolling.is_empty() {
        ConditionState::no("UpToDate", "")
    } else {
        ConditionState::yes("RollingOut", format!("rolling out: {}", rolling.join(", ")))
    }
}

/// Something that was ready is not any more.
fn degraded(progress: &Progress, previous: &VirtualClusterStatus, ready: &ConditionState) -> ConditionState {
    if let Err(error) = &progress.inside
        && was_ready(previous)
    {
        return ConditionState::yes(error.reason(), chain(error));
    }
    if !ready.is_true() {
        return if was_ready(previous) {
            ConditionState::yes(&ready.reason, ready.message.clone())
        } else {
            ConditionState::no("Starting", "")
        };
    }
    match &progress.observation.nodes {
        Some(nodes) if nodes.ready < nodes.total => {
            ConditionState::yes("NodesNotReady", format!("{} of {} nodes are not ready", nodes.total - nodes.ready, nodes.total))
        }
        _ => ConditionState::no("UpToDate", ""),
    }
}

/// Whether the cluster has been ready since it was created.
fn was_ready(status: &VirtualClusterStatus) -> bool {
    let is_true = |type_: &str| status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
    is_true(conditions::READY) || status.phase == Some(Phase::Degraded)
}

fn is(changes: &[(&str, ConditionState)], type_: &str) -> bool {
    changes.iter().any(|(other, state)| *other == type_ && state.is_true())
}

fn put(conditions: &mut Vec<Condition>, next: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == next.type_) {
        Some(old) => *old = next,
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests;
