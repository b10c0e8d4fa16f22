//! Configuration files of kube-apiserver. Their `apiVersion` and `kind` may be left out. What stands in them is upstream's
//! to judge, but for what would keep the tenant from ever being ready, or asks for files that nobody can bring.

use crate::model::ConfigFiles;
use crate::reconcile::validate::problems::Problems;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use k8s_openapi::api::core::v1::Secret;
use nestling_crds::v1alpha1::{Encryption, Raw, SecretKeyRef};
use serde_json::{Map, Value, json};

const CONFIG: &str = "apiserver.config.k8s.io";

/// What the spec gives.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub authentication: &'a Option<Raw>,
    pub audit: &'a Option<Raw>,
    pub encryption: &'a Option<Encryption>,
    /// The Secret that `encryption` names, if it exists.
    pub encryption_secret: Option<&'a Secret>,
    pub admission: &'a Option<Raw>,
}

pub(super) fn files(given: Given<'_>, parent: &str, problems: &mut Problems) -> ConfigFiles {
    let mut file = |name: &str, raw: Option<&Raw>, group: &str, kind: &str, check: fn(&Map<String, Value>) -> Result<(), String>| {
        let field = format!("{parent}.{name}");
        let content = typed(&raw?.0, group, kind).and_then(|content| check(&content).map(|()| content));
        content.map_err(|message| problems.add(field, message)).ok()
    };
    let authentication = file("authentication", given.authentication.as_ref(), CONFIG, "AuthenticationConfiguration", probes_get_in);
    let audit = file("audit", given.audit.as_ref(), "audit.k8s.io", "Policy", |_| Ok(()));
    let admission = file("admission", given.admission.as_ref(), CONFIG, "AdmissionConfiguration", no_paths);
    let encryption = given.encryption.as_ref().and_then(|encryption| encryption.secret_ref.as_ref()).and_then(|reference| {
        let content = encryption_file(reference, given.encryption_secret);
        content.map_err(|message| problems.add(format!("{parent}.encryption.secretRef"), message)).ok()
    });
    ConfigFiles {
        authentication: text(with_anonymous(authentication)),
        audit: audit.map(text),
        encryption: encryption.map(text),
        admission: admission.map(text),
    }
}

/// JSON is YAML; keys are in alphabetical order, so the same spec always gives the same bytes.
fn text(content: Map<String, Value>) -> String {
    let sorted: std::collections::BTreeMap<String, Value> = content.into_iter().collect();
    format!("{:#}\n", json!(sorted))
}

fn typed(raw: &Map<String, Value>, group: &str, kind: &str) -> Result<Map<String, Value>, String> {
    let mut content = raw.clone();
    let version = content.entry("apiVersion").or_insert_with(|| json!(format!("{group}/v1")));
    if !version.as_str().is_some_and(|version| version.starts_with(&format!("{group}/"))) {
        return Err(format!("apiVersion must be {group}/v1"));
    }
    let given = content.entry("kind").or_insert_with(|| json!(kind));
    if given.as_str() != Some(kind) {
        return Err(format!("kind must be {kind}"));
    }
    Ok(content)
}

/// Paths that the kubelet's probes ask for, without credentials.
const HEALTH: [&str; 3] = ["/livez", "/readyz", "/healthz"];

/// Unless the tenant says otherwise, nobody but a probe gets in without credentials.
fn with_anonymous(given: Option<Map<String, Value>>) -> Map<String, Value> {
    let mut content = given.unwrap_or_else(|| typed(&Map::new(), CONFIG, "AuthenticationConfiguration").unwrap_or_default());
    content.entry("anonymous").or_insert_with(|| json!({"enabled": true, "conditions": HEALTH.map(|path| json!({"path": path}))}));
    content
}

fn probes_get_in(content: &Map<String, Value>) -> Result<(), String> {
    let Some(anonymous) = content.get("anonymous") else { return Ok(()) };
    let enabled = anonymous.get("enabled").and_then(Value::as_bool).unwrap_or(false);
    let conditions = anonymous.get("conditions").and_then(Value::as_array);
    let open = |path: &str| {
        conditions.is_none_or(|all| all.is_empty() || all.iter().any(|one| one.get("path").and_then(Value::as_str) == Some(path)))
    };
    if enabled && open("/livez") && open("/readyz") {
        return Ok(());
    }
    Err("anonymous must let /livez and /readyz in: the host's kubelet probes them".to_owned())
}

/// The configuration out of the user's Secret. Messages say nothing of its content: who may read them may not be the one who
/// may read the Secret.
fn encryption_file(reference: &SecretKeyRef, secret: Option<&Secret>) -> Result<Map<String, Value>, String> {
    let SecretKeyRef { name, key } = reference;
    let secret = secret.ok_or_else(|| format!("Secret {name} does not exist"))?;
    let data = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| format!("Secret {name} has no key {key}"))?;
    let wrong = |what: &str| format!("key {key} of Secret {name} {what}");
    let text = std::str::from_utf8(&data.0).map_err(|_| wrong("is not YAML"))?;
    let content: Map<String, Value> = serde_saphyr::from_str(text).map_err(|_| wrong("is not a YAML object"))?;
    let content = typed(&content, CONFIG, "EncryptionConfiguration").map_err(|message| wrong(&format!("is not usable: {message}")))?;
    usable_keys(&content).map_err(|message| wrong(&format!("is not usable: {message}")))?;
    Ok(content)
}

/// What kube-apiserver checks at its start (`k8s.io/apiserver/pkg/apis/apiserver/validation`), and would not start without.
fn usable_keys(content: &Map<String, Value>) -> Result<(), String> {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).filter(|list| !list.is_empty()).cloned();
    for resource in list(content.get("resources")).ok_or("resources must be a list and not empty")? {
        list(resource.get("resources")).ok_or("each entry of resources must name resources")?;
        for provider in list(resource.get("providers")).ok_or("each entry of resources must have providers")? {
            let one = provider.as_object().filter(|provider| provider.len() == 1).and_then(|provider| provider.iter().next());
            let (kind, settings) = one.ok_or("each provider must have exactly one kind")?;
            let lengths: &[usize] = match kind.as_str() {
                "identity" => continue,
                "aescbc" | "aesgcm" => &[16, 24, 32],
                "secretbox" => &[32],
                "kms" => {
                    return Err("provider kms is not supported yet: its plugin cannot run beside kube-apiserver; use secretbox or aescbc"
                        .to_owned());
                }
                _ => return Err("providers are identity, secretbox, aescbc and aesgcm".to_owned()),
            };
            for key in list(settings.get("keys")).ok_or_else(|| format!("provider {kind} must have keys"))? {
                let named = key.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
                let secret = key.get("secret").and_then(Value::as_str).and_then(|secret| BASE64_STANDARD.decode(secret).ok());
                if !named || !secret.is_some_and(|secret| lengths.contains(&secret.len())) {
                    return Err(format!("each key of provider {kind} must have a name, and a base64 secret of {lengths:?} bytes"));
                }
            }
        }
    }
    Ok(())
}

fn no_paths(content: &Map<String, Value>) -> Result<(), String> {
    let plugins = content.get("plugins").and_then(Value::as_array);
    if plugins.into_iter().flatten().any(|plugin| plugin.get("path").is_some()) {
        return Err("plugins[].path is not supported: there are no further files; write the plugin's configuration into it".to_owned());
    }
    if names_kubeconfig(&Value::Object(content.clone())) {
        return Err("kubeConfigFile is not supported: there are no further files, and credentials do not belong into the spec".to_owned());
    }
    Ok(())
}

/// Of webhook admission (`WebhookAdmission`, `ImagePolicyWebhook`), however deep.
fn names_kubeconfig(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| key == "kubeConfigFile" || names_kubeconfig(value)),
        Value::Array(items) => items.iter().any(names_kubeconfig),
        _ => false,
    }
}
