//! The steps for one pod toward both API servers: what each step writes, and in which order. The test decides what the
//! watches have delivered.

use super::*;
use crate::pods::fixtures;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher;
use names::{Owner, Source};
use nestling_runtime::testing::{ApiServer, Fault, Request};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

struct World {
    kubelet: Arc<Kubelet>,
    tenant_writer: Writer<Pod>,
    host_writer: Writer<Pod>,
    tenant: ApiServer,
    host: ApiServer,
    key: PodKey,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (tenant_api, host_api) = (ApiServer::new(), ApiServer::new());
        let (tenant, writers) = fixtures::tenant(tenant_api.client(), host_api.client());
        let StoreWriters { tenant: tenant_writer, host: host_writer } = writers;
        let shutdown = CancellationToken::new();
        let queue = Arc::new(Queue::new());
        let copies = Copies::new(tenant.clone(), queue.clone(), shutdown.clone());
        let events = Arc::new(Events::start(&tenant.kubelet, &tenant.node, &TaskTracker::new(), &shutdown));
        let (records, (services, _)) = (Arc::new(Records::default()), Services::new());
        let kubelet = Arc::new(Kubelet { tenant, queue, records, services, copies, events, leftovers: Leftovers::default() });
        Self { kubelet, tenant_writer, host_writer, tenant: tenant_api, host: host_api, key: fixtures::key(), shutdown }
    }

    fn namespace(&self) -> &str {
        self.kubelet.tenant.spec.workload_namespace.as_str()
    }

    fn host_name(&self) -> String {
        self.key.host_name(&self.kubelet.tenant.spec.uid).to_string()
    }

    fn watches(&self) -> Watches {
        let Kubelet { tenant, queue, records, .. } = &*self.kubelet;
        Watches { tenant: tenant.clone(), queue: queue.clone(), records: records.clone(), on_addresses: Box::new(|_| ()) }
    }

    fn tenant_event(&mut self, event: watcher::Event<Pod>) {
        self.watches().take_tenant_event(event, &mut self.tenant_writer);
    }

    fn host_event(&mut self, event: watcher::Event<Pod>) {
        self.watches().take_host_event(event, &mut self.host_writer, &mut None);
    }

    /// The tenant has this pod, and the watch has delivered it.
    fn with_tenant(mut self, pod: &Pod) -> Self {
        let stored = self.tenant.put(pod);
        self.tenant_event(watcher::Event::Apply(stored));
        self
    }

    /// The host has this pod, and the watch has delivered it.
    fn with_host(mut self, pod: &Pod) -> Self {
        let stored = self.host.put(pod);
        self.host_event(watcher::Event::Apply(stored));
        self
    }

    /// The host pod is gone, and the watch has delivered that.
    fn remove_host(&mut self) {
        let last = self.live_host().unwrap();
        self.host.remove::<Pod>(self.namespace(), &self.host_name());
        self.host_event(watcher::Event::Delete(last));
    }

    async fn step(&self) -> Result<Option<Duration>, PodsError> {
        sync::step(&self.kubelet, &self.key).await
    }

    /// All requests to the tenant and to the host since the last call, once events have been written.
    async fn requests(&self) -> [Vec<Request>; 2] {
        sleep(Duration::from_millis(100)).await;
        [&self.tenant, &self.host].map(ApiServer::take_requests)
    }

    async fn assert_idle(&self) {
        let requests = self.requests().await;
        assert!(requests.iter().all(Vec::is_empty), "{requests:?}");
    }

    fn live_tenant(&self) -> Option<Pod> {
        self.tenant.get("shop", "web-0")
    }

    fn live_host(&self) -> Option<Pod> {
        self.host.get(self.namespace(), &self.host_name())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn tenant_pod(metadata: Value, status: Value) -> Pod {
    let key = fixtures::key();
    pod(json!({"namespace": key.namespace, "name": key.name, "uid": key.uid}), metadata, status)
}

/// A pod that is to be started, with a volume.
fn mounting(volume: Value) -> Pod {
    let mut pod = tenant_pod(json!({}), pending());
    pod.spec.as_mut().unwrap().volumes = Some(vec![serde_json::from_value(volume).unwrap()]);
    pod
}

fn host_pod(metadata: Value, status: Value) -> Pod {
    let owner = Owner { tenant: &fixtures::tenant_spec(), node: &fixtures::node() };
    let mut own = json!(owner.pod_metadata(&fixtures::key()));
    own["uid"] = json!("host-uid");
    pod(own, metadata, status)
}

fn pod(mut own: Value, metadata: Value, status: Value) -> Pod {
    let Value::Object(fields) = metadata else { panic!("{metadata} is no object") };
    own.as_object_mut().unwrap().extend(fields);
    let spec = json!({"nodeName": "node-1", "serviceAccountName": "robot", "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "web", "image": "web:1"}]});
    let mut pod = json!({"metadata": own, "spec": spec});
    pod["status"] = status;
    serde_json::from_value(pod).unwrap()
}

fn pending() -> Value {
    json!({"phase": "Pending"})
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

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn texts(requests: &[Request]) -> Vec<String> {
    requests.iter().map(ToString::to_string).collect()
}

/// The one request was a deletion with this grace, of the object with this UID only.
fn assert_deleted(requests: &[Request], grace: i64, uid: &str) {
    let [request] = requests else { panic!("{requests:?}") };
    assert_eq!((request.verb, request.resource.as_str()), ("delete", "pods"));
    assert_eq!((&request.body["gracePeriodSeconds"], &request.body["preconditions"]["uid"]), (&json!(grace), &json!(uid)));
}

/// All that a pod mounts is on the host before the pod is.
#[tokio::test(start_paused = true)]
async fn a_pod_is_made_after_all_that_it_mounts() {
    let sources =
        json!([{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "kube-root-ca.crt"}}]);
    let world = World::new().with_tenant(&mounting(json!({"name": "api", "projected": {"sources": sources}})));
    let authority = json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "shop"}, "data": {"ca.crt": "PEM"}});
    world.tenant.put(&serde_json::from_value::<ConfigMap>(authority).unwrap());
    // For 70 ms the Node authorizer does not know the pod.
    world.tenant.inject("create", "serviceaccounts/token", 3, Fault::Status(403));
    world.tenant.respond("create", "serviceaccounts/token", |_| {
        let status = json!({"token": "jwt", "expirationTimestamp": "2036-01-01T00:00:00Z"});
        (201, json!({"metadata": {}, "spec": {"audiences": [], "expirationSeconds": 3607}, "status": status}))
    });
    let kubelet = world.kubelet.clone();
    let step = tokio::spawn(async move { sync::step(&kubelet, &fixtures::key()).await });

    sleep(Duration::from_millis(50)).await;
    let [_, host] = [&world.tenant, &world.host].map(ApiServer::requests);
    let copy = Source::config_map("shop", "kube-root-ca.crt").host_name(&world.kubelet.tenant.spec.uid, &fixtures::node());
    assert_eq!(texts(&host), [format!("apply configmaps {}/{copy}", world.namespace())], "nothing else before there is a token");
    let live: ConfigMap = world.host.get(world.namespace(), copy.as_str()).unwrap();
    assert_eq!(live.data.unwrap()["ca.crt"], "PEM");

    assert!(step.await.unwrap().unwrap().is_some(), "looked for again if the watch does not show it");
    let [tenant, host] = world.requests().await;
    assert_eq!(texts(&host[1..]), ["create secrets", "create pods"].map(|create| format!("{create} {}", world.namespace())));
    assert_eq!(host[1].body["data"], json!({"token.api.0": "and0"}));
    let token = tenant.iter().rfind(|request| request.resource == "serviceaccounts/token").unwrap();
    assert_eq!((token.namespace.as_str(), token.name.as_str()), ("shop", "robot"));
    assert_eq!(token.body["spec"]["boundObjectRef"], json!({"apiVersion": "v1", "kind": "Pod", "name": "web-0", "uid": "tenant-pod-uid"}));
    assert_eq!(token.body["spec"]["expirationSeconds"], 3607);
    assert!(world.kubelet.records.get(&world.key).created.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_created_is_not_created_again_before_the_watch_delivers_it() {
    let world = World::new().with_tenant(&tenant_pod(json!({}), pending()));
    world.step().await.unwrap();
    assert!(world.live_host().is_some());
    world.requests().await;
    world.step().await.unwrap();
    world.assert_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_not_handled_makes_one_event_and_no_pod() {
    let world = World::new().with_tenant(&mounting(json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}})));
    assert_eq!(world.step().await.unwrap(), None);
    world.step().await.unwrap();
    let [tenant, host] = world.requests().await;
    assert_eq!((texts(&tenant), texts(&host)), (vec!["create events shop".to_owned()], vec![]));
    let event = world.tenant.list::<Event>().remove(0);
    assert_eq!((event.reason.as_deref(), event.involved_object.uid.as_deref()), (Some("UnsupportedField"), Some("tenant-pod-uid")));
    let message = event.message.unwrap();
    assert!(message.contains("spec.volumes[0].persistentVolumeClaim") && message.contains("data"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_host_becomes_an_event_with_tenant_names() {
    let world = World::new().with_tenant(&tenant_pod(json!({}), pending()));
    let message = format!("pods {:?} is forbidden: violates PodSecurity", world.host_name());
    world.host.respond("create", "pods", move |_| {
        (403, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": message}))
    });
    assert!(world.step().await.unwrap().is_some(), "tried again later");
    world.requests().await;
    let event = world.tenant.list::<Event>().remove(0);
    assert_eq!(event.message.as_deref(), Some("pods \"web-0\" is forbidden: violates PodSecurity"));
}

#[tokio::test(start_paused = true)]
async fn a_foreign_pod_of_that_name_is_left_alone() {
    let world = World::new().with_tenant(&tenant_pod(json!({}), pending()));
    let foreign = world.host.put(&host_pod(json!({"labels": {"nestling.dev/tenant": "another"}}), running()));
    assert!(matches!(world.step().await, Err(PodsError::ForeignHostPod(_))));
    assert_eq!(world.live_host(), Some(foreign));
    assert_eq!(texts(&world.requests().await[0]), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_once() {
    let world = World::new().with_tenant(&tenant_pod(json!({}), pending())).with_host(&host_pod(json!({}), running()));
    world.step().await.unwrap();
    let [tenant, host] = world.requests().await;
    assert_eq!((texts(&tenant), texts(&host)), (vec!["patch pods/status shop/web-0".to_owned()], vec![]));
    assert_eq!(phase(&world.live_tenant().unwrap()), "Running");
    // The watch has not delivered what was written.
    world.step().await.unwrap();
    world.assert_idle().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_stops_the_host_pod_first_and_removes_the_tenant_pod_last() {
    let mut world = World::new().with_tenant(&tenant_pod(deleting(7), running())).with_host(&host_pod(json!({}), running()));
    world.step().await.unwrap();
    let [tenant, host] = world.requests().await;
    assert_deleted(&host, 7, "host-uid");
    assert_eq!(texts(&tenant), ["patch pods/status shop/web-0"], "the conditions that a kubelet adds");
    assert_eq!(phase(&world.live_tenant().unwrap()), "Running");

    // The containers have ended; the host pod is gone.
    let mut ended = running();
    ended["phase"] = json!("Failed");
    ended["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 143, "reason": "Error"}});
    world = world.with_host(&host_pod(deleting(7), ended));
    world.remove_host();
    world.step().await.unwrap();
    let [tenant, host] = world.requests().await;
    assert!(host.is_empty());
    assert_eq!(tenant[0].to_string(), "patch pods/status shop/web-0");
    assert_eq!(tenant[0].body["status"]["phase"], "Failed");
    assert_eq!(tenant[0].body["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 143);
    assert_deleted(&tenant[1..], 0, "tenant-pod-uid");
    assert_eq!(world.live_tenant(), None);
}

#[tokio::test(start_paused = true)]
async fn the_tenant_pod_stays_while_the_host_pod_may_be_there() {
    let world = World::new().with_tenant(&tenant_pod(deleting(7), running()));
    world.host.put(&host_pod(json!({}), running()));
    assert!(world.step().await.unwrap().is_some(), "looked at again");
    assert_eq!(texts(&world.requests().await[0]), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_before_it_was_made_just_goes() {
    let world = World::new().with_tenant(&tenant_pod(deleting(30), pending()));
    world.step().await.unwrap();
    assert_eq!(world.live_tenant(), None);
    assert_eq!(texts(&world.requests().await[0]), ["delete pods shop/web-0"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_pod_that_vanishes_fails_the_tenant_pod_and_is_not_made_again() {
    let mut world = World::new().with_tenant(&tenant_pod(json!({}), running())).with_host(&host_pod(json!({}), running()));
    world.remove_host();
    world.step().await.unwrap();
    let failed = world.live_tenant().unwrap();
    assert_eq!(phase(&failed), "Failed");
    let conditions = failed.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True"));
    world.requests().await;
    world.step().await.unwrap();
    world.assert_idle().await;
}

/// The store may lag behind for a reason that is not foreseen; a pod is failed only when the host has it no more.
#[tokio::test(start_paused = true)]
async fn a_host_pod_that_the_store_lacks_and_the_host_has_disrupts_nothing() {
    let world = World::new().with_tenant(&tenant_pod(json!({}), running()));
    world.host.put(&host_pod(json!({}), running()));
    assert!(world.step().await.unwrap().is_some(), "looked at again");
    assert_eq!(texts(&world.requests().await[0]), [""; 0]);
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
        let mut pod = tenant_pod(json!({}), json!({"phase": "Pending"}));
        (pod.metadata.name, pod.metadata.uid) = (Some(key.name.clone()), Some(key.uid.clone()));
        world.tenant_event(watcher::Event::Apply(pod));
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

#[tokio::test(start_paused = true)]
async fn a_pod_removed_by_force_is_killed() {
    let mut world = World::new().with_host(&host_pod(json!({}), running()));
    let pod = tenant_pod(deleting(0), running());
    world.tenant_event(watcher::Event::Apply(pod.clone()));
    world.tenant_event(watcher::Event::Delete(pod));
    world.step().await.unwrap();
    let [tenant, host] = world.requests().await;
    assert_deleted(&host, 1, "host-uid");
    assert!(tenant.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_killed_only_when_the_tenant_has_its_pod_no_more() {
    for has_pod in [false, true] {
        let world = World::new().with_host(&host_pod(json!({}), running()));
        if has_pod {
            world.tenant.put(&tenant_pod(json!({}), running()));
        }
        world.step().await.unwrap();
        assert_eq!(world.live_host().unwrap().metadata.deletion_timestamp.is_some(), !has_pod);
        let [tenant, _] = world.requests().await;
        assert_eq!(texts(&tenant), ["list pods shop"]);
        assert!(tenant[0].query["fieldSelector"].contains("spec.nodeName=node-1"), "nodes may list their own pods only");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_took_the_name_of_another_does_not_get_its_status() {
    for delivered in [false, true] {
        let mut world = World::new().with_tenant(&tenant_pod(json!({}), pending())).with_host(&host_pod(json!({}), running()));
        world.tenant.remove::<Pod>("shop", "web-0");
        let successor = world.tenant.put(&tenant_pod(json!({"uid": "successor"}), pending()));
        if delivered {
            world.tenant_event(watcher::Event::Apply(successor.clone()));
        }
        world.step().await.unwrap();
        assert_eq!(world.live_tenant(), Some(successor));
        // Once the first pod is known to be gone, its host pod is killed.
        assert_eq!(world.live_host().unwrap().metadata.deletion_timestamp.is_some(), delivered);
    }
}
