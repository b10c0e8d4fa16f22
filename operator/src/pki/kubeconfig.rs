//! Kubeconfig files.

use super::PkiError;
use super::authority::Pair;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Credentials that stand in files beside the kubeconfig: client-go reloads those, never what is embedded.
pub(super) fn with_files(server: &str, user: &str, directory: &str, stem: &str) -> Result<String, PkiError> {
    render(
        user,
        "tenant",
        &json!({"server": server, "certificate-authority": format!("{directory}/ca.crt")}),
        &json!({"client-certificate": format!("{directory}/{stem}.crt"), "client-key": format!("{directory}/{stem}.key")}),
    )
}

/// Credentials inside, for a person to take away.
pub(super) fn embedded(server: &str, cluster: &str, user: &str, ca: &str, client: &Pair) -> Result<String, PkiError> {
    render(
        user,
        cluster,
        &json!({"server": server, "certificate-authority-data": STANDARD.encode(ca)}),
        &json!({"client-certificate-data": STANDARD.encode(&client.certificate), "client-key-data": STANDARD.encode(&client.key)}),
    )
}

fn render(user: &str, cluster: &str, connection: &Value, credentials: &Value) -> Result<String, PkiError> {
    let file = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": connection}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    });
    // Each value on its own line, as kubectl writes it: wrapped, base64 is valid YAML but no pleasure to work with.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&file, options).map_err(|source| PkiError::Kubeconfig { user: user.to_owned(), source })
}
