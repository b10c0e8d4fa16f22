//! What an API's types say about lists: which of them merge, and by which keys. Lists that are not named here are atomic.

/// How a list takes part in a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Items are told apart by these fields.
    Map(&'static [&'static str]),
    /// Items are values, each at most once.
    Set,
}

/// Which patch is computed: strategic merge has one key per list, server-side apply sometimes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patching {
    Strategic,
    Apply,
}

/// End of a list's path, and its keys: `patchMergeKey` is the first, all are `listMapKeys`. No keys: a set.
const LISTS: &[(&str, &[&str])] = &[
    ("metadata.ownerReferences", &["uid"]),
    ("metadata.finalizers", &[]),
    ("spec.containers", &["name"]),
    ("spec.initContainers", &["name"]),
    ("spec.ephemeralContainers", &["name"]),
    ("spec.volumes", &["name"]),
    ("spec.imagePullSecrets", &["name"]),
    ("spec.schedulingGates", &["name"]),
    ("spec.hostAliases", &["ip"]),
    ("spec.topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("ontainers.env", &["name"]),
    ("ontainers.volumeMounts", &["mountPath"]),
    ("ontainers.volumeDevices", &["devicePath"]),
    ("ontainers.ports", &["containerPort", "protocol"]),
    ("spec.ports", &["port", "protocol"]),
    ("spec.podCIDRs", &[]),
    ("status.conditions", &["type"]),
    ("status.addresses", &["type"]),
    ("status.podIPs", &["ip"]),
];

/// Keys that a type gives a default: items are told apart with it although it is not written.
const DEFAULTS: &[(&str, &str)] = &[("protocol", "TCP")];

/// The list at `path` (field names joined with dots, items left out).
pub(super) fn list(path: &str, patching: Patching) -> ListKind {
    let ends =
        |end: &str| path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.') || end.starts_with("ontainers"));
    match LISTS.iter().find(|(end, _)| ends(end)) {
        None => ListKind::Atomic,
        Some((_, [])) => ListKind::Set,
        Some((_, keys)) if patching == Patching::Strategic => ListKind::Map(&keys[..1]),
        Some((_, keys)) => ListKind::Map(keys),
    }
}

/// The value of an item's key, or its default.
pub(super) fn key_value(item: &serde_json::Value, key: &str) -> serde_json::Value {
    let default = DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).into());
    item.get(key).cloned().or(default).unwrap_or_default()
}
