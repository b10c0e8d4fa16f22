//! What every [`Cri`] must do, run against the fake, against the fake behind a real socket, and (by hand, see below)
//! against a runtime.

use super::fake::{self, FakeCri};
use super::{Cri, CriClient, v1};
use futures::StreamExt;
use futures::future::join;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;

/// Holds for any runtime, whatever runs in it.
async fn reads(cri: &dyn Cri) {
    let all = cri.pod_sandboxes(v1::PodSandboxFilter::default()).await.unwrap();
    for sandbox in &all {
        let one = v1::PodSandboxFilter { id: sandbox.id.clone(), ..Default::default() };
        assert_eq!(cri.pod_sandboxes(one).await.unwrap().len(), 1);
    }
    let unlabelled = HashMap::from([("nestling.dev/no-such".to_owned(), "x".to_owned())]);
    let filter = v1::PodSandboxFilter { label_selector: unlabelled.clone(), ..Default::default() };
    assert_eq!(cri.pod_sandboxes(filter).await.unwrap(), []);
    let filter = v1::PodSandboxStatsFilter { label_selector: unlabelled, ..Default::default() };
    assert_eq!(cri.pod_sandbox_stats(filter).await.unwrap(), []);

    for stats in cri.pod_sandbox_stats(v1::PodSandboxStatsFilter::default()).await.unwrap() {
        let attributes = stats.attributes.unwrap();
        assert!(all.iter().any(|sandbox| sandbox.id == attributes.id && sandbox.labels == attributes.labels));
        assert!(stats.linux.is_some_and(|linux| linux.cpu.is_some() && linux.memory.is_some()));
    }

    for container in cri.containers(v1::ContainerFilter::default()).await.unwrap() {
        let status = cri.container_status(&container.id).await.unwrap();
        assert_eq!(status.id, container.id);
        assert!(Path::new(&status.log_path).is_absolute() || status.log_path.is_empty());
    }
    assert!(cri.container_status("no-such-container").await.unwrap_err().is_not_found());
    let exec = v1::ExecRequest { container_id: "no-such-container".into(), cmd: vec!["true".into()], stdout: true, ..Default::default() };
    assert!(cri.exec(exec).await.is_err());
    let forward = v1::PortForwardRequest { pod_sandbox_id: "no-such-sandbox".into(), port: vec![] };
    assert!(cri.port_forward(forward).await.is_err());
    // Nothing may happen for long in a runtime at rest.
    if let Ok(Some(Err(error))) = timeout(Duration::from_secs(1), cri.container_events().next()).await {
        assert!(matches!(error.code(), Code::Unimplemented | Code::FailedPrecondition), "{error:?}");
    }
}

fn filled() -> FakeCri {
    let fake = FakeCri::default();
    fake.with(|state| {
        state.sandboxes.push(v1::PodSandbox { id: "s1".into(), ..Default::default() });
        state.containers.push(v1::Container { id: "c1".into(), pod_sandbox_id: "s1".into(), ..Default::default() });
        let status = v1::ContainerStatus { id: "c1".into(), log_path: "/var/log/pods/a/b/0.log".into(), ..Default::default() };
        state.statuses.insert("c1".into(), status);
        let attributes = v1::PodSandboxAttributes { id: "s1".into(), ..Default::default() };
        let (cpu, memory) = (Some(v1::CpuUsage::default()), Some(v1::MemoryUsage::default()));
        let linux = v1::LinuxPodSandboxStats { cpu, memory, ..Default::default() };
        state.stats.push(v1::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None });
        state.streaming_url = "http://127.0.0.1:1/exec/token".into();
    });
    fake
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    reads(&filled()).await;
}

#[tokio::test]
async fn the_client_keeps_the_contract_over_a_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let fake = Arc::new(filled());
    let shutdown = CancellationToken::new();
    let server = fake::serve(&socket, fake.clone(), shutdown.clone());
    let client = CriClient::new(&socket).unwrap();
    reads(&client).await;

    let request = v1::ExecRequest { container_id: "c1".into(), cmd: vec!["ls".into()], stdout: true, ..Default::default() };
    assert_eq!(client.exec(request.clone()).await.unwrap(), "http://127.0.0.1:1/exec/token");
    assert_eq!(fake.with(|state| state.execs.clone()), [request]);

    fake.with(|state| state.event_streams.clear());
    let mut events = client.container_events();
    let event = v1::ContainerEventResponse { container_id: "c1".into(), ..Default::default() };
    let emitted = async {
        while fake.with(|state| state.event_streams.is_empty()) {
            sleep(Duration::from_millis(1)).await;
        }
        fake.emit(&event);
    };
    let (received, ()) = timeout(Duration::from_secs(5), join(events.next(), emitted)).await.unwrap();
    assert_eq!(received.unwrap().unwrap(), event);
    fake.with(|state| state.event_streams.clear());
    assert!(events.next().await.is_none(), "the runtime has closed the stream");
    shutdown.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn the_client_dials_again_after_the_runtime_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("cri.sock");
    let client = CriClient::new(&socket).unwrap();
    let sandboxes = || client.pod_sandboxes(v1::PodSandboxFilter::default());
    assert_eq!(sandboxes().await.unwrap_err().code(), Code::Unavailable);
    for _ in 0..2 {
        let shutdown = CancellationToken::new();
        let server = fake::serve(&socket, Arc::new(filled()), shutdown.clone());
        // A connection that broke is noticed by the call that finds it broken.
        let mut last = sandboxes().await;
        if last.is_err() {
            last = sandboxes().await;
        }
        assert_eq!(last.unwrap().len(), 1);
        shutdown.cancel();
        server.await.unwrap();
        std::fs::remove_file(&socket).unwrap();
    }
}

#[tokio::test]
#[ignore = "needs a container runtime: its socket in NESTLING_CRI_SOCKET (only reads)"]
async fn a_runtime_keeps_the_contract() {
    let socket = std::env::var_os("NESTLING_CRI_SOCKET").expect("NESTLING_CRI_SOCKET names a runtime's socket");
    timeout(Duration::from_secs(60), reads(&CriClient::new(Path::new(&socket)).unwrap())).await.unwrap();
}
