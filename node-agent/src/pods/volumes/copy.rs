//! One tenant ConfigMap or Secret and its copy on the host: watched by name, as the Node authorizer demands, and
//! written again at each change. One task owns one copy, so writes never overtake each other.

use crate::pods::error::VolumesError;
use crate::pods::names::{Owner, Source, SourceKind};
use crate::tenant::Tenant;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use nestling_crds::labels;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::error::chain;
use nestling_runtime::kube::{attempts, call, delete_exact};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// What is known of a source and its copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyState {
    /// The source has not been read yet.
    Unknown,
    /// The tenant has no such object.
    Missing,
    /// The copy is up to date; `keys` are those of `data`, which `envFrom` makes variables of.
    Present { keys: Arc<BTreeSet<String>> },
    /// The copy could not be written, and why; the write is retried.
    Failed(Arc<str>),
}

/// A kind that is copied.
trait Copied:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
    /// The host copy. `immutable` stays behind: a tenant can delete an immutable object and make another of the same name,
    /// and the copy has to follow.
    fn copy(&self, owner: Owner<'_>, source: &Source) -> Self;

    fn keys(&self) -> BTreeSet<String>;
}

impl Copied for ConfigMap {
    fn copy(&self, owner: Owner<'_>, source: &Source) -> Self {
        let Self { metadata, data, binary_data, immutable: _ } = self;
        let metadata = owner.copy_metadata(source, metadata.uid.as_deref().unwrap_or_default());
        Self { metadata, data: data.clone(), binary_data: binary_data.clone(), immutable: None }
    }

    /// Without `binaryData`, of which a kubelet makes no variables.
    fn keys(&self) -> BTreeSet<String> {
        self.data.iter().flatten().map(|(key, _)| key.clone()).collect()
    }
}

impl Copied for Secret {
    fn copy(&self, owner: Owner<'_>, source: &Source) -> Self {
        let Self { metadata, data, immutable: _, string_data: _, type_ } = self;
        Self {
            metadata: owner.copy_metadata(source, metadata.uid.as_deref().unwrap_or_default()),
            data: data.clone(),
            immutable: None,
            string_data: None, // write-only in the API: always empty when read
            type_: Some(host_type(type_.as_deref()).to_owned()),
        }
    }

    fn keys(&self) -> BTreeSet<String> {
        self.data.iter().flatten().map(|(key, _)| key.clone()).collect()
    }
}

/// A kubelet reads pull secrets by their type, so the two of them keep it. Any other type would only bring host
/// controllers and validation to bear on the copy: a `service-account-token` Secret is even deleted when the host has
/// no such account.
fn host_type(tenant: Option<&str>) -> &str {
    match tenant {
        Some(kept @ ("kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg")) => kept,
        _ => "Opaque",
    }
}

/// The copy of one source.
pub(super) struct Copy {
    tenant: Arc<Tenant>,
    source: Source,
    /// UID of the host object, when there is one.
    host_uid: Option<String>,
    /// UID and resourceVersion of the tenant object as last written.
    written: Option<(String, String)>,
}

/// What the host should hold.
enum Desired<K> {
    CopyOf(K),
    Nothing,
}

impl Copy {
    /// `host_uid`: the copy that an earlier process of the agent left.
    pub(super) fn new(tenant: Arc<Tenant>, source: Source, host_uid: Option<String>) -> Self {
        Self { tenant, source, host_uid, written: None }
    }

    /// Keeps the copy up to date for as long as `unreferenced` is pending, and publishes each change of its state.
    pub(super) async fn follow(&mut self, publish: impl Fn(CopyState) + Send, unreferenced: impl Future<Output = ()> + Send) {
        match self.source.kind {
            SourceKind::ConfigMap => self.follow_kind::<ConfigMap>(publish, unreferenced).await,
            SourceKind::Secret => self.follow_kind::<Secret>(publish, unreferenced).await,
        }
    }

    /// Deletes the copy from the host, if there is one.
    pub(super) async fn delete(&mut self) -> Result<(), VolumesError> {
        match self.source.kind {
            SourceKind::ConfigMap => self.delete_kind::<ConfigMap>().await,
            SourceKind::Secret => self.delete_kind::<Secret>().await,
        }
    }

    async fn follow_kind<K: Copied>(&mut self, publish: impl Fn(CopyState), unreferenced: impl Future<Output = ()>) {
        let api: Api<K> = Api::namespaced(self.tenant.kubelet.clone(), &self.source.namespace);
        let selector = watcher::Config::default().fields(&format!("metadata.name={}", self.source.name));
        let mut events = pin!(attempts(api, selector));
        let mut unreferenced = pin!(unreferenced);
        let mut backoff = Backoff::write();
        let mut listed = None;
        let mut desired = None;
        let mut due = Instant::now();
        loop {
            if let Some(target) = desired.as_ref().filter(|_| due <= Instant::now()) {
                match self.sync(target).await {
                    Ok(state) => {
                        desired = None;
                        publish(state);
                    }
                    Err(error) => {
                        let delay = backoff.failed();
                        due = Instant::now() + delay;
                        let error = chain(&error);
                        tracing::warn!(error, ?delay, "copy not written, retrying");
                        publish(CopyState::Failed(error.into()));
                    }
                }
            }
            tokio::select! {
                () = &mut unreferenced => return,
                () = sleep_until(due), if desired.is_some() => continue,
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Init)) => { listed = None; continue }
                    Some(Ok(watcher::Event::InitApply(object))) => { listed = Some(object); continue }
                    Some(Ok(watcher::Event::InitDone)) => desired = Some(listed.take().map_or(Desired::Nothing, Desired::CopyOf)),
                    Some(Ok(watcher::Event::Apply(object))) => desired = Some(Desired::CopyOf(object)),
                    Some(Ok(watcher::Event::Delete(_))) => desired = Some(Desired::Nothing),
                    // Expected at first: the Node authorizer sees the pod's references a moment after the node does.
                    Some(Err((error, pause))) => { tracing::debug!(%error, ?pause, "watch of the source failed, retrying"); continue }
                    None => return,
                },
            }
            backoff = Backoff::write();
            due = Instant::now();
        }
    }

    async fn sync<K: Copied>(&mut self, desired: &Desired<K>) -> Result<CopyState, VolumesError> {
        match desired {
            Desired::CopyOf(object) => {
                self.write(object).await?;
                Ok(CopyState::Present { keys: Arc::new(object.keys()) })
            }
            Desired::Nothing => {
                self.delete_kind::<K>().await?;
                Ok(CopyState::Missing)
            }
        }
    }

    async fn write<K: Copied>(&mut self, object: &K) -> Result<(), VolumesError> {
        let version = (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default());
        if self.written.as_ref() == Some(&version) {
            return Ok(());
        }
        let copy = object.copy(Owner::of(&self.tenant), &self.source);
        let name = copy.name_any();
        let api: Api<K> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        // Not forced: a field of another manager is a conflict, so a foreign object is never overwritten.
        let params = PatchParams::apply(labels::AGENT);
        let mut answer = call(api.patch(&name, &params, &Patch::Apply(&copy))).await;
        if self.is_other_type(&answer) {
            // A Secret's type cannot change, but a tenant can make another Secret of the same name.
            self.delete_kind::<K>().await?;
            answer = call(api.patch(&name, &params, &Patch::Apply(&copy))).await;
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

    async fn delete_kind<K: Copied>(&mut self) -> Result<(), VolumesError> {
        if self.host_uid.is_none() {
            return Ok(());
        }
        let name = self.source.host_name(&self.tenant.spec.uid, &self.tenant.node).to_string();
        let api: Api<K> = Api::namespaced(self.tenant.host.clone(), self.tenant.spec.workload_namespace.as_str());
        let copy = ObjectMeta { name: Some(name), uid: self.host_uid.clone(), ..ObjectMeta::default() };
        delete_exact(&api, &copy, None)
            .await
            .map_err(|source| VolumesError::DeleteCopy { source_name: self.source.to_string(), source })?;
        self.host_uid = None;
        self.written = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pull_secrets_keep_their_type() {
        for (tenant, host) in [
            (Some("kubernetes.io/dockerconfigjson"), "kubernetes.io/dockerconfigjson"),
            (Some("kubernetes.io/dockercfg"), "kubernetes.io/dockercfg"),
            (Some("kubernetes.io/service-account-token"), "Opaque"),
            (Some("kubernetes.io/tls"), "Opaque"),
            (None, "Opaque"),
        ] {
            assert_eq!(host_type(tenant), host);
        }
    }
}
