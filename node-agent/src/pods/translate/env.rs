//! Environment variables, and among them those by which containers find Services.
//!
//! `$(VAR)` references are expanded by the host's kubelet, in the order of the list, as a tenant's kubelet would: so
//! service variables come first, and a value that the agent fills in is escaped.

use super::{Refusal, Translator};
use crate::pods::volumes::downward;
use crate::services::{PortFacts, Protocol, ServiceFacts};
use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, Pod,
    ResourceFieldSelector, SecretEnvSource, SecretKeySelector,
};
use nestling_crds::names::TenantName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

impl Translator<'_> {
    pub(super) fn env_var(&mut self, path: &str, var: EnvVar) -> EnvVar {
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
        self.field_version(path, &field);
        let ObjectFieldSelector { api_version, field_path } = field;
        match field_path.as_str() {
            "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => {
                let passed = EnvVarSource { field_ref: Some(ObjectFieldSelector { api_version, field_path }), ..EnvVarSource::default() };
                (None, Some(passed))
            }
            _ => {
                let value = downward::field(self.pod, &field_path);
                if value.is_none() {
                    self.refuse(path, "fieldPath", Some(&field_path), "unknown field");
                }
                (value.as_deref().map(escape), None)
            }
        }
    }

    /// Refuses a field reference in terms of another schema.
    pub(super) fn field_version(&mut self, path: &str, field: &ObjectFieldSelector) {
        let other = field.api_version.as_ref().filter(|version| *version != "v1" && !version.is_empty());
        self.refuse(path, "apiVersion", other, "only v1 is known");
    }

    pub(super) fn env_from(&mut self, path: &str, source: EnvFromSource) -> EnvFromSource {
        let EnvFromSource { config_map_ref, prefix, secret_ref } = source;
        if config_map_ref.is_none() && secret_ref.is_none() {
            self.refusals.push(Refusal::new(path, &prefix, "names neither a ConfigMap nor a Secret"));
        }
        EnvFromSource {
            config_map_ref: config_map_ref
                .map(|ConfigMapEnvSource { name, optional }| ConfigMapEnvSource { name: self.config_map(&name), optional }),
            prefix,
            secret_ref: secret_ref.map(|SecretEnvSource { name, optional }| SecretEnvSource { name: self.secret(&name), optional }),
        }
    }
}

/// The text that a kubelet expands to `value`: upstream's syntax reads `$$` as `$`, and `$(` as the start of a reference.
fn escape(value: &str) -> String {
    value.replace('$', "$$")
}

/// Puts the variables of Services before those of the containers of `host`, the host pod of `tenant`: upstream's
/// `envvars.FromServices`. A kubelet sets them at each start of a container; here they are as at the creation of the host pod.
///
/// `services` are those that the pod's namespace can see; `kubernetes` is the address of the tenant's apiserver; `copies` has
/// the keys of the copies that exist, by host name.
pub(crate) fn add_service_variables(
    host: &mut Pod,
    tenant: &Pod,
    services: &[Arc<ServiceFacts>],
    kubernetes: IpAddr,
    copies: &BTreeMap<String, Arc<BTreeSet<String>>>,
) {
    let links = tenant.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = tenant.metadata.namespace.as_deref().unwrap_or_default();
    let variables = service_variables(namespace, links, services, kubernetes);
    let Some(host) = &mut host.spec else { return };
    for container in host.init_containers.iter_mut().flatten().chain(&mut host.containers) {
        // Upstream, variables of envFrom win over those of Services; as plain variables the latter would win.
        let shadowed = names_from(container.env_from.as_deref().unwrap_or_default(), copies);
        let mut env: Vec<EnvVar> = variables.iter().filter(|var| !shadowed.contains(&var.name)).cloned().collect();
        env.append(container.env.get_or_insert_default());
        container.env = Some(env);
    }
}

/// Names of the variables that `env_from` brings, as far as its objects are known.
fn names_from(env_from: &[EnvFromSource], copies: &BTreeMap<String, Arc<BTreeSet<String>>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for EnvFromSource { config_map_ref, prefix, secret_ref } in env_from {
        let sources = config_map_ref.iter().map(|source| &source.name).chain(secret_ref.iter().map(|source| &source.name));
        for keys in sources.filter_map(|name| copies.get(name)) {
            names.extend(keys.iter().map(|key| format!("{}{key}", prefix.as_deref().unwrap_or_default())));
        }
    }
    names
}

/// Those of `default/kubernetes` always, those of the pod's namespace with `links`.
fn service_variables(namespace: &str, links: bool, services: &[Arc<ServiceFacts>], kubernetes: IpAddr) -> Vec<EnvVar> {
    let apiserver = TenantName::new("default", "kubernetes");
    // Before the apiserver has made its own Service, its address is still known from the operator.
    let known_address = ServiceFacts {
        name: apiserver.clone(),
        cluster_ips: vec![kubernetes],
        ports: vec![PortFacts { name: "https".into(), port: 443, protocol: Protocol::Tcp }],
        local_only: false,
        affinity: None,
        is_proxied: true,
    };
    let of_namespace = services.iter().filter(|service| links && service.name.namespace == namespace && service.name != apiserver);
    let mut visible: Vec<&ServiceFacts> = of_namespace.map(AsRef::as_ref).collect();
    // A namespace's own Service called `kubernetes` takes the place of the cluster's, by upstream's order.
    if !visible.iter().any(|service| service.name.name == "kubernetes") {
        visible.push(services.iter().find(|service| service.name == apiserver).map_or(&known_address, AsRef::as_ref));
    }
    visible.sort_by(|a, b| a.name.name.cmp(&b.name.name));
    visible.into_iter().flat_map(from_service).collect()
}

fn from_service(service: &ServiceFacts) -> Vec<EnvVar> {
    let (Some(ip), Some(first)) = (service.cluster_ips.first(), service.ports.first()) else { return Vec::new() };
    let prefix = variable(&service.name.name);
    let port_variable = format!("{prefix}_SERVICE_PORT");
    let mut list = vec![var(format!("{prefix}_SERVICE_HOST"), ip.to_string()), var(port_variable.clone(), first.port.to_string())];
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        list.push(var(format!("{port_variable}_{}", variable(&port.name)), port.port.to_string()));
    }
    list.push(var(format!("{prefix}_PORT"), url(*ip, first)));
    for port in &service.ports {
        let protocol = port.protocol.to_string();
        let link = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        list.push(var(link.clone(), url(*ip, port)));
        list.push(var(format!("{link}_PROTO"), protocol));
        list.push(var(format!("{link}_PORT"), port.port.to_string()));
        list.push(var(format!("{link}_ADDR"), ip.to_string()));
    }
    list
}

fn url(ip: IpAddr, port: &PortFacts) -> String {
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    format!("{}://{host}:{}", port.protocol, port.port)
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn var(name: String, value: String) -> EnvVar {
    EnvVar { name, value: Some(value), value_from: None }
}
