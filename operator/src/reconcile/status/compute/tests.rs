use super::*;
use crate::apply::ApplyError;
use crate::host::Stores;
use crate::model::{Endpoint, names};
use crate::pki::{PkiPolicy, plan};
use crate::reconcile::apply::OnHost;
use crate::reconcile::build::{self, Applied, Prepared, Resources};
use crate::reconcile::status::ObservedEtcd;
use crate::reconcile::validate::Invalid;
use crate::reconcile::validate::testing::{cluster, now, reads};
use crate::state::NoSpace;
use crate::tenant::observe::{Dns, Observation};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use nestling_crds::v1alpha1::NodesStatus;
use serde_json::{Value, json};
use std::marker::PhantomData;
use std::sync::Arc;

/// A cluster that has just been applied: no pods, nothing known from the inside.
fn applied(spec: &Value) -> Progress {
    let (cluster, reads) = (cluster(spec), reads());
    let mut service = build::service(&cluster);
    service.spec.as_mut().unwrap().cluster_ip = Some("10.96.7.7".into());
    let endpoint = Endpoint::from_service(&cluster, &service).unwrap();
    let policy = PkiPolicy { leaf_lifetime: SignedDuration::from_hours(8760), ca_lifetime: SignedDuration::from_hours(87600) };
    let pki = plan(&cluster, &endpoint, &reads.installation, &reads.secrets, now(), &policy).unwrap();
    let resources = as_applied(build::resources(&cluster, &pki));
    let host = OnHost { service, endpoint, pki, resources };
    let etcd = ObservedEtcd { wanted: cluster.members, voters: cluster.members, ..ObservedEtcd::default() };
    let observed = Observed::applied(&cluster, &host, Observation::default(), etcd, &Stores::new().0);
    Progress { renew_at: host.pki.renew_at, cluster, host, observed, inside: Ok(()) }
}

fn as_applied(prepared: Resources<Prepared>) -> Resources<Applied> {
    let Resources {
        workload_namespace,
        workload_operator_binding,
        workload_role_binding,
        workload_network_policy,
        workload_quota,
        service_account,
        etcd_services,
        secrets,
        apiserver_config,
        controllers_config,
        network_policies,
        disruption_budgets,
        claims,
        members,
        apiserver,
        controllers,
        state: PhantomData,
    } = prepared;
    Resources {
        workload_namespace,
        workload_operator_binding,
        workload_role_binding,
        workload_network_policy,
        workload_quota,
        service_account,
        etcd_services,
        secrets,
        apiserver_config,
        controllers_config,
        network_policies,
        disruption_budgets,
        claims,
        members,
        apiserver,
        controllers,
        state: PhantomData,
    }
}

fn pod(name: &str, component: &str, ready: &[&str], starting: &[&str]) -> Arc<Pod> {
    let container = |name: &&str, ready: bool| json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": {"running": {}}});
    let statuses: Vec<Value> =
        ready.iter().map(|name| container(name, true)).chain(starting.iter().map(|name| container(name, false))).collect();
    let is_ready = if starting.is_empty() { "True" } else { "False" };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "labels": {nestling_crds::labels::COMPONENT: component}, "annotations": {names::TEMPLATE: "newest"},
            },
            "status": {"containerStatuses": statuses, "conditions": [{"type": "Ready", "status": is_ready}]},
        }))
        .unwrap(),
    )
}

fn control_plane(ready: &[&str], starting: &[&str]) -> Arc<Pod> {
    pod("dev-control-plane-0", "control-plane", ready, starting)
}

/// Everything runs and is rolled out.
fn running(spec: &Value) -> Progress {
    let mut progress = applied(spec);
    progress.observed.pods = vec![
        control_plane(&["etcd", "kube-apiserver"], &[]),
        pod("dev-controllers-x", "controllers", &["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"], &[]),
    ];
    let members = progress.observed.members.as_mut().unwrap();
    members.annotations_mut().insert(names::TEMPLATE.into(), "newest".into());
    let controllers = progress.observed.controllers.as_mut().unwrap();
    controllers.metadata.generation = Some(1);
    controllers.status =
        serde_json::from_value(json!({"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1})).unwrap();
    progress.observed.inside = Observation {
        settled: true,
        api_answered: true,
        nodes: Some(NodesStatus { ready: 3, total: 3, oldest_kubelet: None }),
        dns: Some(Dns { exists: true, available: 1, ..Dns::default() }),
    };
    progress
}

fn after(previous: &VirtualClusterStatus, progress: &Progress) -> VirtualClusterStatus {
    compute(previous, Some(2), &Outcome::Built(progress), now())
}

fn state<'a>(status: &'a VirtualClusterStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn a_new_cluster_names_what_it_waits_for() {
    let status = after(&VirtualClusterStatus::default(), &applied(&json!({})));
    assert_eq!(state(&status, "Valid").0, "True");
    assert_eq!(state(&status, "Ready"), ("False", "WaitingForPod", "EtcdReady: no pod has been created yet"));
    assert_eq!(state(&status, "NodesReady").0, "Unknown");
    assert_eq!(state(&status, "Progressing").0, "True");
    assert_eq!(state(&status, "Degraded"), ("False", "Starting", ""));
    assert_eq!(status.phase, Some(Phase::Provisioning));
    assert_eq!(status.endpoint.as_deref(), Some("https://10.96.7.7:443"));
    assert_eq!(status.kubeconfig_ref.unwrap().key, "kubeconfig");
}

/// Takes something away.
type Break = fn(&mut Progress);

#[test]
fn each_part_turns_ready_by_itself_and_ready_needs_them_all() {
    let mut progress = running(&json!({}));
    progress.observed.pods[0] = control_plane(&["etcd"], &["kube-apiserver"]);
    let status = after(&VirtualClusterStatus::default(), &progress);
    assert_eq!(state(&status, "EtcdReady"), ("True", "Available", "1 of 1 members are ready"));
    assert_eq!(state(&status, "APIServerReady").2, "pod dev-control-plane-0 is starting: kube-apiserver not ready");

    let full = running(&json!({}));
    let breaks: [(&str, Break); 7] = [
        ("EtcdReady", |p| p.observed.etcd.no_space = Some(NoSpace { ended: None, full: None })),
        ("EtcdReady", |p| p.observed.etcd.no_space = Some(NoSpace { ended: None, full: Some((95 << 20, 100 << 20)) })),
        ("EtcdReady", |p| p.observed.pods[0] = control_plane(&["kube-apiserver"], &["etcd"])),
        ("APIServerReady", |p| p.observed.inside.api_answered = false),
        ("ControllersReady", |p| drop(p.observed.pods.pop())),
        ("NodesReady", |p| p.observed.inside.nodes = Some(NodesStatus { ready: 0, total: 3, oldest_kubelet: None })),
        ("AddonsReady", |p| p.observed.inside.dns = Some(Dns::default())),
    ];
    assert_eq!(state(&after(&VirtualClusterStatus::default(), &full), "Ready"), ("True", "Ready", ""));
    for (part, break_it) in breaks {
        let mut progress = running(&json!({}));
        break_it(&mut progress);
        let status = after(&VirtualClusterStatus::default(), &progress);
        assert_eq!(state(&status, part).0, "False", "{part}");
        let (ready, _, message) = state(&status, "Ready");
        assert_eq!(ready, "False", "{part}");
        assert!(message.starts_with(&format!("{part}: ")), "{message}");
    }
}

#[test]
fn an_operator_that_has_just_started_takes_nothing_back() {
    let mut progress = running(&json!({}));
    let before = after(&VirtualClusterStatus::default(), &progress);
    progress.observed.inside = Observation::default();
    assert_eq!(after(&before, &progress), before);
    // What does not depend on the tenant's answer counts at once, and so does an answer.
    progress.observed.inside.nodes = Some(NodesStatus { ready: 0, total: 3, oldest_kubelet: None });
    assert_eq!(state(&after(&before, &progress), "NodesReady").0, "False");
    progress.observed.pods.clear();
    assert_eq!(state(&after(&before, &progress), "APIServerReady").0, "False");

    let mut silent = running(&json!({}));
    silent.observed.inside = Observation { settled: true, ..Observation::default() };
    let status = after(&before, &silent);
    for part in ["APIServerReady", "Ready"] {
        assert_eq!(state(&status, part).0, "False", "{part}");
    }
}

#[test]
fn a_status_at_rest_is_the_same_again() {
    let progress = running(&json!({}));
    let first = after(&VirtualClusterStatus::default(), &progress);
    assert_eq!(first.phase, Some(Phase::Ready));
    assert_eq!(state(&first, "Progressing"), ("False", "UpToDate", ""));
    let later = compute(&first, Some(2), &Outcome::Built(&progress), now() + SignedDuration::from_hours(1));
    assert_eq!(later, first);
    // Also when it has been through the API.
    let read_back: VirtualClusterStatus = serde_json::from_str(&serde_json::to_string(&first).unwrap()).unwrap();
    assert_eq!(compute(&read_back, Some(2), &Outcome::Built(&progress), now()), read_back);
}

#[test]
fn what_was_there_and_is_missing_is_degraded() {
    let ready = after(&VirtualClusterStatus::default(), &running(&json!({})));
    let mut broken = running(&json!({}));
    broken.observed.pods[0] = control_plane(&["etcd"], &["kube-apiserver"]);
    let lost = after(&ready, &broken);
    assert_eq!((state(&lost, "Degraded").0, lost.phase), ("True", Some(Phase::Degraded)));
    // It stays so until the cluster is ready again.
    assert_eq!(after(&lost, &broken).phase, Some(Phase::Degraded));
    let back = after(&lost, &running(&json!({})));
    assert_eq!((state(&back, "Degraded").0, back.phase), ("False", Some(Phase::Ready)));

    let mut fewer = running(&json!({}));
    fewer.observed.inside.nodes = Some(NodesStatus { ready: 2, total: 3, oldest_kubelet: None });
    let status = after(&ready, &fewer);
    assert_eq!(state(&status, "Ready").0, "True");
    assert_eq!(state(&status, "Degraded"), ("True", "NodesNotReady", "1 of 3 nodes are not ready"));
}

#[test]
fn a_rollout_is_progress_and_not_degradation() {
    let mut rolling = running(&json!({}));
    rolling.observed.controllers.as_mut().unwrap().status.as_mut().unwrap().updated_replicas = Some(0);
    let status = after(&VirtualClusterStatus::default(), &rolling);
    assert_eq!(state(&status, "Progressing"), ("True", "RollingOut", "rolling out: controllers"));
    assert_eq!(state(&status, "Ready").0, "True");
}

#[test]
fn an_external_cluster_counts_its_own_apiserver() {
    let mut progress = applied(&json!({"topology": "External"}));
    progress.observed.pods = vec![pod("dev-etcd-0", "etcd", &["etcd"], &[]), pod("dev-apiserver-x", "apiserver", &[], &["kube-apiserver"])];
    let status = after(&VirtualClusterStatus::default(), &progress);
    assert_eq!(state(&status, "EtcdReady").0, "True");
    assert_eq!(state(&status, "APIServerReady").2, "pod dev-apiserver-x is starting: kube-apiserver not ready");
    assert!(status.selector.contains("nestling.dev/component=apiserver"), "{}", status.selector);
    assert_eq!(status.etcd.members.len(), 1);
}

/// What a reader with the rules of kstatus (cli-utils, pkg/kstatus) makes of a status at `generation`.
fn kstatus(status: &VirtualClusterStatus, generation: i64) -> &'static str {
    if status.observed_generation.is_some_and(|observed| observed != generation) {
        return "InProgress";
    }
    for condition in &status.conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Reconciling", "True") => return "InProgress",
            ("Stalled", "True") => return "Failed",
            _ => {}
        }
    }
    match status.conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str()) {
        Some("True") | None => "Current",
        Some(_) => "InProgress",
    }
}

fn invalid() -> Error {
    Error::Invalid(vec![Invalid { field: "spec.expose.type".into(), message: "not supported yet".into() }])
}

/// Generation 2 was carried out; then the spec was edited.
fn edited(before: &VirtualClusterStatus, outcome: &Outcome<'_>) -> VirtualClusterStatus {
    compute(before, Some(3), outcome, now())
}

#[test]
fn only_what_is_carried_out_reads_as_current() {
    let new = after(&VirtualClusterStatus::default(), &applied(&json!({})));
    assert_eq!((kstatus(&new, 2), new.observed_generation), ("InProgress", Some(2)));
    let ready = after(&new, &running(&json!({})));
    assert_eq!((kstatus(&ready, 2), kstatus(&ready, 3)), ("Current", "InProgress"));
    let mut rolling = running(&json!({}));
    rolling.observed.controllers.as_mut().unwrap().status.as_mut().unwrap().updated_replicas = Some(0);
    assert_eq!(kstatus(&after(&ready, &rolling), 2), "InProgress");

    let running = running(&json!({}));
    let observed = &running.observed;
    let wrong = edited(&ready, &Outcome::Failed(&invalid(), observed));
    assert_eq!((kstatus(&wrong, 3), wrong.observed_generation), ("Failed", Some(3)));
    let conflict = Error::Apply(ApplyError::Foreign { object: "ConfigMap dev".into() });
    assert_eq!(kstatus(&edited(&ready, &Outcome::Failed(&conflict, observed)), 3), "Failed");
    // Retried: also when the generation had been carried out before.
    let failing = edited(&ready, &Outcome::Failed(&Error::NoAddress, observed));
    assert_eq!((kstatus(&failing, 3), failing.observed_generation), ("InProgress", Some(2)));
    assert_eq!(kstatus(&compute(&ready, Some(2), &Outcome::Failed(&Error::NoAddress, observed), now()), 2), "InProgress");
    assert_eq!(kstatus(&edited(&ready, &Outcome::Paused(observed)), 3), "InProgress");
    // And back.
    for before in [wrong, failing] {
        assert_eq!(kstatus(&compute(&before, Some(4), &Outcome::Built(&running), now()), 4), "Current");
    }
}

#[test]
fn an_invalid_spec_is_named_and_what_runs_keeps_running() {
    let nothing = Observed { members: None, controllers: None, ..applied(&json!({})).observed };
    let fresh = compute(&VirtualClusterStatus::default(), Some(2), &Outcome::Failed(&invalid(), &nothing), now());
    assert_eq!(state(&fresh, "Valid"), ("False", "Invalid", "spec.expose.type not supported yet"));
    assert_eq!((state(&fresh, "Ready").0, fresh.phase), ("False", Some(Phase::Invalid)));

    let running = running(&json!({}));
    let ready = after(&VirtualClusterStatus::default(), &running);
    let edited = compute(&ready, Some(2), &Outcome::Failed(&invalid(), &running.observed), now());
    assert_eq!((state(&edited, "Valid").0, state(&edited, "Ready").0, edited.phase), ("False", "True", Some(Phase::Ready)));
}

#[test]
fn a_failure_keeps_what_is_known_and_names_the_reason() {
    let (error, running) = (Error::NoAddress, running(&json!({})));
    let ready = after(&VirtualClusterStatus::default(), &running);
    let failed = compute(&ready, Some(2), &Outcome::Failed(&error, &running.observed), now());
    assert_eq!((&failed.service_cidrs, &failed.components), (&ready.service_cidrs, &ready.components));
    assert_eq!(state(&failed, "Ready").0, "True");
    assert_eq!(state(&failed, "Degraded"), ("True", "NoAddress", "the host gave the Service of the API no address"));
    let healed = after(&failed, &running);
    assert_eq!(state(&healed, "Degraded").0, "False");
}

#[test]
fn what_is_not_changed_is_observed_all_the_same() {
    let ready = after(&VirtualClusterStatus::default(), &running(&json!({})));
    let mut gone = running(&json!({})).observed;
    gone.pods.clear();
    for outcome in [Outcome::Paused(&gone), Outcome::Failed(&invalid(), &gone), Outcome::Failed(&Error::NoAddress, &gone)] {
        let status = compute(&ready, Some(3), &outcome, now());
        assert_eq!(state(&status, "Ready"), ("False", "WaitingForPod", "EtcdReady: no pod has been created yet"), "{outcome:?}");
        assert_eq!((state(&status, "Degraded").0, status.components[0].ready_replicas), ("True", 0), "{outcome:?}");
    }
}

#[test]
fn deleting_and_paused_are_phases() {
    let running = running(&json!({}));
    let ready = after(&VirtualClusterStatus::default(), &running);
    let deleting = compute(&ready, Some(2), &Outcome::Deleting("namespace x is being deleted"), now());
    assert_eq!((deleting.phase, state(&deleting, "Ready").2), (Some(Phase::Deleting), "namespace x is being deleted"));
    let paused = compute(&ready, Some(2), &Outcome::Paused(&running.observed), now());
    assert_eq!((paused.phase, state(&paused, "Progressing").1, state(&paused, "Ready").0), (Some(Phase::Paused), "Paused", "True"));
}
