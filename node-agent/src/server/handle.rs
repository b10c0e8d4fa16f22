//! One request: whose it is, whether it is allowed, and which function answers it.

use super::context::Context;
use super::identity::Identity;
use super::limits::Slot;
use super::respond::{self, Body};
use super::route::{Access, Route};
use super::{listing, logs, pods, stats, stream};
use crate::tenant::Tenant;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;
use std::sync::Arc;

/// The far end of a connection.
pub struct Caller {
    pub identity: Identity,
    pub slot: Arc<Slot>,
}

pub async fn handle(context: Arc<Context>, caller: Arc<Caller>, request: Request<Incoming>) -> Response<Body> {
    let route = Route::of(request.method(), request.uri().path());
    let name = route.name();
    let response = match admit(&context, &caller.identity, &request).await {
        Ok(tenant) => answer(&context, &tenant, &caller, route, request).await,
        Err(refusal) => refusal,
    };
    context.metrics.answered(name, response.status());
    tracing::debug!(tenant = %caller.identity.tenant, user = %caller.identity.user, route = name, status = response.status().as_u16(), "kubelet API");
    response
}

/// The tenant, if the caller speaks for one that this node serves and may do what it asks. Refusals say nothing of what
/// exists.
async fn admit(context: &Context, caller: &Identity, request: &Request<Incoming>) -> Result<Arc<Tenant>, Response<Body>> {
    if caller.not_after < Timestamp::now() {
        return Err(respond::text(StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    let Some(tenant) = context.tenants.get(&caller.tenant) else {
        // After a restart the agent learns of its tenants a moment later.
        return Err(respond::retry_after(StatusCode::SERVICE_UNAVAILABLE, 1, "the tenant is not served by this node"));
    };
    let Some(access) = Access::needed(request.method(), request.uri().path()) else {
        return Err(respond::text(StatusCode::FORBIDDEN, "Authorization error: could not determine attributes for request"));
    };
    match context.authorizer.allows(&tenant, caller, &access).await {
        Ok(true) if pods::are_known(&tenant).await => Ok(tenant),
        Ok(true) => Err(respond::retry_after(StatusCode::SERVICE_UNAVAILABLE, 1, "the cluster's pods are not known yet")),
        Ok(false) => {
            let Access { verb, subresources } = access;
            let subresources = subresources.join(" ");
            let text = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresources}])\n", caller.user);
            Err(respond::text(StatusCode::FORBIDDEN, text))
        }
        Err(error) => {
            tracing::warn!(tenant = %caller.tenant, %error, source = ?std::error::Error::source(&error), "access not reviewed");
            let subresource = access.subresources.first().copied().unwrap_or_default();
            let text =
                format!("Authorization error (user={}, verb={}, resource=nodes, subresource={subresource})", caller.user, access.verb);
            Err(respond::text(StatusCode::INTERNAL_SERVER_ERROR, text))
        }
    }
}

async fn answer(context: &Context, tenant: &Tenant, caller: &Caller, route: Route, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let slot = Arc::clone(&caller.slot);
    match route {
        Route::Healthz => respond::text(StatusCode::OK, "ok"),
        Route::Pods => listing::pods(tenant),
        Route::RunningPods => listing::running_pods(&*context.cri, tenant).await,
        Route::StatsSummary => stats::summary(&*context.cri, tenant).await,
        Route::ResourceMetrics => stats::resource_metrics(&*context.cri, tenant).await,
        Route::ContainerLogs(path) => logs::serve(context, tenant, &path, query).await,
        Route::Run(path) => stream::run(context, tenant, &path, query).await,
        Route::Exec(path) => stream::exec(context, tenant, &path, slot, request).await,
        Route::Attach(path) => stream::attach(context, tenant, &path, slot, request).await,
        Route::PortForward(path) => stream::port_forward(context, tenant, &path, slot, request).await,
        Route::Host => {
            respond::text(StatusCode::METHOD_NOT_ALLOWED, "this endpoint shows the machine, which tenants share, and is disabled.")
        }
        Route::MethodNotAllowed(allow) => respond::method_not_allowed(allow, "Method Not Allowed"),
        Route::Unknown => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
