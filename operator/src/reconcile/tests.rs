//! The life of a cluster against an API server in memory.

use super::reconcile;
use crate::apply::ApplyError;
use crate::host::testing::mirror;
use crate::host::{Cluster, Stores, Writers};
use crate::model::names;
use crate::reconcile::Error;
use crate::state::Context;
use crate::state::testing::context;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::v1alpha1::{Phase, VirtualCluster, VirtualClusterStatus};
use nestling_runtime::testing::{ApiServer, Fault};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

struct World {
    api: ApiServer,
    writers: Writers,
    ctx: Arc<Context>,
}

impl World {
    fn new(spec: &Value) -> Self {
        nestling_runtime::tls::install_provider();
        let api = ApiServer::new();
        let (stores, writers) = Stores::new();
        let ctx = Arc::new(context(&api.client(), stores));
        let world = Self { api, writers, ctx };
        world.create(spec);
        world
    }

    fn create(&self, spec: &Value) {
        let object = json!({"metadata": {"namespace": "team", "name": "dev", "generation": 1}, "spec": spec});
        self.api.put(&serde_json::from_value::<VirtualCluster>(object).unwrap());
    }

    /// A user edits the spec.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        self.api.edit::<VirtualCluster>("team", "dev", |object| {
            change(&mut object["spec"]);
            object["metadata"]["generation"] = (object["metadata"]["generation"].as_i64().unwrap() + 1).into();
        });
    }

    /// Of an object that may be one that this build cannot decode.
    fn delete(&self) {
        self.api.edit::<Cluster>("team", "dev", |object| object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    }

    /// The watches deliver, then one reconcile.
    async fn reconcile(&mut self) -> Result<Action, Error> {
        mirror(&self.api, &mut self.writers);
        let cluster = self.ctx.stores.clusters.get(&ObjectRef::new("dev").within("team")).expect("the cluster exists");
        reconcile(cluster, self.ctx.clone()).await
    }

    /// Reconciled until everything is built.
    async fn built(spec: &Value) -> Self {
        let mut world = Self::new(spec);
        assert!(matches!(world.reconcile().await, Err(Error::NoAddress)));
        world.api.edit::<Service>("team", "dev-apiserver", |service| service["spec"]["clusterIP"] = "127.0.0.1".into());
        world.reconcile().await.unwrap();
        world
    }

    fn vc(&self) -> Option<VirtualCluster> {
        self.api.get("team", "dev")
    }

    fn uid(&self) -> String {
        self.vc().unwrap().uid().unwrap()
    }

    fn status(&self) -> VirtualClusterStatus {
        self.vc().unwrap().status.unwrap()
    }

    fn condition(&self, type_: &str) -> (String, String) {
        let status = self.status();
        let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap_or_else(|| panic!("no {type_}"));
        (found.status.clone(), found.reason.clone())
    }

    fn secret(&self, name: &str) -> Secret {
        self.api.get("team", name).unwrap_or_else(|| panic!("no Secret {name}"))
    }

    fn live_claim(&self) -> PersistentVolumeClaim {
        self.api.get("team", "data-dev-control-plane-0").unwrap()
    }

    /// Reconciles until the cluster is gone.
    async fn deleted(&mut self) {
        self.delete();
        for _ in 0..6 {
            if self.vc_exists() {
                self.reconcile().await.unwrap();
            }
        }
        assert!(!self.vc_exists(), "{:?}", self.vc());
        self.collect::<StatefulSet>();
        self.collect::<Deployment>();
        self.collect::<ConfigMap>();
        self.collect::<ServiceAccount>();
        self.collect::<Service>();
        self.collect::<NetworkPolicy>();
        self.collect::<PodDisruptionBudget>();
        self.collect::<Role>();
        self.collect::<RoleBinding>();
    }

    /// As the garbage collector does.
    fn collect<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) {
        for object in self.api.list::<K>() {
            if object.owner_references().iter().any(|owner| owner.kind == "VirtualCluster") {
                self.api.remove::<K>(&object.namespace().unwrap_or_default(), &object.name_any());
            }
        }
    }

    fn vc_exists(&self) -> bool {
        self.api.get::<Cluster>("team", "dev").is_some()
    }
}

fn owners<K: Resource>(object: &K) -> Vec<String> {
    object.owner_references().iter().map(|owner| format!("{} {}", owner.kind, owner.uid)).collect()
}

#[tokio::test]
async fn a_cluster_is_claimed_built_and_then_left_alone() {
    let mut world = World::built(&json!({})).await;
    let status = world.status();
    assert_eq!((status.observed_generation, status.phase), (Some(1), Some(Phase::Provisioning)));
    assert!(world.vc().unwrap().finalizers().iter().any(|finalizer| finalizer == labels::FINALIZER));
    assert_eq!(world.condition("Reconciling").0, "True");
    assert!(world.api.get::<Deployment>("team", "dev-controllers").is_some());
    world.reconcile().await.unwrap();
    world.api.take_requests();
    world.reconcile().await.unwrap();
    assert_eq!(world.api.take_requests().iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
}

#[tokio::test]
async fn a_status_says_that_work_has_begun_before_anything_else() {
    let mut world = World::new(&json!({}));
    world.api.inject("apply", "services", 1, Fault::Hang);
    let first = tokio::time::timeout(std::time::Duration::from_secs(1), world.reconcile()).await;
    assert!(first.is_err());
    // Else a reader of kstatus would take it for done.
    assert_eq!(world.condition("Reconciling").0, "True");
}

#[tokio::test]
async fn a_paused_cluster_is_observed_and_not_changed() {
    let mut world = World::built(&json!({})).await;
    world.edit(|spec| spec["paused"] = true.into());
    world.api.edit::<VirtualCluster>("team", "dev", |object| {
        for condition in object["status"]["conditions"].as_array_mut().unwrap() {
            if condition["type"] == "Ready" {
                condition["status"] = "True".into();
            }
        }
    });
    world.ctx.state.with(&nestling_crds::names::TenantUid::new(world.uid()), |state| state.status = None);
    world.api.edit::<StatefulSet>("team", "dev-control-plane", |set| set["spec"]["replicas"] = 0.into());
    world.api.take_writes();
    let action = world.reconcile().await.unwrap();
    assert_ne!(action, Action::await_change());
    assert_eq!(world.condition("Ready"), ("False".into(), "WaitingForPod".into()));
    assert_eq!((world.status().phase, world.status().observed_generation), (Some(Phase::Paused), Some(1)));
    assert_eq!(world.api.take_writes(), ["apply virtualclusters/status team/dev"]);
}

#[tokio::test]
async fn certificates_are_renewed_whatever_the_spec_says() {
    for spec in [json!({"paused": true}), json!({"expose": {"type": "Gateway"}})] {
        let mut world = World::built(&json!({})).await;
        let before = world.secret("dev-controllers-certs");
        // Minted long ago, as far as the operator can tell.
        let mut ctx = context(&world.api.client(), world.ctx.stores.clone());
        ctx.config.leaf_lifetime = jiff::SignedDuration::from_secs(3);
        ctx.installation = world.ctx.installation.clone();
        world.ctx = Arc::new(ctx);
        let names = ["dev-apiserver-certs", "dev-etcd-certs", "dev-controllers-certs", "dev-admin-kubeconfig"];
        for name in names {
            world.api.remove::<Secret>("team", name);
        }
        world.reconcile().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(2200)).await;
        let short = world.secret("dev-controllers-certs");
        assert_ne!(before.data, short.data);
        world.edit(|edited| *edited = spec.clone());
        world.ctx = Arc::new({
            let mut ctx = context(&world.api.client(), world.ctx.stores.clone());
            ctx.installation = world.ctx.installation.clone();
            ctx
        });
        drop(world.reconcile().await);
        for name in names {
            let renewed = world.secret(name);
            assert!(owners(&renewed).contains(&format!("VirtualCluster {}", world.uid())), "{name}");
        }
        let renewed = world.secret("dev-controllers-certs");
        let (old, new) = (short.data.unwrap(), renewed.data.unwrap());
        assert_ne!(old["scheduler.crt"], new["scheduler.crt"], "{spec}");
        assert_eq!(old["ca.crt"], new["ca.crt"]);
        assert_eq!(old["scheduler.kubeconfig"], new["scheduler.kubeconfig"]);
        let admin = world.secret("dev-admin-kubeconfig").data.unwrap();
        let kubeconfig = String::from_utf8(admin["kubeconfig"].0.clone()).unwrap();
        let embedded = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &admin["tls.crt"].0);
        assert!(kubeconfig.contains(&embedded));
    }
}

#[tokio::test]
async fn a_hibernated_cluster_is_scaled_to_zero_and_wakes() {
    let mut world = World::built(&json!({})).await;
    let replicas = |world: &World| {
        let set: StatefulSet = world.api.get("team", "dev-control-plane").unwrap();
        let controllers: Deployment = world.api.get("team", "dev-controllers").unwrap();
        (set.spec.replicas, controllers.spec.replicas)
    };
    assert_eq!((replicas(&world), world.status().is_hibernated()), ((Some(1), Some(1)), false));
    let pod = json!({"metadata": {"namespace": "team", "name": "dev-control-plane-0", "labels": {labels::TENANT: world.uid()}}});
    world.api.put(&serde_json::from_value::<Pod>(pod).unwrap());
    world.edit(|spec| spec["hibernate"] = true.into());
    world.reconcile().await.unwrap();
    assert_eq!((replicas(&world), world.status().phase), ((Some(0), Some(0)), Some(Phase::Hibernated)));
    assert_eq!(world.condition("Hibernated"), ("False".into(), "ScalingDown".into()));
    assert_eq!(world.condition("Reconciling"), ("True".into(), "Hibernating".into()));
    world.api.remove::<Pod>("team", "dev-control-plane-0");
    world.reconcile().await.unwrap();
    for (type_, status, reason) in [
        ("Hibernated", "True", "ScaledToZero"),
        ("Ready", "False", "Hibernated"),
        ("EtcdReady", "False", "Hibernated"),
        ("Progressing", "False", "Hibernated"),
    ] {
        assert_eq!(world.condition(type_), (status.into(), reason.into()), "{type_}");
    }
    assert!(world.status().conditions.iter().all(|condition| condition.type_ != "Reconciling"));
    world.api.take_writes();
    world.reconcile().await.unwrap();
    assert!(world.api.take_writes().is_empty());

    world.edit(|spec| spec["hibernate"] = false.into());
    world.reconcile().await.unwrap();
    let status = world.status();
    assert_eq!((replicas(&world), status.is_hibernated(), status.phase), ((Some(1), Some(1)), false, Some(Phase::Provisioning)));
    let resumed_at = status.resumed_at.expect("it says when it was resumed");
    world.reconcile().await.unwrap();
    assert_eq!(world.status().resumed_at, Some(resumed_at));
}

#[tokio::test]
async fn an_invalid_edit_is_named_and_carried_no_further() {
    let mut world = World::built(&json!({})).await;
    world.edit(|spec| spec["expose"] = json!({"type": "Gateway"}));
    assert!(matches!(world.reconcile().await, Err(Error::Invalid(_))));
    assert_eq!((world.condition("Valid").0, world.condition("Stalled").0), ("False".into(), "True".into()));
    assert_eq!(world.condition("Ready"), ("False".into(), "WaitingForPod".into()));
    world.edit(|spec| *spec = json!({}));
    world.reconcile().await.unwrap();
    assert!(world.status().conditions.iter().all(|condition| condition.type_ != "Stalled"));
    assert_eq!(world.status().observed_generation, Some(3));
}

#[tokio::test]
async fn a_failing_cluster_says_so_and_what_it_was_stays() {
    let mut world = World::built(&json!({})).await;
    world.edit(|spec| spec["controlPlane"] = json!({"apiServer": {"certSANs": ["a.example"]}}));
    world.api.inject("apply", "secrets", usize::MAX, Fault::Status(500));
    assert!(matches!(world.reconcile().await, Err(Error::Apply(ApplyError::Apply { .. }))));
    assert_eq!(world.condition("Degraded"), ("True".into(), "ApplyFailed".into()));
    assert_eq!((world.status().observed_generation, world.condition("Reconciling").0), (Some(1), "True".into()));
}

#[tokio::test]
async fn the_workload_namespace_goes_first_and_by_every_name_it_has() {
    let mut world = World::built(&json!({})).await;
    let name = world.status().workload_namespace.unwrap();
    // Its label is lost; and one of an earlier naming scheme is in the status.
    world.api.edit::<Namespace>("", &name, |namespace| namespace["metadata"]["labels"] = json!({}));
    let former = json!({"metadata": {"name": "former", "labels": {labels::TENANT: world.uid()}}});
    world.api.put(&serde_json::from_value::<Namespace>(former).unwrap());
    let foreign = json!({"metadata": {"name": "foreign", "labels": {labels::TENANT: "other"}}});
    world.api.put(&serde_json::from_value::<Namespace>(foreign).unwrap());
    world.api.edit::<VirtualCluster>("team", "dev", |object| object["status"]["workloadNamespace"] = "foreign".into());
    world.deleted().await;
    assert!(world.api.get::<Namespace>("", &name).is_none() && world.api.get::<Namespace>("", "former").is_none());
    assert!(world.api.get::<Namespace>("", "foreign").is_some());
}

/// What a user does to a cluster before deleting it.
type Prepare = fn(&World);

#[tokio::test]
async fn data_is_retained_in_every_state() {
    let cases: [(&str, Prepare); 5] = [
        ("running", |world| world.edit(|spec| spec["deletionPolicy"] = "Retain".into())),
        ("paused", |world| world.edit(|spec| *spec = json!({"paused": true, "deletionPolicy": "Retain"}))),
        ("invalid", |world| world.edit(|spec| *spec = json!({"expose": {"type": "Gateway"}, "deletionPolicy": "Retain"}))),
        ("undecodable", |world| world.edit(|spec| *spec = json!({"topology": "Ring", "deletionPolicy": "Retain"}))),
        ("a policy of a later version", |world| world.edit(|spec| *spec = json!({"deletionPolicy": "Archive"}))),
    ];
    for (state, prepare) in cases {
        let mut world = World::built(&json!({})).await;
        let uid = world.uid();
        let own = [format!("VirtualCluster {uid}")];
        assert_eq!((owners(&world.secret("dev-ca")), owners(&world.live_claim())), (own.to_vec(), own.to_vec()));
        prepare(&world);
        world.deleted().await;
        let claim = world.live_claim();
        assert_eq!(owners(&claim), Vec::<String>::new(), "{state}");
        for labels in [claim.labels(), world.secret("dev-ca").labels(), world.secret("dev-sa").labels()] {
            let label = |name: &str| labels.get(name).map(String::as_str);
            assert_eq!((label(labels::RETAINED), label(labels::TENANT)), (Some("true"), Some(uid.as_str())), "{state}");
            assert_eq!(label(labels::CLUSTER), Some("dev"), "{state}");
        }
        for name in ["dev-ca", "dev-sa", "dev-apiserver-config"] {
            assert_eq!(owners(&world.secret(name)), Vec::<String>::new(), "{state} {name}");
        }
        assert!(!owners(&world.secret("dev-apiserver-certs")).is_empty());
    }
}

#[tokio::test]
async fn data_that_was_to_stay_goes_when_the_policy_says_so_at_last() {
    let mut world = World::built(&json!({"deletionPolicy": "Retain"})).await;
    let uid = world.uid();
    assert!(owners(&world.secret("dev-ca")).is_empty() && owners(&world.live_claim()).is_empty());
    world.edit(|spec| *spec = json!({"paused": true, "deletionPolicy": "Delete"}));
    world.deleted().await;
    let expected = [format!("VirtualCluster {uid}")];
    assert_eq!((owners(&world.live_claim()), owners(&world.secret("dev-ca"))), (expected.to_vec(), expected.to_vec()));
}

/// A world in which cluster `dev` was deleted and its data retained; and the UID that it had.
async fn retained() -> (World, String) {
    let mut world = World::built(&json!({"deletionPolicy": "Retain"})).await;
    let uid = world.uid();
    world.deleted().await;
    world.collect::<Secret>();
    (world, uid)
}

#[tokio::test]
async fn retained_data_is_not_taken_by_name() {
    let (mut world, uid) = retained().await;
    world.create(&json!({}));
    let refused = world.reconcile().await.unwrap_err();
    assert_eq!(refused.reason(), "NameConflict");
    let message = nestling_runtime::error::chain(&refused);
    assert!(message.contains("set spec.etcd.adopt to that UID") && message.contains(&uid), "{message}");
    assert_eq!(world.condition("Stalled"), ("True".into(), "NameConflict".into()));
    // The Secrets are moved away: the claim alone is another cluster's data as well.
    for name in ["dev-ca", "dev-sa", "dev-apiserver-config"] {
        world.api.remove::<Secret>("team", name);
    }
    let refused = world.reconcile().await.unwrap_err();
    assert!(nestling_runtime::error::chain(&refused).contains("PersistentVolumeClaim data-dev-control-plane-0"));
    assert!(world.api.get::<StatefulSet>("team", "dev-control-plane").is_none());
    // Nor is the data of yet another one.
    world.edit(|spec| spec["etcd"] = json!({"adopt": "someone-else"}));
    assert_eq!(world.reconcile().await.unwrap_err().reason(), "NameConflict");
}

#[tokio::test]
async fn retained_data_is_adopted_when_asked_for() {
    let (mut world, uid) = retained().await;
    // The range of the data, which is not the one that this cluster would get.
    let range = world.secret("dev-ca").annotations()[labels::SERVICE_RANGE].clone();
    world.api.edit::<Secret>("team", "dev-ca", |ca| ca["metadata"]["annotations"][labels::SERVICE_RANGE] = "10.150.0.0/20".into());
    assert!(range.starts_with("10."));
    let (ca, sa) = (world.secret("dev-ca").data, world.secret("dev-sa").data);
    world.create(&json!({"etcd": {"adopt": uid}}));
    assert!(matches!(world.reconcile().await, Err(Error::NoAddress)));
    world.api.edit::<Service>("team", "dev-apiserver", |service| service["spec"]["clusterIP"] = "127.0.0.1".into());
    world.reconcile().await.unwrap();
    let new = world.uid();
    assert_ne!(new, uid);
    assert_eq!((world.secret("dev-ca").data, world.secret("dev-sa").data), (ca, sa));
    assert_eq!(world.live_claim().labels()[labels::TENANT], new);
    assert!(!world.live_claim().labels().contains_key(labels::RETAINED));
    assert_eq!(world.secret("dev-ca").labels()[labels::TENANT], new);
    assert!(world.api.get::<StatefulSet>("team", "dev-control-plane").is_some());
    assert_eq!(world.status().service_cidrs, ["10.150.0.0/20"]);
}

#[tokio::test]
async fn lost_authorities_are_not_replaced_silently_where_there_is_data() {
    let mut world = World::built(&json!({})).await;
    let before = world.secret("dev-ca");
    world.api.remove::<Secret>("team", "dev-ca");
    assert!(matches!(world.reconcile().await, Err(Error::KeysLost { .. })));
    assert!(world.api.get::<Secret>("team", "dev-ca").is_none());
    assert_eq!(world.condition("Stalled"), ("True".into(), "KeysLost".into()));
    world.api.edit::<VirtualCluster>("team", "dev", |object| object["metadata"]["annotations"] = json!({labels::NEW_KEYS: "true"}));
    world.reconcile().await.unwrap();
    assert_ne!(world.secret("dev-ca").data, before.data);
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_is_reported_and_can_be_deleted() {
    let mut world = World::built(&json!({})).await;
    world.edit(|spec| *spec = json!({"topology": "Ring"}));
    world.api.take_writes();
    assert!(matches!(world.reconcile().await, Err(Error::DecodeFailed(_))));
    assert!(world.api.take_writes().is_empty());
    let uid = world.uid_of_undecodable();
    world.deleted().await;
    assert_eq!(owners(&world.secret("dev-ca")), [format!("VirtualCluster {uid}")]);
}

#[tokio::test]
async fn a_cluster_that_is_replaced_during_its_cleanup_keeps_its_finalizers() {
    let mut world = World::built(&json!({})).await;
    world.delete();
    world.api.take_requests();
    world.api.before("patch", "virtualclusters", |api| {
        api.remove::<Cluster>("team", "dev");
        let metadata = json!({"namespace": "team", "name": "dev", "finalizers": [labels::FINALIZER]});
        api.put(&serde_json::from_value::<VirtualCluster>(json!({"metadata": metadata, "spec": {}})).unwrap());
    });
    for _ in 0..6 {
        if world.api.count("patch", "virtualclusters") == 0 {
            assert_ne!(world.reconcile().await.unwrap(), Action::await_change(), "looked at again");
        }
    }
    assert_eq!(world.api.count("patch", "virtualclusters"), 1);
    assert_eq!(world.vc().unwrap().finalizers(), [labels::FINALIZER]);
}

impl World {
    fn uid_of_undecodable(&self) -> String {
        Resource::meta(&self.api.get::<Cluster>("team", "dev").unwrap()).uid.clone().unwrap()
    }
}

#[tokio::test]
async fn a_foreign_container_in_a_control_plane_is_removed() {
    let mut world = World::built(&json!({})).await;
    world.api.edit::<StatefulSet>("team", "dev-control-plane", |set| {
        let pod = &mut set["spec"]["template"]["spec"];
        pod["containers"].as_array_mut().unwrap().push(json!({"name": "foreign", "image": "foreign"}));
        set["metadata"]["generation"] = 7.into();
    });
    world.api.edit::<Deployment>("team", "dev-controllers", |deployment| {
        deployment["spec"]["template"]["spec"]["hostAliases"] = json!([{"ip": "192.0.2.1", "hostnames": ["kubernetes"]}]);
        deployment["metadata"]["generation"] = 7.into();
    });
    world.reconcile().await.unwrap();
    let names =
        |pod: &k8s_openapi::api::core::v1::PodSpec| pod.containers.iter().map(|container| container.name.clone()).collect::<Vec<_>>();
    let set: StatefulSet = world.api.get("team", "dev-control-plane").unwrap();
    assert_eq!(names(&set.spec.template.spec.unwrap()), ["kube-apiserver"]);
    let deployment: Deployment = world.api.get("team", "dev-controllers").unwrap();
    assert!(deployment.spec.template.spec.unwrap().host_aliases.is_none_or(|aliases| aliases.is_empty()));
}

#[tokio::test]
async fn a_cluster_in_the_workload_namespace_of_another_is_refused() {
    let mut world = World::new(&json!({}));
    let labels = json!({labels::TENANT: "other", labels::COMPONENT: "workload", labels::MANAGED_BY: labels::OPERATOR});
    world.api.put(&serde_json::from_value::<Namespace>(json!({"metadata": {"name": "team", "labels": labels}})).unwrap());
    let refused = world.reconcile().await.unwrap_err();
    assert!(nestling_runtime::error::chain(&refused).contains("metadata.namespace is the workload namespace of another cluster"));
    assert!(world.api.get::<Service>("team", "dev-apiserver").is_none());
}

#[tokio::test]
async fn a_cluster_in_a_namespace_of_the_system_is_refused() {
    for (namespace, reason) in [("kube-system", "belongs to Kubernetes"), ("nestling-system", "is the namespace of the installation")] {
        let mut world = World::new(&json!({}));
        world.api.remove::<VirtualCluster>("team", "dev");
        let object = json!({"metadata": {"namespace": namespace, "name": "dev", "generation": 1}, "spec": {}});
        world.api.put(&serde_json::from_value::<VirtualCluster>(object).unwrap());
        mirror(&world.api, &mut world.writers);
        let cluster = world.ctx.stores.clusters.get(&ObjectRef::new("dev").within(namespace)).unwrap();
        let refused = reconcile(cluster, world.ctx.clone()).await.unwrap_err();
        let message = nestling_runtime::error::chain(&refused);
        assert!(message.contains(&format!("metadata.namespace {reason}")), "{message}");
        assert!(world.api.get::<Service>(namespace, "dev-apiserver").is_none());
    }
}

#[tokio::test]
async fn the_operator_binds_its_rights_first_and_gives_them_up_last() {
    let mut world = World::new(&json!({}));
    // Neither the host's policy nor its authorizer knows of the new objects at once.
    world.api.inject("apply", "rolebindings", 1, Fault::Status(403));
    world.api.inject("get", "secrets", 2, Fault::Status(403));
    assert!(matches!(world.reconcile().await, Err(Error::NoAddress)));
    let binding = |world: &World| world.api.get::<RoleBinding>("team", "dev-operator");
    let bound = binding(&world).unwrap();
    assert_eq!(owners(&bound), [format!("VirtualCluster {}", world.uid())]);
    assert_eq!((bound.role_ref.kind.as_str(), bound.role_ref.name.as_str()), ("ClusterRole", "nestling-operator-cluster"));
    let control: Role = world.api.get("team", "dev-control-api").unwrap();
    assert_eq!(owners(&control), [format!("VirtualCluster {}", world.uid())]);
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["dev-ca"], "verbs": ["get"]}]);
    assert_eq!(serde_json::to_value(&control.rules).unwrap(), rules);
    let control: RoleBinding = world.api.get("team", "dev-control-api").unwrap();
    assert_eq!((control.role_ref.kind.as_str(), control.role_ref.name.as_str()), ("Role", "dev-control-api"));
    assert_eq!(control.subjects.unwrap()[0].name, "nestling-control-api");
    let requests: Vec<String> = world.api.take_requests().iter().map(ToString::to_string).collect();
    let first =
        |what: &str| requests.iter().position(|request| request.starts_with(what)).unwrap_or_else(|| panic!("no {what}: {requests:?}"));
    assert!(first("patch virtualclusters team/dev") < first("apply rolebindings"));
    assert!(first("apply rolebindings team/dev-operator") < first("get secrets"));
    assert!(first("get secrets") < first("apply services"));

    // Somebody takes them away: they are bound again, whatever else there is to do.
    world.api.remove::<RoleBinding>("team", "dev-operator");
    drop(world.reconcile().await);
    assert!(binding(&world).is_some());

    // A foreground deletion takes what the cluster owns before the operator is done.
    world.api.remove::<RoleBinding>("team", "dev-operator");
    world.api.take_requests();
    world.deleted().await;
    let writes = world.api.take_writes();
    let kept = writes.iter().position(|write| write == "apply rolebindings team/dev-operator");
    let given_up = writes.iter().position(|write| write == "delete rolebindings team/dev-operator");
    assert!(kept.is_some() && kept < given_up, "{writes:?}");
    assert!(binding(&world).is_none());
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_not_kept() {
    let mut world = World::built(&json!({"deletionPolicy": "Retain"})).await;
    let namespace = json!({"metadata": {"name": "team", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}});
    world.api.put(&serde_json::from_value::<Namespace>(namespace).unwrap());
    // The operator's rights went with it.
    world.api.remove::<RoleBinding>("team", "dev-operator");
    world.api.inject("apply", "rolebindings", usize::MAX, Fault::Status(403));
    world.api.inject("get", "secrets", usize::MAX, Fault::Status(403));
    world.deleted().await;
}

impl World {
    /// The pod that the StatefulSet controller makes of the template, with a member that serves or not.
    fn member(&self, ordinal: usize, serves: bool) {
        let set: StatefulSet = self.api.get("team", "dev-control-plane").unwrap();
        let template = set.spec.template.metadata.unwrap();
        let pod = json!({
            "metadata": {
                "namespace": "team", "name": format!("dev-control-plane-{ordinal}"), "labels": template.labels, "annotations": template.annotations,
            },
            "status": {
                "podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": if serves { "True" } else { "False" }}],
                "initContainerStatuses": [{"name": "etcd", "image": "", "imageID": "", "ready": serves, "restartCount": 0}],
            },
        });
        self.api.put(&serde_json::from_value::<Pod>(pod).unwrap());
        self.api.edit::<StatefulSet>("team", "dev-control-plane", |set| {
            set["status"] = json!({"replicas": 1, "observedGeneration": set["metadata"]["generation"]});
        });
    }

    fn members(&self) -> StatefulSet {
        self.api.get("team", "dev-control-plane").unwrap()
    }

    /// With what the pod's member begins in an empty directory.
    fn ticket(&self, ordinal: usize) -> Option<String> {
        let pod: Pod = self.api.get("team", &format!("dev-control-plane-{ordinal}")).unwrap();
        pod.annotations().get(names::INITIAL_CLUSTER).cloned()
    }

    fn claim_of(&self, ordinal: usize) -> Option<String> {
        let claim: PersistentVolumeClaim = self.api.get("team", &format!("data-dev-control-plane-{ordinal}")).unwrap();
        claim.annotations().get(names::MEMBER).cloned()
    }
}

#[tokio::test]
async fn members_may_begin_anew_until_most_of_them_serve() {
    let mut world = World::built(&json!({"controlPlane": {"replicas": 3}})).await;
    let set = world.members();
    assert_eq!((set.spec.replicas, set.annotations()[names::FORMED].as_str()), (Some(3), "false"));
    let list = "dev-control-plane-0=https://dev-control-plane-0.team.svc:2380,\
                dev-control-plane-1=https://dev-control-plane-1.team.svc:2380,\
                dev-control-plane-2=https://dev-control-plane-2.team.svc:2380";
    for (ordinal, serves) in [(0, true), (1, false), (2, false)] {
        world.member(ordinal, serves);
    }
    world.reconcile().await.unwrap();
    assert_eq!((world.ticket(0).as_deref(), world.claim_of(0)), (Some(list), Some("candidate".into())));

    world.member(1, true);
    world.reconcile().await.unwrap();
    // The last one may still begin.
    world.reconcile().await.unwrap();
    assert_eq!((world.ticket(1), world.ticket(2).as_deref(), world.claim_of(2)), (None, Some(list), Some("candidate".into())));
    world.api.edit::<Pod>("team", "dev-control-plane-2", |pod| pod["status"]["initContainerStatuses"][0]["ready"] = true.into());
    world.reconcile().await.unwrap();
    let set = world.members();
    assert_eq!(set.annotations()[names::FORMED], "true");
    let template = set.spec.template;
    assert!(!template.metadata.unwrap().annotations.unwrap().contains_key(names::INITIAL_CLUSTER));
    let etcd = template.spec.unwrap().init_containers.unwrap()[0].clone();
    assert!(etcd.args.unwrap().contains(&"--initial-cluster-state=existing".to_owned()));
    for ordinal in 0..3 {
        assert_eq!((world.ticket(ordinal), world.claim_of(ordinal).as_deref()), (None, Some("founder")));
    }
    // A pod that comes back has no ticket, and none is replaced because the template has lost it.
    world.member(1, false);
    world.reconcile().await.unwrap();
    assert_eq!((world.ticket(1), world.members().annotations()[names::FORMED].as_str()), (None, "true"));
    assert_eq!(world.api.list::<Pod>().len(), 3);
}

#[tokio::test]
async fn an_etcd_that_has_formed_does_not_begin_anew_when_its_statefulset_is_lost() {
    let mut world = World::built(&json!({})).await;
    world.member(0, true);
    world.reconcile().await.unwrap();
    assert_eq!(world.claim_of(0).as_deref(), Some("founder"));
    world.api.remove::<StatefulSet>("team", "dev-control-plane");
    world.api.remove::<Pod>("team", "dev-control-plane-0");
    world.reconcile().await.unwrap();
    let set = world.members();
    assert_eq!(set.annotations()[names::FORMED], "true");
    assert!(!set.spec.template.metadata.unwrap().annotations.unwrap().contains_key(names::INITIAL_CLUSTER));
}

#[tokio::test]
async fn a_volume_that_was_replaced_is_no_empty_cluster() {
    let mut world = World::built(&json!({})).await;
    world.member(0, true);
    world.reconcile().await.unwrap();
    world.api.remove::<PersistentVolumeClaim>("team", "data-dev-control-plane-0");
    world.reconcile().await.unwrap();
    world.member(0, false);
    world.reconcile().await.unwrap();
    assert_eq!((world.condition("EtcdReady"), world.ticket(0)), (("False".into(), "DataLost".into()), None));
}

#[tokio::test]
async fn a_lone_member_in_memory_may_always_begin_anew() {
    let mut world = World::built(&json!({"etcd": {"storage": {"medium": "Memory"}}})).await;
    world.member(0, true);
    world.reconcile().await.unwrap();
    assert_eq!(world.members().annotations()[names::FORMED], "false");
    let ticket = world.ticket(0);
    assert!(ticket.is_some());
    // Left over from when there were three.
    world.api.edit::<Pod>("team", "dev-control-plane-0", |pod| {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove(names::INITIAL_CLUSTER);
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.ticket(0), ticket);
}

#[tokio::test]
async fn the_pod_of_a_lone_member_is_replaced_when_the_new_template_is_known() {
    let mut world = World::built(&json!({})).await;
    world.member(0, true);
    world.reconcile().await.unwrap();
    world.edit(|spec| spec["etcd"] = json!({"extraArgs": [{"name": "log-level", "value": "warn"}]}));
    world.api.edit::<StatefulSet>("team", "dev-control-plane", |set| set["status"]["observedGeneration"] = 0.into());
    world.reconcile().await.unwrap();
    assert_eq!(world.api.list::<Pod>().len(), 1);
    world.api.edit::<StatefulSet>("team", "dev-control-plane", |set| {
        set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
    });
    world.reconcile().await.unwrap();
    assert_eq!(world.api.list::<Pod>().len(), 0);
}
