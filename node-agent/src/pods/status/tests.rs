use super::*;
use crate::pods::fixtures;
use crate::pods::names::{Owner, Source};
use proptest::prelude::*;
use serde_json::{Value, json};

const EARLIER: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:05:00Z";

fn now() -> Timestamp {
    LATER.parse().unwrap()
}

fn text(host: &Pod) -> TenantText {
    let (tenant, node) = (fixtures::tenant_spec(), fixtures::node());
    let sources = [Source::config_map("shop", "settings")].into();
    TenantText::new(Owner { tenant: &tenant, node: &node }, &fixtures::key(), Some(host), &sources)
}

fn tenant(metadata: Value, spec: Value, status: Value) -> Pod {
    let mut pod = Value::Object([("metadata".into(), metadata), ("spec".into(), spec), ("status".into(), status)].into_iter().collect());
    pod["metadata"]["name"] = json!("web-0");
    pod["metadata"]["namespace"] = json!("shop");
    pod["metadata"]["uid"] = json!("tenant-pod-uid");
    pod["metadata"]["generation"] = json!(7);
    pod["spec"]["containers"] = json!([{"name": "web"}]);
    serde_json::from_value(pod).unwrap()
}

fn fresh() -> Pod {
    tenant(
        json!({}),
        json!({}),
        json!({"phase": "Pending", "qosClass": "Burstable", "nominatedNodeName": "node-9", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": EARLIER},
            {"type": "example.org/own", "status": "False", "lastTransitionTime": EARLIER}]}),
    )
}

fn host(metadata: Value, status: Value) -> Pod {
    let spec = json!({"containers": [{"name": "web"}]});
    let pod = [("metadata".into(), metadata), ("spec".into(), spec), ("status".into(), status)].into_iter().collect();
    serde_json::from_value(Value::Object(pod)).unwrap()
}

fn conditions(ready: &str) -> Value {
    let since = "2026-01-01T00:04:00Z";
    json!([
        {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": since, "observedGeneration": 1},
        {"type": "Initialized", "status": "True", "lastTransitionTime": since, "observedGeneration": 1},
        {"type": "Ready", "status": ready, "lastTransitionTime": since, "observedGeneration": 1},
        {"type": "ContainersReady", "status": ready, "lastTransitionTime": since, "observedGeneration": 1},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": since, "observedGeneration": 1}])
}

fn running() -> Pod {
    host(
        json!({"uid": "host-uid", "generation": 1}),
        json!({
            "phase": "Running", "startTime": "2026-01-01T00:03:00Z", "qosClass": "BestEffort", "observedGeneration": 1,
            "hostIP": "172.30.0.1", "hostIPs": [{"ip": "172.30.0.1"}], "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}],
            "conditions": conditions("True"),
            "containerStatuses": [{
                "name": "web", "image": "web:1", "imageID": "sha256:1", "containerID": "containerd://1", "ready": true, "started": true,
                "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:04:00Z"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:03:30Z"}}}],
        }),
    )
}

fn ended_host(metadata: Value, phase: &str, exit_code: i32) -> Pod {
    host(
        metadata,
        json!({
            "phase": phase, "startTime": EARLIER, "conditions": conditions("False"),
            "containerStatuses": [{"name": "web", "image": "web:1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": exit_code, "reason": "Completed", "finishedAt": LATER}}}],
        }),
    )
}

/// The tenant pod after `desired` has been written.
fn written(tenant: &Pod, desired: PodStatus) -> Pod {
    Pod { status: Some(desired), ..tenant.clone() }
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a k8s_openapi::api::core::v1::PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|condition| condition.type_ == type_).unwrap()
}

#[test]
fn a_running_pod_is_mirrored_with_the_tenants_own_facts_kept() {
    let (tenant, host) = (fresh(), running());
    let status = mirrored(&tenant, &host, &text(&host), now()).unwrap();
    insta::assert_yaml_snapshot!("running_status", status);
    insta::assert_yaml_snapshot!("running_patch", patch(tenant.status.as_ref().unwrap(), &status));
}

#[test]
fn nothing_is_written_before_the_hosts_kubelet_took_the_pod_up() {
    let host = host(json!({"uid": "host-uid"}), json!({"phase": "Pending"}));
    assert_eq!(mirrored(&fresh(), &host, &text(&host), now()), None);
}

#[test]
fn the_same_status_is_not_written_twice() {
    let host = running();
    let tenant = fresh();
    let first = mirrored(&tenant, &host, &text(&host), now()).unwrap();
    let tenant = written(&tenant, first.clone());
    let second = mirrored(&tenant, &host, &text(&host), "2026-01-01T01:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(patch(&first, &second), None);
}

#[test]
fn waiting_messages_have_tenant_names() {
    let key = fixtures::key();
    let spec = fixtures::tenant_spec();
    let copy = Source::config_map("shop", "settings").host_name(&spec.uid, &fixtures::node());
    let host = host(
        json!({"uid": "host-uid"}),
        json!({"phase": "Pending", "startTime": EARLIER, "containerStatuses": [{"name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "CreateContainerConfigError",
                "message": format!("configmap \"{copy}\" not found in pod {}_{}(host-uid)", key.host_name(&spec.uid), spec.workload_namespace)}}}]}),
    );
    let status = mirrored(&fresh(), &host, &text(&host), now()).unwrap();
    let waiting = status.container_statuses.unwrap().remove(0).state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(waiting.message.as_deref(), Some("configmap \"settings\" not found in pod web-0_shop(tenant-pod-uid)"));
}

#[test]
fn readiness_gates_hold_ready_back_until_they_are_true() {
    let gates = json!({"readinessGates": [{"conditionType": "example.org/lb"}]});
    let host = running();
    let without = tenant(json!({}), gates.clone(), json!({"phase": "Pending"}));
    let status = mirrored(&without, &host, &text(&host), now()).unwrap();
    assert_eq!(condition(&status, "ContainersReady").status, "True");
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));

    let gate = json!({"type": "example.org/lb", "status": "True", "lastTransitionTime": EARLIER});
    let with = tenant(json!({}), gates, json!({"phase": "Running", "conditions": [gate]}));
    let status = mirrored(&with, &host, &text(&host), now()).unwrap();
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(condition(&status, "Ready").last_transition_time.as_ref().unwrap().0, now());
    assert_eq!(condition(&status, "example.org/lb").status, "True");
}

#[test]
fn transition_times_stay_while_nothing_flips_and_the_start_is_that_of_the_host_pod() {
    let mut tenant = fresh();
    let status = tenant.status.as_mut().unwrap();
    status.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(EARLIER.parse().unwrap()));
    let host = running();
    let status = mirrored(&tenant, &host, &text(&host), now()).unwrap();
    assert_eq!(status.start_time, host.status.as_ref().unwrap().start_time);
    assert_eq!(condition(&status, "PodScheduled").last_transition_time.as_ref().unwrap().0.to_string(), EARLIER);
}

#[test]
fn a_terminal_phase_is_never_left() {
    let tenant = tenant(json!({}), json!({}), json!({"phase": "Succeeded", "reason": "mine", "startTime": EARLIER}));
    let host = running();
    let status = mirrored(&tenant, &host, &text(&host), now()).unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Succeeded"), Some("mine")));
}

#[test]
fn an_eviction_on_the_host_is_one_in_the_tenant() {
    let mut host = ended_host(json!({"uid": "host-uid"}), "Failed", 137);
    let status = host.status.as_mut().unwrap();
    status.reason = Some("Evicted".into());
    status.message = Some("The node was low on resource: memory.".into());
    let disruption = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "host detail"});
    status.conditions.as_mut().unwrap().push(serde_json::from_value(disruption).unwrap());
    let status = mirrored(&fresh(), &host, &text(&host), now()).unwrap();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    assert_eq!(condition(&status, "DisruptionTarget").reason.as_deref(), Some("TerminationByKubelet"));
    assert_eq!(condition(&status, "DisruptionTarget").message.as_deref(), Some("The pod was stopped by the node it ran on"));
}

#[test]
fn a_pod_that_the_host_stops_is_no_success_whatever_its_exit_code() {
    let leaving = json!({"uid": "host-uid", "deletionTimestamp": EARLIER, "deletionGracePeriodSeconds": 30});
    let host = ended_host(leaving.clone(), "Succeeded", 0);
    let status = mirrored(&fresh(), &host, &text(&host), now()).unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(condition(&status, "DisruptionTarget").status, "True");

    // While its containers still run, it runs.
    let mut host = running();
    host.metadata = serde_json::from_value(leaving).unwrap();
    assert_eq!(mirrored(&fresh(), &host, &text(&host), now()).unwrap().phase.as_deref(), Some("Running"));

    // When the tenant deletes it, the exit code counts.
    let deleted = tenant(json!({"deletionTimestamp": EARLIER}), json!({}), json!({"phase": "Running"}));
    let host = ended_host(json!({"uid": "host-uid", "deletionTimestamp": EARLIER}), "Succeeded", 0);
    assert_eq!(mirrored(&deleted, &host, &text(&host), now()).unwrap().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_vanished_host_pod_fails_the_tenant_pod() {
    let host = running();
    let tenant = written(&fresh(), mirrored(&fresh(), &host, &text(&host), now()).unwrap());
    let status = disrupted(&tenant, Some(&host), &text(&host), now());
    insta::assert_yaml_snapshot!("disrupted_patch", patch(tenant.status.as_ref().unwrap(), &status));
    // Known or not, the outcome is the same.
    assert_eq!(disrupted(&tenant, None, &text(&host), now()), status);
}

#[test]
fn the_last_status_of_a_deleted_pod_is_terminal() {
    let text = text(&running());
    let last = ended_host(json!({"uid": "host-uid"}), "Running", 0);
    assert_eq!(ended(&fresh(), Some(&last), &text, now()).phase.as_deref(), Some("Succeeded"));
    let last = ended_host(json!({"uid": "host-uid"}), "Running", 3);
    assert_eq!(ended(&fresh(), Some(&last), &text, now()).phase.as_deref(), Some("Failed"));
    let unknown = ended(&fresh(), Some(&running()), &text, now());
    assert_eq!(unknown.phase.as_deref(), Some("Failed"));
    let state = unknown.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
    assert_eq!((state.exit_code, state.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert!(!unknown.conditions.unwrap().iter().any(|condition| condition.type_ == "DisruptionTarget"));
}

#[test]
fn a_new_address_replaces_the_old() {
    let host = running();
    let tenant = written(&fresh(), mirrored(&fresh(), &host, &text(&host), now()).unwrap());
    let mut moved = host.clone();
    let status = moved.status.as_mut().unwrap();
    status.pod_ip = Some("10.244.1.9".into());
    status.pod_ips = serde_json::from_value(json!([{"ip": "10.244.1.9"}])).unwrap();
    let status = mirrored(&tenant, &moved, &text(&host), now()).unwrap();
    assert_eq!(
        patch(tenant.status.as_ref().unwrap(), &status),
        Some(json!({"podIP": "10.244.1.9", "podIPs": [{"$patch": "replace"}, {"ip": "10.244.1.9"}]}))
    );
}

#[test]
fn conditions_that_the_host_drops_go_and_those_of_others_stay() {
    let mut host = running();
    let conditions = host.status.as_mut().unwrap().conditions.as_mut().unwrap();
    let resize = json!({"type": "PodResizePending", "status": "True", "reason": "Deferred"});
    conditions.push(serde_json::from_value(resize).unwrap());
    let tenant = written(&fresh(), mirrored(&fresh(), &host, &text(&host), now()).unwrap());
    let after = running();
    let status = mirrored(&tenant, &after, &text(&host), now()).unwrap();
    assert_eq!(
        patch(tenant.status.as_ref().unwrap(), &status),
        Some(json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]}))
    );
}

proptest! {
    /// Whatever the host shows, in whatever order, the tenant's phase only moves forward.
    #[test]
    fn phases_only_move_forward(seen in prop::collection::vec((0usize..4, any::<bool>()), 1..8)) {
        let order = |phase: &str| ["Pending", "Running", "Failed", "Succeeded"].iter().position(|name| *name == phase).unwrap();
        let mut pod = fresh();
        for (phase, leaving) in seen {
            let mut host = running();
            host.status.as_mut().unwrap().phase = Some(["Pending", "Running", "Failed", "Succeeded"][phase].into());
            if leaving {
                host.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
            }
            let before = pod.status.clone().unwrap().phase.unwrap();
            let status = mirrored(&pod, &host, &text(&host), now()).unwrap();
            let after = status.phase.clone().unwrap();
            if order(&before) >= 2 {
                prop_assert_eq!(&before, &after);
            }
            pod = written(&pod, status);
        }
    }
}
