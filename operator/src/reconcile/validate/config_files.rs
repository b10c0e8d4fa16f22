//! Configuration files of kube-apiserver. Their `apiVersion` and `kind` may be left out. What stands in them is upstream's
//! to judge, but for what would keep the tenant from ever being ready, or asks for files that nobody can bring.

use crate::model::ConfigFiles;
use crate::reconcile::validate::problems::Problems;
use nestling_crds::v1alpha1::Raw;
use serde_json::{Map, Value, json};

const CONFIG: &str = "apiserver.config.k8s.io";

/// What the spec gives.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub authentication: &'a Option<Raw>,
    pub audit: &'a Option<Raw>,
    pub encryption: &'a Option<Raw>,
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
    let encryption = file("encryption", given.encryption.as_ref(), CONFIG, "EncryptionConfiguration", no_kms);
    let admission = file("admission", given.admission.as_ref(), CONFIG, "AdmissionConfiguration", no_paths);
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

fn no_kms(content: &Map<String, Value>) -> Result<(), String> {
    let resources = content.get("resources").and_then(Value::as_array);
    let providers = resources.into_iter().flatten().filter_map(|one| one.get("providers")?.as_array()).flatten();
    if providers.filter_map(Value::as_object).any(|provider| provider.contains_key("kms")) {
        return Err("provider kms is not supported yet: its plugin cannot run beside kube-apiserver; use secretbox or aescbc".to_owned());
    }
    Ok(())
}

fn no_paths(content: &Map<String, Value>) -> Result<(), String> {
    let plugins = content.get("plugins").and_then(Value::as_array);
    if plugins.into_iter().flatten().any(|plugin| plugin.get("path").is_some()) {
        return Err("plugins[].path is not supported: there are no further files; write the plugin's configuration into it".to_owned());
    }
    Ok(())
}
