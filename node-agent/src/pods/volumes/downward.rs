//! Fields of a pod as text, by upstream's `fieldpath.ExtractFieldPathAsString`.

use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The value of `path` if the agent knows it without the host's kubelet; none for any other field.
pub(crate) fn field(pod: &Pod, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Some(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Some(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Some(meta.uid.clone().unwrap_or_default()),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => Some(pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()),
        "spec.serviceAccountName" => Some(pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()),
        _ => None,
    }
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// `key="value"` lines, sorted, values quoted as Go quotes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

/// Go's `strconv.Quote`.
fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if printable(c) => out.push(c),
            // Writing to a String cannot fail.
            c if u32::from(c) < 0x80 => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Go's `strconv.IsPrint`, by Rust's own table of printable characters. A combining mark is printable except at the
/// start of a text, hence the letter before it.
fn printable(c: char) -> bool {
    if c != ' ' && c.is_whitespace() {
        return false;
    }
    let text: String = ['a', c].into_iter().collect();
    !text.escape_debug().to_string().contains("\\u{")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1",
                "labels": {"b": "2", "a": "1"},
                "annotations": {"text": "say \"hi\"\n\u{1}ü€\u{200b}\u{a0}", "a[b]c": "odd"},
            },
            "spec": {"nodeName": "node-1", "serviceAccountName": "robot", "containers": []},
        }))
        .unwrap()
    }

    #[test]
    fn fields_are_those_of_the_tenant_pod() {
        for (path, value) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "shop"),
            ("metadata.uid", "u-1"),
            ("spec.nodeName", "node-1"),
            ("spec.serviceAccountName", "robot"),
            ("metadata.labels", "a=\"1\"\nb=\"2\""),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['missing']", ""),
            ("metadata.annotations['a[b]c']", "odd"),
        ] {
            assert_eq!(field(&pod(), path).as_deref(), Some(value), "{path}");
        }
        assert_eq!(field(&pod(), "status.podIP"), None);
        assert_eq!(field(&pod(), "metadata.finalizers['x']"), None);
    }

    #[test]
    fn maps_are_quoted_as_go_quotes() {
        let text = field(&pod(), "metadata.annotations").unwrap();
        assert_eq!(text, "a[b]c=\"odd\"\ntext=\"say \\\"hi\\\"\\n\\x01ü€\\u200b\\u00a0\"");
    }
}
