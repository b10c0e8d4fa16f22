//! Tenant pod → host pod, in one pass and without IO: the tenant pod goes in; out come the host objects that it needs beside
//! itself and the host pod, or the list of fields that stand in the way.
//!
//! Every API struct that carries meaning is taken apart without `..`, so a field that a new Kubernetes version adds does
//! not compile until it is decided on: it is handled, or dropped with a written reason, or refused by name. A refused
//! field means no host pod at all: a pod that runs without something it asked for is worse than one that waits.
//!
//! The pass goes from `pod` to its `containers`, their `env` and its `volumes`. Service variables depend on the copies that
//! `envFrom` refers to, so [`add_service_variables`] puts them in when those are known.

mod containers;
mod env;
mod pod;
mod volumes;

#[cfg(test)]
mod tests;

pub(crate) use env::add_service_variables;

use super::names::{Owner, PodKey, Source};
use super::volumes::pod_secret::PodFiles;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// Longest quoted value, in characters: events have little room.
const MAX_VALUE: usize = 120;

/// Host objects that a pod needs beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// What the host has to have copies of.
    pub(crate) sources: BTreeSet<Source>,
    /// What the pod Secret has to hold.
    pub(crate) files: PodFiles,
}

/// The outcome. What the pod needs is known even when it is refused.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Translation {
    pub(crate) needs: Needs,
    /// Never empty when an error.
    pub(crate) pod: Result<Box<Pod>, Vec<Refusal>>,
}

/// A field that the host pod cannot be made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Path from the pod, e.g. `spec.volumes[0].persistentVolumeClaim`.
    pub(crate) field: String,
    /// The value as JSON, cut.
    pub(crate) value: String,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(field: impl Into<String>, value: &impl Serialize, reason: impl Into<String>) -> Self {
        let value = serde_json::to_string(value).unwrap_or_default();
        let cut = if value.chars().count() > MAX_VALUE { value.chars().take(MAX_VALUE).chain("…".chars()).collect() } else { value };
        Self { field: field.into(), value: cut, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.field, self.value, self.reason)
    }
}

/// Translates `pod`, whose key is `key`.
pub(crate) fn translate(owner: Owner<'_>, key: &PodKey, pod: &Pod) -> Translation {
    let mut translator = Translator { owner, key, pod, needs: Needs::default(), refusals: Vec::new() };
    let host = translator.pod();
    let Translator { needs, refusals, .. } = translator;
    Translation { needs, pod: if refusals.is_empty() { Ok(Box::new(host)) } else { Err(refusals) } }
}

/// The pass over one pod; its methods stand beside what they translate.
struct Translator<'a> {
    owner: Owner<'a>,
    key: &'a PodKey,
    pod: &'a Pod,
    needs: Needs,
    refusals: Vec<Refusal>,
}

impl Translator<'_> {
    /// Refuses the field `{path}.{field}` if it is set at all.
    fn refuse<T: Serialize>(&mut self, path: &str, field: &str, value: Option<&T>, reason: &str) {
        self.refusals.extend(value.map(|value| Refusal::new(format!("{path}.{field}"), value, reason)));
    }

    /// Translates a list whose elements have a path.
    fn each<T, U>(&mut self, path: &str, list: Vec<T>, mut one: impl FnMut(&mut Self, String, T) -> U) -> Vec<U> {
        list.into_iter().enumerate().map(|(index, item)| one(self, format!("{path}[{index}]"), item)).collect()
    }

    /// Name of the host copy of a ConfigMap in the pod's namespace.
    fn config_map(&mut self, name: &str) -> String {
        self.source(Source::config_map(&self.key.namespace, name))
    }

    /// Name of the host copy of a Secret in the pod's namespace.
    fn secret(&mut self, name: &str) -> String {
        self.source(Source::secret(&self.key.namespace, name))
    }

    fn source(&mut self, source: Source) -> String {
        let name = source.host_name(&self.owner.tenant.uid, self.owner.node).to_string();
        self.needs.sources.insert(source);
        name
    }
}
