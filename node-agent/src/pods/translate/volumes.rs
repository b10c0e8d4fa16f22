//! Volumes. Their names stay: mounts refer to them. Tokens and downward-API files come from the pod Secret.

use super::Translator;
use crate::pods::volumes::downward;
use crate::pods::volumes::pod_secret::{DownwardFile, TokenFile};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, HostPathVolumeSource, ImageVolumeSource, KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};

/// Life of a token that does not ask for one (API default).
const TOKEN_SECONDS: i64 = 3600;
const ALPHA: &str = "an alpha field that hosts drop";

impl Translator<'_> {
    pub(super) fn volume(&mut self, path: &str, volume: Volume) -> Volume {
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
        self.refuse(path, "persistentVolumeClaim", persistent_volume_claim.as_ref(), later);
        self.refuse(path, "ephemeral", ephemeral.as_ref(), later);
        self.refuse(path, "csi", csi.as_ref(), "inline CSI volumes are not supported yet");
        let network = "network storage inside a pod is not supported; use a persistent volume";
        self.refuse(path, "nfs", nfs.as_ref(), network);
        self.refuse(path, "iscsi", iscsi.as_ref(), network);
        self.refuse(path, "fc", fc.as_ref(), network);
        let legacy = "an in-tree volume type that Kubernetes no longer serves";
        self.refuse(path, "awsElasticBlockStore", aws_elastic_block_store.as_ref(), legacy);
        self.refuse(path, "azureDisk", azure_disk.as_ref(), legacy);
        self.refuse(path, "azureFile", azure_file.as_ref(), legacy);
        self.refuse(path, "cephfs", cephfs.as_ref(), legacy);
        self.refuse(path, "cinder", cinder.as_ref(), legacy);
        self.refuse(path, "flexVolume", flex_volume.as_ref(), legacy);
        self.refuse(path, "flocker", flocker.as_ref(), legacy);
        self.refuse(path, "gcePersistentDisk", gce_persistent_disk.as_ref(), legacy);
        self.refuse(path, "gitRepo", git_repo.as_ref(), legacy);
        self.refuse(path, "glusterfs", glusterfs.as_ref(), legacy);
        self.refuse(path, "photonPersistentDisk", photon_persistent_disk.as_ref(), legacy);
        self.refuse(path, "portworxVolume", portworx_volume.as_ref(), legacy);
        self.refuse(path, "quobyte", quobyte.as_ref(), legacy);
        self.refuse(path, "rbd", rbd.as_ref(), legacy);
        self.refuse(path, "scaleIO", scale_io.as_ref(), legacy);
        self.refuse(path, "storageos", storageos.as_ref(), legacy);
        self.refuse(path, "vsphereVolume", vsphere_volume.as_ref(), legacy);

        let mut host = Volume { name: name.clone(), ..Volume::default() };
        host.config_map = config_map.map(|source| self.config_map_volume(&format!("{path}.configMap"), source));
        host.secret = secret.map(|source| self.secret_volume(&format!("{path}.secret"), source));
        host.empty_dir = empty_dir.map(|source| self.empty_dir(&format!("{path}.emptyDir"), source));
        // Whether a pod may use it is for the host's Pod Security to decide.
        host.host_path = host_path.inspect(|HostPathVolumeSource { path: _, type_: _ }| ());
        host.image = image.inspect(|ImageVolumeSource { pull_policy: _, reference: _ }| ());
        let downward = downward_api.map(|source| self.downward_volume(&format!("{path}.downwardAPI"), &name, source));
        let projected = projected.map(|source| self.projected_volume(&format!("{path}.projected"), &name, source));
        host.projected = projected.or(downward);
        host
    }

    /// Refuses the owner of files, an alpha field that hosts drop.
    fn no_user(&mut self, path: &str, field: &str, user: Option<i64>) {
        self.refuse(path, field, user.as_ref(), ALPHA);
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
        self.refuse(path, "mode", mode.as_ref(), ALPHA);
        EmptyDirVolumeSource { medium, mode: None, size_limit }
    }

    /// Files with fields of the pod come from the pod Secret, so the host volume is a projected one.
    fn downward_volume(&mut self, path: &str, name: &str, source: DownwardAPIVolumeSource) -> ProjectedVolumeSource {
        let DownwardAPIVolumeSource { default_mode, default_user, items } = source;
        self.no_user(path, "defaultUser", default_user);
        let sources = self.downward_files(path, name, items.unwrap_or_default());
        ProjectedVolumeSource { default_mode, default_user: None, sources: Some(sources) }
    }

    fn projected_volume(&mut self, path: &str, name: &str, source: ProjectedVolumeSource) -> ProjectedVolumeSource {
        let ProjectedVolumeSource { default_mode, default_user, sources } = source;
        self.no_user(path, "defaultUser", default_user);
        let sources =
            self.each(&format!("{path}.sources"), sources.unwrap_or_default(), |this, path, source| this.projection(&path, name, source));
        ProjectedVolumeSource { default_mode, default_user: None, sources: Some(sources.into_iter().flatten().collect()) }
    }

    fn projection(&mut self, path: &str, volume: &str, source: VolumeProjection) -> Vec<VolumeProjection> {
        let VolumeProjection { cluster_trust_bundle, config_map, downward_api, pod_certificate, secret, service_account_token } = source;
        self.refuse(path, "clusterTrustBundle", cluster_trust_bundle.as_ref(), "not supported yet");
        self.refuse(path, "podCertificate", pod_certificate.as_ref(), "not supported yet");

        let mut made = Vec::new();
        if let Some(ConfigMapProjection { items, name, optional }) = config_map {
            let items = self.items(&format!("{path}.configMap"), items);
            let config_map = Some(ConfigMapProjection { items, name: self.config_map(&name), optional });
            made.push(VolumeProjection { config_map, ..VolumeProjection::default() });
        }
        if let Some(SecretProjection { items, name, optional }) = secret {
            let items = self.items(&format!("{path}.secret"), items);
            let secret = Some(SecretProjection { items, name: self.secret(&name), optional });
            made.push(VolumeProjection { secret, ..VolumeProjection::default() });
        }
        if let Some(DownwardAPIProjection { items }) = downward_api {
            made.extend(self.downward_files(&format!("{path}.downwardAPI"), volume, items.unwrap_or_default()));
        }
        if let Some(token) = service_account_token {
            made.push(self.token(&format!("{path}.serviceAccountToken"), volume, token));
        }
        made
    }

    fn token(&mut self, path: &str, volume: &str, token: ServiceAccountTokenProjection) -> VolumeProjection {
        let ServiceAccountTokenProjection { audience, expiration_seconds, path: file, user } = token;
        self.no_user(path, "user", user);
        let key = file_key("token", volume, self.needs.files.tokens.len());
        self.needs.files.tokens.push(TokenFile {
            key: key.clone(),
            audience: audience.filter(|audience| !audience.is_empty()),
            expiration_seconds: expiration_seconds.unwrap_or(TOKEN_SECONDS),
        });
        self.pod_secret_files(vec![KeyToPath { key, mode: None, path: file, user: None }])
    }

    /// Files with fields of the pod are the agent's; those with resources of a container are the host kubelet's, which
    /// has the same containers.
    fn downward_files(&mut self, path: &str, volume: &str, items: Vec<DownwardAPIVolumeFile>) -> Vec<VolumeProjection> {
        let mut own = Vec::new();
        let mut passed = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}.items[{index}]");
            let DownwardAPIVolumeFile { field_ref, mode, path: file, resource_field_ref, user } = item;
            self.no_user(&path, "user", user);
            if let Some(field) = field_ref {
                self.field_version(&format!("{path}.fieldRef"), &field);
                if downward::field(self.pod, &field.field_path).is_none() {
                    self.refuse(&path, "fieldRef.fieldPath", Some(&field.field_path), "unknown field");
                }
                // Counted over the whole pod, so several sources of one volume share no key.
                let key = file_key("downward", volume, self.needs.files.downward.len());
                self.needs.files.downward.push(DownwardFile { key: key.clone(), field_path: field.field_path });
                own.push(KeyToPath { key, mode, path: file, user: None });
            } else {
                passed.push(DownwardAPIVolumeFile { field_ref: None, mode, path: file, resource_field_ref, user: None });
            }
        }
        let mut made = Vec::new();
        if !own.is_empty() {
            made.push(self.pod_secret_files(own));
        }
        if !passed.is_empty() {
            let downward_api = Some(DownwardAPIProjection { items: Some(passed) });
            made.push(VolumeProjection { downward_api, ..VolumeProjection::default() });
        }
        made
    }

    fn pod_secret_files(&self, items: Vec<KeyToPath>) -> VolumeProjection {
        let secret =
            SecretProjection { items: Some(items), name: self.key.secret_name(&self.owner.tenant.uid).to_string(), optional: None };
        VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }
    }

    fn items(&mut self, path: &str, items: Option<Vec<KeyToPath>>) -> Option<Vec<KeyToPath>> {
        items.map(|list| {
            self.each(&format!("{path}.items"), list, |this, item_path, KeyToPath { key, mode, path, user }| {
                this.no_user(&item_path, "user", user);
                KeyToPath { key, mode, path, user: None }
            })
        })
    }
}

/// A key of the pod Secret. Volume names are DNS labels, so the key is valid and unique.
fn file_key(what: &str, volume: &str, index: usize) -> String {
    format!("{what}.{volume}.{index}")
}
