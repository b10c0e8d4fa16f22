//! Kubeconfig files with everything inside them, so that they work from any directory.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::files::{self, Access, FileError};
use super::pki::Pair;
use super::topology::{API_PORT, CONTROL_ADDRESS};

/// URL of the host apiserver, the same from nodes and from the root namespace.
pub fn server() -> String {
    format!("https://{CONTROL_ADDRESS}:{API_PORT}")
}

/// Writes a kubeconfig for the identity of `pair`.
pub fn write(path: &Path, pki: &Path, pair: &Pair) -> Result<(), FileError> {
    let authority = files::read(&Pair::at(pki, "ca").certificate)?;
    let config = render(&server(), &authority, &files::read(&pair.certificate)?, &files::read(&pair.key)?);
    // JSON is YAML, and needs no writer.
    files::write(path, format!("{config:#}\n"), Access::Secret)
}

fn render(server: &str, authority: &str, certificate: &str, key: &str) -> Value {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "nestling-host",
        "clusters": [{"name": "nestling-host", "cluster": {"server": server, "certificate-authority-data": encode(authority)}}],
        "users": [{"name": "nestling-host", "user": {"client-certificate-data": encode(certificate), "client-key-data": encode(key)}}],
        "contexts": [{"name": "nestling-host", "context": {"cluster": "nestling-host", "user": "nestling-host"}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_reads_what_we_write() {
        let text = render("https://172.30.0.200:6443", "a", "b", "c").to_string();
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("nestling-host"));
        assert_eq!(config.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://172.30.0.200:6443"));
    }
}
