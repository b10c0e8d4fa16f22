//! The store of Secrets, filled by one watch per namespace in which the operator may read them: it may in those of
//! `VirtualClusters`, where it has bound a role to itself. A watch begins when that `RoleBinding` is seen, and ends when it is gone.
//! The replica that leads has these watches; the others read no Secret.
//!
//! Nothing waits for them. What the store lacks is read from the API, so before a watch has delivered its first list, or when
//! somebody has revoked the right, a reconcile costs more requests, and says what it was refused.
//!
//! Hazard: kube's client speaks HTTP/1.1 only (it offers no `h2` in ALPN), so each of these watches is a TCP connection of its own: with a
//! thousand namespaces, by estimate, 30 MiB here for the buffers of TLS and of hyper, and a thousand idle watches at the apiserver. HTTP/2
//! would not help: an apiserver admits 100 streams per connection, and hyper's pool opens one connection per host.

use super::watches::Links;
use super::{Cluster, SecretWriter, Stores};
use crate::model::names;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{Lookup as _, ObjectRef};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use nestling_crds::labels;
use nestling_runtime::kube::follow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A right is in force some milliseconds after its `RoleBinding` is seen; a watch that began at once would fail, and say so.
const IN_FORCE: Duration = Duration::from_secs(1);

type Meta = PartialObjectMeta<Secret>;

/// Keeps a watch in every namespace where there is to be one, until shutdown.
pub(crate) async fn maintain(client: Client, stores: Stores, writer: SecretWriter, links: Links, shutdown: CancellationToken) {
    let kept = Kept { stores, links, writer: Arc::new(Mutex::new(writer)) };
    let mut watches: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let granted = granted(&kept.stores);
        watches.retain(|namespace, stop| {
            let stays = granted.contains(namespace);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for namespace in granted {
            watches.entry(namespace).or_insert_with_key(|namespace| {
                let stop = shutdown.child_token();
                tasks.spawn(watch(client.clone(), namespace.clone(), kept.clone(), stop.clone()));
                stop
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = kept.links.granted.notified() => {}
            // One that was stopped.
            Some(_) = tasks.join_next() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

/// The namespaces in which the operator has bound its role to itself for a cluster.
fn granted(stores: &Stores) -> BTreeSet<String> {
    let bindings = stores.role_bindings.state();
    let own = bindings
        .iter()
        .filter(|binding| binding.labels().get(labels::CLUSTER).is_some_and(|name| binding.name_any() == names::operator(name)));
    own.filter_map(|binding| binding.metadata.namespace.clone()).collect()
}

async fn watch(client: Client, namespace: String, kept: Kept, stop: CancellationToken) {
    if stop.run_until_cancelled(tokio::time::sleep(IN_FORCE)).await.is_none() {
        return;
    }
    let config = Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::OPERATOR));
    let mut listed = HashSet::new();
    follow(Api::<Meta>::namespaced(client, &namespace), config, "Secrets", stop, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(secret) => {
            listed.insert(secret.name_any());
            kept.put(secret);
        }
        Event::InitDone => {
            kept.remove_all(&namespace, &listed);
            kept.due(kept.clusters_in(&namespace));
        }
        Event::Apply(secret) => {
            let owner = kept.stores.owner(&secret);
            kept.put(secret);
            kept.due(owner);
        }
        Event::Delete(secret) => {
            let owner = kept.stores.owner(&secret);
            kept.write(&Event::Delete(secret));
            kept.due(owner);
        }
    })
    .await;
    kept.remove_all(&namespace, &HashSet::new());
}

/// The store, which all watches write.
#[derive(Clone)]
struct Kept {
    stores: Stores,
    links: Links,
    writer: Arc<Mutex<SecretWriter>>,
}

impl Kept {
    fn write(&self, event: &Event<Meta>) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).apply_watcher_event(event);
    }

    fn put(&self, mut secret: Meta) {
        secret.managed_fields_mut().clear();
        self.write(&Event::Apply(secret));
    }

    /// Removes the Secrets of a namespace, except those of these names.
    fn remove_all(&self, namespace: &str, but: &HashSet<String>) {
        let gone = self.stores.secrets.state_filter(|secret| {
            secret.metadata.namespace.as_deref() == Some(namespace) && !but.contains(secret.metadata.name.as_deref().unwrap_or_default())
        });
        for secret in gone {
            self.write(&Event::Delete((*secret).clone()));
        }
    }

    fn clusters_in(&self, namespace: &str) -> Vec<ObjectRef<Cluster>> {
        let clusters = self.stores.clusters.state_filter(|cluster| cluster.meta().namespace.as_deref() == Some(namespace));
        clusters.iter().map(|cluster| cluster.to_object_ref(())).collect()
    }

    fn due(&self, clusters: impl IntoIterator<Item = ObjectRef<Cluster>>) {
        self.links.queue.extend(clusters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::queue::ReconcileQueue;
    use crate::host::testing::{cluster, meta};
    use futures::StreamExt as _;
    use nestling_runtime::testing::{ApiServer, Fault};
    use serde_json::{Value, json};
    use std::pin::pin;
    use tokio::time::timeout;

    fn secret(namespace: &str, name: &str) -> Secret {
        let labels = json!({labels::MANAGED_BY: labels::OPERATOR, labels::TENANT: format!("vc-{namespace}")});
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name, "labels": labels}})).unwrap()
    }

    fn binding(namespace: &str) -> Value {
        json!({"namespace": namespace, "name": "dev-operator", "labels": {labels::CLUSTER: "dev"}})
    }

    async fn until(what: &str, check: impl Fn() -> bool) {
        let wait = async {
            while !check() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(5), wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn secrets_are_watched_where_the_operator_has_its_rights() {
        let api = ApiServer::new();
        for namespace in ["a", "b", "c"] {
            api.put(&secret(namespace, "dev-ca"));
        }
        let (stores, mut writers) = Stores::new();
        for namespace in ["a", "b"] {
            let metadata = json!({"namespace": namespace, "name": "dev", "uid": format!("vc-{namespace}")});
            cluster(&mut writers.clusters, json!({"metadata": metadata, "spec": {}}));
            meta(&mut writers.role_bindings, &binding(namespace));
        }
        // The agents' rights are none of the operator's.
        meta(&mut writers.role_bindings, &json!({"namespace": "c", "name": "nestling-agent", "labels": {labels::CLUSTER: "dev"}}));
        let links = Links { queue: ReconcileQueue::default(), granted: Arc::default() };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(maintain(api.client(), stores.clone(), writers.secrets, links.clone(), shutdown.clone()));
        let has = |namespace: &str, name: &str| stores.secrets.get(&ObjectRef::new(name).within(namespace)).is_some();
        // One that may not be watched holds up no other.
        api.inject("list", "secrets", 1, Fault::Status(403));
        until("the first lists", || has("a", "dev-ca") && has("b", "dev-ca")).await;
        assert!(!has("c", "dev-ca"));
        let mut due = pin!(links.queue.stream());
        while timeout(Duration::from_millis(100), due.next()).await.is_ok() {}

        api.put(&secret("a", "dev-sa"));
        let next = timeout(Duration::from_secs(5), due.next()).await.unwrap().unwrap();
        assert_eq!((next.namespace.as_deref(), has("a", "dev-sa")), (Some("a"), true));
        // A new list: what is not in it is gone, in its namespace alone.
        api.remove::<Secret>("a", "dev-ca");
        api.compact();
        api.end_watches();
        until("the new list", || !has("a", "dev-ca")).await;
        assert!(has("a", "dev-sa") && has("b", "dev-ca"));

        // The right is gone, and with it what was read by it.
        let gone = serde_json::from_value(json!({"metadata": binding("a")})).unwrap();
        writers.role_bindings.apply_watcher_event(&Event::Delete(gone));
        links.granted.notify_one();
        until("its Secrets are forgotten", || !has("a", "dev-sa")).await;
        assert!(has("b", "dev-ca"));
        shutdown.cancel();
        timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
}
