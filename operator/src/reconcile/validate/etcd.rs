//! The tenant's etcd.

use crate::model::{EtcdSettings, Storage, WAL_FILES};
use crate::reconcile::validate::problems::{Problems, checked_resources};
use crate::reconcile::validate::{control_plane, problems};
use nestling_crds::v1alpha1::{Etcd, EtcdStorage, StorageMedium};
use nestling_crds::{managed_flags, quantity};

/// etcd's own advice is to stay below.
const MAX_QUOTA: u64 = 8 << 30;
/// etcd preallocates a WAL segment of 64 MiB, and another one while it cuts the first.
const MIN_SIZE: u64 = 256 << 20;
const WAL_FILE: u64 = 64 << 20;

/// What is left of the storage beside the WAL and the segment that is preallocated next holds the database and, while that is
/// defragmented, a copy of it, with a little to spare. At most a third of all.
fn quota(bytes: u64) -> u64 {
    let wal = (WAL_FILES + 1) * WAL_FILE;
    (bytes / 3).min(bytes.saturating_sub(wal) / 9 * 4).min(MAX_QUOTA)
}

pub(super) fn settings(etcd: &Etcd, problems: &mut Problems) -> Option<EtcdSettings> {
    let Etcd { adopt: _, replicas: _, external: _, storage, extra_args, resources, placement, backup: _ } = etcd;
    let args = problems::extra_args("spec.etcd.extraArgs", extra_args, managed_flags::ETCD, problems);
    let resources = checked_resources("spec.etcd.resources", resources.as_ref(), problems);
    let (storage, bytes) = self::storage(storage, problems)?;
    Some(EtcdSettings { extra_args: args, resources, placement: control_plane::placement(placement), storage, quota_bytes: quota(bytes) })
}

/// Where the data lives, and its size in bytes.
fn storage(storage: &EtcdStorage, problems: &mut Problems) -> Option<(Storage, u64)> {
    let EtcdStorage { size: _, storage_class_name, medium } = storage;
    let size = storage.size();
    let Some(bytes) = quantity::whole(&size).filter(|bytes| *bytes >= MIN_SIZE) else {
        problems.add("spec.etcd.storage.size", format!("{:?} must be a quantity of at least 256Mi, such as 8Gi", size.0));
        return None;
    };
    let storage = match (medium, storage_class_name) {
        (Some(StorageMedium::Memory), None) => Storage::Memory { bytes },
        (Some(StorageMedium::Memory), Some(_)) => {
            problems.add("spec.etcd.storage.storageClassName", "and medium exclude each other: memory needs no volume");
            return None;
        }
        (None, class) => Storage::Volume { size, class: class.clone() },
    };
    Some((storage, bytes))
}
