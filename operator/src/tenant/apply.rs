//! Keeps the operator's objects inside a tenant: applied at once, looked at again now and then, repaired when somebody
//! changed them.

use super::objects::TenantObject;
use super::registry::Tenant;
use crate::apply::holds::holds;
use crate::apply::stamp::stamp;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use nestling_crds::labels;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A fresh tenant has a dozen objects to get; they need not queue behind each other.
const AT_ONCE: usize = 8;

/// When all of which objects were last seen to be as they should.
#[derive(Debug, Default)]
pub struct Kept(Mutex<Option<(u64, Instant)>>);

#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error("cannot serialize {object}")]
    Serialize {
        object: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot read {object} in the tenant")]
    Read {
        object: String,
        #[source]
        source: kube::Error,
    },
    #[error("cannot apply {object} in the tenant")]
    Apply {
        object: String,
        #[source]
        source: kube::Error,
    },
}

/// Applies `stages` one after the other, the objects of one stage together. Nothing is asked if all of them were found in
/// order less than `every` ago under the same `revision`, which must change with what is asked for and with any sign that
/// somebody else has changed them.
pub async fn keep(tenant: &Tenant, stages: Vec<Vec<TenantObject>>, revision: u64, every: Duration) -> Result<(), TenantError> {
    let kept = *tenant.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.is_some_and(|(known, at)| known == revision && at.elapsed() < every) {
        return Ok(());
    }
    for stage in stages {
        stream::iter(stage).map(|object| apply(tenant, object)).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    *tenant.kept.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((revision, Instant::now()));
    Ok(())
}

async fn apply(tenant: &Tenant, object: TenantObject) -> Result<(), TenantError> {
    let TenantObject { resource, mut object } = object;
    let shown = show(&resource, &object);
    let serialize = |source| TenantError::Serialize { object: shown.clone(), source };
    stamp(&mut object).map_err(serialize)?;
    let api = api(tenant, &resource, &object);
    let name = object.metadata.name.clone().unwrap_or_default();
    let live = api.get_opt(&name).await.map_err(|source| TenantError::Read { object: shown.clone(), source })?;
    if let Some(live) = live {
        let (wanted, found) = (serde_json::to_value(&object).map_err(serialize)?, serde_json::to_value(&live).map_err(serialize)?);
        if holds(&wanted, &found) {
            return Ok(());
        }
    }
    let params = PatchParams::apply(labels::OPERATOR).force();
    api.patch(&name, &params, &Patch::Apply(&object)).await.map_err(|source| TenantError::Apply { object: shown.clone(), source })?;
    tracing::debug!(object = shown, "applied in the tenant");
    Ok(())
}

fn api(tenant: &Tenant, resource: &ApiResource, object: &DynamicObject) -> Api<DynamicObject> {
    match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(tenant.client.clone(), namespace, resource),
        None => Api::all_with(tenant.client.clone(), resource),
    }
}

fn show(resource: &ApiResource, object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match &object.metadata.namespace {
        Some(namespace) => format!("{} {namespace}/{name}", resource.kind),
        None => format!("{} {name}", resource.kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::{api as host, not_found};
    use crate::tenant::Observation;
    use crate::tenant::objects::{Settings, stages};
    use http::Method;
    use serde_json::Value;
    use std::collections::HashMap;
    use std::sync::Arc;
    use tokio::sync::watch;

    const EVERY: Duration = Duration::from_secs(600);

    fn wanted() -> Vec<Vec<TenantObject>> {
        stages(&Settings {
            dns_address: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            coredns_image: "coredns:v1".into(),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn applied_once_then_looked_at_now_and_then_and_repaired() {
        let live: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
        let state = live.clone();
        let (client, log) = host(move |method, path, body| {
            let mut live = state.lock().unwrap();
            if *method == Method::PATCH {
                live.insert(path.to_owned(), body.clone());
            }
            live.get(path).map_or_else(not_found, |object| (200, object.clone()))
        });
        let (_observed, observation) = watch::channel(Observation::default());
        let tenant = Tenant { client, observation, kept: Kept::default() };
        let writes = |log: Vec<String>| log.into_iter().filter(|line| line.starts_with("PATCH")).collect::<Vec<_>>();
        let total = wanted().iter().map(Vec::len).sum::<usize>();

        keep(&tenant, wanted(), 1, EVERY).await.unwrap();
        let first = writes(log.take());
        assert_eq!(first.len(), total);
        // Its ServiceAccount must be there before pods of it can be created.
        assert!(first.last().unwrap().ends_with("/deployments/coredns"), "{first:?}");

        keep(&tenant, wanted(), 1, EVERY).await.unwrap();
        assert!(log.take().is_empty());

        tokio::time::advance(EVERY).await;
        live.lock().unwrap().remove("/api/v1/namespaces/kube-system/services/kube-dns");
        keep(&tenant, wanted(), 1, EVERY).await.unwrap();
        assert_eq!(writes(log.take()), ["PATCH /api/v1/namespaces/kube-system/services/kube-dns"]);

        // A sign of change is not slept over.
        keep(&tenant, wanted(), 2, EVERY).await.unwrap();
        let looked = log.take();
        assert_eq!((looked.len(), writes(looked).len()), (total, 0));
    }
}
