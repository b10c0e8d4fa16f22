//! The CRD as the YAML file that the chart installs.

use crate::v1alpha1::VirtualCluster;
use kube::CustomResourceExt;
use serde_json::Value;

const HEADER: &str = "# Written by `make generate` from crds/src/v1alpha1: edit there.\n";

/// The chart's copy, from the root of the project.
pub const PATH: &str = "charts/nestling/crds/virtualclusters.yaml";

/// Text of the file at [`PATH`].
pub fn virtual_clusters() -> Result<String, ManifestError> {
    let mut crd = serde_json::to_value(VirtualCluster::crd()).map_err(ManifestError::Encode)?;
    drop_empty(&mut crd);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charts_copy_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/nestling/crds/virtualclusters.yaml");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == virtual_clusters().unwrap(), "{PATH} is out of date: run `make generate` and commit it");
    }
}
