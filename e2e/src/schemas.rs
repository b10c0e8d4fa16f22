//! JSON schemas of all kinds that the chart and the examples use, and the examples of the documentation as files: the input of
//! kubeconform in `make lint-chart`. The schemas are made from the `OpenAPI` document of the Kubernetes that the host cluster runs and
//! from Nestling's own CRD. They are strict: unknown fields are errors.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const DEFINITION: &str = "#/definitions/";

/// Writes `<kind>-<first part of the group>-<version>.json` (kubeconform's `{{.ResourceKind}}{{.KindSuffix}}`) for each kind.
pub fn write(swagger: &Path, crds: &[&Path], output: &Path) -> Result<usize> {
    let mut schemas = kinds(&serde_json::from_str(&read(swagger)?).with_context(|| format!("parse {}", swagger.display()))?);
    for path in crds {
        let crd: Value = serde_saphyr::from_str(&read(path)?).with_context(|| format!("parse {}", path.display()))?;
        schemas.extend(custom(&crd));
    }
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    for (name, schema) in &schemas {
        let path = output.join(format!("{name}.json"));
        fs::write(&path, schema.to_string()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(schemas.len())
}

/// Each kind of a Swagger document with the definitions that it refers to.
fn kinds(swagger: &Value) -> BTreeMap<String, Value> {
    let empty = Map::new();
    let definitions = swagger["definitions"].as_object().unwrap_or(&empty);
    let definitions: Map<String, Value> = definitions.iter().map(|(name, schema)| (name.clone(), definition(name, schema))).collect();
    let mut schemas = BTreeMap::new();
    for (name, schema) in &definitions {
        for kind in schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let mut used = Map::new();
            collect(&definitions, name, &mut used);
            let text = |key: &str| kind[key].as_str().unwrap_or_default();
            let schema = json!({"$ref": format!("{DEFINITION}{name}"), "definitions": used});
            schemas.insert(file_name(text("kind"), text("group"), text("version")), schema);
        }
    }
    schemas
}

fn definition(name: &str, schema: &Value) -> Value {
    // Written as a string type, but numbers are accepted too.
    if name.ends_with(".IntOrString") || name.ends_with(".Quantity") {
        return json!({"type": ["string", "number"]});
    }
    strict(schema)
}

fn collect(definitions: &Map<String, Value>, name: &str, used: &mut Map<String, Value>) {
    if used.contains_key(name) {
        return;
    }
    let Some(schema) = definitions.get(name) else { return };
    used.insert(name.to_owned(), schema.clone());
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        if let Some(other) = value.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix(DEFINITION)) {
            collect(definitions, other, used);
        }
        match value {
            Value::Object(fields) => open.extend(fields.values()),
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

/// The versions of a `CustomResourceDefinition`.
fn custom(crd: &Value) -> BTreeMap<String, Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, group) = (text(&crd["spec"]["names"]["kind"]), text(&crd["spec"]["group"]));
    let versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    versions
        .map(|version| {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            // The API server adds these to every schema.
            for (field, of) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
                schema["properties"][field] = json!({"type": of});
            }
            (file_name(&kind, &group, &text(&version["name"])), strict(&schema))
        })
        .collect()
}

fn file_name(kind: &str, group: &str, version: &str) -> String {
    let group = group.split('.').next().filter(|part| !part.is_empty()).map(|part| format!("-{part}")).unwrap_or_default();
    format!("{kind}{group}-{version}").to_lowercase()
}

/// Objects with listed properties have no others; `nullable` becomes a JSON schema type; descriptions are dropped.
fn strict(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut fields: Map<String, Value> = fields
                .iter()
                .filter(|(key, value)| *key != "description" || !value.is_string())
                .map(|(key, value)| (key.clone(), strict(value)))
                .collect();
            let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if fields.get("properties").is_some_and(Value::is_object) && fields.get("type") == Some(&json!("object")) && !open {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            // A boolean is the keyword, anything else the schema of a property of that name.
            if fields.get("nullable").is_some_and(Value::is_boolean) && fields.remove("nullable") == Some(Value::Bool(true)) {
                if let Some(of) = fields.get("type").cloned() {
                    fields.insert("type".to_owned(), json!([of, "null"]));
                }
                if let Some(Value::Array(values)) = fields.get_mut("enum") {
                    values.push(Value::Null);
                }
            }
            Value::Object(fields)
        }
        Value::Array(items) => items.iter().map(strict).collect(),
        other => other.clone(),
    }
}

/// Writes the YAML of fenced `yaml` blocks and of here-documents in `text` as `<output>/<name>-<n>.yaml`. A block that begins with
/// `spec:` is one of a `VirtualCluster`.
pub fn write_examples(name: &str, text: &str, output: &Path) -> Result<usize> {
    let examples = examples(text);
    fs::create_dir_all(output).with_context(|| format!("create {}", output.display()))?;
    for (index, example) in examples.iter().enumerate() {
        let path = output.join(format!("{name}-{}.yaml", index + 1));
        fs::write(&path, example).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(examples.len())
}

fn examples(text: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut open: Option<(&str, Vec<&str>)> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        open = match open.take() {
            Some((end, lines)) if trimmed == end => {
                examples.push(lines);
                None
            }
            Some((end, mut lines)) => {
                lines.push(line);
                Some((end, lines))
            }
            None if trimmed == "```yaml" => Some(("```", Vec::new())),
            None => line.split_once("<<").map(|(_, end)| (end.trim().trim_matches('\''), Vec::new())),
        };
    }
    examples
        .into_iter()
        .filter_map(|lines| {
            let indent = lines.iter().filter(|line| !line.trim().is_empty()).map(|line| line.len() - line.trim_start().len()).min()?;
            let text: String = lines.iter().flat_map(|line| [line.get(indent..).unwrap_or_default(), "\n"]).collect();
            if text.starts_with("spec:") {
                return Some(format!("apiVersion: nestling.dev/v1alpha1\nkind: VirtualCluster\nmetadata: {{name: example}}\n{text}"));
            }
            text.contains("kind:").then_some(text)
        })
        .collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_brings_what_it_refers_to_and_nothing_else() {
        let swagger = json!({"definitions": {
            "a.Thing": {
                "type": "object",
                "properties": {"spec": {"$ref": "#/definitions/a.Spec"}, "port": {"$ref": "#/definitions/b.IntOrString"}},
                "x-kubernetes-group-version-kind": [{"group": "apps.example", "kind": "Thing", "version": "v1"}],
            },
            "a.Spec": {"type": "object", "properties": {"nullable": {"type": "boolean"}, "description": {"type": "string", "description": "text"}, "same": {"$ref": "#/definitions/a.Thing"}}},
            "b.IntOrString": {"type": "string", "format": "int-or-string"},
            "c.Other": {"type": "object"},
        }});
        let schemas = kinds(&swagger);
        let thing = &schemas["thing-apps-v1"];
        let names: Vec<&String> = thing["definitions"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["a.Spec", "a.Thing", "b.IntOrString"]);
        assert_eq!(thing["definitions"]["a.Spec"]["additionalProperties"], false);
        assert_eq!(thing["definitions"]["a.Spec"]["properties"]["description"], json!({"type": "string"}));
        assert_eq!(thing["definitions"]["a.Spec"]["properties"]["nullable"], json!({"type": "boolean"}));
        assert_eq!(thing["definitions"]["b.IntOrString"]["type"], json!(["string", "number"]));
        assert_eq!(file_name("Pod", "", "v1"), "pod-v1");
    }

    #[test]
    fn a_custom_resource_has_metadata_and_open_fields_stay_open() {
        let crd = json!({"spec": {"group": "example.dev", "names": {"kind": "Thing"}, "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
            "type": "object",
            "properties": {"spec": {"type": "object", "properties": {
                "raw": {"type": "object", "properties": {"a": {}}, "x-kubernetes-preserve-unknown-fields": true},
                "kind": {"type": "string", "nullable": true, "enum": ["A"]},
            }}},
        }}}]}});
        let schema = &custom(&crd)["thing-example-v1"];
        assert_eq!(schema["properties"]["metadata"]["type"], "object");
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["spec"]["properties"]["raw"].get("additionalProperties"), None);
        assert_eq!(schema["properties"]["spec"]["properties"]["kind"], json!({"type": ["string", "null"], "enum": ["A", null]}));
    }

    #[test]
    fn examples_are_fenced_yaml_and_here_documents() {
        let text = "```yaml\nspec:\n  a: 1\n```\n\n    kubectl apply -f - <<END\n    kind: Pod\n    metadata: {}\n    END\n\n```text\nkind: no\n```\n";
        let found = examples(text);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("kind: VirtualCluster") && found[0].ends_with("spec:\n  a: 1\n"));
        assert_eq!(found[1], "kind: Pod\nmetadata: {}\n");
    }
}
