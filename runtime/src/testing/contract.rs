//! What [`ApiServer`](super::ApiServer) promises, checked through any client: its own in the unit tests, that of a real
//! kube-apiserver in the operator's ignored test `control_plane_smoke`.

use crate::kube::is_gone_or_changed;
use anyhow::{Context as _, Result, bail, ensure};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, WatchEvent, WatchParams};
use kube::core::Status;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use std::pin::{Pin, pin};
use std::time::Duration;

const WATCH_ANSWER: Duration = Duration::from_secs(10);

/// Runs the whole contract in namespace `default`, where it makes objects named `contract-…` and one such Node, and leaves
/// none.
pub async fn check(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    objects_have_an_identity(&maps).await.context("objects have an identity")?;
    writes_meet_preconditions(&maps).await.context("writes meet preconditions")?;
    nothing_changes_without_a_change(&maps).await.context("nothing changes without a change")?;
    lists_are_selected_and_paged(&maps).await.context("lists are selected and paged")?;
    watches_resume_and_select(&maps).await.context("watches resume and select")?;
    finalizers_hold_a_deletion(&maps).await.context("finalizers hold a deletion")?;
    apply_removes_what_is_no_longer_applied(&maps).await.context("apply removes what is no longer applied")?;
    apply_minds_other_owners(&maps).await.context("apply minds other owners")?;
    patches_of_all_types(&maps).await.context("patches of all types")?;
    secrets_keep_their_type(client).await.context("secrets keep their type")?;
    lists_of_a_status_merge_by_key(client).await.context("lists of a status merge by key")?;
    pods_go_gracefully(client).await.context("pods go gracefully")
}

async fn objects_have_an_identity(maps: &Api<ConfigMap>) -> Result<()> {
    let made = maps.create(&PostParams::default(), &map("a", &json!({"data": {"x": "1"}}))?).await?;
    ensure!(made.uid().is_some() && made.resource_version().is_some() && made.creation_timestamp().is_some(), "{made:?}");
    let again = maps.create(&PostParams::default(), &map("a", &json!({}))?).await;
    ensure!(matches!(&again, Err(kube::Error::Api(status)) if status.is_already_exists() && status.code == 409), "{again:?}");
    ensure!(maps.get("contract-a").await?.uid() == made.uid());
    ensure!(maps.get_metadata("contract-a").await?.metadata.uid == made.metadata.uid);
    ensure!(maps.get_opt("contract-none").await?.is_none());
    let prefixed: ConfigMap = serde_json::from_value(json!({"metadata": {"generateName": "contract-generated-"}}))?;
    let named = maps.create(&PostParams::default(), &prefixed).await?;
    ensure!(named.name_any().starts_with("contract-generated-") && named.name_any().len() > 19, "{named:?}");
    maps.delete(&named.name_any(), &DeleteParams::default()).await?;
    gone(maps, "contract-a").await
}

async fn writes_meet_preconditions(maps: &Api<ConfigMap>) -> Result<()> {
    let old = maps.create(&PostParams::default(), &map("b", &json!({}))?).await?;
    let mut new = old.clone();
    new.data = Some([("x".to_owned(), "1".to_owned())].into());
    let new = maps.replace("contract-b", &PostParams::default(), &new).await?;
    ensure!(new.uid() == old.uid() && new.resource_version() != old.resource_version());
    conflict(&maps.replace("contract-b", &PostParams::default(), &old).await)?;
    let stale = json!({"metadata": {"resourceVersion": old.resource_version()}, "data": {"x": "2"}});
    conflict(&merge(maps, "contract-b", &stale).await)?;
    replaced(&merge(maps, "contract-b", &json!({"metadata": {"uid": "other"}, "data": {"x": "2"}})).await)?;
    let mut other = new.clone();
    other.metadata.uid = Some("other".to_owned());
    conflict(&maps.replace("contract-b", &PostParams::default(), &other).await)?;
    let other = Preconditions { uid: Some("other".into()), resource_version: None };
    conflict(&maps.delete("contract-b", &DeleteParams { preconditions: Some(other), ..DeleteParams::default() }).await)?;
    let this = Preconditions { uid: old.uid(), resource_version: None };
    let params =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), preconditions: Some(this), ..DeleteParams::default() };
    maps.delete("contract-b", &params).await?;
    let missing = merge(maps, "contract-b", &json!({"data": {"x": "2"}})).await;
    ensure!(matches!(&missing, Err(kube::Error::Api(status)) if status.is_not_found() && status.code == 404), "{missing:?}");
    Ok(())
}

async fn nothing_changes_without_a_change(maps: &Api<ConfigMap>) -> Result<()> {
    let made = maps.create(&PostParams::default(), &map("c", &json!({"data": {"x": "1"}}))?).await?;
    let patched = merge(maps, "contract-c", &json!({"data": {"x": "1"}})).await?;
    ensure!(patched.resource_version() == made.resource_version(), "a patch that changes nothing is no new version");
    let replaced = maps.replace("contract-c", &PostParams::default(), &made).await?;
    ensure!(replaced.resource_version() == made.resource_version(), "nor is such an update");
    gone(maps, "contract-c").await
}

async fn lists_are_selected_and_paged(maps: &Api<ConfigMap>) -> Result<()> {
    for (name, role) in [("d1", "x"), ("d2", "y"), ("d3", "x")] {
        maps.create(&PostParams::default(), &map(name, &json!({"metadata": {"labels": {"contract": "d", "role": role}}}))?).await?;
    }
    let names = async |params: ListParams| -> Result<Vec<String>> {
        Ok(maps.list(&params).await?.items.iter().map(kube::ResourceExt::name_any).collect())
    };
    let all = ListParams::default().labels("contract=d");
    ensure!(names(all.clone()).await? == ["contract-d1", "contract-d2", "contract-d3"]);
    ensure!(names(ListParams::default().labels("contract=d,role in (x)")).await? == ["contract-d1", "contract-d3"]);
    ensure!(names(ListParams::default().labels("contract,role!=x")).await? == ["contract-d2"]);
    ensure!(names(ListParams::default().fields("metadata.name=contract-d2")).await? == ["contract-d2"]);
    let first = maps.list_metadata(&all.clone().limit(2)).await?;
    let token = first.metadata.continue_.context("a page has a continue token")?;
    let rest = maps.list(&all.limit(2).continue_token(&token)).await?;
    ensure!(first.items.len() == 2 && rest.items.len() == 1 && rest.metadata.continue_.is_none_or(|token| token.is_empty()));
    for name in ["contract-d1", "contract-d2", "contract-d3"] {
        gone(maps, name).await?;
    }
    Ok(())
}

async fn watches_resume_and_select(maps: &Api<ConfigMap>) -> Result<()> {
    let start = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a list has a version")?;
    maps.create(&PostParams::default(), &map("e", &json!({"metadata": {"labels": {"contract": "e"}}}))?).await?;
    let params = WatchParams::default().labels("contract=e").timeout(30);
    let mut events = pin!(maps.watch(&params, &start).await?);
    let version = expect(&mut events, "ADDED").await?;
    merge(maps, "contract-e", &json!({"data": {"x": "1"}})).await?;
    expect(&mut events, "MODIFIED").await?;
    merge(maps, "contract-e", &json!({"metadata": {"labels": {"contract": "other"}}})).await?;
    expect(&mut events, "DELETED").await?;
    merge(maps, "contract-e", &json!({"metadata": {"labels": {"contract": "e"}}})).await?;
    expect(&mut events, "ADDED").await?;
    gone(maps, "contract-e").await?;
    expect(&mut events, "DELETED").await?;

    let mut resumed = pin!(maps.watch(&params, &version).await?);
    expect(&mut resumed, "MODIFIED").await?;
    Ok(())
}

async fn finalizers_hold_a_deletion(maps: &Api<ConfigMap>) -> Result<()> {
    let finalizers = json!({"metadata": {"finalizers": ["nestling.dev/contract"]}});
    maps.create(&PostParams::default(), &map("f", &finalizers)?).await?;
    let deleted = maps.delete("contract-f", &DeleteParams::default()).await?;
    ensure!(deleted.left().is_some_and(|map| map.metadata.deletion_timestamp.is_some()), "it is still there");
    ensure!(maps.get("contract-f").await?.metadata.deletion_timestamp.is_some());
    merge(maps, "contract-f", &json!({"metadata": {"finalizers": null}})).await?;
    ensure!(maps.get_opt("contract-f").await?.is_none(), "the last finalizer takes it along");
    Ok(())
}

async fn apply_removes_what_is_no_longer_applied(maps: &Api<ConfigMap>) -> Result<()> {
    let made = apply(maps, "one", "g", &json!({"metadata": {"labels": {"a": "1"}}, "data": {"x": "1", "y": "1"}}), false).await?;
    let same = apply(maps, "one", "g", &json!({"metadata": {"labels": {"a": "1"}}, "data": {"x": "1", "y": "1"}}), false).await?;
    ensure!(same.resource_version() == made.resource_version(), "the same apply is no new version");
    apply(maps, "two", "g", &json!({"data": {"y": "1", "z": "1"}}), false).await?;
    let left = apply(maps, "one", "g", &json!({"data": {"x": "2"}}), false).await?;
    let data = serde_json::to_value(&left.data)?;
    ensure!(data == json!({"x": "2", "y": "1", "z": "1"}), "y is still of another: {data}");
    ensure!(left.labels().is_empty(), "{left:?}");
    let left = apply(maps, "two", "g", &json!({}), false).await?;
    ensure!(serde_json::to_value(&left.data)? == json!({"x": "2"}), "{left:?}");
    gone(maps, "contract-g").await
}

async fn apply_minds_other_owners(maps: &Api<ConfigMap>) -> Result<()> {
    maps.create(&PostParams::default(), &map("h", &json!({"data": {"x": "theirs"}}))?).await?;
    conflict(&apply(maps, "one", "h", &json!({"data": {"x": "mine"}}), false).await)?;
    let forced = apply(maps, "one", "h", &json!({"data": {"x": "mine"}}), true).await?;
    ensure!(forced.data.is_some_and(|data| data["x"] == "mine"));
    merge(maps, "contract-h", &json!({"data": {"x": "theirs again"}})).await?;
    conflict(&apply(maps, "one", "h", &json!({"data": {"x": "mine"}}), false).await)?;
    let other = json!({"metadata": {"uid": "00000000-0000-4000-8000-0123456789ab"}});
    replaced(&apply(maps, "one", "h", &other, true).await)?;
    conflict(&apply(maps, "one", "h-other", &other, true).await)?;
    gone(maps, "contract-h").await
}

async fn patches_of_all_types(maps: &Api<ConfigMap>) -> Result<()> {
    maps.create(&PostParams::default(), &map("i", &json!({"data": {"x": "1", "y": "1"}}))?).await?;
    let params = PatchParams::default();
    let merged = merge(maps, "contract-i", &json!({"data": {"x": null, "z": "1"}})).await?;
    ensure!(serde_json::to_value(&merged.data)? == json!({"y": "1", "z": "1"}));
    // Owners that exist: a garbage collector would delete the object else.
    let first = maps.create(&PostParams::default(), &map("i-1", &json!({}))?).await?;
    let second = maps.create(&PostParams::default(), &map("i-2", &json!({}))?).await?;
    let owners = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "contract-i-1", "uid": first.uid()},
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "contract-i-2", "uid": second.uid()},
    ]}});
    maps.patch("contract-i", &params, &Patch::Strategic(owners)).await?;
    let change = json!({"metadata": {"ownerReferences": [
        {"uid": first.uid(), "$patch": "delete"}, {"uid": second.uid(), "blockOwnerDeletion": true},
    ]}});
    let left = maps.patch("contract-i", &params, &Patch::Strategic(change)).await?;
    let owners: Vec<_> = left.owner_references().iter().map(|owner| (owner.name.as_str(), owner.block_owner_deletion)).collect();
    ensure!(owners == [("contract-i-2", Some(true))], "{owners:?}");
    let patch = serde_json::from_value(json!([{"op": "test", "path": "/data/y", "value": "1"}, {"op": "remove", "path": "/data/y"}]))?;
    let removed = maps.patch("contract-i", &params, &Patch::<()>::Json(patch)).await?;
    ensure!(serde_json::to_value(&removed.data)? == json!({"z": "1"}));
    let patch = serde_json::from_value(json!([{"op": "test", "path": "/data/z", "value": "other"}]))?;
    let failed = maps.patch("contract-i", &params, &Patch::<()>::Json(patch)).await;
    ensure!(matches!(&failed, Err(kube::Error::Api(status)) if status.code == 422), "{failed:?}");
    maps.patch("contract-i", &params, &Patch::Merge(json!({"metadata": {"ownerReferences": null}}))).await?;
    gone(maps, "contract-i").await?;
    gone(maps, "contract-i-1").await?;
    gone(maps, "contract-i-2").await
}

async fn secrets_keep_their_type(client: &Client) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let made = secrets.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "contract-secret"}}))?).await?;
    ensure!(made.type_.as_deref() == Some("Opaque"), "{made:?}");
    let other = Patch::Merge(json!({"type": "nestling.dev/contract"}));
    let changed = secrets.patch("contract-secret", &PatchParams::default(), &other).await;
    let causes = |status: &Status| -> Vec<String> {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.map(|cause| cause.field.clone()).collect()
    };
    ensure!(matches!(&changed, Err(kube::Error::Api(status)) if status.code == 422 && causes(status) == ["type"]), "{changed:?}");
    secrets.delete("contract-secret", &DeleteParams::default()).await?;
    Ok(())
}

async fn lists_of_a_status_merge_by_key(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let name = "contract-node";
    let ready = json!({"type": "Ready", "status": "False", "reason": "Starting"});
    let node = json!({"metadata": {"name": name}, "status": {"conditions": [ready], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    let made = nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
    ensure!(conditions(&made) == ["Ready=False"], "a Node keeps its status when it is made: {made:?}");

    let patch = json!({"status": {"conditions": [{"type": "MemoryPressure", "status": "False"}]}});
    let patched = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
    ensure!(conditions(&patched) == ["MemoryPressure=False", "Ready=False"], "{patched:?}");
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}, {"$patch": "replace"}]}});
    let patched = nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(addresses)).await?;
    let addresses = serde_json::to_value(patched.status.context("no status")?.addresses)?;
    ensure!(addresses == json!([{"type": "InternalIP", "address": "192.0.2.2"}]), "{addresses}");

    let applied = |reason: &str| {
        let conditions = json!([{"type": "Applied", "status": "True", "reason": reason}]);
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": conditions}}))
    };
    let params = PatchParams::apply("contract").force();
    let patched = nodes.patch_status(name, &params, &applied("A")).await?;
    ensure!(conditions(&patched) == ["Applied=True", "MemoryPressure=False", "Ready=False"], "{patched:?}");
    let nothing = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {}});
    let patched = nodes.patch_status(name, &params, &Patch::Apply(nothing)).await?;
    ensure!(conditions(&patched) == ["MemoryPressure=False", "Ready=False"], "{patched:?}");

    let merged =
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(json!({"status": null, "spec": {"unschedulable": true}}))).await?;
    ensure!(conditions(&merged).len() == 2, "a write of the object leaves its status");
    let merged = nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"spec": {"unschedulable": false}}))).await?;
    ensure!(merged.spec.is_some_and(|spec| spec.unschedulable == Some(true)), "a write of the status leaves the spec");
    nodes.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Sorted, as `type=status`, without those that controllers of a real cluster may add.
fn conditions(node: &Node) -> Vec<String> {
    let all = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut all: Vec<String> = all.map(|condition| format!("{}={}", condition.type_, condition.status)).collect();
    all.sort();
    all
}

async fn pods_go_gracefully(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = |name: &str, node: Option<&str>| {
        let spec = json!({
            "nodeName": node, "terminationGracePeriodSeconds": 7, "automountServiceAccountToken": false,
            "containers": [{"name": "a", "image": "none"}], "tolerations": [{"operator": "Exists"}],
        });
        serde_json::from_value::<Pod>(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let made = pods.create(&PostParams::default(), &pod("contract-unscheduled", None)?).await?;
    ensure!(made.status.and_then(|status| status.phase).as_deref() == Some("Pending"));
    pods.delete("contract-unscheduled", &DeleteParams::default()).await?;
    ensure!(pods.get_opt("contract-unscheduled").await?.is_none(), "a pod on no node waits for no kubelet");

    pods.create(&PostParams::default(), &pod("contract-pod", Some("contract-none"))?).await?;
    pods.delete("contract-pod", &DeleteParams::default()).await?;
    let left = pods.get("contract-pod").await?;
    ensure!(left.metadata.deletion_timestamp.is_some() && left.metadata.deletion_grace_period_seconds == Some(7), "{left:?}");
    pods.delete("contract-pod", &DeleteParams::default().grace_period(3)).await?;
    ensure!(pods.get("contract-pod").await?.metadata.deletion_grace_period_seconds == Some(3), "the shorter time counts");
    pods.delete("contract-pod", &DeleteParams::default().grace_period(0)).await?;
    ensure!(pods.get_opt("contract-pod").await?.is_none());
    Ok(())
}

fn map(name: &str, content: &Value) -> Result<ConfigMap> {
    let mut content = content.clone();
    content["metadata"]["name"] = format!("contract-{name}").into();
    Ok(serde_json::from_value(content)?)
}

async fn merge(maps: &Api<ConfigMap>, name: &str, patch: &Value) -> kube::Result<ConfigMap> {
    maps.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

async fn apply(maps: &Api<ConfigMap>, manager: &str, name: &str, content: &Value, force: bool) -> kube::Result<ConfigMap> {
    let mut content = content.clone();
    content["apiVersion"] = "v1".into();
    content["kind"] = "ConfigMap".into();
    content["metadata"]["name"] = format!("contract-{name}").into();
    let params = PatchParams { force, ..PatchParams::apply(&format!("contract-{manager}")) };
    maps.patch(&format!("contract-{name}"), &params, &Patch::Apply(&content)).await
}

fn conflict<T: std::fmt::Debug>(result: &kube::Result<T>) -> Result<()> {
    ensure!(matches!(result, Err(kube::Error::Api(status)) if status.is_conflict() && status.code == 409), "no conflict: {result:?}");
    Ok(())
}

/// Patches of an object of another UID are refused as a change of an immutable field.
fn replaced<T: std::fmt::Debug>(result: &kube::Result<T>) -> Result<()> {
    ensure!(matches!(result, Err(kube::Error::Api(status)) if status.code == 422 && is_gone_or_changed(status)), "{result:?}");
    Ok(())
}

async fn gone(maps: &Api<ConfigMap>, name: &str) -> Result<()> {
    maps.delete(name, &DeleteParams::default()).await?;
    ensure!(maps.get_opt(name).await?.is_none(), "{name} is still there");
    Ok(())
}

/// The next event, of this kind; the version of its object.
async fn expect(events: &mut Pin<&mut impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>>>, kind: &str) -> Result<String> {
    let event = tokio::time::timeout(WATCH_ANSWER, events.next()).await.with_context(|| format!("no event {kind}"))?;
    let (found, object) = match event.context("the watch ended")?? {
        WatchEvent::Added(object) => ("ADDED", object),
        WatchEvent::Modified(object) => ("MODIFIED", object),
        WatchEvent::Deleted(object) => ("DELETED", object),
        other => bail!("not {kind}: {other:?}"),
    };
    ensure!(found == kind, "{found}, not {kind}: {object:?}");
    object.resource_version().context("no version")
}
