//! Contents of Secrets, read when needed and kept while they do not change. (Only their metadata is watched, so that the
//! operator does not pull every Secret of the host through a watch.)

use super::Stores;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Contents by namespace and name.
pub struct Secrets {
    client: Client,
    stores: Stores,
    known: Mutex<HashMap<(String, String), Arc<Secret>>>,
}

impl Secrets {
    pub fn new(client: Client, stores: Stores) -> Self {
        Self { client, stores, known: Mutex::default() }
    }

    /// The Secret, `None` if there is none. A Secret that the store does not know is asked for all the same: the store may
    /// be behind, and a missing CA would be minted anew.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(watched) = self.stores.secrets.get(&ObjectRef::new(name).within(namespace))
            && let Some(known) = self.lock().get(&key)
            && known.metadata.resource_version == watched.metadata.resource_version
        {
            return Ok(Some(known.clone()));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let Some(secret) = api.get_opt(name).await? else {
            self.lock().remove(&key);
            return Ok(None);
        };
        Ok(Some(self.put(key, secret)))
    }

    /// Drops the contents of Secrets that are no more.
    pub fn sweep(&self) {
        let stores = &self.stores;
        self.lock().retain(|(namespace, name), _| stores.secrets.get(&ObjectRef::new(name).within(namespace)).is_some());
    }

    fn put(&self, key: (String, String), mut secret: Secret) -> Arc<Secret> {
        secret.metadata.managed_fields = None;
        let secret = Arc::new(secret);
        self.lock().insert(key, secret.clone());
        secret
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Secret>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
