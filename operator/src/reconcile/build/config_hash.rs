//! A pod is replaced when something changes that a program reads only at its start. What a program reloads (serving and
//! client certificates, client CAs, authentication and encryption configuration) is left out on purpose.
//!
//! Hashed are names and values, and the number of this scheme: raising it replaces the pods of every tenant once, so it is
//! raised only together with a change that replaces them anyway. An upgrade of the operator alone replaces nothing.

use k8s_openapi::ByteString;
use nestling_crds::names::hash65;
use std::collections::BTreeMap;

const SCHEME: &str = "1";

/// Annotation of a pod template: what `component` reads at its start.
pub fn annotation(component: &str) -> String {
    format!("nestling.dev/{component}-config")
}

/// Hash over some values of a Secret. A key that is missing differs from one that is empty.
pub fn of_secret(data: Option<&BTreeMap<String, ByteString>>, keys: &[&str]) -> String {
    of(keys.iter().map(|key| (*key, data.and_then(|data| data.get(*key)).map(|value| String::from_utf8_lossy(&value.0).into_owned()))))
}

pub fn of<'a>(values: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let mut parts = vec![SCHEME.to_owned()];
    for (name, value) in values {
        parts.push(name.to_owned());
        parts.push(if value.is_some() { "present" } else { "missing" }.to_owned());
        parts.push(value.unwrap_or_default());
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    hash65(&parts)
}
