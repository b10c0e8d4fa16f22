//! Tenants that come and go, over a host API and a packet filter in memory, while the operator signs nothing yet: a tenant's
//! task then waits for its certificates, and each of its attempts reads the installation's authorities.

use super::*;
use crate::control::Operator;
use crate::fixtures::{NODE, tenant_spec};
use crate::node::HostNode;
use crate::proxy::{FakeNetfilter, Proxy};
use crate::tenant::Tenants;
use k8s_openapi::api::core::v1::{Node, Pod};
use nestling_crds::labels;
use nestling_crds::names::NodeName;
use nestling_runtime::control::ControlArgs;
use nestling_runtime::testing::ApiServer;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

struct World {
    host: ApiServer,
    netfilter: Arc<FakeNetfilter>,
    proxy: Proxy,
    changes: mpsc::Sender<Change>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    /// A node on which the tenant has a pod with rules.
    async fn new() -> Self {
        let (host, netfilter) = (ApiServer::new(), Arc::new(FakeNetfilter::default()));
        let proxy = Proxy::fake(&netfilter);
        let spec = tenant_spec();
        let labels = json!({labels::TENANT: spec.uid, labels::NODE: NODE, labels::MANAGED_BY: labels::AGENT});
        let metadata = json!({"namespace": spec.workload_namespace.as_str(), "name": "pod", "labels": labels});
        let pod = json!({"metadata": metadata, "spec": {"nodeName": NODE, "containers": []}});
        host.put(&serde_json::from_value::<Pod>(pod).unwrap());
        proxy.expect(&spec.uid, &spec.service_cidrs);
        proxy.set_sources(&spec.uid, &["10.0.0.1".parse().unwrap()].into());
        let args = ControlArgs { operator: "https://none".into(), operator_address: None, operator_token_file: "/nonexistent".into() };
        let agent = AgentParts {
            node: NodeName::new(NODE),
            host: host.client(),
            host_node: HostNode::changeable(Node::default()).0,
            operator: Operator::new(host.client(), "nestling-system", args),
            tenants: Tenants::default(),
            proxy: proxy.clone(),
        };
        let ((changes, receiver), stop) = (mpsc::channel(8), CancellationToken::new());
        let running = tokio::spawn(run(Arc::new(agent), receiver, stop.clone()));
        let world = Self { host, netfilter, proxy, changes, stop, running };
        world.send(Change::Serve(Box::new(spec))).await;
        world
    }

    /// With time for it to take effect.
    async fn send(&self, change: Change) {
        self.changes.send(change).await.unwrap();
        sleep(Duration::from_secs(5)).await;
    }

    fn has_pod(&self) -> bool {
        self.host.get::<Pod>(tenant_spec().workload_namespace.as_str(), "pod").is_some()
    }

    /// The host's kubelet has stopped the containers.
    async fn stop_pod(&self) {
        assert!(self.host.remove::<Pod>(tenant_spec().workload_namespace.as_str(), "pod"));
        sleep(Duration::from_secs(5)).await;
    }

    async fn has_rules(&self) -> bool {
        self.proxy.settled().await;
        self.netfilter.addresses().contains(&"10.0.0.1".to_owned())
    }

    /// Whether the tenant is served, as far as it can be.
    async fn is_served(&self) -> bool {
        let before = self.host.count("get", "configmaps");
        sleep(Duration::from_secs(60)).await;
        self.host.count("get", "configmaps") > before
    }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_removed_loses_its_pods_and_then_its_rules() {
    let world = World::new().await;
    assert!(world.is_served().await && world.has_pod() && world.has_rules().await);
    world.send(Change::Remove(tenant_spec().uid)).await;
    assert!(world.has_pod() && world.has_rules().await, "its containers are still being stopped");
    world.stop_pod().await;
    assert!(!world.has_rules().await && !world.is_served().await);
}

#[tokio::test(start_paused = true)]
async fn rules_of_a_tenant_that_is_being_cleaned_up_are_no_leftovers() {
    let world = World::new().await;
    world.send(Change::Remove(tenant_spec().uid)).await;
    world.send(Change::Synced([].into())).await;
    assert!(world.has_rules().await);
    world.stop_pod().await;
    assert!(!world.has_rules().await);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_comes_back_during_its_cleanup_is_served_after_it() {
    let world = World::new().await;
    world.send(Change::Remove(tenant_spec().uid)).await;
    world.send(Change::Serve(Box::new(tenant_spec()))).await;
    assert!(!world.is_served().await, "its pods are still being stopped");
    world.stop_pod().await;
    assert!(world.is_served().await);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_described_differently_keeps_its_pods() {
    let world = World::new().await;
    world.send(Change::Serve(Box::new(TenantSpec { version: "v1.38.0".into(), ..tenant_spec() }))).await;
    assert!(world.is_served().await && world.has_rules().await);
    assert_eq!(world.host.count("delete", "*"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_hibernates_loses_its_pods_and_is_served_again_when_it_wakes() {
    let world = World::new().await;
    let asleep = TenantSpec { hibernated: true, ..tenant_spec() };
    world.send(Change::Serve(Box::new(asleep))).await;
    assert!(world.has_rules().await, "its containers are still being stopped");
    world.stop_pod().await;
    assert!(!world.has_rules().await && !world.is_served().await);
    world.send(Change::Serve(Box::new(tenant_spec()))).await;
    assert!(world.is_served().await);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_leaves_pods_and_rules_even_during_a_cleanup() {
    for removed in [false, true] {
        let world = World::new().await;
        if removed {
            world.send(Change::Remove(tenant_spec().uid)).await;
        }
        world.stop.cancel();
        world.running.await.unwrap();
        assert_eq!(world.host.count("delete", "pods"), usize::from(removed));
        world.proxy.settled().await;
        assert_eq!(world.netfilter.addresses(), ["10.0.0.1"]);
    }
}
