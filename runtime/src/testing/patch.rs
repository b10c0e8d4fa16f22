//! Merge patches (RFC 7386) and strategic merge patches.

use super::schema::{ListKind, Patching, key_value, list};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";

pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    let target = object(target);
    for (name, value) in fields {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// `path` is that of `target`, as [`list`] takes it.
pub(super) fn strategic(target: &mut Value, change: &Value, path: &str) {
    match change {
        Value::Object(fields) => strategic_object(object(target), fields, path),
        Value::Array(items) => strategic_list(target, items, path),
        value => *target = value.clone(),
    }
}

fn strategic_object(target: &mut Map<String, Value>, fields: &Map<String, Value>, path: &str) {
    if matches!(fields.get(DIRECTIVE).and_then(Value::as_str), Some("replace" | "delete")) {
        target.clear();
    }
    if let Some(kept) = fields.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| kept.iter().any(|kept| kept == name));
    }
    for (name, value) in fields {
        if let Some(name) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(old)), Some(gone)) = (target.get_mut(name), value.as_array()) {
                old.retain(|item| !gone.contains(item));
            }
        } else if name.starts_with('$') {
            // Orders of elements do not matter here.
        } else if value.is_null() {
            target.remove(name);
        } else {
            strategic(target.entry(name.clone()).or_insert(Value::Null), value, &join(path, name));
        }
    }
}

fn strategic_list(target: &mut Value, items: &[Value], path: &str) {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(ToOwned::to_owned);
    let replaces = items.iter().any(|item| directive(item).as_deref() == Some("replace"));
    let plain = || items.iter().filter(|item| directive(item).is_none()).cloned();
    let old = match target {
        Value::Array(old) if !replaces => old,
        _ => {
            *target = plain().collect();
            return;
        }
    };
    match list(path, Patching::Strategic) {
        ListKind::Atomic => *target = plain().collect(),
        ListKind::Set => {
            for item in items {
                if !old.contains(item) {
                    old.push(item.clone());
                }
            }
        }
        ListKind::Map(keys) => {
            for item in items {
                let same = |other: &Value| keys.iter().all(|key| key_value(other, key) == key_value(item, key));
                if directive(item).as_deref() == Some("delete") {
                    old.retain(|other| !same(other));
                } else if let Some(other) = old.iter_mut().find(|other| same(other)) {
                    strategic(other, item, path);
                } else {
                    old.push(item.clone());
                }
            }
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

/// `value` as an object, which it is from now on.
pub(super) fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it is an object by now")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_replaces_lists_and_removes_nulls() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "list": [1, 2]});
        merge(&mut target, &json!({"a": {"b": null, "d": {"e": null}}, "list": [3]}));
        assert_eq!(target, json!({"a": {"c": 2, "d": {}}, "list": [3]}));
    }

    #[test]
    fn a_strategic_patch_merges_lists_by_key() {
        let mut pod = json!({
            "metadata": {"finalizers": ["a", "b"]},
            "spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}], "tolerations": [{"key": "old"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "Starting"}]},
        });
        let patch = json!({
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]},
            "spec": {
                "containers": [{"name": "a", "image": "2", "env": [{"name": "Y"}]}, {"name": "b", "$patch": "delete"}],
                "tolerations": [{"key": "new"}],
            },
            "status": {"$setElementOrder/conditions": [{"type": "Ready"}], "conditions": [{"type": "Ready", "status": "True", "reason": null}]},
        });
        strategic(&mut pod, &patch, "");
        assert_eq!(
            pod,
            json!({
                "metadata": {"finalizers": ["b", "c"]},
                "spec": {
                    "containers": [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}],
                    "tolerations": [{"key": "new"}],
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            })
        );
    }

    #[test]
    fn a_list_can_be_replaced_as_a_whole() {
        let mut node = json!({"status": {"addresses": [{"type": "InternalIP", "address": "1"}, {"type": "Hostname", "address": "h"}]}});
        strategic(&mut node, &json!({"status": {"addresses": [{"type": "InternalIP", "address": "2"}, {"$patch": "replace"}]}}), "");
        assert_eq!(node, json!({"status": {"addresses": [{"type": "InternalIP", "address": "2"}]}}));
    }
}
