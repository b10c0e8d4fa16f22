//! `exec`, `attach`, `portForward` and `run`.
//!
//! The first three are streams. The runtime is asked for a URL good for one use; [`relay`] dials it, replays the upgrade
//! the caller asked for (SPDY or WebSocket), hands the runtime's answer back and then copies bytes both ways without
//! looking at them, so no streaming protocol is spoken here.

mod options;
mod relay;
mod splice;
mod target;

use super::context::Context;
use super::pods;
use super::respond::{self, Body};
use super::route::{ContainerPath, PodPath};
use crate::cri::{CriError, v1};
use crate::server::limits::Slot;
use crate::tenant::Tenant;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use options::{StreamOptions, forwarded_ports};
use std::sync::Arc;
use tonic::Code;

pub async fn exec(context: &Context, tenant: &Tenant, path: &ContainerPath, slot: Arc<Slot>, request: Request<Incoming>) -> Response<Body> {
    let found = match find_running(context, tenant, path, &request).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let query = request.uri().query().unwrap_or_default();
    let cri_request = v1::ExecRequest {
        container_id: found.container_id,
        cmd: options::command(query),
        tty: found.options.tty,
        stdin: found.options.stdin,
        stdout: found.options.stdout,
        stderr: found.options.stderr,
    };
    hand_over(context, context.cri.exec(cri_request).await, slot, request).await
}

pub async fn attach(
    context: &Context,
    tenant: &Tenant,
    path: &ContainerPath,
    slot: Arc<Slot>,
    request: Request<Incoming>,
) -> Response<Body> {
    let found = match find_running(context, tenant, path, &request).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    // Whether a running process has a terminal is its container's to say, not the caller's.
    let cri_request = v1::AttachRequest {
        container_id: found.container_id,
        stdin: found.options.stdin,
        tty: found.has_terminal,
        stdout: found.options.stdout,
        stderr: found.options.stderr && !found.has_terminal,
    };
    hand_over(context, context.cri.attach(cri_request).await, slot, request).await
}

pub async fn port_forward(
    context: &Context,
    tenant: &Tenant,
    path: &PodPath,
    slot: Arc<Slot>,
    request: Request<Incoming>,
) -> Response<Body> {
    let port = match forwarded_ports(request.headers(), request.uri().query().unwrap_or_default()) {
        Ok(ports) => ports,
        Err(error) => return respond::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let Some(pod) = pods::tenant_pod(tenant, path) else {
        return respond::text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let sandbox = match host_uid(tenant, &pod) {
        Some(uid) => match pods::ready_sandbox(&*context.cri, &uid).await {
            Ok(sandbox) => sandbox,
            Err(error) => return failed(&error),
        },
        None => None,
    };
    let Some(sandbox) = sandbox else {
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({:?})", full_name(path)));
    };
    let cri_request = v1::PortForwardRequest { pod_sandbox_id: sandbox.id, port };
    hand_over(context, context.cri.port_forward(cri_request).await, slot, request).await
}

/// Runs a command and answers with all it wrote: an old function of the kubelet, without streams.
pub async fn run(context: &Context, tenant: &Tenant, path: &ContainerPath, query: &str) -> Response<Body> {
    let container_id = match container_id(context, tenant, path).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let cmd = options::run_command(query);
    let shown = cmd.join(" ");
    match context.cri.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: 0 }).await {
        Ok(answer) if answer.exit_code == 0 => {
            let output = [answer.stdout, answer.stderr].concat();
            respond::with_type(StatusCode::OK, "application/json", output)
        }
        Ok(answer) => {
            let text = format!("command '{shown}' exited with {}: {}", answer.exit_code, String::from_utf8_lossy(&answer.stderr));
            respond::text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
        Err(error) => failed(&error),
    }
}

struct Running {
    container_id: String,
    options: StreamOptions,
    /// The container was made with a terminal.
    has_terminal: bool,
}

async fn find_running(
    context: &Context,
    tenant: &Tenant,
    path: &ContainerPath,
    request: &Request<Incoming>,
) -> Result<Running, Response<Body>> {
    let options = StreamOptions::from_query(request.uri().query().unwrap_or_default())
        .map_err(|error| respond::text(StatusCode::BAD_REQUEST, error.to_string()))?;
    let container_id = container_id(context, tenant, path).await?;
    let spec = pods::tenant_pod(tenant, &path.pod).and_then(|pod| pods::container_spec(&pod, &path.container));
    Ok(Running { container_id, options, has_terminal: spec.is_some_and(|spec| spec.tty) })
}

async fn container_id(context: &Context, tenant: &Tenant, path: &ContainerPath) -> Result<String, Response<Body>> {
    let pod = pods::tenant_pod(tenant, &path.pod).ok_or_else(|| respond::text(StatusCode::NOT_FOUND, "pod does not exist"))?;
    let container = match host_uid(tenant, &pod) {
        // Only what the tenant's own specification names: nothing that the host adds to pods can be entered.
        Some(uid) if pods::container_spec(&pod, &path.container).is_some() => {
            pods::running_container(&*context.cri, &uid, &path.container).await.map_err(|error| failed(&error))?
        }
        _ => None,
    };
    let not_found = || respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({:?})", path.container));
    Ok(container.ok_or_else(not_found)?.id)
}

fn host_uid(tenant: &Tenant, pod: &Pod) -> Option<String> {
    pods::host_pod(tenant, pod)?.metadata.uid.clone()
}

/// A pod's name as a kubelet writes it in messages.
fn full_name(path: &PodPath) -> String {
    format!("{}_{}", path.name, path.namespace)
}

async fn hand_over(context: &Context, url: Result<String, CriError>, slot: Arc<Slot>, request: Request<Incoming>) -> Response<Body> {
    let target = match url.as_deref().map(target::Target::parse) {
        Ok(Ok(target)) => target,
        Ok(Err(error)) => {
            tracing::error!(%error, "the container runtime's streaming server cannot be used");
            return respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        }
        Err(error) => return failed(error),
    };
    relay::relay(context, &target, slot, request).await.unwrap_or_else(|error| {
        tracing::warn!(%error, source = ?std::error::Error::source(&error), "stream not relayed");
        respond::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    })
}

/// A refusal of the runtime as a kubelet passes it on (`streaming.WriteError`).
fn failed(error: &CriError) -> Response<Body> {
    let text = match error {
        CriError::Call { source, .. } => format!("{error}: {}", source.message()),
        _ => error.to_string(),
    };
    match error.code() {
        Code::NotFound => respond::text(StatusCode::NOT_FOUND, text),
        // Too many streams wait to be begun; the runtime forgets them after a minute.
        Code::ResourceExhausted => respond::retry_after(StatusCode::TOO_MANY_REQUESTS, 60, text),
        _ => respond::text(StatusCode::INTERNAL_SERVER_ERROR, text),
    }
}
