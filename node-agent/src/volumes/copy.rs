//! One tenant ConfigMap or Secret and its copy on the host: watched by name, as the Node authorizer demands, and
//! written again at each change. One task owns one copy, so writes never pass each other.

use super::{Source, SourceKind, VolumesError, render};
use crate::pods::backoff::RetryBackoff;
use crate::pods::ownership::Owner;
use crate::pods::report;
use crate::tenant::Tenant;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use nestling_crds::labels;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Longest wait for an answer to one write.
const CALL: Duration = Duration::from_secs(15);

/// What is known of a source and its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// The tenant's apiserver has not said yet.
    Unknown,
    /// The tenant has no such object.
    Missing,
    /// The copy is up to date; `keys` are those of `data`.
    Present { keys: Arc<BTreeSet<String>> },
    /// The copy could not be written; tried again by itself.
    Failed(Arc<str>),
}

/// A kind that is copied.
pub trait Copied:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    fn render(&self, owner: &Owner<'_>, source: &Source) -> Self;
    /// The keys that `envFrom` makes variables of: a kubelet takes none from a ConfigMap's `binaryData`.
    fn keys(&self) -> BTreeSet<String>;
}

impl Copied for ConfigMap {
    fn render(&self, owner: &Owner<'_>, source: &Source) -> Self {
        render::config_map(owner, source, self)
    }

    fn keys(&self) -> BTreeSet<String> {
        self.data.iter().flatten().map(|(key, _)| key.clone()).collect()
    }
}

impl Copied for Secret {
    fn render(&self, owner: &Owner<'_>, source: &Source) -> Self {
        render::secret(owner, source, self)
    }

    fn keys(&self) -> BTreeSet<String> {
        self.data.iter().flatten().map(|(key, _)| key.clone()).collect()
    }
}

/// The copy of one source.
pub struct Copy {
    tenant: Arc<Tenant>,
    source: Source,
    /// UID of the host object, when there is one.
    host_uid: Option<String>,
    /// UID and resourceVersion of the tenant object as last written.
    written: Option<(String, String)>,
}

/// What the host is to hold.
enum Wish<K> {
    Write(K),
    Remove,
}

impl Copy {
    /// `host_uid`: the copy that an earlier life of the agent left.
    pub fn new(tenant: Arc<Tenant>, source: Source, host_uid: Option<String>) -> Self {
        Self { tenant, source, host_uid, written: None }
    }

    /// Keeps the copy up to date for as long as `unwanted` is pending.
    pub async fn follow(&mut self, publish: impl Fn(CopyState) + Send, unwanted: impl Future<Output = ()> + Send) {
        match self.source.kind {
            SourceKind::ConfigMap => self.follow_kind::<ConfigMap>(publish, unwanted).await,
            SourceKind::Secret => self.follow_kind::<Secret>(publish, unwanted).await,
        }
    }

    /// Removes the copy from the host, if there is one.
    pub async fn remove(&mut self) -> Result<(), VolumesError> {
        match self.source.kind {
            SourceKind::ConfigMap => self.remove_kind::<ConfigMap>().await,
            SourceKind::Secret => self.remove_kind::<Secret>().await,
        }
    }

    async fn follow_kind<K: Copied>(&mut self, publish: impl Fn(CopyState), unwanted: impl Future<Output = ()>) {
        let api: Api<K> = Api::namespaced(self.tenant.kubelet.clone(), &self.source.namespace);
        let selector = watcher::Config::default().fields(&format!("metadata.name={}", self.source.name));
        let mut events = pin!(watcher(api, selector).backoff(RetryBackoff::watch()));
        let mut unwanted = pin!(unwanted);
        let mut backoff = RetryBackoff::write();
        let mut listed = None;
        let mut wish = None;
        let mut due = Instant::now();
        loop {
            if wish.is_some() && due <= Instant::now() {
                match self.grant(wish.as_ref()).await {
                    Ok(state) => {
                        wish = None;
                        publish(state);
                    }
                    Err(error) => {
                        due = Instant::now() + backoff.delay();
                        tracing::warn!(source = %self.source, error = %report(&error), "copy not written");
                        publish(CopyState::Failed(report(&error).into()));
                    }
                }
            }
            tokio::select! {
                () = &mut unwanted => return,
                () = sleep_until(due), if wish.is_some() => continue,
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => { listed = None; continue }
                    Some(Ok(watcher::Event::InitApply(object))) => { listed = Some(object); continue }
                    Some(Ok(watcher::Event::InitDone)) => wish = Some(listed.take().map_or(Wish::Remove, Wish::Write)),
                    Some(Ok(watcher::Event::Apply(object))) => wish = Some(Wish::Write(object)),
                    Some(Ok(watcher::Event::Delete(_))) => wish = Some(Wish::Remove),
                    // Expected at first: the Node authorizer learns of the pod's references a moment after the node does.
                    Some(Err(error)) => { tracing::debug!(source = %self.source, %error, "watch failed"); continue }
                    None => return,
                },
            }
            backoff = RetryBackoff::write();
            due = Instant::now();
        }
    }

    async fn grant<K: Copied>(&mut self, wish: Option<&Wish<K>>) -> Result<CopyState, VolumesError> {
        match wish {
            Some(Wish::Write(object)) => {
                self.write_kind(object).await?;
                Ok(CopyState::Present { keys: Arc::new(object.keys()) })
            }
            Some(Wish::Remove) | None => {
                self.remove_kind::<K>().await?;
                Ok(CopyState::Missing)
            }
        }
    }

    async fn write_kind<K: Copied>(&mut self, object: &K) -> Result<(), VolumesError> {
        let version = (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default());
        if self.written.as_ref() == Some(&version) {
            return Ok(());
        }
        let copy = object.render(&Owner::of(&self.tenant), &self.source);
        let name = copy.name_any();
        let api: Api<K> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        // Not forced: a field that somebody else manages is a conflict, so a foreign object is never overwritten.
        let params = PatchParams::apply(labels::AGENT);
        let mut answer = timeout(CALL, api.patch(&name, &params, &Patch::Apply(&copy))).await?;
        if self.is_other_type(&answer) {
            // A Secret's type cannot change, but a tenant can make another Secret of the same name.
            self.remove_kind::<K>().await?;
            answer = timeout(CALL, api.patch(&name, &params, &Patch::Apply(&copy))).await?;
        }
        match answer {
            Ok(copy) => {
                self.host_uid = copy.uid();
                self.written = Some(version);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => Err(VolumesError::Foreign(name)),
            Err(error) => Err(VolumesError::WriteCopy { source_name: self.source.to_string(), source: error.into() }),
        }
    }

    fn is_other_type<K>(&self, answer: &kube::Result<K>) -> bool {
        let immutable = |status: &kube::core::Status| {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            status.code == 422 && causes.into_iter().any(|cause| cause.field == "type")
        };
        self.source.kind == SourceKind::Secret
            && self.host_uid.is_some()
            && matches!(answer, Err(kube::Error::Api(status)) if immutable(status))
    }

    async fn remove_kind<K: Copied>(&mut self) -> Result<(), VolumesError> {
        let Some(uid) = self.host_uid.clone() else { return Ok(()) };
        let name = self.source.host_name(&self.tenant.spec.uid, &self.tenant.node);
        let api: Api<K> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        let params =
            DeleteParams { preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }), ..DeleteParams::default() };
        match timeout(CALL, api.delete(name.as_str(), &params)).await? {
            Ok(_) => {}
            // Gone, or another object by now: not ours to remove.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(source) => return Err(VolumesError::RemoveCopy { source_name: self.source.to_string(), source }),
        }
        self.host_uid = None;
        self.written = None;
        Ok(())
    }
}
