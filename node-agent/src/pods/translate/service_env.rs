//! The variables by which containers find Services: upstream's `envvars.FromServices`. A kubelet sets them at each start
//! of a container; here they are as at the creation of the host pod.

use super::Translator;
use crate::pods::services::{PortFacts, ServiceFacts};
use k8s_openapi::api::core::v1::EnvVar;

impl Translator<'_> {
    /// Those of `default/kubernetes` always, those of the pod's namespace when `enableServiceLinks` (by default true).
    pub fn service_env(&self, links: Option<bool>) -> Vec<EnvVar> {
        let links = links.unwrap_or(true);
        let is_kubernetes = |service: &&ServiceFacts| service.namespace == "default" && service.name == "kubernetes";
        let context = self.context;
        // Before the apiserver has made its own Service, its address is still known from the operator.
        let own = ServiceFacts {
            namespace: "default".into(),
            name: "kubernetes".into(),
            cluster_ip: context.owner.tenant.kubernetes_address.to_string(),
            ports: vec![PortFacts { name: Some("https".into()), port: 443, protocol: "TCP".into() }],
        };
        let kubernetes = context.services.iter().find(is_kubernetes).unwrap_or(&own);
        // A namespace's own Service called `kubernetes` takes the place of the cluster's, by upstream's order.
        let own_links = context.services.iter().filter(|service| links && service.namespace == self.key.namespace);
        let own_links: Vec<&ServiceFacts> = own_links.filter(|service| !is_kubernetes(service)).collect();
        let mut services: Vec<&ServiceFacts> = Vec::new();
        if !own_links.iter().any(|service| service.name == "kubernetes") {
            services.push(kubernetes);
        }
        services.extend(own_links);
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.into_iter().flat_map(from_service).collect()
    }
}

fn from_service(service: &ServiceFacts) -> Vec<EnvVar> {
    let Some(first) = service.ports.first() else { return Vec::new() };
    let prefix = variable(&service.name);
    let port_variable = format!("{prefix}_SERVICE_PORT");
    let mut list = vec![var(format!("{prefix}_SERVICE_HOST"), &service.cluster_ip), var(port_variable.clone(), first.port.to_string())];
    for port in &service.ports {
        if let Some(name) = &port.name {
            list.push(var(format!("{port_variable}_{}", variable(name)), port.port.to_string()));
        }
    }
    list.push(var(format!("{prefix}_PORT"), url(service, first)));
    for port in &service.ports {
        let link = format!("{prefix}_PORT_{}_{}", port.port, port.protocol.to_uppercase());
        list.push(var(link.clone(), url(service, port)));
        list.push(var(format!("{link}_PROTO"), port.protocol.to_lowercase()));
        list.push(var(format!("{link}_PORT"), port.port.to_string()));
        list.push(var(format!("{link}_ADDR"), &service.cluster_ip));
    }
    list
}

fn url(service: &ServiceFacts, port: &PortFacts) -> String {
    let ip = &service.cluster_ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    format!("{}://{host}:{}", port.protocol.to_lowercase(), port.port)
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn var(name: String, value: impl Into<String>) -> EnvVar {
    EnvVar { name, value: Some(value.into()), value_from: None }
}
