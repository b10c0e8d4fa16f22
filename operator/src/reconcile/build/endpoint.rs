//! How the tenant's API is reached, as far as the live Service tells.

use crate::reconcile::validate::{San, ValidatedCluster};
use k8s_openapi::api::core::v1::Service;
use std::net::IpAddr;

/// Addresses of the tenant's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
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
    pub fn from_service(_cluster: &ValidatedCluster, _service: &Service) -> Option<Self> {
        todo!()
    }
}
