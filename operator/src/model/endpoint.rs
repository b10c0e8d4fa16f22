//! The addresses of the tenant's API, as the live Service reports them.

use crate::model::{San, ValidatedCluster, names};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use nestling_crds::v1alpha1::ExposeType;
use std::net::IpAddr;

/// Port of the Service in front of the API.
pub(crate) const API_PORT: i32 = 443;

/// Addresses of the tenant's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// ClusterIP of the Service.
    pub service_ip: IpAddr,
    /// `https://<service address>:443`, for programs on the host: agents, controllers, the operator.
    pub host_url: String,
    /// What people use: the exposed host name or load balancer, else the same as `host_url`.
    pub url: String,
    /// Further names and addresses under which the API is reached.
    pub sans: Vec<San>,
}

impl Endpoint {
    /// `None` until the Service has an address.
    pub fn from_service(cluster: &ValidatedCluster, live: &Service) -> Option<Self> {
        let spec = live.spec.as_ref()?;
        let (service_ip, host_url) = (service_ip(live)?, host_url(live)?);
        let balancers = live
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref())
            .and_then(|balancer| balancer.ingress.as_deref())
            .unwrap_or_default();
        let node_port = spec.ports.iter().flatten().find_map(|port| port.node_port);

        let address = cluster.expose.hostname.as_deref().and_then(|name| name.parse::<IpAddr>().ok());
        let named = address.map(host).or_else(|| cluster.expose.hostname.clone());
        let san = named.clone().map(|name| address.map_or(San::Dns(name), San::Ip));
        let url = match cluster.expose.type_ {
            ExposeType::NodePort => named.zip(node_port).map(|(name, port)| url(&name, port)),
            ExposeType::LoadBalancer => {
                let balancer = balancers.iter().find_map(balancer_host);
                named.or(balancer).map(|host| url(&host, API_PORT))
            }
            ExposeType::ClusterIP | ExposeType::Gateway => named.map(|name| url(&name, API_PORT)),
        };
        let sans = balancers.iter().filter_map(balancer_san).chain(san).collect();
        Some(Self { service_ip, url: url.unwrap_or_else(|| host_url.clone()), host_url, sans })
    }

    /// The server of the admin kubeconfig: the Service by name where it is reached inside the host only.
    pub fn kubeconfig_server(&self, cluster: &ValidatedCluster) -> String {
        if self.url == self.host_url {
            url(&format!("{}.{}.svc", names::apiserver(&cluster.name), cluster.namespace), API_PORT)
        } else {
            self.url.clone()
        }
    }
}

fn service_ip(live: &Service) -> Option<IpAddr> {
    live.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

/// Where programs on the host reach a tenant's API: by address, for they may not have DNS. `None` until the Service has one.
pub(crate) fn host_url(live: &Service) -> Option<String> {
    Some(url(&host(service_ip(live)?), API_PORT))
}

fn url(host: &str, port: i32) -> String {
    format!("https://{host}:{port}")
}

fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

fn balancer_host(ingress: &LoadBalancerIngress) -> Option<String> {
    match balancer_san(ingress)? {
        San::Ip(address) => Some(host(address)),
        San::Dns(name) => Some(name),
        San::Uri(_) => None,
    }
}

fn balancer_san(ingress: &LoadBalancerIngress) -> Option<San> {
    let address = ingress.ip.as_deref().and_then(|ip| ip.parse().ok()).map(San::Ip);
    address.or_else(|| ingress.hostname.clone().filter(|name| !name.is_empty()).map(San::Dns))
}
