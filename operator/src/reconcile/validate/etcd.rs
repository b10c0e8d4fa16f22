//! The tenant's etcd.

use super::cluster::Storage;
use super::problems::Problems;
use super::{later, quantity};
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
    let Etcd { replicas: _, endpoints, storage, placement: _, backup } = etcd;
    later::etcd_endpoints(endpoints, problems);
    later::backup(backup, problems);

    let EtcdStorage { size, storage_class_name, medium } = storage;
    let Some(bytes) = quantity::amount(size).and_then(whole).filter(|bytes| *bytes >= MIN_SIZE) else {
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
        (Topology::External, asked) => {
            let members = asked.unwrap_or(1);
            later::members(members, problems);
            members
        }
        (Topology::Stacked | Topology::SingleNode, None) => replicas,
        (Topology::Stacked | Topology::SingleNode, Some(_)) => {
            problems.add("spec.etcd.replicas", "is for topology External; else there are as many members as spec.controlPlane.replicas");
            replicas
        }
    }
}

/// Whole bytes of an amount that is one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked just before
fn whole(amount: f64) -> Option<u64> {
    (amount >= 0.0 && amount < 2f64.powi(63)).then_some(amount as u64)
}
