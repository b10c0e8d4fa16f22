//! The order of calls toward both apiservers, which are scripted: every call is expected by name, and one that does not
//! come, or comes uncalled for, fails the test.

use super::*;
use crate::pods::fixtures;
use fixtures::Server;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher;
use names::Source;
use serde_json::{Value, json};
use std::time::Duration;

const TENANT_POD: &str = "/api/v1/namespaces/shop/pods/web-0";
const HOST_PODS: &str = "/api/v1/namespaces/team-a-dev-workload/pods";

struct World {
    kubelet: Arc<Kubelet>,
    tenant_writer: Writer<Pod>,
    host_writer: Writer<Pod>,
    tenant: Server,
    host: Server,
    key: PodKey,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (tenant_client, tenant_server) = Server::start("tenant");
        let (host_client, host_server) = Server::start("host");
        let (tenant, writers) = fixtures::tenant(tenant_client.clone(), host_client);
        let StoreWriters { tenant: tenant_writer, host: host_writer } = writers;
        let shutdown = CancellationToken::new();
        let queue = Arc::new(Queue::new());
        let copies = Copies::new(tenant.clone(), queue.clone(), shutdown.clone());
        let events = Arc::new(Events::start(&tenant_client, &tenant.node, &TaskTracker::new(), &shutdown));
        let (records, (services, _)) = (Arc::new(Records::default()), Services::new());
        let kubelet = Arc::new(Kubelet { tenant, queue, records, services, copies, events, leftovers: Leftovers::default() });
        let key = fixtures::key();
        Self { kubelet, tenant_writer, host_writer, tenant: tenant_server, host: host_server, key, shutdown }
    }

    fn host_name(&self) -> String {
        self.key.host_name(&self.kubelet.tenant.spec.uid).to_string()
    }

    fn host_path(&self) -> String {
        format!("{HOST_PODS}/{}", self.host_name())
    }

    fn watches(&self) -> Watches {
        let Kubelet { tenant, queue, records, .. } = &*self.kubelet;
        Watches { tenant: tenant.clone(), queue: queue.clone(), records: records.clone(), on_addresses: Box::new(|_| ()) }
    }

    fn show_tenant(&mut self, pod: &Value) {
        self.tenant_event(watcher::Event::Apply(serde_json::from_value(pod.clone()).unwrap()));
    }

    fn show_host(&mut self, pod: &Value) {
        self.host_event(watcher::Event::Apply(serde_json::from_value(pod.clone()).unwrap()));
    }

    fn tenant_event(&mut self, event: watcher::Event<Pod>) {
        self.watches().take_tenant_event(event, &mut self.tenant_writer);
    }

    fn host_event(&mut self, event: watcher::Event<Pod>) {
        self.watches().take_host_event(event, &mut self.host_writer, &mut None);
    }

    fn step(&self) -> tokio::task::JoinHandle<Result<Option<Duration>, PodsError>> {
        let (kubelet, key) = (self.kubelet.clone(), self.key.clone());
        tokio::spawn(async move { sync::step(&kubelet, &key).await })
    }

    fn tenant_pod(&self, metadata: Value, status: Value) -> Value {
        let mut pod = json!({"spec": {"nodeName": "node-1", "serviceAccountName": "robot", "terminationGracePeriodSeconds": 30, "containers": [{"name": "web", "image": "web:1"}]}});
        pod["metadata"] = metadata;
        pod["status"] = status;
        let meta = &mut pod["metadata"];
        meta["namespace"] = json!("shop");
        meta["name"] = json!("web-0");
        meta["uid"] = json!(self.key.uid);
        if meta["resourceVersion"].is_null() {
            meta["resourceVersion"] = json!("10");
        }
        pod
    }

    fn host_pod(&self, metadata: Value, status: Value) -> Value {
        let mut pod = serde_json::to_value(Pod { metadata: self.kubelet.owner().pod_metadata(&self.key), ..Pod::default() }).unwrap();
        pod["metadata"]["uid"] = json!("host-uid");
        pod["metadata"].as_object_mut().unwrap().extend(match metadata {
            Value::Object(map) => map,
            _ => panic!("metadata is a map"),
        });
        pod["spec"] = json!({"containers": [{"name": "web", "image": "web:1"}]});
        pod["status"] = status;
        pod
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn running() -> Value {
    json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "podIP": "10.244.1.2",
        "conditions": [{"type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "web", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]})
}

fn deleting(grace: i64) -> Value {
    json!({"deletionTimestamp": "2026-01-01T01:00:00Z", "deletionGracePeriodSeconds": grace})
}

/// All that a pod mounts is on the host before the pod is.
#[tokio::test]
async fn a_pod_is_made_after_all_that_it_mounts() {
    let mut world = World::new();
    let mut pod = world.tenant_pod(json!({}), json!({"phase": "Pending"}));
    pod["spec"]["volumes"] = json!([{"name": "api", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt"}}]}}]);
    world.show_tenant(&pod);
    let step = world.step();

    let token = world.tenant.expect(Method::POST, "/api/v1/namespaces/shop/serviceaccounts/robot/token").await;
    assert_eq!(token.body["spec"]["boundObjectRef"], json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "tenant-pod-uid"}));
    assert_eq!(token.body["spec"]["expirationSeconds"], 3607);
    let list = world.tenant.expect(Method::GET, "/api/v1/namespaces/shop/configmaps").await;
    assert!(list.query.contains("fieldSelector=metadata.name%3Dkube-root-ca.crt"), "{}", list.query);
    list.answer(&json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": [
        {"metadata": {"name": "kube-root-ca.crt", "namespace": "shop", "uid": "cm", "resourceVersion": "4"}, "data": {"ca.crt": "PEM"}}]}));
    let copy = Source::config_map("shop", "kube-root-ca.crt").host_name(&world.kubelet.tenant.spec.uid, &fixtures::node());
    let write = world.host.expect(Method::PATCH, &format!("/api/v1/namespaces/team-a-dev-workload/configmaps/{copy}")).await;
    assert!(!write.query.contains("force"), "a foreign object must not be taken over: {}", write.query);
    assert_eq!(write.body["data"], json!({"ca.crt": "PEM"}));
    let made = write.body.clone();
    write.answer(&made);

    world.host.expect_nothing().await;
    token.answer(&json!({"metadata": {}, "spec": {"audiences": [], "expirationSeconds": 3607}, "status": {"token": "jwt", "expirationTimestamp": "2036-01-01T00:00:00Z"}}));
    let secret = world.host.expect(Method::POST, "/api/v1/namespaces/team-a-dev-workload/secrets").await;
    assert_eq!(secret.body["data"], json!({"token.api.0": "and0"}));
    let made = secret.body.clone();
    secret.answer(&made);

    let create = world.host.expect(Method::POST, HOST_PODS).await;
    let made = create.body.clone();
    create.answer(&made);
    assert!(step.await.unwrap().unwrap().is_some(), "looked for again if the watch does not show it");
    assert!(world.kubelet.records.get(&world.key).created.is_some());
}

#[tokio::test]
async fn a_pod_that_was_created_is_not_created_again_before_the_watch_delivers_it() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), json!({"phase": "Pending"})));
    let step = world.step();
    let create = world.host.expect(Method::POST, HOST_PODS).await;
    let made = create.body.clone();
    create.answer(&made);
    step.await.unwrap().unwrap();
    world.step().await.unwrap().unwrap();
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn a_field_that_is_not_handled_makes_an_event_and_no_pod() {
    let mut world = World::new();
    let mut pod = world.tenant_pod(json!({}), json!({"phase": "Pending"}));
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    world.show_tenant(&pod);
    assert_eq!(world.step().await.unwrap().unwrap(), None);
    let event = world.tenant.expect(Method::POST, "/api/v1/namespaces/shop/events").await;
    assert_eq!(event.body["reason"], "UnsupportedField");
    assert_eq!(event.body["involvedObject"]["uid"], "tenant-pod-uid");
    let message = event.body["message"].as_str().unwrap();
    assert!(message.contains("spec.volumes[0].persistentVolumeClaim") && message.contains("data"), "{message}");
    let made = event.body.clone();
    event.answer(&made);
    // Emitted once.
    world.step().await.unwrap().unwrap();
    world.tenant.expect_nothing().await;
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn a_refusal_of_the_host_becomes_an_event_with_tenant_names() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), json!({"phase": "Pending"})));
    let step = world.step();
    let create = world.host.expect(Method::POST, HOST_PODS).await;
    let message = format!("pods \"{}\" is forbidden: violates PodSecurity", world.host_name());
    create.fail(403, "Forbidden", &message);
    assert!(step.await.unwrap().unwrap().is_some());
    let event = world.tenant.expect(Method::POST, "/api/v1/namespaces/shop/events").await;
    assert_eq!(event.body["message"], "pods \"web-0\" is forbidden: violates PodSecurity");
}

#[tokio::test]
async fn a_foreign_pod_of_that_name_is_left_alone() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), json!({"phase": "Pending"})));
    let step = world.step();
    world.host.expect(Method::POST, HOST_PODS).await.fail(409, "AlreadyExists", "there");
    let read = world.host.expect(Method::GET, &world.host_path()).await;
    read.answer(&json!({"metadata": {"name": world.host_name(), "labels": {"nestling.dev/tenant": "another"}}}));
    assert!(matches!(step.await.unwrap(), Err(PodsError::ForeignHostPod(_))));
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn status_is_written_once() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), json!({"phase": "Pending"})));
    world.show_host(&world.host_pod(json!({}), running()));
    let step = world.step();
    let patch = world.tenant.expect(Method::PATCH, &format!("{TENANT_POD}/status")).await;
    assert_eq!(patch.body["metadata"], json!({"uid": "tenant-pod-uid"}));
    assert_eq!(patch.body["status"]["phase"], "Running");
    // The answer is newer than what the watch has shown.
    let mut status = running();
    status["conditions"] = patch.body["status"]["conditions"].clone();
    patch.answer(&world.tenant_pod(json!({"resourceVersion": "11"}), status));
    step.await.unwrap().unwrap();
    world.step().await.unwrap().unwrap();
    world.tenant.expect_nothing().await;
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn deleting_stops_the_host_pod_first_and_removes_the_tenant_pod_last() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(deleting(7), running()));
    world.show_host(&world.host_pod(json!({}), running()));
    let step = world.step();
    let deletion = world.host.expect(Method::DELETE, &world.host_path()).await;
    assert_eq!((&deletion.body["gracePeriodSeconds"], &deletion.body["preconditions"]["uid"]), (&json!(7), &json!("host-uid")));
    deletion.answer(&world.host_pod(deleting(7), running()));
    // The conditions that a kubelet adds are still to be written.
    let patch = world.tenant.expect(Method::PATCH, &format!("{TENANT_POD}/status")).await;
    assert_eq!(patch.body["status"]["phase"], Value::Null, "still Running: {}", patch.body);
    patch.answer(&world.tenant_pod(deleting(7), running()));
    step.await.unwrap().unwrap();

    // The containers have ended; the host pod is gone.
    let mut ended = running();
    ended["phase"] = json!("Failed");
    ended["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 143, "reason": "Error"}});
    let last = world.host_pod(deleting(7), ended);
    world.show_host(&last);
    world.host_event(watcher::Event::Delete(serde_json::from_value(last).unwrap()));
    let step = world.step();
    let patch = world.tenant.expect(Method::PATCH, &format!("{TENANT_POD}/status")).await;
    assert_eq!(patch.body["status"]["phase"], "Failed");
    assert_eq!(patch.body["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    patch.answer(&world.tenant_pod(deleting(7), running()));
    let remove = world.tenant.expect(Method::DELETE, TENANT_POD).await;
    assert_eq!((&remove.body["gracePeriodSeconds"], &remove.body["preconditions"]["uid"]), (&json!(0), &json!("tenant-pod-uid")));
    remove.answer(&world.tenant_pod(deleting(0), running()));
    step.await.unwrap().unwrap();
    world.host.expect_nothing().await;
}

#[tokio::test]
async fn the_tenant_pod_stays_while_the_host_pod_may_be_there() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(deleting(7), running()));
    let step = world.step();
    let read = world.host.expect(Method::GET, &world.host_path()).await;
    read.answer(&world.host_pod(json!({}), running()));
    assert!(step.await.unwrap().unwrap().is_some());
    world.tenant.expect_nothing().await;
}

#[tokio::test]
async fn a_pod_deleted_before_it_was_made_just_goes() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(deleting(30), json!({"phase": "Pending"})));
    let step = world.step();
    world.host.expect(Method::GET, &world.host_path()).await.fail(404, "NotFound", "none");
    let remove = world.tenant.expect(Method::DELETE, TENANT_POD).await;
    remove.answer(&world.tenant_pod(deleting(0), json!({})));
    step.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_host_pod_that_vanishes_fails_the_tenant_pod_and_is_not_made_again() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), running()));
    let host = world.host_pod(json!({}), running());
    world.show_host(&host);
    world.host_event(watcher::Event::Delete(serde_json::from_value(host).unwrap()));
    let step = world.step();
    let patch = world.tenant.expect(Method::PATCH, &format!("{TENANT_POD}/status")).await;
    assert_eq!(patch.body["status"]["phase"], "Failed");
    let conditions = patch.body["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|condition| condition["type"] == "DisruptionTarget" && condition["status"] == "True"));
    patch.answer(&world.tenant_pod(json!({"resourceVersion": "11"}), json!({"phase": "Failed"})));
    step.await.unwrap().unwrap();
    world.step().await.unwrap().unwrap();
    world.tenant.expect_nothing().await;
    world.host.expect_nothing().await;
}

/// The store may lag behind for a reason that is not foreseen; a pod is failed only when the host has it no more.
#[tokio::test]
async fn a_host_pod_that_the_store_lacks_and_the_host_has_disrupts_nothing() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), running()));
    let step = world.step();
    let read = world.host.expect(Method::GET, &world.host_path()).await;
    read.answer(&world.host_pod(json!({}), running()));
    assert!(step.await.unwrap().unwrap().is_some(), "looked at again");
    world.tenant.expect_nothing().await;
}

/// A worker looks at a pod at any moment of an event's way into record and store, whether it is a single event or a list.
#[tokio::test]
async fn a_host_pod_that_appears_is_never_taken_for_removed() {
    use plan::Plan;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    const PODS: usize = 2000;
    let mut world = World::new();
    let uid = |index: usize| format!("pod-{index}");
    let keys: Vec<PodKey> = (0..PODS).map(|index| PodKey { uid: uid(index), name: uid(index), ..fixtures::key() }).collect();
    for key in &keys {
        let mut pod = world.tenant_pod(json!({}), json!({"phase": "Pending"}));
        (pod["metadata"]["name"], pod["metadata"]["uid"]) = (json!(key.name), json!(key.uid));
        world.show_tenant(&pod);
    }
    let hosts: Vec<Pod> = keys.iter().map(|key| Pod { metadata: world.kubelet.owner().pod_metadata(key), ..Pod::default() }).collect();
    let (current, stop, looked) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let kubelet = world.kubelet.clone();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let key = &keys[current.load(Ordering::SeqCst)];
                        let plan = sync::view(&kubelet, key).unwrap().plan;
                        looked.fetch_add(1, Ordering::Relaxed);
                        assert!(matches!(plan, Plan::Start | Plan::Follow), "{key}: {plan:?}");
                    }
                })
            })
            .collect();
        for (index, host) in hosts.iter().enumerate() {
            current.store(index, Ordering::SeqCst);
            std::thread::yield_now();
            if index % 100 == 99 {
                world.host_event(watcher::Event::Init);
                hosts[..=index].iter().for_each(|host| world.host_event(watcher::Event::InitApply(host.clone())));
                world.host_event(watcher::Event::InitDone);
            } else {
                world.host_event(watcher::Event::Apply(host.clone()));
            }
        }
        stop.store(true, Ordering::SeqCst);
        for worker in workers {
            worker.join().unwrap();
        }
    });
    assert!(looked.load(Ordering::Relaxed) > PODS, "the workers looked while pods appeared");
}

#[tokio::test]
async fn a_pod_removed_by_force_is_killed() {
    let mut world = World::new();
    let pod = world.tenant_pod(deleting(0), running());
    world.show_tenant(&pod);
    world.show_host(&world.host_pod(json!({}), running()));
    world.tenant_event(watcher::Event::Delete(serde_json::from_value(pod).unwrap()));
    let step = world.step();
    let kill = world.host.expect(Method::DELETE, &world.host_path()).await;
    assert_eq!((&kill.body["gracePeriodSeconds"], &kill.body["preconditions"]["uid"]), (&json!(1), &json!("host-uid")));
    kill.answer(&world.host_pod(deleting(1), running()));
    step.await.unwrap().unwrap();
    world.tenant.expect_nothing().await;
}

#[tokio::test]
async fn an_orphan_is_killed_only_when_the_tenant_has_its_pod_no_more() {
    for (items, killed) in [(json!([]), true), (json!([{"metadata": {"name": "web-0", "uid": "tenant-pod-uid"}}]), false)] {
        let mut world = World::new();
        world.show_host(&world.host_pod(json!({}), running()));
        let step = world.step();
        let list = world.tenant.expect(Method::GET, "/api/v1/namespaces/shop/pods").await;
        assert!(list.query.contains("spec.nodeName%3Dnode-1"), "nodes may list their own pods only: {}", list.query);
        list.answer(&json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items}));
        if killed {
            let kill = world.host.expect(Method::DELETE, &world.host_path()).await;
            kill.answer(&world.host_pod(deleting(1), running()));
        }
        step.await.unwrap().unwrap();
        world.host.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_pod_that_took_the_name_of_another_does_not_get_its_status() {
    let mut world = World::new();
    world.show_tenant(&world.tenant_pod(json!({}), json!({"phase": "Pending"})));
    world.show_host(&world.host_pod(json!({}), running()));
    let mut successor = world.tenant_pod(json!({}), json!({"phase": "Pending"}));
    successor["metadata"]["uid"] = json!("successor");
    world.show_tenant(&successor);
    let step = world.step();
    // The first pod is gone as far as its key goes.
    let list = world.tenant.expect(Method::GET, "/api/v1/namespaces/shop/pods").await;
    let items = json!([{"metadata": {"name": "web-0", "uid": "successor"}}]);
    list.answer(&json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items}));
    let kill = world.host.expect(Method::DELETE, &world.host_path()).await;
    kill.answer(&world.host_pod(deleting(1), running()));
    step.await.unwrap().unwrap();
}
