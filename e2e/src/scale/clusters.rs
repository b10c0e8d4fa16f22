//! The `VirtualClusters` as another client of the host's API sees them.

use anyhow::{Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use nestling_crds::v1alpha1::VirtualCluster;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Writes at the same time.
const CONCURRENCY: usize = 16;

/// What counts of a cluster here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) ready: bool,
    /// Nodes that its status counts.
    pub(crate) nodes: i32,
    /// Whether it was Ready and then was not.
    pub(crate) relapsed: bool,
}

/// By `namespace/name`.
#[derive(Default)]
pub(crate) struct Clusters(Mutex<BTreeMap<String, Seen>>);

/// `namespace/name` of so many clusters, each in a namespace of its own: what the operator does per namespace counts in full.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("team-{index}/tenant")).collect()
}

/// Creates the clusters in the order of `names`.
pub(crate) async fn create(client: &Client, names: &[String]) -> Result<()> {
    let created = stream::iter(names).map(|name| async move {
        let (namespace, name) = split(name);
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        // As a user writes it: without the defaults.
        let kind = ApiResource::erase::<VirtualCluster>(&());
        let object = DynamicObject::new(name, &kind).data(json!({"spec": {}}));
        Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind).create(&PostParams::default(), &object).await?;
        anyhow::Ok(())
    });
    created.buffer_unordered(CONCURRENCY).try_collect().await
}

/// Changes the number of CoreDNS' replicas, which the operator has to carry into the tenant.
pub(crate) async fn scale_coredns(client: &Client, names: &[String], replicas: i64) -> Result<()> {
    let patched = stream::iter(names).map(|name| async move {
        let (namespace, name) = split(name);
        let patch: Value = json!({"spec": {"addons": {"coreDNS": {"replicas": replicas}}}});
        let api = Api::<VirtualCluster>::namespaced(client.clone(), namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        anyhow::Ok(())
    });
    patched.buffer_unordered(CONCURRENCY).try_collect().await
}

fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

impl Clusters {
    /// Watches until it fails.
    pub(crate) async fn follow(&self, client: &Client) -> Result<()> {
        let mut objects =
            Box::pin(watcher(Api::<VirtualCluster>::all(client.clone()), watcher::Config::default()).default_backoff().applied_objects());
        while let Some(cluster) = objects.try_next().await? {
            let name = format!("{}/{}", cluster.namespace().unwrap_or_default(), cluster.name_any());
            let status = cluster.status.unwrap_or_default();
            let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = all.entry(name).or_default();
            *seen = Seen { ready, nodes: status.nodes.total, relapsed: seen.relapsed || (seen.ready && !ready) };
        }
        bail!("the watch of VirtualClusters ended")
    }

    /// How many clusters have stopped being Ready since this was called last.
    pub(crate) fn take_relapsed(&self) -> usize {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values_mut().map(|seen| usize::from(std::mem::take(&mut seen.relapsed))).sum()
    }

    /// Waits until `is_true` of so many clusters; returns how long it took.
    pub(crate) async fn wait(&self, count: usize, deadline: Duration, is_true: impl Fn(&Seen) -> bool) -> Result<Duration> {
        let (begun, mut said) = (Instant::now(), Instant::now());
        loop {
            let done = self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|seen| is_true(seen)).count();
            if done >= count {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > deadline {
                bail!("{done} of {count} clusters after {deadline:?}");
            }
            if said.elapsed() > Duration::from_secs(15) {
                said = Instant::now();
                println!("    {done} of {count} after {:.0} s", begun.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
