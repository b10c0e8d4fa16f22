//! Step four, inside the tenant: connects to its API as soon as there is an address, and sets up what belongs inside as
//! soon as it answers.

use super::apply::OnHost;
use super::subject::Subject;
use super::validate::ValidatedCluster;
use crate::context::Context;
use crate::tenant::apply::{TenantError, keep};
use crate::tenant::objects::{Settings, stages};
use crate::tenant::{ConnectError, Observation};
use jiff::Timestamp;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    #[error("no client of the tenant's API")]
    Connect(#[from] ConnectError),
}

/// What is seen inside, and whether what belongs there could be applied. The tenant's own trouble is no reason not to
/// report what is seen.
pub async fn apply(
    subject: &Subject,
    cluster: &ValidatedCluster,
    host: &OnHost,
    ctx: &Context,
) -> Result<(Observation, Result<(), TenantError>), InsideError> {
    let pki = &host.pki;
    let tenant = ctx.tenants.connect(
        &cluster.uid,
        &subject.reference,
        &host.endpoint.host_url,
        &pki.secrets.ca,
        &pki.ca_bundle,
        Timestamp::now(),
    )?;
    let observation = tenant.observation.borrow().clone();
    if !observation.api_answered {
        return Ok((observation, Ok(())));
    }
    let settings = Settings::of(cluster);
    let mut revision = DefaultHasher::new();
    settings.hash(&mut revision);
    // Somebody has changed or removed CoreDNS: look at everything.
    observation.dns.as_ref().and_then(|dns| dns.generation).hash(&mut revision);
    let applied = keep(&tenant, stages(&settings), revision.finish(), ctx.config.resync.unsigned_abs()).await;
    Ok((observation, applied))
}
