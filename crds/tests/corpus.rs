//! Specs as users write them: what is accepted, what is refused with which message, and which changes are refused.
//!
//! `corpus/*.yaml` are lists. An entry has a `spec`, for a change the spec `before` it, and if it is to be refused a `message`
//! that the refusal must contain.

#![allow(clippy::unwrap_used)] // the whole file is a test

use nestling_crds::v1alpha1::{VirtualCluster, refusals};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{fs, path::Path};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    spec: Value,
    before: Option<Value>,
    message: Option<String>,
}

fn cluster(spec: &Value) -> Result<VirtualCluster, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": "nestling.dev/v1alpha1",
        "kind": "VirtualCluster",
        "metadata": {"name": "dev", "namespace": "team-a"},
        "spec": spec,
    }))
}

/// What an apiserver would say, from the rules and from the types.
fn refused(entry: &Entry) -> String {
    let next = match cluster(&entry.spec) {
        Ok(next) => next,
        Err(error) => return error.to_string(),
    };
    if let Some(before) = &entry.before {
        let errors = next.validate_cel_update(&cluster(before).unwrap()).err();
        return errors.map(|errors| errors.to_string()).unwrap_or_default();
    }
    let lines: Vec<String> = refusals(&next).into_iter().map(|refusal| format!("{}: {}", refusal.field, refusal.message)).collect();
    lines.join("\n")
}

/// Whether every field of `spec` is one of the API: a misspelt one would test nothing.
fn unknown(spec: &Value, api: &Value, path: &str) -> Option<String> {
    match (spec, api) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match known.get(key) {
                Some(known) => unknown(value, known, &path),
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => given.iter().zip(known).find_map(|(given, known)| unknown(given, known, path)),
        _ => None,
    }
}

#[test]
fn each_spec_is_taken_or_refused_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let entries: Vec<Entry> = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for entry in entries {
            count += 1;
            let (place, refused) = (format!("{}: {}", path.display(), entry.spec), refused(&entry));
            if let Some(message) = &entry.message {
                assert!(refused.contains(message.as_str()), "{place}\nexpected: {message}\nrefused: {refused}");
                continue;
            }
            assert_eq!(refused, "", "{place}");
            let known = serde_json::to_value(cluster(&entry.spec).unwrap().spec).unwrap();
            assert_eq!(unknown(&entry.spec, &known, "spec"), None, "{place}: unknown field, or one that is left out again");
        }
    }
    assert!(count > 50, "{count} entries");
}
