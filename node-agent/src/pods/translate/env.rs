//! Environment variables.
//!
//! `$(VAR)` references are expanded by the host's kubelet, in the order of the list, as a tenant's kubelet would: so
//! service variables come first, and a value that the agent fills in is escaped.

use super::Translator;
use super::refusal::Refusals;
use crate::volumes::{Source, downward};
use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector,
    ResourceFieldSelector, SecretEnvSource, SecretKeySelector,
};
use std::collections::BTreeSet;

impl Translator<'_> {
    pub fn env(&mut self, path: &str, env: Vec<EnvVar>, env_from: &[EnvFromSource], service_env: &[EnvVar]) -> Vec<EnvVar> {
        // Upstream, variables of envFrom win over those of Services; as plain variables the latter would win.
        let shadowed = self.names_from(env_from);
        let services = service_env.iter().filter(|var| !shadowed.contains(&var.name)).cloned();
        let mut list: Vec<EnvVar> = services.collect();
        list.extend(self.each(&format!("{path}.env"), env, |this, path, var| this.env_var(&path, var)));
        list
    }

    fn env_var(&mut self, path: &str, var: EnvVar) -> EnvVar {
        let EnvVar { name, value, value_from } = var;
        let Some(source) = value_from else { return EnvVar { name, value, value_from: None } };
        let path = format!("{path}.valueFrom");
        let EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref } = source;
        if let Some(field) = field_ref {
            let (value, value_from) = self.field_ref(&format!("{path}.fieldRef"), field);
            return EnvVar { name, value, value_from };
        }
        let source = EnvVarSource {
            config_map_key_ref: config_map_key_ref.map(|ConfigMapKeySelector { key, name, optional }| ConfigMapKeySelector {
                key,
                name: self.config_map(&name),
                optional,
            }),
            field_ref: None,
            // Names a volume of the pod, which has the same name on the host.
            file_key_ref: file_key_ref.inspect(|FileKeySelector { key: _, optional: _, path: _, volume_name: _ }| ()),
            // Names a container of the pod, which has the same name on the host.
            resource_field_ref: resource_field_ref.inspect(|ResourceFieldSelector { container_name: _, divisor: _, resource: _ }| ()),
            secret_key_ref: secret_key_ref.map(|SecretKeySelector { key, name, optional }| SecretKeySelector {
                key,
                name: self.secret(&name),
                optional,
            }),
        };
        EnvVar { name, value: None, value_from: Some(source) }
    }

    /// What the host's kubelet cannot know becomes a literal; what only it knows (addresses) is passed.
    fn field_ref(&mut self, path: &str, field: ObjectFieldSelector) -> (Option<String>, Option<EnvVarSource>) {
        check_version(&mut self.refusals, path, &field);
        let ObjectFieldSelector { api_version, field_path } = field;
        match field_path.as_str() {
            "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => {
                let passed = EnvVarSource { field_ref: Some(ObjectFieldSelector { api_version, field_path }), ..EnvVarSource::default() };
                (None, Some(passed))
            }
            _ => {
                let value = downward::field(self.pod, &field_path);
                if value.is_none() {
                    self.refusals.add(format!("{path}.fieldPath"), &field_path, "unknown field");
                }
                (value.as_deref().map(escape), None)
            }
        }
    }

    pub fn env_from(&mut self, path: &str, source: EnvFromSource) -> EnvFromSource {
        let EnvFromSource { config_map_ref, prefix, secret_ref } = source;
        if config_map_ref.is_none() && secret_ref.is_none() {
            self.refusals.add(path, &prefix, "names neither a ConfigMap nor a Secret");
        }
        EnvFromSource {
            config_map_ref: config_map_ref.map(|ConfigMapEnvSource { name, optional }| {
                self.needs.env_from.insert(Source::config_map(&self.key.namespace, &name));
                ConfigMapEnvSource { name: self.config_map(&name), optional }
            }),
            prefix,
            secret_ref: secret_ref.map(|SecretEnvSource { name, optional }| {
                self.needs.env_from.insert(Source::secret(&self.key.namespace, &name));
                SecretEnvSource { name: self.secret(&name), optional }
            }),
        }
    }

    /// Names of the variables that `env_from` brings, as far as its objects are known.
    fn names_from(&self, env_from: &[EnvFromSource]) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for EnvFromSource { config_map_ref, prefix, secret_ref } in env_from {
            let config_map = config_map_ref.iter().map(|source| Source::config_map(&self.key.namespace, &source.name));
            let secret = secret_ref.iter().map(|source| Source::secret(&self.key.namespace, &source.name));
            for keys in config_map.chain(secret).filter_map(|source| self.context.keys.get(&source)) {
                names.extend(keys.iter().map(|key| format!("{}{key}", prefix.as_deref().unwrap_or_default())));
            }
        }
        names
    }
}

/// Refuses a field reference in terms of another schema.
pub fn check_version(refusals: &mut Refusals, path: &str, field: &ObjectFieldSelector) {
    let other = field.api_version.as_ref().filter(|version| *version != "v1" && !version.is_empty());
    refusals.set(format!("{path}.apiVersion"), other, "only v1 is known");
}

/// The text that a kubelet expands to `value`: upstream's syntax reads `$$` as `$`, and `$(` as the start of a reference.
fn escape(value: &str) -> String {
    value.replace('$', "$$")
}
