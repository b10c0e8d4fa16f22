//! Whether a live object is as desired: every desired field holds ([`holds`]), and no field was desired before and is not
//! any more, which shows in the hash that the object carries ([`stamp`]).

use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde_json::Value;
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
/// (defaults, other field managers). A list of objects may have more entries in `live` (lists merge by key under
/// server-side apply); a list of plain values must be equal.
///
/// A value that the server writes differently (`1000m` for `1`) counts as different: the cost is an apply that changes
/// nothing, never a missed one.
pub(crate) fn holds(desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            desired.iter().all(|(key, value)| live.get(key).map_or_else(|| is_empty(value), |live| holds(value, live)))
        }
        (Value::Array(desired), Value::Array(live)) if desired.iter().all(Value::is_object) => {
            desired.iter().all(|wanted| live.iter().any(|entry| holds(wanted, entry)))
        }
        _ => desired == live,
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
    #[case::keyed_lists_may_have_more(json!([{"name": "a"}]), json!([{"name": "b"}, {"name": "a", "x": 1}]), true)]
    #[case::keyed_lists_may_not_have_less(json!([{"name": "a"}]), json!([{"name": "b"}]), false)]
    #[case::kinds_differ(json!({"a": "1"}), json!({"a": 1}), false)]
    fn table(#[case] desired: Value, #[case] live: Value, #[case] expected: bool) {
        assert_eq!(holds(&desired, &live), expected);
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
