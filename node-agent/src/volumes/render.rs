//! Tenant ConfigMap or Secret → host copy. Pure.

use super::Source;
use crate::pods::ownership::Owner;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

/// The host copy of a tenant ConfigMap. `immutable` stays behind: a tenant may delete an immutable object and make
/// another of the same name, and the copy has to follow.
pub fn config_map(owner: &Owner<'_>, source: &Source, object: &ConfigMap) -> ConfigMap {
    let ConfigMap { metadata, data, binary_data, immutable: _ } = object;
    ConfigMap {
        metadata: owner.copy_metadata(source, metadata.uid.as_deref().unwrap_or_default()),
        data: data.clone(),
        binary_data: binary_data.clone(),
        immutable: None,
    }
}

/// The host copy of a tenant Secret.
pub fn secret(owner: &Owner<'_>, source: &Source, object: &Secret) -> Secret {
    let Secret { metadata, data, immutable: _, string_data: _, type_ } = object;
    Secret {
        metadata: owner.copy_metadata(source, metadata.uid.as_deref().unwrap_or_default()),
        data: data.clone(),
        immutable: None,
        string_data: None, // write-only in the API: always empty when read
        type_: Some(host_type(type_.as_deref()).to_owned()),
    }
}

/// A kubelet reads pull secrets by their type, so the two of them keep it. Any other type would only bring host
/// controllers and validation to bear on the copy: a `service-account-token` Secret is even removed when the host has
/// no such account.
fn host_type(tenant: Option<&str>) -> &str {
    match tenant {
        Some(kept @ ("kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg")) => kept,
        _ => "Opaque",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pull_secrets_keep_their_type() {
        for (tenant, host) in [
            (Some("kubernetes.io/dockerconfigjson"), "kubernetes.io/dockerconfigjson"),
            (Some("kubernetes.io/dockercfg"), "kubernetes.io/dockercfg"),
            (Some("kubernetes.io/service-account-token"), "Opaque"),
            (Some("kubernetes.io/tls"), "Opaque"),
            (None, "Opaque"),
        ] {
            assert_eq!(host_type(tenant), host);
        }
    }
}
