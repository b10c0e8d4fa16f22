//! Whether a live object already is what was asked for.

use serde_json::Value;

/// Whether every field of `desired` is in `live` with the same value. Fields that only `live` has are somebody else's
/// (defaults, other field managers). A list of objects may hold others' entries too (lists merge by key under
/// server-side apply); a list of plain values must be equal.
///
/// A value that the server writes differently (`1000m` for `1`) counts as different: the cost is an apply that changes
/// nothing, never a missed one.
pub fn holds(desired: &Value, live: &Value) -> bool {
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

/// The server does not store what is empty.
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
}
