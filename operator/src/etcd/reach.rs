//! A connection to a tenant's etcd, as a client that the tenant's authority of etcd vouches for.

use super::EtcdError;
use super::client::{Endpoint, EtcdClient};
use super::places::address;
use crate::model::{ETCD_CLIENT_PORT, keys, names};
use crate::pki;
use crate::state::State;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nestling_crds::labels;
use nestling_crds::names::TenantUid;
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    #[error("cannot read the tenant's authorities")]
    Secret(#[source] kube::Error),
    #[error("the tenant has no authority of etcd")]
    NoAuthority,
    #[error("cannot make a client certificate for etcd")]
    Identity(#[from] pki::PkiError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// The members in `pods`, all of one tenant.
pub(crate) async fn connect(tenant: &TenantUid, pods: &[Arc<Pod>], state: &State) -> Result<EtcdClient, ReachError> {
    let of = |pod: &Pod| Some((pod.labels().get(labels::CLUSTER)?.clone(), pod.namespace()?));
    let (cluster, namespace) = pods.first().and_then(|pod| of(pod)).ok_or(ReachError::NoAuthority)?;
    let ca = state.secret(tenant, &namespace, &names::ca(&cluster)).await.map_err(ReachError::Secret)?;
    let ca = ca.ok_or(ReachError::NoAuthority)?;
    let bundle = ca.data.as_ref().and_then(|data| data.get(keys::ETCD_CA)).ok_or(ReachError::NoAuthority)?;
    let endpoint = |pod: &Arc<Pod>| {
        let name = names::member_host(&namespace, &pod.name_any());
        Some(Endpoint { address: address(pod, ETCD_CLIENT_PORT)?, name })
    };
    let endpoints: Vec<Endpoint> = pods.iter().filter_map(endpoint).collect();
    let identity = pki::etcd_client(&ca, Timestamp::now())?;
    Ok(EtcdClient::new(&endpoints, &String::from_utf8_lossy(&bundle.0), &identity)?)
}
