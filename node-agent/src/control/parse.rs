//! Tenants as the operator tells them, parsed once: past here nothing is a string that could be wrong.

use crate::tenant::TenantSpec;
use nestling_control_api::v1alpha1 as proto;
use nestling_crds::names::{TenantUid, WorkloadNamespace};
use std::net::AddrParseError;

#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {value:?} is not an IP address")]
    Address {
        field: &'static str,
        value: String,
        #[source]
        source: AddrParseError,
    },
    #[error("service range {value:?} is not in CIDR notation")]
    Cidr {
        value: String,
        #[source]
        source: ipnet::AddrParseError,
    },
    #[error("endpoint {0:?} is not an https URL")]
    Endpoint(String),
}

pub(super) fn tenant(tenant: proto::Tenant) -> Result<TenantSpec, ParseError> {
    let proto::Tenant {
        uid,
        namespace,
        name,
        workload_namespace,
        endpoint,
        ca_bundle,
        service_cidrs,
        dns_address,
        kubernetes_address,
        cluster_domain,
        version,
        capacity,
        draining,
    } = tenant;
    let present = |field: &'static str, value: String| if value.is_empty() { Err(ParseError::Missing { field }) } else { Ok(value) };
    if !endpoint.starts_with("https://") {
        return Err(ParseError::Endpoint(endpoint));
    }
    if ca_bundle.is_empty() {
        return Err(ParseError::Missing { field: "ca_bundle" });
    }
    let service_cidrs = service_cidrs
        .into_iter()
        .map(|value| value.parse().map_err(|source| ParseError::Cidr { value, source }))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(TenantSpec {
        uid: TenantUid::new(present("uid", uid)?),
        namespace,
        name,
        workload_namespace: WorkloadNamespace::from_made(present("workload_namespace", workload_namespace)?),
        endpoint,
        ca_bundle,
        service_cidrs,
        dns_address: address("dns_address", dns_address)?,
        kubernetes_address: address("kubernetes_address", kubernetes_address)?,
        cluster_domain: present("cluster_domain", cluster_domain)?,
        version,
        capacity: capacity.into_iter().collect(),
        draining,
    })
}

fn address(field: &'static str, value: String) -> Result<std::net::IpAddr, ParseError> {
    value.parse().map_err(|source| ParseError::Address { field, value, source })
}
