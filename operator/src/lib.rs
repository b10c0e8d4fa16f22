//! The operator, which makes a running tenant cluster out of a `VirtualCluster`, and the control API, which serves node agents their
//! tenants: two programs of one binary, with rights of their own.
//!
//! Watches of the host fill stores and a queue ([`host`]); [`controller`] reconciles the clusters in the queue; a [`reconcile`]
//! reads, validates, builds, applies and reports. [`model`], [`pki`], `reconcile::validate` and `reconcile::build` are pure.
//! [`apply`] writes what has drifted, on the host and, with [`addons`], inside tenants, whose APIs [`tenant`] connects to.
//! [`control`] serves agents, from stores of its own. [`app`] alone wires it all.
//!
//! Every replica of the operator watches; the holder of the lease writes, and [`host::client`] checks the lease at each write.
//! Every replica of the control API serves.
//!
//! Order: config ← conditions ← metrics ← events ← model ← pki ← installation ← host ← tenant ← state ← apply ← addons
//! ← etcd ← reconcile ← control ← controller ← app

#![warn(unreachable_pub)]

mod addons;
pub mod app;
mod apply;
mod conditions;
pub mod config;
mod control;
mod controller;
mod etcd;
mod events;
mod host;
mod installation;
mod metrics;
mod model;
mod pki;
mod reconcile;
mod state;
mod tenant;

/// What `tests/control_plane_smoke` runs with the real programs.
#[doc(hidden)]
pub mod smoke {
    pub use crate::model::{Endpoint, Membership, ValidatedCluster};
    pub use crate::pki::sign::kubelet as sign_kubelet;
    pub use crate::pki::{Pki, PkiPolicy, PkiSecrets, installation, plan, super_admin};
    pub use crate::reconcile::build::{containers, resources};
    pub use crate::reconcile::dereference::{Dereferenced, Running};
    pub use crate::reconcile::validate::validate;

    use crate::etcd::client::{Endpoint as Member, EtcdClient};
    use k8s_openapi::api::core::v1::Secret;

    /// Makes room in the etcd of a cluster with one stacked member; returns what came of it.
    pub async fn reclaim_space(ca: &Secret, address: std::net::IpAddr, name: &str, namespace: &str) -> anyhow::Result<String> {
        let identity = crate::pki::sign::etcd_client(ca, jiff::Timestamp::now())?;
        let bundle =
            ca.data.as_ref().and_then(|data| data.get("etcd-ca.crt")).map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned());
        let member = Member { address: (address, 2379).into(), name: format!("{name}-control-plane-0.{namespace}.svc") };
        let etcd = EtcdClient::new(&[member], &bundle.unwrap_or_default(), &identity)?;
        Ok(format!("{:?}", crate::etcd::space::reclaim(&etcd).await?))
    }
}
