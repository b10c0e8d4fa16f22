//! Streams through the API, to a streaming server on loopback that says what it was asked and then echoes.

use super::world::World;
use crate::cri::v1;
use crate::server::Limits;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, String, HeaderMap)>>>);

impl Seen {
    fn last(&self) -> (String, String, HeaderMap) {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

/// Upgrades what has a good token and echoes; greets before anything is sent, as runtimes may.
async fn streaming_server(world: &World) -> Seen {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    world.cri.with(|state| state.streaming_url = format!("http://{}/stream/token", listener.local_addr().unwrap()));
    let seen = Seen::default();
    let result = seen.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(answer(&seen, request))));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).with_upgrades());
        }
    });
    result
}

fn answer(seen: &Seen, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = (request.method().to_string(), request.uri().to_string(), request.headers().clone());
    seen.0.lock().unwrap().push(asked);
    if request.uri().path() != "/stream/token" {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Full::from("cannot find request")).unwrap();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(length) = stream.read(&mut buffer).await
            && length > 0
        {
            if &buffer[..length] == b"end" {
                stream.write_all(b"bye").await.unwrap();
                stream.shutdown().await.unwrap();
                break;
            }
            stream.write_all(&buffer[..length]).await.unwrap();
        }
    });
    let protocol = request.headers()[UPGRADE].clone();
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, protocol)
        .header("x-stream-protocol-version", "v4.channel.k8s.io");
    response.body(Full::default()).unwrap()
}

async fn expect(stream: &mut (impl AsyncReadExt + Unpin), expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut got)).await.expect("in time").unwrap();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn exec_is_relayed_byte_for_byte() {
    let world = World::new().await;
    let seen = streaming_server(&world).await;
    for (method, protocol) in [("POST", "SPDY/3.1"), ("GET", "websocket")] {
        let path = "/exec/default/web/main?command=sh&command=-c&command=echo+1&input=1&output=1&error=1&tty=1";
        let (headers, stream) = world.client("tenant-a").await.upgrade(method, path, protocol).await.unwrap();
        assert_eq!(headers[UPGRADE], protocol);
        assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io", "the answer's headers");
        let mut stream = TokioIo::new(stream);
        expect(&mut stream, b"hello").await;
        let bytes: Vec<u8> = (0..=255).collect();
        stream.write_all(&bytes).await.unwrap();
        expect(&mut stream, &bytes).await;
        stream.write_all(b"end").await.unwrap();
        let mut rest = vec![];
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("in time").unwrap();
        assert_eq!(rest, b"bye");

        let (asked_method, asked_path, asked_headers) = seen.last();
        assert_eq!((asked_method.as_str(), asked_path.as_str()), (method, "/stream/token"));
        assert!(!asked_headers.contains_key("authorization"));
    }
    let expected = v1::ExecRequest {
        container_id: world.a.container_id(),
        cmd: vec!["sh".into(), "-c".into(), "echo 1".into()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    assert_eq!(world.cri.with(|state| state.execs.clone()), [expected.clone(), expected]);
    world.stopped().await;
}

#[tokio::test]
async fn a_path_with_a_uid_matches_only_that_pod() {
    let world = World::new().await;
    streaming_server(&world).await;
    let query = "command=id&output=1";
    let right = format!("/exec/default/web/pod-tenant-a/main?{query}");
    world.client("tenant-a").await.upgrade("POST", &right, "SPDY/3.1").await.unwrap();
    let wrong = format!("/exec/default/web/pod-tenant-b/main?{query}");
    let refused = world.client("tenant-a").await.upgrade("POST", &wrong, "SPDY/3.1").await.unwrap_err();
    assert_eq!(refused, (StatusCode::NOT_FOUND, "pod does not exist".into()));
}

#[tokio::test]
async fn attach_has_a_terminal_only_if_the_container_has_one() {
    let world = World::new().await;
    streaming_server(&world).await;
    let (_, stream) =
        world.client("tenant-b").await.upgrade("POST", "/attach/default/web/main?output=1&error=1", "SPDY/3.1").await.unwrap();
    expect(&mut TokioIo::new(stream), b"hello").await;
    let expected = v1::AttachRequest { container_id: world.b.container_id(), stdout: true, stderr: true, ..Default::default() };
    assert_eq!(world.cri.with(|state| state.attaches.clone()), [expected]);
}

#[tokio::test]
async fn ports_are_forwarded_into_the_tenants_sandbox() {
    let world = World::new().await;
    streaming_server(&world).await;
    for (path, protocol, port) in
        [("/portForward/default/web", "SPDY/3.1", vec![]), ("/portForward/default/web?port=80", "websocket", vec![80])]
    {
        let (_, stream) = world.client("tenant-b").await.upgrade("POST", path, protocol).await.unwrap();
        expect(&mut TokioIo::new(stream), b"hello").await;
        let expected = v1::PortForwardRequest { pod_sandbox_id: world.b.sandbox_id(), port };
        assert_eq!(world.cri.with(|state| state.port_forwards.last().cloned()), Some(expected));
    }
    let refused = world.client("tenant-b").await.upgrade("GET", "/portForward/default/web", "websocket").await.unwrap_err();
    assert_eq!(refused, (StatusCode::BAD_REQUEST, "query parameter \"port\" is required".into()));
}

#[tokio::test]
async fn streams_are_refused_as_by_a_kubelet() {
    let world = World::new().await;
    streaming_server(&world).await;
    let exec = "command=id&output=1";
    let cases = [
        (format!("/exec/default/none/main?{exec}"), StatusCode::NOT_FOUND, "pod does not exist"),
        (format!("/exec/default/web/none?{exec}"), StatusCode::INTERNAL_SERVER_ERROR, "container not found (\"none\")"),
        (format!("/exec/default/web/waiting?{exec}"), StatusCode::INTERNAL_SERVER_ERROR, "container not found (\"waiting\")"),
        (format!("/exec/default/web/injected?{exec}"), StatusCode::INTERNAL_SERVER_ERROR, "container not found (\"injected\")"),
        ("/exec/default/web/main?command=id".into(), StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/attach/default/none/main?output=1".into(), StatusCode::NOT_FOUND, "pod does not exist"),
        ("/portForward/default/none".into(), StatusCode::NOT_FOUND, "pod does not exist"),
    ];
    for (path, status, text) in cases {
        let refused = world.client("tenant-a").await.upgrade("POST", &path, "SPDY/3.1").await.unwrap_err();
        assert_eq!(refused, (status, text.into()), "{path}");
    }
    let plain = world.client("tenant-a").await.call("POST", &format!("/exec/default/web/main?{exec}")).await;
    assert_eq!(plain, (StatusCode::BAD_REQUEST, "Upgrade request required".into()));
}

#[tokio::test]
async fn a_refusal_of_the_runtime_is_passed_on() {
    let world = World::new().await;
    streaming_server(&world).await;
    let path = "/exec/default/web/main?command=id&output=1";
    world.cri.with(|state| state.streaming_url = state.streaming_url.replace("token", "used"));
    let refused = world.client("tenant-a").await.upgrade("POST", path, "SPDY/3.1").await.unwrap_err();
    assert_eq!(refused, (StatusCode::NOT_FOUND, "cannot find request".into()));

    world.cri.with(|state| state.streaming_url = "http://10.1.2.3:80/exec/token".into());
    let refused = world.client("tenant-a").await.upgrade("POST", path, "SPDY/3.1").await.unwrap_err();
    assert_eq!(refused.0, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refused.1.contains("loopback"), "{}", refused.1);

    world.cri.with(|state| state.down = true);
    let refused = world.client("tenant-a").await.upgrade("POST", path, "SPDY/3.1").await.unwrap_err();
    assert_eq!(refused.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn run_answers_with_the_output_and_the_exit_code() {
    let world = World::new().await;
    world.cri.with(|state| state.exec_sync = v1::ExecSyncResponse { stdout: b"out".into(), stderr: b"err".into(), exit_code: 0 });
    let mut client = world.client("tenant-a").await;
    assert_eq!(client.call("POST", "/run/default/web/main?cmd=ls+-l").await, (StatusCode::OK, "outerr".into()));
    assert_eq!(world.cri.with(|state| state.exec_syncs[0].cmd.clone()), ["ls", "-l"]);
    world.cri.with(|state| state.exec_sync.exit_code = 3);
    let failed = client.call("POST", "/run/default/web/main?cmd=ls").await;
    assert_eq!(failed, (StatusCode::INTERNAL_SERVER_ERROR, "command 'ls' exited with 3: err".into()));
}

#[tokio::test]
async fn a_stream_counts_as_a_connection_until_the_agent_has_drained() {
    let limits = Limits { connections_per_tenant: 1, drain: Duration::from_millis(200), ..Limits::default() };
    let world = World::with_limits(limits).await;
    streaming_server(&world).await;
    let path = "/exec/default/web/main?command=id&output=1";
    let (_, stream) = world.client("tenant-a").await.upgrade("POST", path, "SPDY/3.1").await.unwrap();
    let mut stream = TokioIo::new(stream);
    expect(&mut stream, b"hello").await;
    assert_eq!(world.get("tenant-a", "/healthz").await.0, StatusCode::TOO_MANY_REQUESTS);

    world.stop();
    let mut rest = vec![];
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("cut in time");
    world.stopped().await;
}

#[tokio::test]
async fn an_idle_stream_ends_and_no_longer_counts_as_a_connection() {
    let limits = Limits { connections_per_tenant: 1, stream_idle: Duration::from_millis(200), ..Limits::default() };
    let world = World::with_limits(limits).await;
    streaming_server(&world).await;
    let path = "/exec/default/web/main?command=id&output=1";
    let (_, stream) = world.client("tenant-a").await.upgrade("POST", path, "SPDY/3.1").await.unwrap();
    let mut rest = vec![];
    let mut stream = TokioIo::new(stream);
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("ended in time").unwrap();
    assert_eq!(rest, b"hello");
    drop(stream);
    for _ in 0..100 {
        if world.get("tenant-a", "/healthz").await.0 == StatusCode::OK {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the stream's place was not given back");
}
