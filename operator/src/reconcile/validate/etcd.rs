//! The tenant's etcd.

use crate::model::Storage;
use crate::reconcile::validate::problems::Problems;
use nestling_crds::quantity;
use nestling_crds::v1alpha1::{Etcd, EtcdStorage, StorageMedium, Topology};

/// etcd's own advice is to stay below.
const MAX_QUOTA: u64 = 8 << 30;
/// etcd preallocates a WAL segment of 64 MiB, and another one while it cuts the first.
const MIN_SIZE: u64 = 256 << 20;
/// Database, a copy of it while it is defragmented, and WAL with snapshots.
const SIZE_PER_QUOTA: u64 = 3;

/// Where the data lives, and etcd's `--quota-backend-bytes`.
pub(super) struct Sized {
    pub storage: Storage,
    pub quota_bytes: u64,
}

pub(super) fn storage(etcd: &Etcd, problems: &mut Problems) -> Option<Sized> {
    let Etcd { replicas: _, endpoints: _, storage, placement: _, backup: _ } = etcd;
    let EtcdStorage { size, storage_class_name, medium } = storage;
    let Some(bytes) = quantity::whole(size).filter(|bytes| *bytes >= MIN_SIZE) else {
        problems.add("spec.etcd.storage.size", format!("{:?} must be a quantity of at least 256Mi, such as 8Gi", size.0));
        return None;
    };
    let storage = match (medium, storage_class_name) {
        (Some(StorageMedium::Memory), None) => Storage::Memory { size: size.clone() },
        (Some(StorageMedium::Memory), Some(_)) => {
            problems.add("spec.etcd.storage.storageClassName", "and medium exclude each other: memory needs no volume");
            return None;
        }
        (None, class) => Storage::Volume { size: size.clone(), class: class.clone() },
    };
    Some(Sized { storage, quota_bytes: (bytes / SIZE_PER_QUOTA).min(MAX_QUOTA) })
}

pub(super) fn members(topology: Topology, etcd: &Etcd, replicas: i32, problems: &mut Problems) -> i32 {
    match (topology, etcd.replicas) {
        (Topology::External, asked) => asked.unwrap_or(1),
        (Topology::Stacked | Topology::SingleNode, None) => replicas,
        (Topology::Stacked | Topology::SingleNode, Some(_)) => {
            problems.add("spec.etcd.replicas", "is for topology External; else there are as many members as spec.controlPlane.replicas");
            replicas
        }
    }
}
