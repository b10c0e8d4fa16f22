//! The whole status out of what was applied and observed. Pure.

use super::parts::{Replicas, available};
use super::{Outcome, Progress};
use crate::conditions::{Verdict, condition};
use crate::reconcile::error::{Error, chain};
use crate::tenant::observe::Dns;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use nestling_crds::v1alpha1::{EtcdStatus, KubeconfigRef, Phase, VirtualClusterStatus, conditions};

/// Of all conditions, those that a cluster must have to be `Ready`, in the order in which they come true.
const NEEDED: [&str; 5] = [
    conditions::ETCD_READY,
    conditions::API_SERVER_READY,
    conditions::CONTROLLERS_READY,
    conditions::NODES_READY,
    conditions::ADDONS_READY,
];

/// The status after this outcome. What an outcome says nothing of stays as it was.
pub fn compute(previous: &VirtualClusterStatus, generation: Option<i64>, outcome: &Outcome<'_>, now: Timestamp) -> VirtualClusterStatus {
    let mut status = VirtualClusterStatus { observed_generation: generation, ..previous.clone() };
    let mut verdicts: Vec<(&str, Verdict)> = Vec::new();
    match outcome {
        Outcome::Built(progress) => {
            facts(&mut status, progress);
            verdicts = built(progress, previous);
            status.phase = Some(if is(&verdicts, conditions::READY) {
                Phase::Ready
            } else if is(&verdicts, conditions::DEGRADED) {
                Phase::Degraded
            } else {
                Phase::Provisioning
            });
        }
        Outcome::Failed(Error::Invalid(invalid)) => {
            let message = chain(&Error::Invalid(invalid.clone()));
            verdicts.push((conditions::VALID, Verdict::no("Invalid", message.clone())));
            verdicts.push((conditions::PROGRESSING, Verdict::no("Invalid", "waiting for a change of the spec")));
            // What runs keeps running on the last valid spec.
            if !was_ready(previous) {
                verdicts.push((conditions::READY, Verdict::no("Invalid", message)));
                status.phase = Some(Phase::Invalid);
            }
        }
        Outcome::Failed(error) => {
            let message = chain(*error);
            if !was_ready(previous) {
                verdicts.push((conditions::READY, Verdict::no(error.reason(), message.clone())));
                status.phase = status.phase.filter(|phase| *phase == Phase::Degraded).or(Some(Phase::Provisioning));
            }
            verdicts.push((conditions::PROGRESSING, Verdict::yes(error.reason(), "trying again")));
            if !error.is_a_wait() {
                verdicts.push((conditions::DEGRADED, Verdict::yes(error.reason(), message)));
            }
        }
        Outcome::Paused => {
            status.phase = Some(Phase::Paused);
            verdicts.push((conditions::PROGRESSING, Verdict::no("Paused", "spec.paused is true")));
        }
        Outcome::Deleting(remains) => {
            status.phase = Some(Phase::Deleting);
            verdicts.push((conditions::READY, Verdict::no("Deleting", *remains)));
            verdicts.push((conditions::PROGRESSING, Verdict::yes("Deleting", *remains)));
        }
    }
    for (type_, verdict) in verdicts {
        let next = condition(&previous.conditions, type_, &verdict, generation, now);
        put(&mut status.conditions, next);
    }
    status
}

fn facts(status: &mut VirtualClusterStatus, progress: &Progress) {
    let Progress { cluster, host, observation, .. } = progress;
    status.version = Some(cluster.version.to_string());
    status.endpoint = Some(host.endpoint.url.clone());
    status.kubeconfig_ref =
        Some(KubeconfigRef { name: host.pki.secrets.admin_kubeconfig.name_any(), key: crate::pki::keys::KUBECONFIG.into() });
    status.workload_namespace = Some(cluster.workload_namespace.to_string());
    status.service_cidr = Some(cluster.service_cidr.to_string());
    status.components = progress.components();
    status.etcd = EtcdStatus { members: progress.members() };
    if let Some(nodes) = observation.nodes {
        status.nodes = nodes;
    }
    let (_, api_server, _) = progress.api_server();
    status.replicas = api_server.existing;
    status.selector = selector(progress);
}

/// Of the pods that the scale subresource counts.
fn selector(progress: &Progress) -> String {
    let resources = &progress.host.resources;
    let selector = match &resources.apiserver {
        Some(deployment) => &deployment.spec.selector,
        None => &resources.members.spec.selector,
    };
    let pairs: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

fn built(progress: &Progress, previous: &VirtualClusterStatus) -> Vec<(&'static str, Verdict)> {
    let mut verdicts = vec![
        (conditions::VALID, Verdict::yes("Accepted", "")),
        (conditions::ETCD_READY, progress.etcd()),
        (conditions::API_SERVER_READY, api_server(progress)),
        (conditions::CONTROLLERS_READY, available(progress.controllers())),
        (conditions::NODES_READY, nodes(progress)),
        (conditions::ADDONS_READY, addons(progress)),
    ];
    let ready = match verdicts.iter().find(|(type_, verdict)| NEEDED.contains(type_) && !verdict.is_true()) {
        None => Verdict::yes("Ready", ""),
        Some((type_, verdict)) => Verdict::no(verdict.reason.clone(), format!("{type_}: {}", verdict.message)),
    };
    let progressing = progressing(progress, &ready);
    let degraded = degraded(progress, previous, &ready);
    verdicts.extend([(conditions::READY, ready), (conditions::PROGRESSING, progressing), (conditions::DEGRADED, degraded)]);
    verdicts
}

/// Ready pods, and an answer to ourselves: what agents and users reach is the same address.
fn api_server(progress: &Progress) -> Verdict {
    let verdict = available(progress.api_server());
    if verdict.is_true() && !progress.observation.api_answered {
        return Verdict::no("WaitingForAnswer", format!("{} has not answered /readyz yet", progress.host.endpoint.host_url));
    }
    verdict
}

fn nodes(progress: &Progress) -> Verdict {
    match progress.observation.nodes {
        None => Verdict::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(nodes) if nodes.total == 0 => Verdict::no("WaitingForNodes", no_nodes(progress)),
        Some(nodes) if nodes.ready == 0 => Verdict::no("WaitingForNodes", format!("none of {} nodes is ready", nodes.total)),
        Some(nodes) => Verdict::yes("Available", format!("{} of {} nodes are ready", nodes.ready, nodes.total)),
    }
}

fn no_nodes(progress: &Progress) -> String {
    let selector = &progress.cluster.node_selector;
    if selector.is_empty() {
        return "no node agent has registered its node yet".into();
    }
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!("no node agent on a host node with {} has registered its node yet", labels.join(","))
}

fn addons(progress: &Progress) -> Verdict {
    if let Err(error) = &progress.inside {
        return Verdict::no(error.reason(), chain(error));
    }
    match &progress.observation.dns {
        None => Verdict::unknown("WaitingForAPIServer", "the cluster's API has not answered yet"),
        Some(dns) if dns.available > 0 => Verdict::yes("Available", "CoreDNS is available"),
        Some(dns) if !dns.exists => Verdict::no("WaitingForCoreDNS", "CoreDNS has not been created yet"),
        Some(Dns { trouble: Some(trouble), .. }) => Verdict::no(trouble.reason.clone(), format!("CoreDNS: {}", trouble.message)),
        Some(_) => Verdict::no("WaitingForCoreDNS", "CoreDNS is starting"),
    }
}

fn progressing(progress: &Progress, ready: &Verdict) -> Verdict {
    if !ready.is_true() {
        return Verdict::yes(&ready.reason, ready.message.clone());
    }
    let (_, api_server, _) = progress.api_server();
    let (_, controllers, _) = progress.controllers();
    let members = Replicas::from(&progress.host.resources.members);
    let rolling: Vec<&str> = [("etcd", members), ("kube-apiserver", api_server), ("controllers", controllers)]
        .into_iter()
        .filter_map(|(name, replicas)| (!replicas.is_rolled_out()).then_some(name))
        .collect();
    if rolling.is_empty() {
        Verdict::no("AsSpecified", "")
    } else {
        Verdict::yes("RollingOut", format!("rolling out: {}", rolling.join(", ")))
    }
}

/// Something that was there is missing.
fn degraded(progress: &Progress, previous: &VirtualClusterStatus, ready: &Verdict) -> Verdict {
    if let Err(error) = &progress.inside
        && was_ready(previous)
    {
        return Verdict::yes(error.reason(), chain(error));
    }
    if !ready.is_true() {
        return if was_ready(previous) { Verdict::yes(&ready.reason, ready.message.clone()) } else { Verdict::no("Starting", "") };
    }
    match progress.observation.nodes {
        Some(nodes) if nodes.ready < nodes.total => {
            Verdict::yes("NodesNotReady", format!("{} of {} nodes are not ready", nodes.total - nodes.ready, nodes.total))
        }
        _ => Verdict::no("AsSpecified", ""),
    }
}

/// Whether the cluster has been ready since it was made.
fn was_ready(status: &VirtualClusterStatus) -> bool {
    let is_true = |type_: &str| status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True");
    is_true(conditions::READY) || status.phase == Some(Phase::Degraded)
}

fn is(verdicts: &[(&str, Verdict)], type_: &str) -> bool {
    verdicts.iter().any(|(other, verdict)| *other == type_ && verdict.is_true())
}

fn put(conditions: &mut Vec<Condition>, next: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == next.type_) {
        Some(old) => *old = next,
        None => conditions.push(next),
    }
}

#[cfg(test)]
mod tests;
