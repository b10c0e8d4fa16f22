//! `/stats/summary` and `/metrics/resource`: what the tenant's pods use, from the runtime's own figures.
//!
//! A tenant sees the node as its share of it: the node's figures are the sum over its own pods, since what others use
//! is not its to know. [`summary`] is the document, [`exposition`] its figures for scrapers such as metrics-server.

mod exposition;
mod summary;

use super::pods;
use super::respond::{self, Body};
use crate::cri::{Cri, CriError, labels, v1};
use crate::tenant::Tenant;
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;
use summary::Summary;

pub async fn summary(cri: &dyn Cri, tenant: &Tenant) -> Response<Body> {
    match measure(cri, tenant).await {
        Ok(summary) => respond::json(&summary),
        Err(error) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A scrape that could not measure says so in its figures, as a kubelet's does.
pub async fn resource_metrics(cri: &dyn Cri, tenant: &Tenant) -> Response<Body> {
    let summary = match measure(cri, tenant).await {
        Ok(summary) => Some(summary),
        Err(error) => {
            tracing::warn!(tenant = %tenant.spec.uid, %error, source = ?std::error::Error::source(&error), "no stats of the runtime");
            None
        }
    };
    respond::with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", exposition::render(summary.as_ref()))
}

async fn measure(cri: &dyn Cri, tenant: &Tenant) -> Result<Summary, CriError> {
    let of_tenant = HashMap::from([(nestling_crds::labels::TENANT.to_owned(), tenant.spec.uid.to_string())]);
    let stats = cri.pod_sandbox_stats(v1::PodSandboxStatsFilter { label_selector: of_tenant, ..Default::default() }).await?;
    let mut stats_of: HashMap<String, v1::PodSandboxStats> = HashMap::new();
    for stats in stats {
        if let Some(uid) = stats.attributes.as_ref().and_then(|attributes| attributes.labels.get(labels::POD_UID)) {
            stats_of.insert(uid.clone(), stats);
        }
    }
    let measured: Vec<(Arc<Pod>, v1::PodSandboxStats)> = tenant
        .stores
        .tenant
        .state()
        .into_iter()
        .filter_map(|pod| {
            let host = pods::host_pod(tenant, &pod)?;
            let stats = stats_of.remove(host.metadata.uid.as_deref()?)?;
            Some((pod, stats))
        })
        .collect();
    Ok(Summary::new(tenant.node.as_str(), &measured))
}
