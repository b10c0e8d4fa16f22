//! Where the files of a component are found inside its container, and the volumes that bring them there.

use crate::model::keys;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume, VolumeMount, VolumeProjection,
};

/// Key pair of service-account tokens.
pub(crate) const SERVICE_ACCOUNT: &str = "/etc/nestling/sa";
/// Configuration files.
pub(crate) const CONFIG: &str = "/etc/nestling/config";
/// etcd's volume.
pub(crate) const DATA: &str = "/var/lib/etcd";
/// Projected token for the control API.
pub(crate) const TOKEN: &str = "/var/run/secrets/nestling";

/// Readable by the group that the pod's `fsGroup` names, and by nobody else.
pub(crate) const SECRET_MODE: i32 = 0o440;

/// A volume with some keys of a Secret, so that a container sees nothing that it does not read.
pub(crate) fn secret(volume: &str, name: String, keys: &[String]) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(SECRET_MODE),
            items: Some(items(keys)),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(crate) fn whole_secret(volume: &str, name: String) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(name), default_mode: Some(SECRET_MODE), ..SecretVolumeSource::default() }),
        ..Volume::default()
    }
}

/// A volume with some keys of several Secrets in one directory.
pub(crate) fn secrets<const N: usize>(volume: &str, sources: [(String, Vec<String>); N]) -> Volume {
    let projection = |(name, keys): (String, Vec<String>)| VolumeProjection {
        secret: Some(SecretProjection { name, items: Some(items(&keys)), optional: None }),
        ..VolumeProjection::default()
    };
    Volume {
        name: volume.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(SECRET_MODE),
            sources: Some(sources.into_iter().map(projection).collect()),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn items(keys: &[String]) -> Vec<KeyToPath> {
    keys.iter().map(|key| KeyToPath { key: key.clone(), path: key.clone(), ..KeyToPath::default() }).collect()
}

pub(crate) fn config_map(volume: &str, name: String) -> Volume {
    Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name, default_mode: Some(SECRET_MODE), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

pub(crate) fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), read_only: Some(true), ..VolumeMount::default() }
}

pub(crate) fn writable(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The keys of a pair, as items of a volume.
pub(crate) fn pair_items(stem: &str) -> [String; 2] {
    [format!("{stem}.crt"), format!("{stem}.key")]
}

/// The items of one controller in `<vc>-controllers-certs`: its identity, its kubeconfig, the cluster CA, and `further`.
pub(crate) fn controller_items(stem: &str, further: &[&str]) -> Vec<String> {
    let mut items = Vec::from(pair_items(stem));
    items.push(format!("{stem}.kubeconfig"));
    items.push(keys::CA.to_owned());
    items.extend(further.iter().map(|key| (*key).to_owned()));
    items
}
