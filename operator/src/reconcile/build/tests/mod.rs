//! What a cluster is on the host: goldens of all objects, and what may and may not replace pods.

mod flags;
mod golden;
mod rolls;

use super::{Prepared, Resources, resources, service};
use crate::model::{Endpoint, ValidatedCluster};
use crate::pki::{Pki, PkiPolicy, plan};
use crate::reconcile::dereference::Dereferenced;
use crate::reconcile::validate::testing::{now, reads};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Service;

const POLICY: PkiPolicy = PkiPolicy { leaf_lifetime: SignedDuration::from_hours(8760), ca_lifetime: SignedDuration::from_hours(87600) };

/// The Service as the host's API returns it.
fn live(cluster: &ValidatedCluster) -> Service {
    let mut live = service(cluster);
    live.spec.as_mut().unwrap().cluster_ip = Some("10.96.7.7".into());
    live
}

fn endpoint(cluster: &ValidatedCluster) -> Endpoint {
    Endpoint::from_service(cluster, &live(cluster)).unwrap()
}

fn pki(cluster: &ValidatedCluster, reads: &Dereferenced) -> Pki {
    plan(cluster, &endpoint(cluster), &reads.installation, &reads.secrets, now(), &POLICY).unwrap()
}

fn build(cluster: &ValidatedCluster) -> Resources<Prepared> {
    resources(cluster, &pki(cluster, &reads()))
}
