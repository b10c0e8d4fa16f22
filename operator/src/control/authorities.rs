//! The authorities of tenants, each read from its Secret `<vc>-ca`. The control API may read these Secrets by name, and neither list nor
//! watch Secrets, so it looks when there is a reason to.

use crate::model::names;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use nestling_crds::names::TenantUid;
use nestling_runtime::kube::call;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A Secret is read again after so long even if nothing suggests that it has changed.
const KEPT: Duration = Duration::from_secs(600);

pub(crate) struct Authorities {
    client: Client,
    known: Mutex<HashMap<TenantUid, Known>>,
}

#[derive(Clone)]
struct Known {
    /// Version of the `VirtualCluster` when the Secret was read.
    version: Option<String>,
    read: Instant,
    secret: Arc<Secret>,
}

impl Authorities {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The Secret as it is now, with the key: for what is signed with it.
    pub(super) async fn current(&self, namespace: &str, cluster: &str) -> kube::Result<Option<Secret>> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        call(api.get_opt(&names::ca(cluster))).await
    }

    /// The Secret, read once per `version` of the `VirtualCluster`: the operator writes the status after it has made or replaced an
    /// authority.
    pub(super) async fn of(
        &self,
        uid: &TenantUid,
        version: Option<&str>,
        namespace: &str,
        cluster: &str,
    ) -> kube::Result<Option<Arc<Secret>>> {
        let now = Instant::now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
        if let Some(known) = known
            && known.version.as_deref() == version
            && now < known.read + KEPT
        {
            return Ok(Some(known.secret));
        }
        let Some(secret) = self.current(namespace, cluster).await?.map(Arc::new) else { return Ok(None) };
        let known = Known { version: version.map(ToOwned::to_owned), read: now, secret: secret.clone() };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone(), known);
        Ok(Some(secret))
    }

    /// Forgets other tenants.
    pub(super) fn retain(&self, existing: &HashSet<TenantUid>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| existing.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nestling_runtime::testing::ApiServer;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn an_authority_is_read_when_its_cluster_has_changed() {
        let api = ApiServer::new();
        let authorities = Authorities::new(api.client());
        let uid = TenantUid::new("vc-1");
        let read = async |version| authorities.of(&uid, Some(version), "team", "dev").await.unwrap().is_some();
        // None is not remembered.
        assert!(!read("1").await && !read("1").await);
        api.put(&serde_json::from_value::<Secret>(json!({"metadata": {"namespace": "team", "name": "dev-ca"}})).unwrap());
        assert!(read("1").await && read("1").await);
        assert_eq!(api.count("get", "secrets"), 3);
        assert!(read("2").await && read("2").await);
        assert_eq!(api.count("get", "secrets"), 4);
        tokio::time::advance(KEPT).await;
        assert!(read("2").await);
        assert_eq!(api.count("get", "secrets"), 5);
        authorities.retain(&HashSet::from([uid.clone()]));
        assert!(read("2").await);
        authorities.retain(&HashSet::new());
        assert!(read("2").await);
        assert_eq!((api.count("get", "secrets"), api.count("list", "secrets"), api.count("watch", "secrets")), (6, 0, 0));
    }
}
