//! The Secret of one pod on the host, with the files that only the agent can write: service-account tokens and
//! downward-API values. It is made before the host pod, kept up to date while the pod lives, and deleted with it.
//!
//! Tokens are those of a kubelet: bound to the pod, for the audience and life that the pod asks for, replaced after 80 % of
//! their life. A pod's downward-API files change with its labels and annotations.

use super::downward;
use crate::pods::error::VolumesError;
use crate::pods::names::{self, Owner, PodKey};
use crate::tenant::Tenant;
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use nestling_crds::labels;
use nestling_crds::names::hash65;
use nestling_runtime::backoff::Backoff;
use nestling_runtime::kube::{call, delete_exact};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::time::sleep;

/// Annotation: when the earliest token of the Secret is to be replaced, RFC 3339. Survives an agent restart.
pub(crate) const REFRESH_AT: &str = "nestling.dev/refresh-at";
/// Annotation: digest of the downward-API files.
pub(crate) const DIGEST: &str = "nestling.dev/files-digest";
/// A token is replaced when it is this old, however long it would live (upstream's token manager).
const MAX_TOKEN_AGE: SignedDuration = SignedDuration::from_hours(24);
/// The Node authorizer sees a pod a moment after the node does, and denies until then.
const MAX_DENIALS: u32 = 6;

/// What the pod Secret of one pod holds. Each file is a key of the Secret, projected to the path that the tenant pod names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodFiles {
    pub(crate) tokens: Vec<TokenFile>,
    pub(crate) downward: Vec<DownwardFile>,
}

/// A projected service-account token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenFile {
    /// Key in the pod Secret.
    pub(crate) key: String,
    /// None: the apiserver's own audience.
    pub(crate) audience: Option<String>,
    pub(crate) expiration_seconds: i64,
}

/// A file with a field of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DownwardFile {
    /// Key in the pod Secret.
    pub(crate) key: String,
    /// As in `fieldRef.fieldPath`.
    pub(crate) field_path: String,
}

/// What is known of a pod Secret that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodSecret {
    pub(crate) uid: Option<String>,
    /// None: it holds no token.
    pub(crate) refresh_at: Option<Timestamp>,
    pub(crate) digest: String,
}

/// Makes the Secret hold `files` of `pod`; tokens are requested only when they are due. `known` is the Secret as last
/// written. None: the pod needs no Secret.
pub(crate) async fn ensure(
    tenant: &Tenant,
    key: &PodKey,
    pod: &Pod,
    files: &PodFiles,
    known: Option<&PodSecret>,
    now: Timestamp,
) -> Result<Option<PodSecret>, VolumesError> {
    if files.tokens.is_empty() && files.downward.is_empty() {
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
        // It was deleted: make another with all that belongs into it.
    }
    create(tenant, key, content(tenant, key, pod, files, true).await?).await.map(Some)
}

/// Deletes the Secret of a pod that is gone.
pub(crate) async fn delete(tenant: &Tenant, key: &PodKey, known: &PodSecret) -> Result<(), VolumesError> {
    let name = key.secret_name(&tenant.spec.uid).to_string();
    let secret = ObjectMeta { name: Some(name), uid: known.uid.clone(), ..ObjectMeta::default() };
    delete_exact(&api(tenant), &secret, None).await.map(drop).map_err(VolumesError::DeletePodSecret)
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
        let requests = files.tokens.iter().map(|file| request_token(&tenant.kubelet, key, account, file));
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

/// A token and when to replace it. No `Debug`: it must not be logged.
struct Token {
    value: String,
    refresh_at: Timestamp,
}

async fn request_token(client: &kube::Client, pod: &PodKey, account: &str, file: &TokenFile) -> Result<Token, VolumesError> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), &pod.namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(file.audience.iter().cloned().collect()),
            expiration_seconds: Some(file.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let mut backoff = Backoff::watch();
    let mut denials = 0;
    let answer = loop {
        match call(api.create_token_request(account, &PostParams::default(), &request)).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() && denials < MAX_DENIALS => {
                denials += 1;
                sleep(backoff.failed()).await;
            }
            answer => break answer.map_err(|error| VolumesError::RequestToken(error.into()))?,
        }
    };
    let life = answer.spec.and_then(|spec| spec.expiration_seconds).unwrap_or(file.expiration_seconds);
    let status = answer.status.unwrap_or_default();
    let (Some(value), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err(VolumesError::EmptyToken);
    };
    Ok(Token { value, refresh_at: refresh_at(expires.0, life) })
}

/// 80 % of the token's life after its issue, and 24 hours at most.
fn refresh_at(expires: Timestamp, life_seconds: i64) -> Timestamp {
    let life = SignedDuration::from_secs(life_seconds);
    let age = (life * 4 / 5).min(MAX_TOKEN_AGE);
    expires.checked_sub(life - age).unwrap_or(expires)
}

async fn create(tenant: &Tenant, key: &PodKey, content: Content) -> Result<PodSecret, VolumesError> {
    let Content { data, refresh_at, digest } = content;
    let mut metadata = Owner::of(tenant).pod_secret_metadata(key);
    metadata.annotations.get_or_insert_default().extend(annotations(refresh_at, &digest));
    let secret = Secret { metadata, data: Some(data), type_: Some("Opaque".into()), ..Secret::default() };
    let params = PostParams { field_manager: Some(labels::AGENT.into()), ..PostParams::default() };
    match call(api(tenant).create(&params, &secret)).await {
        Ok(created) => Ok(PodSecret { uid: created.uid(), refresh_at, digest }),
        // Left by an earlier process of the agent that ended before it created the host pod.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let name = secret.name_any();
            let existing = call(api(tenant).get_metadata(&name)).await.map_err(write)?;
            if !names::is_for_pod(&existing.metadata, tenant, key) {
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
    let patch = json!({ "metadata": { "annotations": annotations(refresh_at, &digest) }, "data": data });
    let name = key.secret_name(&tenant.spec.uid);
    match call(api(tenant).patch(name.as_str(), &PatchParams::default(), &Patch::Merge(patch))).await {
        Ok(written) => Ok(Some(PodSecret { uid: written.uid(), refresh_at, digest })),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(write(error)),
    }
}

fn annotations(refresh_at: Option<Timestamp>, digest: &str) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(DIGEST.to_owned(), digest.to_owned())]);
    annotations.extend(refresh_at.map(|at| (REFRESH_AT.to_owned(), at.to_string())));
    annotations
}

fn write(error: kube::Error) -> VolumesError {
    VolumesError::WritePodSecret(error.into())
}

fn api(tenant: &Tenant) -> Api<Secret> {
    Api::namespaced(tenant.host.clone(), tenant.spec.workload_namespace.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_at_80_percent_of_life_or_24_hours() {
        let issued: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (life, age) in [(600, 480), (3607, 2885), (86_400, 69_120), (31_536_000, 86_400)] {
            let expires = issued + SignedDuration::from_secs(life);
            assert_eq!(refresh_at(expires, life).duration_since(issued).as_secs(), age, "life {life}");
        }
    }
}
