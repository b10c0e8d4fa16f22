//! The hash of what was asked for, on the object itself.

use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Annotation with the hash of the object as the operator last applied it.
pub const APPLIED: &str = "nestling.dev/applied";

/// Puts the hash of `object` on it and returns the hash.
pub fn stamp<K: Resource + Serialize>(object: &mut K) -> Result<String, serde_json::Error> {
    object.annotations_mut().remove(APPLIED);
    let digest = Sha256::digest(serde_json::to_vec(object)?);
    let hash = digest.iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    object.annotations_mut().insert(APPLIED.into(), hash.clone());
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn the_hash_is_stable_and_sees_every_field() {
        let mut map = ConfigMap { data: Some([("a".to_owned(), "1".to_owned())].into()), ..ConfigMap::default() };
        let first = stamp(&mut map).unwrap();
        assert_eq!(stamp(&mut map).unwrap(), first);
        map.data = None;
        assert_ne!(stamp(&mut map).unwrap(), first);
    }
}
