//! Which cluster a host object belongs to.

use super::{Cluster, Stores};
use kube::runtime::reflector::{Lookup, ObjectRef};
use kube::{Resource, ResourceExt as _};
use nestling_crds::labels;
use nestling_crds::names::TenantUid;

/// By owner reference, or by the tenant's label for objects in (and the namespace of) its workload namespace.
pub fn owner<K: Resource>(object: &K, stores: &Stores) -> Option<ObjectRef<Cluster>> {
    let namespace = object.meta().namespace.clone();
    let by_reference =
        object.owner_references().iter().find_map(|reference| ObjectRef::<Cluster>::from_owner_ref(namespace.as_deref(), reference, ()));
    by_reference.or_else(|| {
        let uid = TenantUid::new(object.labels().get(labels::TENANT)?);
        Some(stores.cluster(&uid)?.to_object_ref(()))
    })
}
