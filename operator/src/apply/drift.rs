//! Whether a live object is as desired: every desired field holds ([`holds`]), and no field was desired before and is not
//! any more, which shows in the hash that the object carries ([`stamp`]).

use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Annotation with the hash of the object as the operator last applied it.
pub(super) const APPLIED: &str = "nestling.dev/applied";

/// Puts the hash of `object` on it and returns the hash.
pub(super) fn stamp(object: &mut DynamicObject) -> Result<String, serde_json::Error> {
    object.annotations_mut().remove(APPLIED);
    let digest = Sha256::digest(serde_json::to_vec(object)?);
    let hash = digest.iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    object.annotations_mut().insert(APPLIED.into(), hash.clone());
    Ok(hash)
}

/// Whether every field of `desired` is in `live` with the same value. Fields that only `live` has belong to others
/// (defaults, other field managers), except entries of a list that is desired, and of lists in a pod's spec, desired or not:
/// a container or a volume that somebody has added is drift ([`without_additions`]). Lists of metadata may have more entries.
///
/// A value that the server writes differently (`1000m` for `1`) counts as different: the cost is an apply that changes
/// nothing, never a missed one.
pub(crate) fn holds(desired: &Value, live: &Value) -> bool {
    holds_with(desired, live, false)
}

fn holds_with(desired: &Value, live: &Value, may_have_more: bool) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            let as_desired = |(key, value): (&String, &Value)| {
                live.get(key).map_or_else(|| is_empty(value), |live| holds_with(value, live, may_have_more || key == "metadata"))
            };
            desired.iter().all(as_desired)
                && POD_LISTS.iter().all(|list| desired.contains_key(*list) || !is_pod(desired) || is_absent(live, list))
        }
        (Value::Array(desired), Value::Array(live)) if desired.iter().all(Value::is_object) => {
            let found = desired.iter().all(|wanted| live.iter().any(|entry| holds_with(wanted, entry, may_have_more)));
            found && (may_have_more || desired.len() == live.len())
        }
        _ => desired == live,
    }
}

/// Lists in the spec of a pod to which the API's defaults add nothing.
const POD_LISTS: [&str; 3] = ["initContainers", "volumes", "hostAliases"];

fn is_pod(fields: &Map<String, Value>) -> bool {
    fields.contains_key("containers")
}

fn is_absent(fields: &Map<String, Value>, list: &str) -> bool {
    fields.get(list).is_none_or(is_empty)
}

/// The fields of `live` beside metadata and status without the entries that keep it from being as desired; `None` if there
/// are none. Server-side apply leaves such entries to whoever added them, so they are removed by a merge patch, which
/// replaces lists.
pub(super) fn without_additions(desired: &Value, live: &Value) -> Option<Value> {
    let mut fields = live.clone();
    prune(desired, &mut fields);
    let fields = fields.as_object_mut()?;
    fields.retain(|name, value| !["metadata", "status", "apiVersion", "kind"].contains(&name.as_str()) && live.get(name) != Some(value));
    (!fields.is_empty()).then(|| Value::Object(std::mem::take(fields)))
}

fn prune(desired: &Value, live: &mut Value) {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            if is_pod(desired) {
                // A merge patch removes what is null.
                let foreign = |list: &&&str| !desired.contains_key(**list) && !is_absent(live, list);
                let foreign: Vec<&str> = POD_LISTS.iter().filter(foreign).copied().collect();
                live.extend(foreign.into_iter().map(|list| (list.to_owned(), Value::Null)));
            }
            for (key, value) in desired.iter().filter(|(key, _)| *key != "metadata") {
                if let Some(live) = live.get_mut(key) {
                    prune(value, live);
                }
            }
        }
        (Value::Array(desired), Value::Array(live)) if desired.iter().all(Value::is_object) => {
            let same = |wanted: &Value, entry: &Value| match (wanted.get("name"), entry.get("name")) {
                (Some(wanted), Some(entry)) => wanted == entry,
                _ => holds(wanted, entry),
            };
            // An entry that the server writes differently cannot be told from a foreign one: then none is removed.
            if !desired.iter().all(|wanted| live.iter().any(|entry| same(wanted, entry))) {
                return;
            }
            live.retain_mut(|entry| {
                let Some(wanted) = desired.iter().find(|wanted| same(wanted, entry)) else { return false };
                prune(wanted, entry);
                true
            });
        }
        _ => {}
    }
}

/// The server does not store empty values.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::equal(json!({"a": 1}), json!({"a": 1}), true)]
    #[case::defaults_of_the_server(json!({"a": 1}), json!({"a": 1, "b": 2}), true)]
    #[case::changed(json!({"a": 1}), json!({"a": 2}), false)]
    #[case::removed(json!({"a": 1}), json!({}), false)]
    #[case::empty_is_absent(json!({"a": {}, "b": [], "c": null}), json!({}), true)]
    #[case::arguments_are_ordered(json!(["-a", "-b"]), json!(["-b", "-a"]), false)]
    #[case::arguments_are_complete(json!(["-a"]), json!(["-a", "-b"]), false)]
    #[case::entries_are_not_added(json!([{"name": "a"}]), json!([{"name": "b"}, {"name": "a", "x": 1}]), false)]
    #[case::entries_have_defaults(json!([{"name": "a"}]), json!([{"name": "a", "x": 1}]), true)]
    #[case::owners_are_added(json!({"metadata": {"ownerReferences": [{"uid": "a"}]}}), json!({"metadata": {"ownerReferences": [{"uid": "a"}, {"uid": "b"}]}}), true)]
    #[case::a_pod_gets_no_init_container(json!({"containers": [{"name": "a"}]}), json!({"containers": [{"name": "a"}], "initContainers": [{"name": "b"}]}), false)]
    #[case::keyed_lists_may_not_have_less(json!([{"name": "a"}]), json!([{"name": "b"}]), false)]
    #[case::kinds_differ(json!({"a": "1"}), json!({"a": 1}), false)]
    fn table(#[case] desired: Value, #[case] live: Value, #[case] expected: bool) {
        assert_eq!(holds(&desired, &live), expected);
    }

    #[test]
    fn what_others_have_added_to_lists_is_taken_out() {
        let desired = json!({"spec": {"containers": [{"name": "a", "env": [{"name": "x"}]}], "replicas": 1}});
        let live = json!({
            "metadata": {"name": "p"}, "status": {"x": 1},
            "spec": {
                "containers": [{"name": "b"}, {"name": "a", "image": "default", "env": [{"name": "x"}, {"name": "y"}]}],
                "volumes": [{"name": "v"}], "replicas": 1,
            },
        });
        let expected = json!({"spec": {
            "containers": [{"name": "a", "image": "default", "env": [{"name": "x"}]}], "volumes": null, "replicas": 1,
        }});
        assert_eq!(without_additions(&desired, &live), Some(expected));
        let clean = json!({"spec": {"containers": [{"name": "a", "image": "default", "env": [{"name": "x"}]}], "replicas": 1}});
        assert_eq!(without_additions(&desired, &clean), None);
    }

    #[test]
    fn the_hash_is_stable_and_sees_every_field() {
        let mut map: DynamicObject = serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"a": "1"}})).unwrap();
        let first = stamp(&mut map).unwrap();
        assert_eq!(stamp(&mut map).unwrap(), first);
        map.data = json!({});
        assert_ne!(stamp(&mut map).unwrap(), first);
    }
}
