//! What pods use, through the API.

use super::world::World;
use http::StatusCode;
use serde_json::Value;

#[tokio::test]
async fn the_summary_has_only_the_tenants_pods() {
    let world = World::new().await;
    let (status, text) = world.get("tenant-a", "/stats/summary").await;
    assert_eq!(status, StatusCode::OK);
    insta::assert_yaml_snapshot!(serde_json::from_str::<Value>(&text).unwrap());
}

#[tokio::test]
async fn resource_metrics_have_the_names_of_a_kubelets() {
    let world = World::new().await;
    let (status, text) = world.get("tenant-b", "/metrics/resource").await;
    assert_eq!(status, StatusCode::OK);
    insta::assert_snapshot!(text);
    world.cri.with(|state| state.down = true);
    let (status, text) = world.get("tenant-b", "/metrics/resource").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("\nresource_scrape_error 1\n"), "{text}");
    assert_eq!(world.get("tenant-b", "/stats/summary").await.0, StatusCode::INTERNAL_SERVER_ERROR);
}
