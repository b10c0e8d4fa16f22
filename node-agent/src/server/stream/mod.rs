//! `exec`, `attach`, `portForward` and `run`.
//!
//! The first three are streams. The runtime is asked for a URL good for one use; [`Relay`] dials it, replays the upgrade
//! that the caller requested (SPDY or WebSocket), returns the runtime's answer and then copies bytes both ways without
//! interpreting them, so no streaming protocol is implemented here.

mod relay;

pub(super) use relay::Relay;

use super::limits::Slot;
use super::pods::{ContainerPath, PodPath, TargetPod};
use crate::cri::{Cri, CriError, v1};
use crate::tenant::Tenant;
use axum::extract::{FromRef, FromRequest, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, RequestPartsExt as _};
use http::header::{CONTENT_TYPE, RETRY_AFTER, UPGRADE};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::sync::Arc;
use tonic::Code;

/// A request for a stream, with what its handlers share.
pub(super) struct Opening<P> {
    cri: Arc<dyn Cri>,
    relay: Relay,
    tenant: Arc<Tenant>,
    /// Held by the connection that the stream takes over.
    slot: Arc<Slot>,
    path: P,
    request: Request,
}

impl<S, P> FromRequest<S> for Opening<P>
where
    S: Send + Sync,
    P: DeserializeOwned + Send + 'static,
    Arc<dyn Cri>: FromRef<S>,
    Relay: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let (Extension(tenant), Extension(slot), Path(path)) =
            parts.extract_with_state::<(Extension<Arc<Tenant>>, Extension<Arc<Slot>>, Path<P>), S>(state).await?;
        let request = Request::from_parts(parts, body);
        Ok(Self { cri: FromRef::from_ref(state), relay: FromRef::from_ref(state), tenant, slot, path, request })
    }
}

impl<P> Opening<P> {
    fn query(&self) -> &str {
        self.request.uri().query().unwrap_or_default()
    }

    /// Relays the stream at the URL that the runtime has answered.
    async fn relay(self, url: Result<String, CriError>) -> Result<Response, Response> {
        let url = url.map_err(|error| refused(&error))?;
        Ok(self.relay.start(&url, self.slot, self.request).await)
    }
}

pub(super) async fn exec(stream: Opening<ContainerPath>) -> Result<Response, Response> {
    let StreamOptions { stdin, stdout, stderr, tty } = StreamOptions::from_query(stream.query())?;
    let (container_id, _) = running_container(&*stream.cri, &stream.tenant, &stream.path).await?;
    let url = stream.cri.exec(v1::ExecRequest { container_id, cmd: command(stream.query()), tty, stdin, stdout, stderr }).await;
    stream.relay(url).await
}

pub(super) async fn attach(stream: Opening<ContainerPath>) -> Result<Response, Response> {
    let StreamOptions { stdin, stdout, stderr, tty: _ } = StreamOptions::from_query(stream.query())?;
    // Whether a running process has a terminal is a property of its container, not of the request.
    let (container_id, tty) = running_container(&*stream.cri, &stream.tenant, &stream.path).await?;
    let url = stream.cri.attach(v1::AttachRequest { container_id, stdin, tty, stdout, stderr: stderr && !tty }).await;
    stream.relay(url).await
}

pub(super) async fn port_forward(stream: Opening<PodPath>) -> Result<Response, Response> {
    let port = forwarded_ports(stream.request.headers(), stream.query())?;
    let target = TargetPod::find(&stream.tenant, &stream.path).ok_or_else(no_pod)?;
    let Some(sandbox) = target.ready_sandbox(&*stream.cri).await.map_err(|error| refused(&error))? else {
        let full_name = format!("{}_{}", stream.path.name, stream.path.namespace);
        return Err((StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found ({full_name:?})")).into_response());
    };
    let url = stream.cri.port_forward(v1::PortForwardRequest { pod_sandbox_id: sandbox.id, port }).await;
    stream.relay(url).await
}

/// Runs a command and answers with all it wrote: an old function of the kubelet, without streams.
pub(super) async fn run(
    State(cri): State<Arc<dyn Cri>>,
    Extension(tenant): Extension<Arc<Tenant>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
) -> Result<Response, Response> {
    let (container_id, _) = running_container(&*cri, &tenant, &path).await?;
    let cmd = run_command(&query.unwrap_or_default());
    let shown = cmd.join(" ");
    let answer = cri.exec_sync(v1::ExecSyncRequest { container_id, cmd, timeout: 0 }).await.map_err(|error| refused(&error))?;
    if answer.exit_code == 0 {
        let output = [answer.stdout, answer.stderr].concat();
        return Ok(([(CONTENT_TYPE, "application/json")], output).into_response());
    }
    let text = format!("command '{shown}' exited with {}: {}", answer.exit_code, String::from_utf8_lossy(&answer.stderr));
    Err((StatusCode::INTERNAL_SERVER_ERROR, text).into_response())
}

/// The running container that a path names: its ID, and whether it has a terminal.
async fn running_container(cri: &dyn Cri, tenant: &Tenant, path: &ContainerPath) -> Result<(String, bool), Response> {
    let target = TargetPod::find(tenant, &path.pod).ok_or_else(no_pod)?;
    let container = target.running_container(cri, &path.container).await.map_err(|error| refused(&error))?;
    let text = || format!("container not found ({:?})", path.container);
    let container = container.ok_or_else(|| (StatusCode::INTERNAL_SERVER_ERROR, text()).into_response())?;
    Ok((container.id, target.has_tty(&path.container) == Some(true)))
}

fn no_pod() -> Response {
    (StatusCode::NOT_FOUND, "pod does not exist").into_response()
}

/// An error of the runtime as a kubelet passes it on (`streaming.WriteError`).
fn refused(error: &CriError) -> Response {
    let text = match error {
        CriError::Call { source, .. } => format!("{error}: {}", source.message()),
        _ => error.to_string(),
    };
    match error.code() {
        Code::NotFound => (StatusCode::NOT_FOUND, text).into_response(),
        // Too many streams wait to be opened; the runtime discards them after a minute.
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "60")], text).into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    }
}

/// Which streams a command or an attachment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // the flags of the query, each apart from the others
struct StreamOptions {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum OptionsError {
    #[error("you must specify at least 1 of stdin, stdout, stderr")]
    NoStream,
    #[error("query parameter \"port\" is required")]
    NoPort,
    #[error("unable to parse {0:?} as a port")]
    BadPort(String),
}

impl From<OptionsError> for Response {
    fn from(error: OptionsError) -> Self {
        (StatusCode::BAD_REQUEST, error.to_string()).into_response()
    }
}

impl StreamOptions {
    fn from_query(query: &str) -> Result<Self, OptionsError> {
        let set = |key: &str| pairs(query).find(|(held, _)| held == key).is_some_and(|(_, value)| value == "1");
        let tty = set("tty");
        // A terminal has one output; runtimes refuse both.
        let options = Self { stdin: set("input"), stdout: set("output"), stderr: set("error") && !tty, tty };
        if options.stdin || options.stdout || options.stderr { Ok(options) } else { Err(OptionsError::NoStream) }
    }
}

/// The words of the command of `exec`.
fn command(query: &str) -> Vec<String> {
    pairs(query).filter(|(key, _)| key == "command").map(|(_, value)| value.into_owned()).collect()
}

/// The words of the command of `run`, which has it in one parameter.
fn run_command(query: &str) -> Vec<String> {
    let command = pairs(query).find(|(key, _)| key == "cmd").map(|(_, value)| value.into_owned()).unwrap_or_default();
    command.split(' ').map(str::to_owned).collect()
}

/// The ports that a WebSocket names beforehand. SPDY names them stream by stream, so there are none then.
fn forwarded_ports(headers: &HeaderMap, query: &str) -> Result<Vec<i32>, OptionsError> {
    let is_websocket = headers.get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Ok(vec![]);
    }
    let mut ports = vec![];
    for (_, value) in pairs(query).filter(|(key, _)| key == "port") {
        for port in value.split(',') {
            match port.parse::<u16>() {
                Ok(port) if port > 0 => ports.push(i32::from(port)),
                _ => return Err(OptionsError::BadPort(value.into_owned())),
            }
        }
    }
    if ports.is_empty() { Err(OptionsError::NoPort) } else { Ok(ports) }
}

fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("output=1&error=1", Ok((false, true, true, false)))]
    #[case("input=1&output=1&error=1&tty=1", Ok((true, true, false, true)))]
    #[case("output=true", Err(OptionsError::NoStream))]
    #[case("error=1&tty=1", Err(OptionsError::NoStream))]
    #[case("", Err(OptionsError::NoStream))]
    fn the_streams_of_a_query_are_those_of_a_kubelet(
        #[case] query: &str,
        #[case] expected: Result<(bool, bool, bool, bool), OptionsError>,
    ) {
        let options = StreamOptions::from_query(query);
        assert_eq!(options.map(|options| (options.stdin, options.stdout, options.stderr, options.tty)), expected);
    }

    #[test]
    fn a_command_is_decoded_in_order() {
        assert_eq!(command("command=sh&command=-c&command=echo+a%20b&output=1"), ["sh", "-c", "echo a b"]);
        assert_eq!(run_command("cmd=ls%20-l+%2F"), ["ls", "-l", "/"]);
    }

    #[rstest]
    #[case("websocket", "port=80&port=81,82", Ok(vec![80, 81, 82]))]
    #[case("WebSocket", "port=0", Err(OptionsError::BadPort("0".into())))]
    #[case("websocket", "port=", Err(OptionsError::BadPort(String::new())))]
    #[case("websocket", "port=70000", Err(OptionsError::BadPort("70000".into())))]
    #[case("websocket", "", Err(OptionsError::NoPort))]
    #[case("SPDY/3.1", "port=80", Ok(vec![]))]
    fn websocket_requires_ports_and_spdy_does_not(
        #[case] upgrade: &str,
        #[case] query: &str,
        #[case] expected: Result<Vec<i32>, OptionsError>,
    ) {
        let headers = HeaderMap::from_iter([(UPGRADE, upgrade.parse().unwrap())]);
        assert_eq!(forwarded_ports(&headers, query), expected);
    }

    proptest::proptest! {
        #[test]
        fn any_query_is_decoded_or_refused(query in "((input|output|error|tty|port|cmd|command)=[-0-9a-z%+,]{0,12}&?){0,4}\\PC{0,20}") {
            let options = StreamOptions::from_query(&query);
            proptest::prop_assert!(options.is_ok_and(|options| !(options.tty && options.stderr)) || StreamOptions::from_query(&query).is_err());
            let headers = HeaderMap::from_iter([(UPGRADE, "websocket".parse().unwrap())]);
            let ports = forwarded_ports(&headers, &query);
            proptest::prop_assert!(ports.map_or(true, |ports| !ports.is_empty() && ports.iter().all(|port| (1..=65535).contains(port))));
            let _ = (command(&query), run_command(&query));
        }
    }
}
