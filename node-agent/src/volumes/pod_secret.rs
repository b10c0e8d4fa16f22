//! The Secret of one pod on the host: its tokens and downward-API files. Made before the host pod, kept up to date while
//! it lives, removed with it.

use super::files::{DownwardFile, PodFiles};
use super::{VolumesError, downward, tokens};
use crate::pods::key::PodKey;
use crate::pods::ownership::{self, Owner};
use crate::tenant::Tenant;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use nestling_crds::labels;
use nestling_crds::names::hash65;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// When the earliest token of the Secret is to be replaced, RFC 3339: survives an agent restart.
pub const REFRESH_AT: &str = "nestling.dev/refresh-at";
/// Digest of the downward-API files.
pub const DIGEST: &str = "nestling.dev/files-digest";
/// Longest wait for an answer to one write.
const CALL: Duration = Duration::from_secs(15);

/// What is known of a pod Secret that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSecret {
    pub uid: Option<String>,
    /// None: it holds no token.
    pub refresh_at: Option<Timestamp>,
    pub digest: String,
}

/// Makes the Secret hold `files` of `pod`, fetching tokens only when they are due. None: the pod needs no Secret.
pub async fn ensure(
    tenant: &Tenant,
    key: &PodKey,
    pod: &Pod,
    files: &PodFiles,
    known: Option<&PodSecret>,
    now: Timestamp,
) -> Result<Option<PodSecret>, VolumesError> {
    if files.is_empty() {
        return Ok(None);
    }
    if let Some(known) = known {
        let tokens_due = known.refresh_at.is_some_and(|at| at <= now);
        let files_due = known.digest != digest(pod, &files.downward);
        if !tokens_due && !files_due {
            return Ok(Some(known.clone()));
        }
        let fresh = content(tenant, key, pod, files, tokens_due).await?;
        let refresh_at = if tokens_due { fresh.refresh_at } else { known.refresh_at };
        if let Some(secret) = update(tenant, key, Content { refresh_at, ..fresh }).await? {
            return Ok(Some(secret));
        }
        // Somebody removed it: make it anew, with all that belongs into it.
    }
    create(tenant, key, content(tenant, key, pod, files, true).await?).await.map(Some)
}

/// Removes the Secret of a pod that is gone.
pub async fn remove(tenant: &Tenant, key: &PodKey, known: &PodSecret) -> Result<(), VolumesError> {
    let preconditions = Preconditions { uid: known.uid.clone(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match timeout(CALL, api(tenant).delete(key.secret_name(&tenant.spec.uid).as_str(), &params)).await? {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(VolumesError::RemovePodSecret(error)),
    }
}

/// No `Debug`: it holds tokens.
struct Content {
    data: BTreeMap<String, ByteString>,
    refresh_at: Option<Timestamp>,
    digest: String,
}

async fn content(tenant: &Tenant, key: &PodKey, pod: &Pod, files: &PodFiles, with_tokens: bool) -> Result<Content, VolumesError> {
    let mut data = BTreeMap::new();
    for file in &files.downward {
        data.insert(file.key.clone(), ByteString(value(pod, file).into_bytes()));
    }
    let mut refresh_at = None;
    if with_tokens {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let requests = files.tokens.iter().map(|file| tokens::request(&tenant.kubelet, key, account, file));
        for (file, token) in files.tokens.iter().zip(try_join_all(requests).await?) {
            refresh_at = Some(refresh_at.map_or(token.refresh_at, |at: Timestamp| at.min(token.refresh_at)));
            data.insert(file.key.clone(), ByteString(token.value.into_bytes()));
        }
    }
    Ok(Content { data, refresh_at, digest: digest(pod, &files.downward) })
}

fn value(pod: &Pod, file: &DownwardFile) -> String {
    downward::field(pod, &file.field_path).unwrap_or_default()
}

fn digest(pod: &Pod, files: &[DownwardFile]) -> String {
    let values: Vec<String> = files.iter().flat_map(|file| [file.key.clone(), value(pod, file)]).collect();
    hash65(&values.iter().map(String::as_str).collect::<Vec<_>>())
}

async fn create(tenant: &Tenant, key: &PodKey, content: Content) -> Result<PodSecret, VolumesError> {
    let Content { data, refresh_at, digest } = content;
    let mut metadata = Owner::of(tenant).pod_secret_metadata(key);
    metadata.annotations.get_or_insert_default().extend(notes(refresh_at, &digest));
    let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() };
    let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
    match timeout(CALL, api(tenant).create(&params, &secret)).await? {
        Ok(made) => Ok(PodSecret { uid: made.uid(), refresh_at, digest }),
        // Left by an earlier life of the agent that ended before the pod was made.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let name = secret.name_any();
            let there = timeout(CALL, api(tenant).get_metadata(&name)).await?.map_err(write)?;
            if !ownership::is_ours(there.meta(), tenant) || there.labels().get(labels::POD_UID) != Some(&key.uid) {
                return Err(VolumesError::Foreign(name));
            }
            let content = Content { data: secret.data.unwrap_or_default(), refresh_at, digest };
            update(tenant, key, content).await?.ok_or(VolumesError::Foreign(name))
        }
        Err(error) => Err(write(error)),
    }
}

/// Sets the keys of `content` and leaves the others. None: there is no such Secret.
async fn update(tenant: &Tenant, key: &PodKey, content: Content) -> Result<Option<PodSecret>, VolumesError> {
    let Content { data, refresh_at, digest } = content;
    let patch = json!({ "metadata": { "annotations": notes(refresh_at, &digest) }, "data": data });
    let name = key.secret_name(&tenant.spec.uid);
    match timeout(CALL, api(tenant).patch(name.as_str(), &PatchParams::default(), &Patch::Merge(patch))).await? {
        Ok(made) => Ok(Some(PodSecret { uid: made.uid(), refresh_at, digest })),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(write(error)),
    }
}

fn notes(refresh_at: Option<Timestamp>, digest: &str) -> BTreeMap<String, String> {
    let mut notes = BTreeMap::from([(DIGEST.to_owned(), digest.to_owned())]);
    notes.extend(refresh_at.map(|at| (REFRESH_AT.to_owned(), at.to_string())));
    notes
}

fn write(error: kube::Error) -> VolumesError {
    VolumesError::WritePodSecret(error.into())
}

fn api(tenant: &Tenant) -> Api<Secret> {
    Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str())
}
