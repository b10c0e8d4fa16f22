use super::*;
use crate::kube::events;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::{Config, Event};
use serde_json::json;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "data": {"x": "1"}})).unwrap()
}

fn maps(server: &ApiServer) -> Api<ConfigMap> {
    Api::namespaced(server.client(), "shop")
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    contract::check(&ApiServer::new().client()).await.unwrap();
}

#[tokio::test]
async fn objects_of_the_test_are_served_and_writes_are_logged() {
    let server = ApiServer::new();
    let stored = server.put(&map("a"));
    assert_eq!(maps(&server).get("a").await.unwrap(), stored);
    maps(&server).create(&PostParams::default(), &map("b")).await.unwrap();
    server.edit::<ConfigMap>("shop", "b", |map| map["data"]["x"] = "2".into());
    assert_eq!(server.get::<ConfigMap>("shop", "b").unwrap().data.unwrap()["x"], "2");
    assert_eq!(server.list::<ConfigMap>().len(), 2);
    assert_eq!(server.take_writes(), ["create configmaps shop"]);
    assert!(server.requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_happen_as_often_as_they_are_asked_for() {
    let server = ApiServer::new();
    server.put(&map("a"));
    server.inject("get", "configmaps", 1, Fault::Status(503));
    server.inject("get", "*", 1, Fault::Disconnect);
    server.inject("get", "*", 1, Fault::Delay(Duration::from_secs(3)));
    server.inject("delete", "configmaps", 1, Fault::LoseAnswer);
    server.inject("*", "configmaps", usize::MAX, Fault::Hang);
    let api = maps(&server);
    assert!(matches!(api.get("a").await, Err(kube::Error::Api(status)) if status.code == 503));
    assert!(matches!(api.get("a").await, Err(kube::Error::Service(_))));
    let start = Instant::now();
    assert!(api.get("a").await.is_ok());
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(api.delete("a", &DeleteParams::default()).await.is_err());
    assert!(server.get::<ConfigMap>("shop", "a").is_none(), "deleted, but the answer was lost");
    assert!(timeout(Duration::from_secs(60), api.get("a")).await.is_err());
    server.heal();
    assert!(api.get_opt("a").await.unwrap().is_none());
    assert_eq!(server.count("get", "configmaps"), 5);
}

#[tokio::test]
async fn a_race_can_be_set_up_and_an_answer_made_up() {
    let server = ApiServer::new();
    server.before("create", "configmaps", |server| drop(server.put(&map("a"))));
    server.respond("get", "/readyz", |_| (200, json!("ok")));
    let created = maps(&server).create(&PostParams::default(), &map("a")).await;
    assert!(matches!(created, Err(kube::Error::Api(status)) if status.is_already_exists()));
    let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
    assert!(server.client().request_text(ready).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_watch_survives_its_end_and_lost_history() {
    let server = ApiServer::new();
    server.put(&map("a"));
    let mut events = pin!(events(maps(&server), Config::default(), "test"));
    let mut next = async || match timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap() {
        Event::Init => "init".to_owned(),
        Event::InitApply(map) => format!("listed {}", map.metadata.name.unwrap()),
        Event::InitDone => "done".to_owned(),
        Event::Apply(map) => format!("applied {}", map.metadata.name.unwrap()),
        Event::Delete(map) => format!("deleted {}", map.metadata.name.unwrap()),
    };
    for expected in ["init", "listed a", "done"] {
        assert_eq!(next().await, expected);
    }
    server.put(&map("b"));
    assert_eq!(next().await, "applied b");
    server.bookmark();
    server.end_watches();
    server.remove::<ConfigMap>("shop", "b");
    assert_eq!(next().await, "deleted b", "resumed where it was");
    server.put(&map("c"));
    server.compact();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "done") {
        seen.push(next().await);
    }
    assert!(seen.ends_with(&["init", "listed a", "listed c", "done"].map(str::to_owned)), "{seen:?}");
}

#[tokio::test]
async fn a_namespace_takes_its_objects_along_once_nothing_holds_it() {
    let server = ApiServer::new();
    let held = json!({"metadata": {"name": "shop", "finalizers": ["test/held"]}});
    server.put(&serde_json::from_value::<Namespace>(held).unwrap());
    server.put(&map("a"));
    let namespaces: Api<Namespace> = Api::all(server.client());
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    let phase = server.get::<Namespace>("", "shop").unwrap().status.unwrap().phase;
    assert_eq!(phase.as_deref(), Some("Terminating"));
    server.edit::<Namespace>("", "shop", |namespace| namespace["metadata"]["finalizers"] = json!([]));
    assert!(server.get::<Namespace>("", "shop").is_none());
    assert!(server.list::<ConfigMap>().is_empty());
}
