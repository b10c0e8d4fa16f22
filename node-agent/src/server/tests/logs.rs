//! Container logs through the API; how files are read is tested beside the reader.

use super::world::World;
use crate::cri::v1;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

fn write(world: &World, tenant: &str, payload: &str) {
    let path = world.dir.path().join(format!("{tenant}.log"));
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(file, "2026-01-01T00:00:00Z stdout F {payload}").unwrap();
}

#[tokio::test]
async fn the_same_path_is_a_different_log_for_each_tenant() {
    let world = World::new().await;
    write(&world, "tenant-a", "of a");
    write(&world, "tenant-b", "of b");
    assert_eq!(world.get("tenant-a", "/containerLogs/default/web/main").await, (StatusCode::OK, "of a\n".into()));
    assert_eq!(world.get("tenant-b", "/containerLogs/default/web/main").await, (StatusCode::OK, "of b\n".into()));
    let with_time = world.get("tenant-a", "/containerLogs/default/web/main?timestamps=true&tailLines=1").await;
    assert_eq!(with_time.1, "2026-01-01T00:00:00.000000000Z of a\n");
}

#[tokio::test]
async fn log_requests_are_refused_as_by_a_kubelet() {
    let world = World::new().await;
    write(&world, "tenant-a", "x");
    let cases = [
        ("default/other/main", StatusCode::NOT_FOUND, "pod \"other\" does not exist"),
        ("kube-system/web/main", StatusCode::NOT_FOUND, "pod \"web\" does not exist"),
        ("default/web/none", StatusCode::NOT_FOUND, "container \"none\" not found in pod \"web\""),
        ("default/web/injected", StatusCode::NOT_FOUND, "container \"injected\" not found in pod \"web\""),
        (
            "default/web/waiting",
            StatusCode::BAD_REQUEST,
            "container \"waiting\" in pod \"web\" is waiting to start: trying and failing to pull image",
        ),
        ("default/web/main?previous=true", StatusCode::BAD_REQUEST, "previous terminated container \"main\" in pod \"web\" not found"),
        ("default/web/main?tailLines=x", StatusCode::BAD_REQUEST, "{\"message\": \"Unable to decode query.\"}"),
        ("default/web/main?limitBytes=0", StatusCode::UNPROCESSABLE_ENTITY, "{\"message\": \"Invalid request.\"}"),
    ];
    for (path, status, text) in cases {
        assert_eq!(world.get("tenant-a", &format!("/containerLogs/{path}")).await, (status, text.into()), "{path}");
    }
}

#[tokio::test]
async fn a_log_outside_the_log_folders_is_not_read() {
    let world = World::new().await;
    world.cri.with(|state| state.statuses.get_mut(&world.a.container_id()).unwrap().log_path = "/etc/hostname".into());
    let (status, text) = world.get("tenant-a", "/containerLogs/default/web/main").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(text, "the log file is not among the container logs of this node");
    world.cri.with(|state| state.statuses.clear());
    let (status, text) = world.get("tenant-a", "/containerLogs/default/web/main").await;
    assert_eq!((status, text), (StatusCode::BAD_REQUEST, "unable to retrieve container logs for containerd://container-tenant-a".into()));
}

#[tokio::test]
async fn a_followed_log_arrives_line_by_line_and_ends_with_the_container() {
    let world = World::new().await;
    write(&world, "tenant-a", "one");
    let mut client = world.client("tenant-a").await;
    let request =
        http::Request::builder().uri("/containerLogs/default/web/main?follow=true").header("host", "node").body(Empty::new()).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    for payload in ["one", "two", "three"] {
        if payload != "one" {
            write(&world, "tenant-a", payload);
        }
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("in time");
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), format!("{payload}\n"));
    }
    let exited = v1::ContainerState::ContainerExited.into();
    world.cri.with(|state| state.statuses.get_mut(&world.a.container_id()).unwrap().state = exited);
    let end = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("in time");
    assert!(end.is_none());
}

#[tokio::test]
async fn a_followed_log_ends_when_the_agent_has_drained() {
    let limits = crate::server::Limits { drain: Duration::from_millis(200), ..Default::default() };
    let world = World::with_limits(limits).await;
    write(&world, "tenant-a", "one");
    let mut client = world.client("tenant-a").await;
    let request =
        http::Request::builder().uri("/containerLogs/default/web/main?follow=1").header("host", "node").body(Empty::new()).unwrap();
    let mut body = client.send(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    world.stop();
    let end = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("in time");
    assert!(end.is_none_or(|frame| frame.is_err()));
    world.stopped().await;
}
