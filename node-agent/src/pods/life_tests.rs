//! Whole lives of pods against two API servers in memory: the tenant's, and the host's with a stand-in for the host's
//! kubelet.

use super::*;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config};
use kube::{Client, ResourceExt};
use names::{Owner, Source};
use nestling_runtime::kube::{apply, events};
use nestling_runtime::testing::ApiServer;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for anything that should come about.
const PATIENCE: Duration = Duration::from_secs(240);

struct World {
    tenant: Arc<Tenant>,
    writers: Option<StoreWriters>,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (tenant, host) = (ApiServer::new(), ApiServer::new());
        let (tenant, writers) = fixtures::tenant(tenant.client(), host.client());
        Self { tenant, writers: Some(writers), shutdown: CancellationToken::new() }
    }

    /// Starts the agent's pods part and the host's kubelet.
    fn start(&mut self) {
        let (services, _) = Services::new();
        let follow = (services.clone(), self.tenant.kubelet.clone(), self.shutdown.clone());
        tokio::spawn(async move { follow.0.follow(follow.1, follow.2).await });
        tokio::spawn(run(self.tenant.clone(), self.writers.take().unwrap(), services, |_| (), self.shutdown.clone()));
        tokio::spawn(host_kubelet(self.host(), true, self.shutdown.clone()));
    }

    fn tenant_pods(&self) -> Api<Pod> {
        Api::namespaced(self.tenant.kubelet.clone(), "shop")
    }

    fn host<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str())
    }

    fn key(pod: &Pod) -> PodKey {
        PodKey::of_tenant(pod).unwrap()
    }

    fn host_name(&self, pod: &Pod) -> String {
        Self::key(pod).host_name(&self.tenant.spec.uid).to_string()
    }

    fn copy_name(&self, source: &Source) -> String {
        source.host_name(&self.tenant.spec.uid, &self.tenant.node).to_string()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Runs host pods as a kubelet does: a new pod soon runs, a deleted one ends and goes. `binds`: also as the scheduler does,
/// without which a deletion has no grace.
async fn host_kubelet(pods: Api<Pod>, binds: bool, shutdown: CancellationToken) {
    let mut events = std::pin::pin!(events(pods.clone(), Config::default(), "host pods"));
    while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
        let (watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event else { continue };
        let (pods, name) = (pods.clone(), pod.name_any());
        if pod.metadata.deletion_timestamp.is_some() {
            tokio::spawn(async move {
                let _gone = set_status(&pods, &name, &container_status("Failed", &json!({"terminated": {"exitCode": 143}}))).await;
                let _gone = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
            });
        } else if pod.status.is_none_or(|status| status.start_time.is_none()) {
            tokio::spawn(async move {
                random_delay().await;
                if binds {
                    let bound = Patch::Merge(json!({"spec": {"nodeName": "node-1"}}));
                    let _gone = pods.patch(&name, &PatchParams::default(), &bound).await;
                }
                let running = container_status("Running", &json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}));
                let _gone = set_status(&pods, &name, &running).await;
            });
        }
    }
}

async fn set_status(pods: &Api<Pod>, name: &str, status: &Value) -> kube::Result<Pod> {
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await
}

fn container_status(phase: &str, state: &Value) -> Value {
    let is_ready = if phase == "Running" { "True" } else { "False" };
    json!({"phase": phase, "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "ContainersReady", "status": is_ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "web", "image": "web:1", "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": state}]})
}

/// None, mostly; sometimes some milliseconds.
async fn random_delay() {
    static STATE: AtomicU64 = AtomicU64::new(0x2545_f491_4f6c_dd1d);
    let mut x = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 31;
    if x.is_multiple_of(32) {
        sleep(Duration::from_millis((x >> 8) % 4)).await;
    } else {
        tokio::task::yield_now().await;
    }
}

fn pod(name: &str, spec: &Value) -> Pod {
    let mut pod = json!({"metadata": {"namespace": "shop", "name": name}, "spec": {
        "nodeName": "node-1", "terminationGracePeriodSeconds": 30, "containers": [{"name": "web", "image": "web:1"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(pod).unwrap()
}

/// Waits until `ready` gives something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ready: impl Fn() -> F) -> T {
    let poll = async {
        loop {
            if let Some(found) = ready().await {
                return found;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("{what}: not so within {PATIENCE:?}"))
}

async fn gone<K>(what: &str, api: &Api<K>, name: &str)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    eventually(what, || async { api.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn config_map(metadata: ObjectMeta) -> ConfigMap {
    ConfigMap { metadata, data: Some([("color".to_owned(), "blue".to_owned())].into()), ..ConfigMap::default() }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.into()), name: Some(name.into()), ..ObjectMeta::default() }
}

/// Files of the pod Secret and a copy.
fn mounts() -> Value {
    json!({"volumes": [
        {"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"name": "settings", "configMap": {"name": "settings"}}]})
}

async fn create<K>(client: &Client, object: K) -> K
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap());
    api.create(&PostParams::default(), &object).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_goes_with_all_that_it_mounted() {
    let mut world = World::new();
    world.start();
    create(&world.tenant.kubelet, config_map(named("shop", "settings"))).await;
    let created = create(&world.tenant.kubelet, pod("web-0", &mounts())).await;
    let pods = world.tenant_pods();
    eventually("the tenant pod runs", || async { (phase(&pods.get("web-0").await.unwrap()) == Some("Running")).then_some(()) }).await;
    let (host_pods, copies, secrets) = (world.host::<Pod>(), world.host::<ConfigMap>(), world.host::<Secret>());
    let (host_name, copy) = (world.host_name(&created), world.copy_name(&Source::config_map("shop", "settings")));
    let secret = World::key(&created).secret_name(&world.tenant.spec.uid).to_string();
    assert_eq!(copies.get(&copy).await.unwrap().data.unwrap()["color"], "blue");
    assert!(secrets.get_opt(&secret).await.unwrap().is_some() && host_pods.get_opt(&host_name).await.unwrap().is_some());

    pods.delete("web-0", &DeleteParams::default().grace_period(30)).await.unwrap();
    gone("the tenant pod goes", &pods, "web-0").await;
    assert!(host_pods.get_opt(&host_name).await.unwrap().is_none(), "the containers were stopped before");
    gone("the pod Secret goes", &secrets, &secret).await;
    gone("the copy goes", &copies, &copy).await;
}

#[tokio::test(start_paused = true)]
async fn the_tenant_pod_stays_until_the_host_pod_is_gone() {
    let mut world = World::new();
    world.start();
    let created = create(&world.tenant.kubelet, pod("web-0", &json!({}))).await;
    let (pods, host_pods) = (world.tenant_pods(), world.host::<Pod>());
    let host_name = world.host_name(&created);
    eventually("the tenant pod runs", || async { (phase(&pods.get("web-0").await.unwrap()) == Some("Running")).then_some(()) }).await;
    // Its containers do not stop.
    let hold = json!({"metadata": {"finalizers": ["example.org/hold"]}});
    host_pods.patch(&host_name, &PatchParams::default(), &Patch::Merge(hold)).await.unwrap();
    pods.delete("web-0", &DeleteParams::default().grace_period(7)).await.unwrap();
    let deleted = eventually("the host pod is being deleted", || async {
        host_pods.get(&host_name).await.ok().filter(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert!(deleted.metadata.deletion_grace_period_seconds <= Some(7));
    sleep(Duration::from_secs(60)).await;
    assert!(pods.get_opt("web-0").await.unwrap().is_some());
    let release = json!({"metadata": {"finalizers": null}});
    host_pods.patch(&host_name, &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
    gone("the tenant pod goes", &pods, "web-0").await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_adopts_what_pods_need_and_deletes_the_rest() {
    let mut world = World::new();
    let (tenant, host) = (world.tenant.clone(), world.tenant.host.clone());
    let owner = Owner::of(&tenant);
    let settings = create(&tenant.kubelet, config_map(named("shop", "settings"))).await;
    let running = create(&tenant.kubelet, pod("web-0", &mounts())).await;
    let (key, gone_key) = (World::key(&running), PodKey { uid: "gone".into(), ..World::key(&running) });
    // The running pod with what it mounts, as an earlier process left them.
    let host_pod = translate::translate(owner, &key, &running).pod.unwrap();
    let host_pod = create(&host, *host_pod).await;
    let in_use = config_map(owner.copy_metadata(&Source::config_map("shop", "settings"), &settings.uid().unwrap()));
    let in_use = apply(&world.host(), nestling_crds::labels::AGENT, &in_use).await.unwrap();
    let secret = |key: &PodKey| Secret { metadata: owner.pod_secret_metadata(key), ..Secret::default() };
    let own_secret = create(&host, secret(&key)).await;
    // What no pod needs, and what is not this agent's.
    let unused = create(&host, config_map(owner.copy_metadata(&Source::config_map("shop", "unused"), "uid"))).await;
    let stale_secret = create(&host, secret(&gone_key)).await;
    let namespace = tenant.spec.workload_namespace.as_str();
    create(&host, config_map(named(namespace, "foreign"))).await;
    let mut of_another_node = owner.copy_metadata(&Source::config_map("shop", "other"), "uid");
    of_another_node.labels.as_mut().unwrap().insert(nestling_crds::labels::NODE.into(), "node-2".into());
    let of_another_node = create(&host, config_map(of_another_node)).await;

    world.start();
    gone("the unused copy goes", &world.host::<ConfigMap>(), &unused.name_any()).await;
    gone("the Secret of a pod that is gone goes", &world.host::<Secret>(), &stale_secret.name_any()).await;
    let pods = world.tenant_pods();
    eventually("the tenant pod runs", || async { (phase(&pods.get("web-0").await.unwrap()) == Some("Running")).then_some(()) }).await;
    sleep(Duration::from_secs(30)).await;
    for kept in [in_use.name_any(), "foreign".into(), of_another_node.name_any()] {
        assert!(world.host::<ConfigMap>().get_opt(&kept).await.unwrap().is_some(), "{kept}");
    }
    assert_eq!(world.host::<ConfigMap>().get(&in_use.name_any()).await.unwrap().metadata.uid, in_use.metadata.uid);
    assert_eq!(world.host::<Secret>().get(&own_secret.name_any()).await.unwrap().metadata.uid, own_secret.metadata.uid);
    assert_eq!(world.host::<Pod>().get(&host_pod.name_any()).await.unwrap().metadata.uid, host_pod.metadata.uid, "not started again");
}

/// Many pods start at once, and watch events arrive late by random delays: none is taken for removed by the host.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_thousand_pods_start_without_a_false_disruption() {
    const PODS: usize = 2000;
    const WORKERS: usize = 32;
    let began = Instant::now();
    let mut world = World::new();
    let tenant = world.tenant.clone();
    let (queue, records) = (Arc::new(Queue::new()), Arc::new(Records::default()));
    let watches = Watches { tenant: tenant.clone(), queue: queue.clone(), records: records.clone(), on_addresses: Box::new(|_| ()) };
    let watches = Arc::new(watches);
    let StoreWriters { tenant: mut tenant_writer, host: mut host_writer } = world.writers.take().unwrap();
    let (watch, pods) = (watches.clone(), world.tenant_pods());
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events(pods, Config::default(), "tenant pods"));
        while let Some(event) = events.next().await {
            random_delay().await;
            watch.take_tenant_event(event, &mut tenant_writer);
        }
    });
    let host_pods = world.host::<Pod>();
    tokio::spawn(async move {
        let (mut events, mut reported) = (std::pin::pin!(events(host_pods, Config::default(), "host pods")), None);
        while let Some(event) = events.next().await {
            random_delay().await;
            watches.take_host_event(event, &mut host_writer, &mut reported);
        }
    });
    tokio::spawn(host_kubelet(world.host(), false, world.shutdown.clone()));
    tenant.stores.tenant.wait_until_ready().await.unwrap();
    tenant.stores.host.wait_until_ready().await.unwrap();
    let copies = Copies::new(tenant.clone(), queue.clone(), world.shutdown.clone());
    let events = Arc::new(Events::start(&tenant.kubelet, &tenant.node, &TaskTracker::new(), &world.shutdown));
    let (services, _) = Services::new();
    let kubelet = Kubelet { tenant: tenant.clone(), queue, records, services, copies, events, leftovers: Leftovers::default() };
    tokio::spawn(sync::run(Arc::new(kubelet), WORKERS, world.shutdown.clone()));

    futures::stream::iter(0..PODS)
        .for_each_concurrent(WORKERS, |index| {
            let client = tenant.kubelet.clone();
            async move { drop(create(&client, pod(&format!("web-{index}"), &json!({}))).await) }
        })
        .await;
    eventually("all pods run or have failed", || async {
        let settled = tenant.stores.tenant.state().iter().filter(|pod| matches!(phase(pod), Some("Running" | "Failed"))).count();
        (settled == PODS).then_some(())
    })
    .await;
    let all = world.tenant_pods().list(&ListParams::default()).await.unwrap().items;
    let failed: Vec<_> = all.iter().filter(|pod| phase(pod) != Some("Running")).map(ResourceExt::name_any).collect();
    assert_eq!(failed, Vec::<String>::new());
    assert_eq!(world.host::<Pod>().list(&ListParams::default()).await.unwrap().items.len(), PODS, "each was started once");
    println!("{PODS} pods ran after {:?}", began.elapsed());
}
