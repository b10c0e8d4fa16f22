//! The server over a real runtime: any container that it runs stands for a tenant's.

use super::world::{NODE, World};
use crate::cri::{Cri, CriClient, labels as cri_labels, v1};
use crate::server::{Limits, POD_LOGS};
use http::StatusCode;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use nestling_crds::labels;
use nestling_crds::names::HostName;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// The tenant's pod `found`, whose container is `container` of the host pod that the runtime knows by that UID.
fn add_pod(world: &mut World, container: &v1::Container) -> String {
    let name = container.metadata.as_ref().unwrap().name.clone();
    let spec = json!({"nodeName": NODE, "containers": [{"name": name}]});
    let status = json!({"containerStatuses": [{
        "name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "containerID": format!("runtime://{}", container.id), "state": {"running": {}},
    }]});
    let tenant = &world.a.tenant.spec;
    let host_name = HostName::for_object(&tenant.uid, "Pod", "default", "found", "found-uid");
    let host: Pod = serde_json::from_value(json!({
        "metadata": {
            "namespace": tenant.workload_namespace.as_str(), "name": host_name.as_str(), "uid": container.labels[cri_labels::POD_UID],
            "labels": {labels::TENANT: tenant.uid.as_str(), labels::POD_UID: "found-uid", labels::NODE: NODE},
        },
        "spec": spec, "status": status,
    }))
    .unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "found", "uid": "found-uid"}, "spec": spec, "status": status,
    }))
    .unwrap();
    world.a.pods.apply_watcher_event(&Event::Apply(pod));
    world.a.host_pods.apply_watcher_event(&Event::Apply(host));
    name
}

/// The payload of the next WebSocket frame that is not empty; its first byte is the channel.
async fn frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    loop {
        let length = tokio::time::timeout(Duration::from_secs(20), async {
            let _opcode = stream.read_u8().await.unwrap();
            match stream.read_u8().await.unwrap() {
                126 => usize::from(stream.read_u16().await.unwrap()),
                short => usize::from(short),
            }
        });
        let mut payload = vec![0; length.await.expect("a frame in time")];
        stream.read_exact(&mut payload).await.unwrap();
        if payload.len() > 1 {
            return payload;
        }
    }
}

async fn one_that_logged<'a>(cri: &CriClient, containers: &'a [v1::Container]) -> &'a v1::Container {
    for container in containers {
        let log = cri.container_status(&container.id).await.unwrap().log_path;
        if std::fs::metadata(log).is_ok_and(|file| file.len() > 0) {
            return container;
        }
    }
    panic!("none of the {} running containers has logged", containers.len())
}

#[tokio::test]
#[ignore = "needs a container runtime with a container that has logged: its socket in NESTLING_CRI_SOCKET; run it in the node's network and mount namespaces (starts a command that does not exist)"]
async fn a_running_container_has_logs_and_streams() {
    let socket = std::env::var_os("NESTLING_CRI_SOCKET").expect("NESTLING_CRI_SOCKET names a runtime's socket");
    let cri = CriClient::new(Path::new(&socket)).unwrap();
    let running = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let containers = cri.containers(v1::ContainerFilter { state: Some(running), ..Default::default() }).await.unwrap();
    let container = one_that_logged(&cri, &containers).await;
    let mut world = World::with_runtime(Limits::default(), Some(Arc::new(cri)), &[POD_LOGS]).await;
    let name = add_pod(&mut world, container);

    let (status, text) = world.get("tenant-a", &format!("/containerLogs/default/found/{name}?tailLines=1&timestamps=true")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(text.matches('\n').count(), 1, "{text}");

    // SPDY is negotiated with the runtime itself.
    let exec = format!("/exec/default/found/{name}?command=/no/such/command&output=1");
    let (headers, stream) = world.client("tenant-a").await.upgrade("POST", &exec, "SPDY/3.1").await.unwrap();
    assert_eq!(headers["x-stream-protocol-version"], "v4.channel.k8s.io");
    drop(stream);

    // Over WebSocket the answer can be read here: a status on the error channel.
    let (_, stream) = world.client("tenant-a").await.upgrade("GET", &exec, "websocket").await.unwrap();
    let error = frame(&mut TokioIo::new(stream)).await;
    assert_eq!(error[0], 3);
    assert!(String::from_utf8_lossy(&error).contains("/no/such/command"), "{}", String::from_utf8_lossy(&error));

    let attach = format!("/attach/default/found/{name}?output=1");
    world.client("tenant-a").await.upgrade("POST", &attach, "SPDY/3.1").await.unwrap();
    world.client("tenant-a").await.upgrade("POST", "/portForward/default/found", "SPDY/3.1").await.unwrap();

    let (status, text) = world.client("tenant-a").await.call("POST", &format!("/run/default/found/{name}?cmd=/no/such/command")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text.contains("/no/such/command"), "{text}");
    world.stopped().await;
}
