//! The whole status out of what was applied and observed. Pure.

use super::exposure::exposed;
use super::progress::{Observed, Outcome, Progress, available};
use crate::conditions::{ConditionState, condition};
use crate::model::VersionChange;
use crate::pki::expiries;
use crate::reconcile::error::Error;
use crate::tenant::observe::Dns;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt as _;
use nestling_crds::v1alpha1::{EtcdStatus, KubeconfigRef, NodeSelector, NodesStatus, Phase, VirtualClusterStatus, conditions};
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
///
/// It reads under kstatus (cli-utils) as what it is: `observedGeneration` is behind, or `Reconciling` or `Stalled` is true,
/// unless the newest generation is carried out.
pub(crate) fn compute(
    previous: &VirtualClusterStatus,
    generation: Option<i64>,
    outcome: &Outcome<'_>,
    now: Timestamp,
) -> VirtualClusterStatus {
    let mut status = previous.clone();
    // About the spec, and so of its generation; and about what runs.
    let mut spec: Vec<(&str, ConditionState)> = Vec::new();
    let mut parts: Vec<(&str, ConditionState)> = Vec::new();
    match outcome {
        Outcome::Built(progress) => {
            let Progress { cluster, host, observed, inside, renew_at: _ } = *progress;
            status.observed_generation = generation;
            if let Some(version) = observed.api_server_version() {
                status.version = Some(version.to_string());
            }
            status.release = Some(cluster.release.clone());
            status.endpoint = Some(host.endpoint.url.clone());
            status.kubeconfig_ref =
                Some(KubeconfigRef { name: host.pki.secrets.admin_kubeconfig.name_any(), key: crate::model::keys::KUBECONFIG.into() });
            status.workload_namespace = Some(cluster.workload_namespace.to_string());
            status.service_cidrs = vec![cluster.service_cidr.to_string()];
            status.certificates = expiries(&host.pki.secrets);
            let selector = &cluster.node_selector;
            parts = observe(&mut status, observed, inside.as_ref().err(), Some(selector));
            parts.push((conditions::EXPOSED, exposed(&cluster.expose, &host.service)));
            spec.push((conditions::VALID, ConditionState::yes("Accepted", "")));
            if cluster.hibernate {
                hibernate(&mut status, observed, &mut spec, &mut parts);
            } else {
                if status.is_hibernated() {
                    status.conditions.retain(|old| old.type_ != conditions::HIBERNATED);
                    status.resumed_at = Some(Time(now));
                }
                let ready = ready(&parts);
                spec.push((conditions::PROGRESSING, progressing(observed, cluster.version_change.as_ref(), &ready)));
                parts.push((conditions::DEGRADED, degraded(observed, inside.as_ref().err(), previous, &ready)));
                parts.push((conditions::READY, ready));
                status.phase = Some(phase(&parts));
            }
        }
        Outcome::Failed(error, observed) => {
            parts = observe_unchanged(&mut status, observed);
            let message = chain(*error);
            let seen = ready(&parts);
            // Of a cluster that does not exist yet the reason why is all there is to say.
            let ready =
                if seen.is_true() || observed.members.is_some() { seen } else { ConditionState::no(error.reason(), message.clone()) };
            let is_wait = error.is_a_wait();
            if error.needs_intervention() {
                status.observed_generation = generation;
                spec.push((conditions::PROGRESSING, ConditionState::no(error.reason(), "waiting for somebody to intervene")));
                spec.push((conditions::STALLED, ConditionState::yes(error.reason(), message.clone())));
            } else {
                spec.push((conditions::PROGRESSING, ConditionState::yes(error.reason(), "retrying")));
            }
            if let Error::Invalid(_) = error {
                spec.push((conditions::VALID, ConditionState::no("Invalid", message)));
                // What runs keeps running with the last valid spec.
                parts.push((conditions::DEGRADED, degraded(observed, None, previous, &ready)));
            } else {
                let state = if is_wait { degraded(observed, None, previous, &ready) } else { ConditionState::yes(error.reason(), message) };
                parts.push((conditions::DEGRADED, state));
            }
            status.phase = Some(match error {
                _ if ready.is_true() => Phase::Ready,
                _ if was_ready(previous) => Phase::Degraded,
                Error::Invalid(_) => Phase::Invalid,
                _ => Phase::Provisioning,
            });
            parts.push((conditions::READY, ready));
        }
        Outcome::Paused(observed) => {
            parts = observe_unchanged(&mut status, observed);
            let ready = ready(&parts);
            spec.push((conditions::PROGRESSING, ConditionState::no("Paused", "spec.paused is true")));
            parts.push((conditions::DEGRADED, degraded(observed, None, previous, &ready)));
            parts.push((conditions::READY, ready));
            status.phase = Some(Phase::Paused);
        }
        Outcome::Deleting(remains) => {
            status.phase = Some(Phase::Deleting);
            parts.push((conditions::READY, ConditionState::no("Deleting", *remains)));
            spec.push((conditions::PROGRESSING, ConditionState::yes("Deleting", *remains)));
        }
    }
    if let Some((_, state)) = spec.iter().find(|(type_, state)| *type_ == conditions::PROGRESSING && state.is_true()) {
        spec.push((conditions::RECONCILING, state.clone()));
    }
    status.conditions.retain(|old| ![conditions::RECONCILING, conditions::STALLED].contains(&old.type_.as_str()));
    // -1 is the CRD's default: none.
    let carried_out = status.observed_generation.filter(|generation| *generation >= 0);
    let all = spec.into_iter().map(|(type_, state)| (type_, state, generation));
    for (type_, state, generation) in all.chain(parts.into_iter().map(|(type_, state)| (type_, state, carried_out))) {
        let next = condition(&previous.conditions, type_, &state, generation, now);
        put(&mut status.conditions, next);
    }
    status
}

/// What is said of a cluster that hibernates: of its parts, that they are to be away.
fn hibernate(
    status: &mut VirtualClusterStatus,
    observed: &Observed,
    spec: &mut Vec<(&'static str, ConditionState)>,
    parts: &mut Vec<(&'static str, ConditionState)>,
) {
    let away = || ConditionState::no(conditions::HIBERNATED, "spec.hibernate is true");
    for (_, state) in parts.iter_mut().filter(|(type_, _)| *type_ != conditions::EXPOSED) {
        *state = away();
    }
    let (hibernated, progressing) = match observed.pods.len() {
        0 => (ConditionState::yes("ScaledToZero", ""), away()),
        pods => {
            let message = format!("waiting for {pods} control-plane pods to end");
            (ConditionState::no("ScalingDown", message.clone()), ConditionState::yes("Hibernating", message))
        }
    };
    spec.push((conditions::PROGRESSING, progressing));
    parts.push((conditions::HIBERNATED, hibernated));
    parts.push((conditions::DEGRADED, away()));
    parts.push((conditions::READY, away()));
    status.nodes = NodesStatus::default();
    status.phase = Some(Phase::Hibernated);
}

/// Puts into the status what is observed, and returns the conditions of the parts. `selector` selects the host nodes that
/// are to serve the tenant.
fn observe(
    status: &mut VirtualClusterStatus,
    observed: &Observed,
    inside: Option<&Error>,
    selector: Option<&NodeSelector>,
) -> Vec<(&'static str, ConditionState)> {
    status.components = observed.components();
    status.etcd = EtcdStatus { members: observed.members() };
    if let Some(nodes) = &observed.inside.nodes {
        status.nodes = nodes.clone();
    }
    let (_, replicas, _) = observed.api_server();
    status.replicas = replicas.existing;
    status.selector = observed.selector().unwrap_or_else(|| status.selector.clone());
    // An operator that has just started does not take back what it has not looked at yet.
    let previous = &status.conditions;
    let seen = &observed.inside;
    let held = |type_: &str, is_known: bool, state: ConditionState| {
        let old = previous.iter().find(|old| old.type_ == type_ && old.status == "True").filter(|_| !seen.settled && !is_known);
        old.map_or(state, |old| ConditionState::yes(&old.reason, old.message.clone()))
    };
    let api_server = match available(observed.api_server()) {
        serves if serves.is_true() => held(conditions::API_SERVER_READY, seen.api_answered, answered(observed, serves)),
        does_not => does_not,
    };
    let addons = match inside {
        Some(error) => ConditionState::no(error.reason(), chain(error)),
        None => held(conditions::ADDONS_READY, seen.dns.is_some(), addons(observed)),
    };
    vec![
        (conditions::ETCD_READY, observed.etcd()),
        (conditions::API_SERVER_READY, api_server),
        (conditions::CONTROLLERS_READY, available(observed.controllers())),
        (conditions::NODES_READY, held(conditions::NODES_READY, seen.nodes.is_some(), nodes(observed, selector))),
        (conditions::ADDONS_READY, addons),
    ]
}

/// The same for a cluster that is left as it is: it is exposed as it was.
fn observe_unchanged(status: &mut VirtualClusterStatus, observed: &Observed) -> Vec<(&'static str, ConditionState)> {
    let exposed = status.conditions.iter().find(|condition| condition.type_ == conditions::EXPOSED).map(|condition| ConditionState {
        status: Some(condition.status == "True"),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    });
    let mut parts = observe(status, observed, None, None);
    parts.extend(exposed.map(|state| (conditions::EXPOSED, state)));
    parts
}

/// The summary of the parts.
fn ready(parts: &[(&'static str, ConditionState)]) -> ConditionState {
    match parts.iter().find(|(type_, state)| NEEDED.contains(type_) && !state.is_true()) {
        None => ConditionState::yes("Ready", ""),
        Some((type_, state)) => ConditionState::no(state.reason.clone(), format!("{type_}: {}", state.message)),
    }
}

fn phase(parts: &[(&'static str, ConditionState)]) -> Phase {
    let is = |type_: &str| parts.iter().any(|(other, state)| *other == type_ && state.is_true());
    if is(conditions::READY) {
        Phase::Ready
    } else if is(conditions::DEGRADED) {
        Phase::Degraded
    } else {
        Phase::Provisioning
    }
}

/// Ready pods, and an answer to the operator itself, at the address that agents use.
fn answered(observed: &Observed, serves: ConditionState) -> ConditionState {
    if observed.inside.api_answered {
        return serves;
    }
    ConditionState::no("WaitingForAnswer", "the Service of the API has not answered the operator's /readyz yet")
}

fn nodes(observed: &Observed, selector: Option<&NodeSelector>) -> ConditionState {
    match &observed.inside.nodes {
        None => ConditionState::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(nodes) if nodes.total == 0 => ConditionState::no("WaitingForNodes", no_nodes(selector)),
        Some(nodes) if nodes.ready == 0 => ConditionState::no("WaitingForNodes", format!("none of {} nodes is ready", nodes.total)),
        Some(nodes) => ConditionState::yes("Available", format!("{} of {} nodes are ready", nodes.ready, nodes.total)),
    }
}

fn no_nodes(selector: Option<&NodeSelector>) -> String {
    match selector.filter(|selector| !selector.is_empty()) {
        Some(selector) => format!("no node agent on a host node with {selector} has registered its node yet"),
        None => "no node agent has registered its node yet".into(),
    }
}

fn addons(observed: &Observed) -> ConditionState {
    if observed.dns_unmanaged {
        return ConditionState::yes("Unmanaged", "spec.addons.coreDNS.mode is Unmanaged");
    }
    match &observed.inside.dns {
        None => ConditionState::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(dns) if dns.available > 0 => ConditionState::yes("Available", "CoreDNS is available"),
        Some(dns) if !dns.exists => ConditionState::no("WaitingForCoreDNS", "CoreDNS has not been created yet"),
        Some(Dns { failure: Some(failure), .. }) => ConditionState::no(failure.reason.clone(), format!("CoreDNS: {}", failure.message)),
        Some(_) => ConditionState::no("WaitingForCoreDNS", "CoreDNS is starting"),
    }
}

fn progressing(observed: &Observed, change: Option<&VersionChange>, ready: &ConditionState) -> ConditionState {
    match change {
        Some(VersionChange::UnderWay(message)) => return ConditionState::yes(conditions::CHANGING_VERSION, message.clone()),
        Some(VersionChange::Waiting(message)) if ready.is_true() => return ConditionState::yes("WaitingToChangeVersion", message.clone()),
        Some(VersionChange::Waiting(_)) | None => {}
    }
    if !ready.is_true() {
        return ConditionState::yes(&ready.reason, ready.message.clone());
    }
    let (_, api_server, _) = observed.api_server();
    let (_, controllers, _) = observed.controllers();
    let members = observed.member_replicas();
    let rolling: Vec<&str> = [("etcd", members), ("kube-apiserver", api_server), ("controllers", controllers)]
        .into_iter()
        .filter_map(|(name, replicas)| (!replicas.is_rolled_out()).then_some(name))
        .collect();
    if rolling.is_empty() {
        ConditionState::no("UpToDate", "")
    } else if let Some(waits) = &observed.etcd.waits {
        ConditionState::yes("RollingOut", format!("etcd: {waits}"))
    } else {
        ConditionState::yes("RollingOut", format!("rolling out: {}", rolling.join(", ")))
    }
}

/// Something that was ready is not any more.
fn degraded(observed: &Observed, inside: Option<&Error>, previous: &VirtualClusterStatus, ready: &ConditionState) -> ConditionState {
    if let Some(error) = inside
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
    match &observed.inside.nodes {
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

fn put(conditions: &mut Vec<Condition>, next: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == next.type_) {
        Some(old) => *old = next,
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests;
