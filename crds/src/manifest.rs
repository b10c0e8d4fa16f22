//! The CRD as the YAML file that the chart installs.

use crate::v1alpha1::VirtualCluster;
use kube::CustomResourceExt;
use serde_json::{Value, json};

const HEADER: &str = "# Written by `make generate` from crds/src/v1alpha1: edit there.\n";

/// The chart's copy, from the root of the project.
pub const PATH: &str = "charts/nestling/crds/virtualclusters.yaml";

/// Text of the file at [`PATH`].
pub fn virtual_clusters() -> Result<String, ManifestError> {
    let mut crd = serde_json::to_value(VirtualCluster::crd()).map_err(ManifestError::Encode)?;
    drop_empty(&mut crd);
    default_status(&mut crd);
    let yaml = serde_saphyr::to_string(&crd).map_err(ManifestError::Write)?;
    Ok(format!("{HEADER}{yaml}"))
}

/// Why the CRD could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("cannot encode the CRD as JSON")]
    Encode(#[source] serde_json::Error),
    #[error("cannot write the CRD as YAML")]
    Write(#[source] serde_saphyr::ser_error::Error),
}

/// `kube` writes empty lists into `names`; an apiserver drops them, so a tool that compares would see a difference for ever.
fn drop_empty(crd: &mut Value) {
    if let Some(names) = crd.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    }
}

/// A new object reads as one that nobody has looked at yet. Without a status, tools such as kstatus take it for done.
fn default_status(crd: &mut Value) {
    if let Some(status) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status") {
        status["default"] = json!({"observedGeneration": -1});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields below `schema` whose documentation lacks a default, or an example where the type does not show the values.
    fn undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let (path, text) = (format!("{path}.{name}"), field["description"].as_str().unwrap_or_default());
            // Kubernetes' own types.
            let foreign = ["resources", "tolerations"].contains(&name.as_str());
            if !foreign && field["properties"].is_object() {
                undocumented(field, &path, found);
                continue;
            }
            if !foreign {
                undocumented(&field["items"], &path, found);
            }
            let required = schema["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name.as_str()));
            let shown = field["enum"].is_array() || field["type"] == "boolean" || text.contains("e.g.") || text.contains("supported yet");
            let refused = text.contains("Not supported yet") || text.contains("refused");
            if text.is_empty() || !(required || refused || (text.contains("Default:") && shown)) {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_field_of_the_spec_has_a_default_and_an_example() {
        let crd = serde_json::to_value(VirtualCluster::crd()).unwrap();
        let mut found = Vec::new();
        undocumented(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn the_charts_copy_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/nestling/crds/virtualclusters.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == virtual_clusters().unwrap(), "{PATH} is out of date: run `make generate` and commit it");
    }
}
