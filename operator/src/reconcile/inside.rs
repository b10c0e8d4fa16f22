//! Step four, inside the tenant: connects to its API as soon as there is an address, and applies the add-ons as soon as it
//! answers.

use super::apply::OnHost;
use super::subject::Subject;
use super::validate::ValidatedCluster;
use crate::addons::{self, Settings};
use crate::apply::ApplyError;
use crate::state::Context;
use crate::tenant::connection::{ConnectError, Target};
use crate::tenant::observe::Observation;
use jiff::Timestamp;

/// What is observed in the tenant, and whether the add-ons could be applied: a failure there must not hide what is
/// observed.
pub async fn apply(
    subject: &Subject,
    cluster: &ValidatedCluster,
    host: &OnHost,
    ctx: &Context,
) -> Result<(Observation, Result<(), ApplyError>), ConnectError> {
    let (queue, reference, ca) = (ctx.queue.clone(), subject.reference.clone(), &host.pki.secrets.ca);
    let target = Target { cluster: subject.reference.to_string(), url: &host.endpoint.host_url, ca, ca_bundle: &host.pki.ca_bundle };
    let changed = move || queue.add(reference.clone());
    let tenant = ctx.state.connect(&cluster.uid, &target, &ctx.guard, changed, Timestamp::now())?;
    let observation = tenant.observation.borrow().clone();
    if !observation.api_answered {
        return Ok((observation, Ok(())));
    }
    let settings = Settings {
        dns_address: cluster.dns_address,
        cluster_domain: cluster.cluster_domain.clone(),
        coredns_image: cluster.images.coredns.clone(),
        coredns_generation: observation.dns.as_ref().and_then(|dns| dns.generation),
    };
    let applied = addons::apply(&tenant.client, &cluster.uid, &ctx.state, &settings, ctx.config.resync.unsigned_abs()).await;
    Ok((observation, applied))
}
