//! The text values of PKI Secrets, kubeconfig files among them.

use crate::pki::authority::{Pair, PkiError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A text value that is there and not empty.
pub(super) fn text<'a>(secret: Option<&'a Secret>, key: &str) -> Option<&'a str> {
    let bytes = secret?.data.as_ref()?.get(key)?;
    std::str::from_utf8(&bytes.0).ok().filter(|text| !text.is_empty())
}

/// The pair `<stem>.crt` and `<stem>.key`.
pub(super) fn pair(secret: Option<&Secret>, stem: &str) -> Option<Pair> {
    Some(Pair { certificate: text(secret, &format!("{stem}.crt"))?.to_owned(), key: text(secret, &format!("{stem}.key"))?.to_owned() })
}

/// The values of a Secret in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(BTreeMap<String, ByteString>);

impl Values {
    pub fn put(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.insert(key.into(), ByteString(text.into().into_bytes()));
    }

    pub fn put_pair(&mut self, stem: &str, pair: Pair) {
        self.put(format!("{stem}.crt"), pair.certificate);
        self.put(format!("{stem}.key"), pair.key);
    }

    pub fn into_data(self) -> BTreeMap<String, ByteString> {
        self.0
    }
}

/// Credentials that stand in files beside the kubeconfig: client-go reloads those, never what is embedded.
pub(super) fn kubeconfig_with_files(server: &str, user: &str, directory: &str, stem: &str) -> Result<String, PkiError> {
    render(
        user,
        "tenant",
        &json!({"server": server, "certificate-authority": format!("{directory}/ca.crt")}),
        &json!({"client-certificate": format!("{directory}/{stem}.crt"), "client-key": format!("{directory}/{stem}.key")}),
    )
}

/// Credentials inside, for a person to take away.
pub(super) fn kubeconfig_embedded(server: &str, cluster: &str, user: &str, ca: &str, client: &Pair) -> Result<String, PkiError> {
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
