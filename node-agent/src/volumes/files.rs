//! The files of a pod that only an agent can write: tokens and downward-API values. Each is a key of the pod Secret,
//! projected to the path where the tenant pod wants it.

/// What the pod Secret of one pod holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFiles {
    pub tokens: Vec<TokenFile>,
    pub downward: Vec<DownwardFile>,
}

impl PodFiles {
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.downward.is_empty()
    }
}

/// A projected service-account token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile {
    /// Key in the pod Secret.
    pub key: String,
    /// Empty: the apiserver's own audience.
    pub audience: Option<String>,
    pub expiration_seconds: i64,
}

/// A file with a field of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownwardFile {
    /// Key in the pod Secret.
    pub key: String,
    /// As in `fieldRef.fieldPath`.
    pub field_path: String,
}

/// A key of the pod Secret. Volume names are DNS labels, so the key is valid and unique.
pub fn key(what: &str, volume: &str, index: usize) -> String {
    format!("{what}.{volume}.{index}")
}
