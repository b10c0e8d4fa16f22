//! Step four: applies the built objects to the host, then the add-ons inside the tenant.
//!
//! On the host in three rounds: the Service of the API, because its address goes into certificates; then what pods mount
//! and depend on; then the workloads. Within a round all objects are applied concurrently, because time to Ready is what
//! users wait for.

use crate::addons::Settings;
use crate::apply::{Applier, ApplyError, HostObject, Ownership, ownership};
use crate::etcd::keep;
use crate::etcd::places::Places;
use crate::model::{Endpoint, ValidatedCluster, host_url, keys, names};
use crate::pki::PkiPolicy;
use crate::pki::{Pki, PkiSecrets};
use crate::reconcile::access;
use crate::reconcile::build;
use crate::reconcile::build::{Applied, Prepared, Resources};
use crate::reconcile::dereference::{DereferenceError, Dereferenced, pki_secrets};
use crate::reconcile::error::Error;
use crate::reconcile::retained;
use crate::reconcile::subject::{Identity, Subject};
use crate::state::{Context, Failure};
use crate::tenant::observe::Observation;
use crate::tenant::{ConnectError, Target, Tenant};
use crate::{addons, pki};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use std::marker::PhantomData;

/// A cluster as it is on the host.
#[derive(Clone, Debug)]
pub(crate) struct OnHost {
    /// In front of the tenant's API.
    pub service: Service,
    pub endpoint: Endpoint,
    pub pki: Pki,
    pub resources: Resources<Applied>,
}

pub(crate) async fn apply(cluster: &ValidatedCluster, reads: &Dereferenced, ctx: &Context) -> Result<OnHost, Error> {
    let applier = Applier { host: &ctx.host, state: &ctx.state, tenant: &cluster.uid, adopt: cluster.adopt.as_deref() };
    let service = applier.apply(build::service(cluster)).await?;
    let endpoint = Endpoint::from_service(cluster, &service).ok_or(Error::NoAddress)?;
    let policy = PkiPolicy { leaf_lifetime: ctx.config.leaf_lifetime, ca_lifetime: ctx.config.ca_lifetime };
    let pki = pki::plan(cluster, &endpoint, &reads.installation, &reads.secrets, Timestamp::now(), &policy)?;
    // Boxed: it holds every object of the cluster.
    let resources = Box::pin(resources(build::resources(cluster, &pki), cluster, &applier)).await?;
    Ok(OnHost { service, endpoint, pki, resources })
}

async fn resources(
    prepared: Resources<Prepared>,
    cluster: &ValidatedCluster,
    applier: &Applier<'_>,
) -> Result<Resources<Applied>, ApplyError> {
    let Resources {
        workload_namespace,
        workload_operator_binding,
        workload_role_binding,
        workload_network_policy,
        workload_quota,
        service_account,
        etcd_services,
        secrets,
        apiserver_config,
        controllers_config,
        network_policies,
        disruption_budgets,
        claims,
        members,
        apiserver,
        controllers,
        state: PhantomData,
    } = prepared;
    let (own, workload) = (cluster.namespace.as_str(), cluster.workload_namespace.as_str());
    let (in_front, controllers_name) = ([names::apiserver(&cluster.name)], [names::controllers(&cluster.name)]);

    // What pods mount and stand on: a kubelet that finds a Secret missing waits for seconds before it looks again.
    let (workload_namespace, secrets, apiserver_config, controllers_config, service_account, etcd_services, network_policies, claims) = tokio::try_join!(
        applier.apply(workload_namespace),
        all_secrets(secrets, applier),
        applier.apply(apiserver_config),
        applier.apply(controllers_config),
        applier.apply(service_account),
        all(etcd_services, own, &in_front, applier),
        all(network_policies, own, &[], applier),
        retained::claims(claims, applier),
    )?;

    let (members, apiserver, controllers, workload_operator_binding) = tokio::try_join!(
        applier.apply(members),
        only(apiserver, own, &controllers_name, applier),
        applier.apply(controllers),
        applier.apply(workload_operator_binding),
    )?;

    // Nothing waits for these. The rights to write them in the workload namespace have just been given.
    let (workload_network_policy, workload_quota, disruption_budgets) = tokio::try_join!(
        access::once_in_force(|| only(workload_network_policy.clone(), workload, &[], applier)),
        access::once_in_force(|| only(workload_quota.clone(), workload, &[], applier)),
        all(disruption_budgets, own, &[], applier),
    )?;
    // What restricts tenants' pods is there before the agents may create any.
    let workload_role_binding = applier.apply(workload_role_binding).await?;

    Ok(Resources {
        workload_namespace,
        workload_operator_binding,
        workload_role_binding,
        workload_network_policy,
        workload_quota,
        service_account,
        etcd_services,
        secrets,
        apiserver_config,
        controllers_config,
        network_policies,
        disruption_budgets,
        claims,
        members,
        apiserver,
        controllers,
        state: PhantomData,
    })
}

/// The members that the cluster should have, and where.
pub(crate) fn members(cluster: &ValidatedCluster, host: &OnHost, places: Places) -> keep::Target {
    let template = host.resources.members.annotations().get(names::TEMPLATE).cloned().unwrap_or_default();
    keep::Target { places, wanted: cluster.members, template }
}

async fn all_secrets(secrets: PkiSecrets, applier: &Applier<'_>) -> Result<PkiSecrets, ApplyError> {
    let PkiSecrets { ca, service_account, apiserver, etcd, controllers, admin_kubeconfig } = secrets;
    // The authorities first: a certificate whose authority was lost half-way would be worth nothing.
    let ca = applier.apply(ca).await?;
    let (service_account, apiserver, etcd, controllers, admin_kubeconfig) = tokio::try_join!(
        applier.apply(service_account),
        applier.apply(apiserver),
        applier.apply(etcd),
        applier.apply(controllers),
        applier.apply(admin_kubeconfig),
    )?;
    Ok(PkiSecrets { ca, service_account, apiserver, etcd, controllers, admin_kubeconfig })
}

/// Applies all objects of a kind that the cluster has in `namespace`, besides `others`, and removes what it had before.
async fn all<K: HostObject>(objects: Vec<K>, namespace: &str, others: &[String], applier: &Applier<'_>) -> Result<Vec<K>, ApplyError> {
    let names: Vec<String> = objects.iter().map(kube::ResourceExt::name_any).collect();
    let live = try_join_all(objects.into_iter().map(|object| applier.apply(object))).await?;
    applier.prune::<K>(namespace, |name| others.iter().chain(&names).any(|kept| kept == name)).await?;
    Ok(live)
}

/// Applies the only object of its kind, or removes it.
async fn only<K: HostObject>(
    object: Option<K>,
    namespace: &str,
    others: &[String],
    applier: &Applier<'_>,
) -> Result<Option<K>, ApplyError> {
    Ok(all(object.into_iter().collect(), namespace, others, applier).await?.pop())
}

/// What is observed in the tenant, and why the add-ons could not be applied the last time: a failure there must not hide what
/// is observed.
pub(crate) fn apply_addons(
    subject: &Subject,
    cluster: &ValidatedCluster,
    host: &OnHost,
    ctx: &Context,
) -> Result<(Observation, Option<Failure>), ConnectError> {
    let id = &subject.id;
    let tenant = connect(id, &host.endpoint.host_url, &host.pki.secrets.ca, &host.pki.ca_bundle, ctx)?;
    let observation = tenant.observation.borrow().clone();
    // Before CoreDNS has been looked for, its generation would seem to change when it is found.
    if observation.dns.is_none() {
        return Ok((observation, None));
    }
    let settings = Settings {
        dns_address: cluster.dns_address,
        cluster_domain: cluster.cluster_domain.clone(),
        coredns_image: cluster.images.coredns.clone(),
        core_dns: cluster.core_dns.clone(),
        coredns_generation: observation.dns.as_ref().and_then(|dns| dns.generation),
        resumed_at: subject.status().resumed_at.map(|time| time.0),
    };
    let (queue, reference, metrics) = (ctx.queue.clone(), id.reference.clone(), ctx.metrics.clone());
    let changed = move |failure: Option<&Failure>| {
        if let Some(failure) = failure {
            metrics.failed(Error::Tenant(failure.clone()).reason());
        }
        queue.add(reference.clone());
    };
    let failure = addons::keep(&tenant, &id.uid, &ctx.state, settings, ctx.config.resync.unsigned_abs() / 2, changed);
    Ok((observation, failure))
}

fn connect(id: &Identity, url: &str, ca: &Secret, ca_bundle: &str, ctx: &Context) -> Result<Tenant, ConnectError> {
    let (queue, reference) = (ctx.queue.clone(), id.reference.clone());
    let target = Target { tenant: &id.uid, cluster: id.reference.to_string(), url, ca, ca_bundle };
    ctx.state.connect(&id.uid, &target, &ctx.guard, move || queue.add(reference.clone()), Timestamp::now())
}

/// What is observed in a tenant whose spec is not carried out; `None` if it has no API yet.
pub(crate) async fn observe(id: &Identity, ctx: &Context) -> Result<Option<Observation>, Error> {
    let service = ctx.stores.services.get(&ObjectRef::new(&names::apiserver(&id.name)).within(&id.namespace));
    let Some(url) = service.as_deref().and_then(host_url) else { return Ok(None) };
    let name = names::ca(&id.name);
    let ca = ctx.state.secret(&id.uid, &id.namespace, &name).await.map_err(|source| DereferenceError::Secret { name, source })?;
    let Some(ca) = ca.filter(|ca| is_own(&ca.metadata, id, ctx)) else { return Ok(None) };
    let bundle = ca.data.as_ref().and_then(|data| data.get(keys::CA)).map(|bundle| String::from_utf8_lossy(&bundle.0).into_owned());
    let Some(bundle) = bundle else { return Ok(None) };
    let tenant = connect(id, &url, &ca, &bundle, ctx)?;
    let observation = tenant.observation.borrow().clone();
    Ok(Some(observation))
}

/// Renews the certificates of a cluster whose spec is not carried out, each for what it says already. Returns when the next
/// one is due.
pub(crate) async fn renew(id: &Identity, ctx: &Context) -> Result<Timestamp, Error> {
    let mut existing = pki_secrets(id, ctx).await?;
    existing.retain(|_, secret| is_own(&secret.metadata, id, ctx));
    let pki::Renewed { secrets, renew_at } = pki::renew(&id.name, &ctx.installation, &existing, Timestamp::now())?;
    let applier = Applier { host: &ctx.host, state: &ctx.state, tenant: &id.uid, adopt: None };
    for secret in secrets {
        tracing::info!(cluster = %id.reference, secret = secret.name_any(), "certificates renewed although the spec is not carried out");
        applier.apply(secret).await?;
    }
    Ok(renew_at)
}

fn is_own(meta: &ObjectMeta, id: &Identity, ctx: &Context) -> bool {
    ownership(meta, &id.uid, None, &ctx.stores) == Ownership::Own
}
