//! Projected volumes and what they are made of.

use super::Translator;
use super::env::check_version;
use crate::volumes::downward;
use crate::volumes::files::{self, DownwardFile, TokenFile};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, SecretProjection,
    ServiceAccountTokenProjection, VolumeProjection,
};

/// Life of a token that does not say (API default).
const TOKEN_SECONDS: i64 = 3600;

impl Translator<'_> {
    pub fn projected_volume(&mut self, path: &str, name: &str, source: ProjectedVolumeSource) -> ProjectedVolumeSource {
        let ProjectedVolumeSource { default_mode, default_user, sources } = source;
        self.no_user(path, "defaultUser", default_user);
        let sources =
            self.each(&format!("{path}.sources"), sources.unwrap_or_default(), |this, path, source| this.projection(&path, name, source));
        ProjectedVolumeSource { default_mode, default_user: None, sources: Some(sources.into_iter().flatten().collect()) }
    }

    fn projection(&mut self, path: &str, volume: &str, source: VolumeProjection) -> Vec<VolumeProjection> {
        let VolumeProjection { cluster_trust_bundle, config_map, downward_api, pod_certificate, secret, service_account_token } = source;
        self.refusals.set(format!("{path}.clusterTrustBundle"), cluster_trust_bundle.as_ref(), "not supported yet");
        self.refusals.set(format!("{path}.podCertificate"), pod_certificate.as_ref(), "not supported yet");

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
        let key = files::key("token", volume, self.needs.files.tokens.len());
        self.needs.files.tokens.push(TokenFile {
            key: key.clone(),
            audience: audience.filter(|audience| !audience.is_empty()),
            expiration_seconds: expiration_seconds.unwrap_or(TOKEN_SECONDS),
        });
        self.pod_secret_files(vec![KeyToPath { key, mode: None, path: file, user: None }])
    }

    /// Files with fields of the pod are the agent's; those with resources of a container are the host kubelet's, which
    /// has the same containers.
    pub fn downward_files(&mut self, path: &str, volume: &str, items: Vec<DownwardAPIVolumeFile>) -> Vec<VolumeProjection> {
        let mut own = Vec::new();
        let mut passed = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}.items[{index}]");
            let DownwardAPIVolumeFile { field_ref, mode, path: file, resource_field_ref, user } = item;
            self.no_user(&path, "user", user);
            if let Some(field) = field_ref {
                check_version(&mut self.refusals, &format!("{path}.fieldRef"), &field);
                if downward::field(self.pod, &field.field_path).is_none() {
                    self.refusals.add(format!("{path}.fieldRef.fieldPath"), &field.field_path, "unknown field");
                }
                // Counted over the whole pod, so several sources of one volume share no key.
                let key = files::key("downward", volume, self.needs.files.downward.len());
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
        let secret = SecretProjection { items: Some(items), name: self.pod_secret().to_string(), optional: None };
        VolumeProjection { secret: Some(secret), ..VolumeProjection::default() }
    }

    pub fn items(&mut self, path: &str, items: Option<Vec<KeyToPath>>) -> Option<Vec<KeyToPath>> {
        items.map(|list| {
            self.each(&format!("{path}.items"), list, |this, item_path, KeyToPath { key, mode, path, user }| {
                this.no_user(&item_path, "user", user);
                KeyToPath { key, mode, path, user: None }
            })
        })
    }
}
