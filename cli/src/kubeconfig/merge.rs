//! One kubeconfig into another. What is not ours stays as it is, also fields that this program does not know.

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// `into` with the entries of `tenant` added, or replaced where the names are equal. The current context stays: commands that
/// talk to the host go on doing so. A file that names none gets the tenant's.
pub fn merge(mut into: Value, tenant: &Value) -> Result<Value> {
    if into.is_null() {
        into = json!({"apiVersion": "v1", "kind": "Config"});
    }
    let Some(file) = into.as_object_mut() else { bail!("it is not a kubeconfig") };
    for list in ["clusters", "users", "contexts"] {
        let entries = file.entry(list).or_insert_with(|| json!([]));
        if entries.is_null() {
            *entries = json!([]);
        }
        let Some(entries) = entries.as_array_mut() else { bail!("{list} is not a list") };
        for new in tenant[list].as_array().into_iter().flatten() {
            match entries.iter_mut().find(|entry| entry["name"] == new["name"]) {
                Some(entry) => entry.clone_from(new),
                None => entries.push(new.clone()),
            }
        }
    }
    if file.get("current-context").and_then(Value::as_str).unwrap_or_default().is_empty() {
        file.insert("current-context".to_owned(), tenant["current-context"].clone());
    }
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(server: &str) -> Value {
        json!({
            "clusters": [{"name": "nestling-a-b", "cluster": {"server": server}}],
            "users": [{"name": "nestling-a-b", "user": {}}],
            "contexts": [{"name": "nestling-a-b", "context": {"cluster": "nestling-a-b", "user": "nestling-a-b"}}],
            "current-context": "nestling-a-b",
        })
    }

    #[test]
    fn others_stay_and_the_current_context_too() {
        let mine = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {"colors": true}, "current-context": "prod",
            "clusters": [{"name": "prod", "cluster": {"server": "https://prod", "unknown-field": 1}}],
            "users": null,
        });
        let merged = merge(mine.clone(), &tenant("https://one")).unwrap();
        assert_eq!(merged["clusters"][0], mine["clusters"][0]);
        assert_eq!(merged["preferences"], mine["preferences"]);
        assert_eq!(merged["current-context"], "prod");
        assert_eq!(merged["users"][0]["name"], "nestling-a-b");
    }

    #[test]
    fn merging_again_replaces() {
        let once = merge(Value::Null, &tenant("https://one")).unwrap();
        let twice = merge(once.clone(), &tenant("https://two")).unwrap();
        assert_eq!(once["current-context"], "nestling-a-b");
        assert_eq!(twice["clusters"].as_array().unwrap().len(), 1);
        assert_eq!(twice["clusters"][0]["cluster"]["server"], "https://two");
        assert_eq!(merge(twice.clone(), &tenant("https://two")).unwrap(), twice);
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        assert!(merge(json!("text"), &tenant("https://one")).is_err());
        assert!(merge(json!({"clusters": "text"}), &tenant("https://one")).is_err());
    }
}
