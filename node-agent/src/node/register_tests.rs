//! The loop of a Node against a tenant API in memory: what is written, and what is not.

use super::fixture::{host_node, tenant_spec};
use super::{HostNode, run};
use crate::fixtures::{NODE, tenant_with};
use crate::tenant::TenantSpec;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use nestling_runtime::testing::{ApiServer, Fault};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

fn start(api: &ApiServer, spec: TenantSpec, host: HostNode) -> DropGuard {
    let (tenant, _writers) = tenant_with(spec, &api.client());
    let stop = CancellationToken::new();
    tokio::spawn(run(tenant, host, stop.clone()));
    stop.drop_guard()
}

async fn after(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Writes of the Node since the last call, with the fields that they have.
fn writes(api: &ApiServer) -> Vec<String> {
    let requests = api.take_requests();
    let writes = requests.iter().filter(|request| request.is_write() && request.resource.starts_with("nodes"));
    let fields = |value: &Value| value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(",");
    writes
        .map(|write| {
            let subject = if write.resource.ends_with("/status") { "status" } else { "metadata" };
            format!("{} {} {}", write.verb, write.resource, fields(&write.body[subject]))
        })
        .collect()
}

fn node(api: &ApiServer) -> Node {
    api.get("", NODE).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_is_registered_once_and_then_only_kept_alive() {
    let api = ApiServer::new();
    let (host, change) = HostNode::changeable(host_node());
    let _running = start(&api, tenant_spec(), host);
    after(5).await;
    assert_eq!(writes(&api), ["create nodes annotations,labels,name"]);
    let lease: Lease = api.get("kube-node-lease", NODE).unwrap();
    assert_eq!(lease.spec.unwrap().lease_duration_seconds, Some(40));
    assert_eq!(Some(&lease.metadata.owner_references.unwrap()[0].uid), node(&api).metadata.uid.as_ref());

    after(240).await;
    assert_eq!(writes(&api), [""; 0], "at rest nothing but the lease is written");
    after(120).await;
    assert_eq!(writes(&api), ["patch nodes/status conditions"], "the report of every five minutes");

    let mut not_ready = host_node();
    not_ready.status.as_mut().unwrap().conditions.as_mut().unwrap().last_mut().unwrap().status = "False".into();
    change.send_replace(Some(Arc::new(not_ready)));
    after(1).await;
    assert_eq!(writes(&api), ["patch nodes/status conditions"], "a change on the host is reported at once");
    let ready = |condition: &&k8s_openapi::api::core::v1::NodeCondition| condition.type_ == "Ready";
    assert_eq!(node(&api).status.unwrap().conditions.iter().flatten().find(ready).unwrap().status, "False");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_registered_again_but_not_at_once() {
    let api = ApiServer::new();
    let _running = start(&api, tenant_spec(), HostNode::changeable(host_node()).0);
    after(5).await;
    writes(&api);
    assert!(api.remove::<Node>("", NODE));
    after(5).await;
    assert!(writes(&api).is_empty());
    after(10).await;
    assert_eq!(writes(&api), ["create nodes annotations,labels,name"]);
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_into_the_status_stays() {
    let api = ApiServer::new();
    let (host, change) = HostNode::changeable(host_node());
    let _running = start(&api, tenant_spec(), host);
    after(5).await;
    api.edit::<Node>("", NODE, |node| {
        node["spec"]["taints"] = json!([{"key": "team", "effect": "NoExecute"}]);
        node["metadata"]["labels"]["team"] = json!("a");
        let conditions = node["status"]["conditions"].as_array_mut().unwrap();
        conditions.push(json!({"type": "KernelDeadlock", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}));
    });
    let mut moved = host_node();
    let status = moved.status.as_mut().unwrap();
    status.conditions.as_mut().unwrap()[1].status = "True".into();
    status.addresses.as_mut().unwrap()[0].address = "172.30.0.8".into();
    let second = k8s_openapi::api::core::v1::NodeAddress { type_: "InternalIP".into(), address: "fd00::8".into() };
    status.addresses.as_mut().unwrap().push(second);
    change.send_replace(Some(Arc::new(moved)));
    after(5).await;

    let node = node(&api);
    let status = node.status.unwrap();
    let conditions: BTreeSet<String> = status.conditions.unwrap().into_iter().map(|c| format!("{}={}", c.type_, c.status)).collect();
    let expected = ["DiskPressure=False", "KernelDeadlock=False", "MemoryPressure=True", "PIDPressure=False", "Ready=True"];
    assert_eq!(conditions, expected.map(String::from).into());
    let addresses: Vec<String> = status.addresses.unwrap().into_iter().map(|address| address.address).collect();
    assert_eq!(addresses, ["172.30.0.8", "worker-7", "fd00::8"], "two addresses of one type are two");
    assert_eq!(node.spec.unwrap().taints.unwrap()[0].key, "team");
    assert_eq!(node.metadata.labels.unwrap()["team"], "a");
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_retried_and_a_lost_answer_makes_no_second_node() {
    let api = ApiServer::new();
    api.inject("create", "nodes", 2, Fault::Status(500));
    api.inject("create", "nodes", 1, Fault::LoseAnswer);
    let _running = start(&api, tenant_spec(), HostNode::changeable(host_node()).0);
    after(30).await;
    let first = node(&api).metadata.uid;
    after(60).await;
    assert_eq!(node(&api).metadata.uid, first);
    let lease: Lease = api.get("kube-node-lease", NODE).unwrap();
    assert_eq!(Some(&lease.metadata.owner_references.unwrap()[0].uid), first.as_ref());
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_is_not_registered_and_an_existing_one_is_cordoned() {
    let api = ApiServer::new();
    let draining = TenantSpec { draining: true, ..tenant_spec() };
    let running = start(&api, draining.clone(), HostNode::changeable(host_node()).0);
    after(30).await;
    assert_eq!(writes(&api), [""; 0]);
    drop(running);

    let existing: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
    api.put(&existing);
    let _running = start(&api, draining, HostNode::changeable(host_node()).0);
    after(30).await;
    assert_eq!(node(&api).spec.unwrap().unschedulable, Some(true));
}
