//! Volumes. Their names stay: mounts refer to them.

use super::Translator;
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, ProjectedVolumeSource,
    SecretVolumeSource, Volume,
};
use serde::Serialize;

impl Translator<'_> {
    pub fn volume(&mut self, path: &str, volume: Volume) -> Volume {
        let Volume {
            aws_elastic_block_store,
            azure_disk,
            azure_file,
            cephfs,
            cinder,
            config_map,
            csi,
            downward_api,
            empty_dir,
            ephemeral,
            fc,
            flex_volume,
            flocker,
            gce_persistent_disk,
            git_repo,
            glusterfs,
            host_path,
            image,
            iscsi,
            name,
            nfs,
            persistent_volume_claim,
            photon_persistent_disk,
            portworx_volume,
            projected,
            quobyte,
            rbd,
            scale_io,
            secret,
            storageos,
            vsphere_volume,
        } = volume;

        let later = "persistent volumes are not supported yet";
        self.refuse_volume(path, "persistentVolumeClaim", persistent_volume_claim.as_ref(), later);
        self.refuse_volume(path, "ephemeral", ephemeral.as_ref(), later);
        self.refuse_volume(path, "csi", csi.as_ref(), "inline CSI volumes are not supported yet");
        let network = "network storage inside a pod is not supported; use a persistent volume";
        self.refuse_volume(path, "nfs", nfs.as_ref(), network);
        self.refuse_volume(path, "iscsi", iscsi.as_ref(), network);
        self.refuse_volume(path, "fc", fc.as_ref(), network);
        let legacy = "an in-tree volume type that Kubernetes no longer serves";
        self.refuse_volume(path, "awsElasticBlockStore", aws_elastic_block_store.as_ref(), legacy);
        self.refuse_volume(path, "azureDisk", azure_disk.as_ref(), legacy);
        self.refuse_volume(path, "azureFile", azure_file.as_ref(), legacy);
        self.refuse_volume(path, "cephfs", cephfs.as_ref(), legacy);
        self.refuse_volume(path, "cinder", cinder.as_ref(), legacy);
        self.refuse_volume(path, "flexVolume", flex_volume.as_ref(), legacy);
        self.refuse_volume(path, "flocker", flocker.as_ref(), legacy);
        self.refuse_volume(path, "gcePersistentDisk", gce_persistent_disk.as_ref(), legacy);
        self.refuse_volume(path, "gitRepo", git_repo.as_ref(), legacy);
        self.refuse_volume(path, "glusterfs", glusterfs.as_ref(), legacy);
        self.refuse_volume(path, "photonPersistentDisk", photon_persistent_disk.as_ref(), legacy);
        self.refuse_volume(path, "portworxVolume", portworx_volume.as_ref(), legacy);
        self.refuse_volume(path, "quobyte", quobyte.as_ref(), legacy);
        self.refuse_volume(path, "rbd", rbd.as_ref(), legacy);
        self.refuse_volume(path, "scaleIO", scale_io.as_ref(), legacy);
        self.refuse_volume(path, "storageos", storageos.as_ref(), legacy);
        self.refuse_volume(path, "vsphereVolume", vsphere_volume.as_ref(), legacy);

        let mut host = Volume { name: name.clone(), ..Volume::default() };
        host.config_map = config_map.map(|source| self.config_map_volume(&format!("{path}.configMap"), source));
        host.secret = secret.map(|source| self.secret_volume(&format!("{path}.secret"), source));
        host.empty_dir = empty_dir.map(|source| self.empty_dir(&format!("{path}.emptyDir"), source));
        // Whether a pod may use it is for the host's Pod Security to say.
        host.host_path = host_path.inspect(|HostPathVolumeSource { path: _, type_: _ }| ());
        host.image = image.inspect(|ImageVolumeSource { pull_policy: _, reference: _ }| ());
        let downward = downward_api.map(|source| self.downward_volume(&format!("{path}.downwardAPI"), &name, source));
        let projected = projected.map(|source| self.projected_volume(&format!("{path}.projected"), &name, source));
        host.projected = projected.or(downward);
        host
    }

    fn refuse_volume<T: Serialize>(&mut self, path: &str, kind: &str, source: Option<&T>, reason: &str) {
        self.refusals.set(format!("{path}.{kind}"), source, reason);
    }

    /// Refuses the owner of files, an alpha field that hosts drop.
    pub fn no_user(&mut self, path: &str, field: &str, user: Option<i64>) {
        self.refusals.set(format!("{path}.{field}"), user.as_ref(), "an alpha field that hosts drop");
    }

    fn config_map_volume(&mut self, path: &str, source: ConfigMapVolumeSource) -> ConfigMapVolumeSource {
        let ConfigMapVolumeSource { default_mode, default_user, items, name, optional } = source;
        self.no_user(path, "defaultUser", default_user);
        ConfigMapVolumeSource { default_mode, default_user: None, items: self.items(path, items), name: self.config_map(&name), optional }
    }

    fn secret_volume(&mut self, path: &str, source: SecretVolumeSource) -> SecretVolumeSource {
        let SecretVolumeSource { default_mode, default_user, items, optional, secret_name } = source;
        self.no_user(path, "defaultUser", default_user);
        SecretVolumeSource {
            default_mode,
            default_user: None,
            items: self.items(path, items),
            optional,
            secret_name: secret_name.map(|name| self.secret(&name)),
        }
    }

    fn empty_dir(&mut self, path: &str, source: EmptyDirVolumeSource) -> EmptyDirVolumeSource {
        let EmptyDirVolumeSource { medium, mode, size_limit } = source;
        self.refusals.set(format!("{path}.mode"), mode.as_ref(), "an alpha field that hosts drop");
        EmptyDirVolumeSource { medium, mode: None, size_limit }
    }

    /// Files with fields of the pod come from the pod Secret, so the host volume is a projected one.
    fn downward_volume(&mut self, path: &str, name: &str, source: DownwardAPIVolumeSource) -> ProjectedVolumeSource {
        let DownwardAPIVolumeSource { default_mode, default_user, items } = source;
        self.no_user(path, "defaultUser", default_user);
        let sources = self.downward_files(path, name, items.unwrap_or_default());
        ProjectedVolumeSource { default_mode, default_user: None, sources: Some(sources) }
    }
}
