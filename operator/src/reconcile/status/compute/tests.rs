use super::*;
use crate::model::Endpoint;
use crate::pki::{PkiPolicy, plan};
use crate::reconcile::apply::OnHost;
use crate::reconcile::build::{self, Applied, Prepared, Resources};
use crate::reconcile::validate::Invalid;
use crate::reconcile::validate::testing::{cluster, now, reads};
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
    Progress { renew_at: host.pki.renew_at, cluster, host, pods: Vec::new(), observation: Observation::default(), inside: Ok(()) }
}

fn as_applied(prepared: Resources<Prepared>) -> Resources<Applied> {
    let Resources {
        workload_namespace,
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
        members,
        apiserver,
        controllers,
        state: PhantomData,
    } = prepared;
    Resources {
        workload_namespace,
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
            "metadata": {"name": name, "labels": {nestling_crds::labels::COMPONENT: component}},
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
    progress.pods = vec![
        control_plane(&["etcd", "kube-apiserver"], &[]),
        pod("dev-controllers-x", "controllers", &["kube-controller-manager", "kube-scheduler", "cloud-controller-manager"], &[]),
    ];
    let resources = &mut progress.host.resources;
    resources.members.metadata.generation = Some(1);
    resources.members.status = serde_json::from_value(
        json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1, "currentRevision": "a", "updateRevision": "a"}),
    )
    .unwrap();
    resources.controllers.metadata.generation = Some(1);
    resources.controllers.status =
        serde_json::from_value(json!({"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1})).unwrap();
    progress.observation = Observation {
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
    assert_eq!(condition.observed_generation, Some(2));
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
    progress.pods[0] = control_plane(&["etcd"], &["kube-apiserver"]);
    let status = after(&VirtualClusterStatus::default(), &progress);
    assert_eq!(state(&status, "EtcdReady"), ("True", "Available", "1 of 1 members are ready"));
    assert_eq!(state(&status, "APIServerReady").2, "pod dev-control-plane-0 is starting: kube-apiserver not ready");

    let full = running(&json!({}));
    let breaks: [(&str, Break); 5] = [
        ("EtcdReady", |p| p.pods[0] = control_plane(&["kube-apiserver"], &["etcd"])),
        ("APIServerReady", |p| p.observation.api_answered = false),
        ("ControllersReady", |p| drop(p.pods.pop())),
        ("NodesReady", |p| p.observation.nodes = Some(NodesStatus { ready: 0, total: 3, oldest_kubelet: None })),
        ("AddonsReady", |p| p.observation.dns = Some(Dns::default())),
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
    broken.pods[0] = control_plane(&["etcd"], &["kube-apiserver"]);
    let lost = after(&ready, &broken);
    assert_eq!((state(&lost, "Degraded").0, lost.phase), ("True", Some(Phase::Degraded)));
    // It stays so until the cluster is ready again.
    assert_eq!(after(&lost, &broken).phase, Some(Phase::Degraded));
    let back = after(&lost, &running(&json!({})));
    assert_eq!((state(&back, "Degraded").0, back.phase), ("False", Some(Phase::Ready)));

    let mut fewer = running(&json!({}));
    fewer.observation.nodes = Some(NodesStatus { ready: 2, total: 3, oldest_kubelet: None });
    let status = after(&ready, &fewer);
    assert_eq!(state(&status, "Ready").0, "True");
    assert_eq!(state(&status, "Degraded"), ("True", "NodesNotReady", "1 of 3 nodes are not ready"));
}

#[test]
fn a_rollout_is_progress_and_not_degradation() {
    let mut rolling = running(&json!({}));
    rolling.host.resources.controllers.status.as_mut().unwrap().updated_replicas = Some(0);
    let status = after(&VirtualClusterStatus::default(), &rolling);
    assert_eq!(state(&status, "Progressing"), ("True", "RollingOut", "rolling out: controllers"));
    assert_eq!(state(&status, "Ready").0, "True");
}

#[test]
fn an_external_cluster_counts_its_own_apiserver() {
    let mut progress = applied(&json!({"topology": "External"}));
    progress.pods = vec![pod("dev-etcd-0", "etcd", &["etcd"], &[]), pod("dev-apiserver-x", "apiserver", &[], &["kube-apiserver"])];
    let status = after(&VirtualClusterStatus::default(), &progress);
    assert_eq!(state(&status, "EtcdReady").0, "True");
    assert_eq!(state(&status, "APIServerReady").2, "pod dev-apiserver-x is starting: kube-apiserver not ready");
    assert!(status.selector.contains("nestling.dev/component=apiserver"), "{}", status.selector);
    assert_eq!(status.etcd.members.len(), 1);
}

#[test]
fn an_invalid_spec_is_named_and_what_runs_keeps_running() {
    let error = Error::Invalid(vec![Invalid { field: "spec.expose.type".into(), message: "not supported yet".into() }]);
    let fresh = compute(&VirtualClusterStatus::default(), Some(2), &Outcome::Failed(&error), now());
    assert_eq!(state(&fresh, "Valid"), ("False", "Invalid", "spec.expose.type not supported yet"));
    assert_eq!((state(&fresh, "Ready").0, fresh.phase), ("False", Some(Phase::Invalid)));

    let ready = after(&VirtualClusterStatus::default(), &running(&json!({})));
    let edited = compute(&ready, Some(2), &Outcome::Failed(&error), now());
    assert_eq!((state(&edited, "Valid").0, state(&edited, "Ready").0, edited.phase), ("False", "True", Some(Phase::Ready)));
}

#[test]
fn a_failure_keeps_what_is_known_and_names_the_reason() {
    let error = Error::NoAddress;
    let ready = after(&VirtualClusterStatus::default(), &running(&json!({})));
    let failed = compute(&ready, Some(2), &Outcome::Failed(&error), now());
    assert_eq!(failed.service_cidrs, ready.service_cidrs);
    assert_eq!(state(&failed, "Ready").0, "True");
    assert_eq!(state(&failed, "Degraded"), ("True", "NoAddress", "the host gave the Service of the API no address"));
    let healed = after(&failed, &running(&json!({})));
    assert_eq!(state(&healed, "Degraded").0, "False");
}

#[test]
fn deleting_and_paused_are_phases() {
    let ready = after(&VirtualClusterStatus::default(), &running(&json!({})));
    let deleting = compute(&ready, Some(2), &Outcome::Deleting("namespace x is being deleted"), now());
    assert_eq!((deleting.phase, state(&deleting, "Ready").2), (Some(Phase::Deleting), "namespace x is being deleted"));
    let paused = compute(&ready, Some(2), &Outcome::Paused, now());
    assert_eq!((paused.phase, state(&paused, "Progressing").1), (Some(Phase::Paused), "Paused"));
}
