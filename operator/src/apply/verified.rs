//! What has been compared with the API already, so that it need not be compared again until it changes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use nestling_crds::names::TenantUid;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state of an object that the API vouches for. The generation where the kind has one, for status writes do not
/// count; the resourceVersion elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Version {
    Generation(String, i64),
    Resource(String),
}

impl Version {
    fn of(meta: &ObjectMeta) -> Option<Self> {
        match meta.generation {
            Some(generation) if generation > 0 => Some(Self::Generation(meta.uid.clone()?, generation)),
            _ => Some(Self::Resource(meta.resource_version.clone()?)),
        }
    }
}

/// Kind, namespace and name of an object.
pub type Key = (&'static str, String, String);

/// The hash that was asked for, and the version of the object that was seen to have it.
type Seen = (String, Version);

/// What was seen of each cluster's objects.
#[derive(Debug, Default)]
pub struct Verified(Mutex<HashMap<TenantUid, HashMap<Key, Seen>>>);

impl Verified {
    pub fn remember(&self, tenant: &TenantUid, key: Key, hash: String, live: &ObjectMeta) {
        if let Some(version) = Version::of(live) {
            self.lock().entry(tenant.clone()).or_default().insert(key, (hash, version));
        }
    }

    pub fn is(&self, tenant: &TenantUid, key: &Key, hash: &str, live: &ObjectMeta) -> bool {
        let verified = self.lock();
        let Some((known, version)) = verified.get(tenant).and_then(|keys| keys.get(key)) else { return false };
        known == hash && Version::of(live).as_ref() == Some(version)
    }

    /// Drops what is known of clusters that are no more.
    pub fn retain(&self, clusters: &HashSet<TenantUid>) {
        self.lock().retain(|tenant, _| clusters.contains(tenant));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantUid, HashMap<Key, Seen>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
