//! Serves any [`Cri`] as gRPC on a unix socket, so that the real client can be tested without a runtime.

use super::{Cri, CriError, v1};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;

/// Serves until aborted; its connections end with it.
pub fn serve<C: Cri + 'static>(socket: &Path, cri: Arc<C>) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let cri = cri.clone();
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| reply(cri.clone(), request));
                let _ =
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

type Body = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

/// One unary call: a length-prefixed message in, one out with the status in the trailers.
async fn reply<C: Cri>(cri: Arc<C>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut bytes = request.into_body().collect().await.unwrap().to_bytes();
    bytes.advance(5); // compression flag and length
    let method = path.rsplit('/').next().unwrap_or_default();
    let mut trailers = http::HeaderMap::new();
    let mut frames = vec![];
    match dispatch(&*cri, method, bytes).await {
        Ok(message) => {
            let mut message_bytes = BytesMut::new();
            message_bytes.put_u8(0);
            message_bytes.put_u32(u32::try_from(message.len()).unwrap());
            message_bytes.put_slice(&message);
            frames.push(Ok(Frame::data(message_bytes.freeze())));
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err(status) => {
            status.add_header(&mut trailers).unwrap();
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(futures::stream::iter(frames));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

async fn dispatch<C: Cri>(cri: &C, method: &str, bytes: Bytes) -> Result<Vec<u8>, Status> {
    fn read<T: Message + Default>(bytes: Bytes) -> Result<T, Status> {
        T::decode(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
    }
    fn write<T: Message>(answer: Result<T, CriError>) -> Result<Vec<u8>, Status> {
        answer.map(|message| message.encode_to_vec()).map_err(|error| match error {
            CriError::Call { source, .. } => *source,
            other => Status::internal(other.to_string()),
        })
    }
    match method {
        "Version" => write(cri.version().await),
        "Status" => write(cri.status().await),
        "RuntimeConfig" => write(cri.runtime_config().await),
        "ListPodSandbox" => {
            let filter = read::<v1::ListPodSandboxRequest>(bytes)?.filter.unwrap_or_default();
            write(cri.pod_sandboxes(filter).await.map(|items| v1::ListPodSandboxResponse { items }))
        }
        "ListContainers" => {
            let filter = read::<v1::ListContainersRequest>(bytes)?.filter.unwrap_or_default();
            write(cri.containers(filter).await.map(|containers| v1::ListContainersResponse { containers }))
        }
        "ContainerStatus" => {
            let status = cri.container_status(&read::<v1::ContainerStatusRequest>(bytes)?.container_id).await;
            write(status.map(|status| v1::ContainerStatusResponse { status: Some(status), ..Default::default() }))
        }
        "ExecSync" => write(cri.exec_sync(read(bytes)?).await),
        "Exec" => write(cri.exec(read(bytes)?).await.map(|url| v1::ExecResponse { url })),
        "Attach" => write(cri.attach(read(bytes)?).await.map(|url| v1::AttachResponse { url })),
        "PortForward" => write(cri.port_forward(read(bytes)?).await.map(|url| v1::PortForwardResponse { url })),
        "ListPodSandboxStats" => {
            let filter = read::<v1::ListPodSandboxStatsRequest>(bytes)?.filter.unwrap_or_default();
            write(cri.pod_sandbox_stats(filter).await.map(|stats| v1::ListPodSandboxStatsResponse { stats }))
        }
        "ListImages" => write(cri.images().await.map(|images| v1::ListImagesResponse { images })),
        "ImageFsInfo" => write(cri.image_fs_info().await),
        other => Err(Status::unimplemented(other.to_owned())),
    }
}
