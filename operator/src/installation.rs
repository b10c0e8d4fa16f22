//! The installation's certificate authorities: created by the operator's first replica, read by all others and by the control API.

use crate::pki::PkiError;
use crate::pki::installation::{self, InstallationCas, NAME};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use nestling_crds::labels;
use nestling_runtime::error::chain;
use std::time::Duration;

const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallationError {
    #[error("cannot read the installation's authorities")]
    Read(#[source] kube::Error),
    #[error("cannot store the installation's authorities")]
    Store(#[source] kube::Error),
    #[error("cannot publish the installation's authorities")]
    Publish(#[source] kube::Error),
    #[error("cannot use the installation's authorities")]
    Pki(#[from] PkiError),
}

/// The authorities of the installation in `namespace`, created if they do not exist, with their public parts in a ConfigMap.
/// `client` must be free to write: every replica runs this before there is a leader.
pub(crate) async fn ensure(client: &Client, namespace: &str, lifetime: SignedDuration) -> Result<InstallationCas, InstallationError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match secrets.get_opt(NAME).await.map_err(InstallationError::Read)? {
        Some(secret) => secret,
        None => create(&secrets, namespace, lifetime).await?,
    };
    let authorities = InstallationCas::from_secret(&secret)?;
    publish(client, namespace, &authorities).await?;
    Ok(authorities)
}

/// The authorities of the installation, once the operator has created them.
pub(crate) async fn wait(client: &Client, namespace: &str) -> Result<InstallationCas, InstallationError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut said = false;
    loop {
        match secrets.get_opt(NAME).await {
            Ok(Some(secret)) => return Ok(InstallationCas::from_secret(&secret)?),
            Ok(None) if said => {}
            Ok(None) => tracing::info!("waiting for the operator to create the installation's authorities"),
            Err(error) => tracing::warn!(error = chain(&error), "cannot read the installation's authorities; retrying in {RETRY:?}"),
        }
        said = true;
        tokio::time::sleep(RETRY).await;
    }
}

/// Of several replicas that create at the same time one succeeds; the others read what it created.
async fn create(secrets: &Api<Secret>, namespace: &str, lifetime: SignedDuration) -> Result<Secret, InstallationError> {
    let made = installation::generate(Timestamp::now(), lifetime)?.to_secret(namespace);
    let params = PostParams { field_manager: Some(labels::OPERATOR.into()), ..PostParams::default() };
    match secrets.create(&params, &made).await {
        Ok(secret) => Ok(secret),
        Err(kube::Error::Api(status)) if status.is_already_exists() => secrets.get(NAME).await.map_err(InstallationError::Read),
        Err(error) => Err(InstallationError::Store(error)),
    }
}

async fn publish(client: &Client, namespace: &str, authorities: &InstallationCas) -> Result<(), InstallationError> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let wanted = authorities.to_config_map(namespace);
    let live = maps.get_opt(NAME).await.map_err(InstallationError::Read)?;
    if live.is_some_and(|live| live.data == wanted.data) {
        return Ok(());
    }
    nestling_runtime::kube::apply(&maps, labels::OPERATOR, &wanted).await.map(drop).map_err(InstallationError::Publish)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nestling_runtime::testing::ApiServer;

    const NAMESPACE: &str = "nestling-system";
    const LIFETIME: SignedDuration = SignedDuration::from_hours(100);

    #[tokio::test]
    async fn replicas_that_start_together_use_the_same_authorities() {
        let api = ApiServer::new();
        let other = installation::generate(Timestamp::now(), LIFETIME).unwrap();
        // Another replica creates them between the read and the create of this one.
        let theirs = other.to_secret(NAMESPACE);
        api.before("create", "secrets", move |api| drop(api.put(&theirs)));
        let mine = ensure(&api.client(), NAMESPACE, LIFETIME).await.unwrap();
        assert_eq!(mine.control_ca(), other.control_ca());
        assert_eq!(api.get::<Secret>(NAMESPACE, NAME).unwrap().data, other.to_secret(NAMESPACE).data);
        assert_eq!(api.get::<ConfigMap>(NAMESPACE, NAME).unwrap().data, other.to_config_map(NAMESPACE).data);
    }

    #[tokio::test(start_paused = true)]
    async fn the_control_api_waits_for_what_the_operator_creates() {
        let api = ApiServer::new();
        let client = api.client();
        let waiting = tokio::spawn(async move { wait(&client, NAMESPACE).await });
        tokio::time::sleep(RETRY * 3).await;
        assert!(!waiting.is_finished() && api.take_writes().is_empty());
        let made = ensure(&api.client(), NAMESPACE, LIFETIME).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().control_ca(), made.control_ca());
    }

    #[tokio::test]
    async fn authorities_are_created_once_and_published_again_if_lost() {
        let api = ApiServer::new();
        let first = ensure(&api.client(), NAMESPACE, LIFETIME).await.unwrap();
        assert_eq!(api.take_writes().len(), 2);
        let again = ensure(&api.client(), NAMESPACE, LIFETIME).await.unwrap();
        assert_eq!(again.control_ca(), first.control_ca());
        assert!(api.take_writes().is_empty());
        api.remove::<ConfigMap>(NAMESPACE, NAME);
        ensure(&api.client(), NAMESPACE, LIFETIME).await.unwrap();
        assert_eq!(api.take_writes(), [format!("apply configmaps {NAMESPACE}/{NAME}")]);
    }
}
