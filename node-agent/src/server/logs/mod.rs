//! `GET /containerLogs/{namespace}/{pod}/{container}`: the container's log as its runtime wrote it.
//!
//! Data flow: the query becomes [`options::LogOptions`]; [`source`] finds the container that is meant and its file
//! below the log root; [`reader`] walks the file from where [`tail`] says, [`record`] reads each record, and [`emit`]
//! decides what of it goes out. Only the current file is read, as a kubelet does: what was rotated away is gone.

mod emit;
mod options;
mod reader;
mod record;
mod source;
mod tail;

pub use options::{LogOptions, OptionsError};
pub use source::LogRoots;

use super::context::Context;
use super::pods;
use super::respond::{self, Body};
use super::route::ContainerPath;
use crate::tenant::Tenant;
use futures::TryStreamExt;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use reader::LogReader;
use std::fmt::Write as _;
use std::sync::Arc;

pub async fn serve(context: &Context, tenant: &Tenant, path: &ContainerPath, query: &str) -> Response<Body> {
    let options = match LogOptions::from_query(query, jiff::Timestamp::now()) {
        Ok(options) => options,
        Err(OptionsError::Undecodable) => return respond::text(StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#),
        Err(OptionsError::Invalid) => return respond::text(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#),
    };
    let Some(pod) = pods::tenant_pod(tenant, &path.pod) else {
        return respond::text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", path.pod.name));
    };
    if pods::container_spec(&pod, &path.container).is_none() {
        let text = format!("container {:?} not found in pod {:?}", path.container, path.pod.name);
        return respond::text(StatusCode::NOT_FOUND, text);
    }
    // The host pod's status is what the tenant's will be; before there is a host pod the tenant's says why.
    let running = pods::host_pod(tenant, &pod).unwrap_or_else(|| pod.clone());
    let container_id = match source::container_id(&running, &path.pod.name, &path.container, options.previous) {
        Ok(id) => id,
        Err(error) => return respond::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match open(context, &container_id, options).await {
        Ok(reader) => stream(reader),
        Err(error) => {
            tracing::warn!(tenant = %tenant.spec.uid, pod = %path.pod.name, container = %path.container, error = %with_sources(&error), "log not readable");
            respond::text(StatusCode::BAD_REQUEST, error.to_string())
        }
    }
}

async fn open(context: &Context, container_id: &source::ContainerId, options: LogOptions) -> Result<LogReader, source::SourceError> {
    let status = context
        .cri
        .container_status(container_id.bare())
        .await
        .map_err(|source| source::SourceError::Status { id: container_id.to_string(), source })?;
    let file = context.log_roots.open(status.log_path.into(), options.tail).await?;
    Ok(LogReader::new(file, options, context.log_roots.clone(), Arc::clone(&context.cri), container_id.bare().to_owned()))
}

fn stream(reader: LogReader) -> Response<Body> {
    let chunks = futures::stream::try_unfold(reader, |mut reader| async move {
        let chunk = reader.next_chunk().await?;
        Ok(chunk.map(|chunk| (Frame::data(chunk), reader)))
    })
    .inspect_err(|error: &std::io::Error| tracing::warn!(%error, "log stream broke off"));
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An error with all that caused it, for the agent's log alone: the caller is told no host paths.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
