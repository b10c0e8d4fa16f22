//! `GET /containerLogs/{namespace}/{pod}/{container}`: the container's log as its runtime wrote it.
//!
//! Data flow: the query becomes [`select::LogOptions`]; [`source`] finds the container that is meant, its file below the
//! log root and the offset to start at; [`reader`] walks the file, [`record`] parses each record, and [`select`] decides
//! what of it is sent. Only the current file is read, as by a kubelet: what was rotated away is gone.

mod reader;
mod record;
mod select;
mod source;

pub(super) use source::LogRoots;

use super::pods::{ContainerPath, TargetPod};
use crate::cri::Cri;
use crate::tenant::Tenant;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use reader::LogReader;
use select::{LogOptions, OptionsError};
use source::{ContainerId, SourceError};
use std::sync::Arc;

pub(super) async fn serve(
    State(cri): State<Arc<dyn Cri>>,
    State(roots): State<LogRoots>,
    Extension(tenant): Extension<Arc<Tenant>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
) -> Result<Response, (StatusCode, String)> {
    let options = LogOptions::from_query(&query.unwrap_or_default(), jiff::Timestamp::now()).map_err(|error| match error {
        OptionsError::Undecodable => (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#.to_owned()),
        OptionsError::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#.to_owned()),
    })?;
    let (pod_name, container) = (&path.pod.name, &path.container);
    let no_pod = || (StatusCode::NOT_FOUND, format!("pod {pod_name:?} does not exist"));
    let target = TargetPod::find(&tenant, &path.pod).ok_or_else(no_pod)?;
    if target.has_tty(container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod_name:?}")));
    }
    // The host pod's status is what the tenant's will be; before there is a host pod the tenant's gives the reason.
    let running = target.host.as_ref().unwrap_or(&target.pod);
    let container_id = source::container_id(running, pod_name, container, options.previous)
        .map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    match open(cri, roots, &container_id, options).await {
        Ok(reader) => Ok(stream(reader)),
        Err(error) => {
            // The causes are for the agent's log alone: the caller must not see host paths.
            let (tenant, error) = (&tenant.spec.uid, &error as &dyn std::error::Error);
            tracing::warn!(%tenant, pod = %pod_name, %container, error, "cannot read a container's log");
            Err((StatusCode::BAD_REQUEST, error.to_string()))
        }
    }
}

async fn open(cri: Arc<dyn Cri>, roots: LogRoots, container_id: &ContainerId, options: LogOptions) -> Result<LogReader, SourceError> {
    let failed = |source| SourceError::Status { id: container_id.to_string(), source };
    let status = cri.container_status(container_id.bare()).await.map_err(failed)?;
    let file = roots.open(status.log_path.into(), options.tail).await?;
    Ok(LogReader::new(file, options, roots, cri, container_id.bare().to_owned()))
}

fn stream(reader: LogReader) -> Response {
    let chunks = futures::stream::try_unfold(reader, |mut reader| async move {
        let chunk = reader.next_chunk().await?;
        Ok(chunk.map(|chunk| (chunk, reader)))
    })
    .inspect_err(|error: &std::io::Error| tracing::warn!(%error, "log stream ended early"));
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(chunks)).into_response()
}
