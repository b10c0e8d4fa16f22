//! Tenant pod → host pod. Pure: a tenant pod and what is known around it go in, the host pod comes out with the list of
//! host objects it needs, or the list of fields that stand in the way.
//!
//! Every API struct that carries meaning is taken apart without `..`, so a field that a new Kubernetes version adds does
//! not compile until somebody decides: it is handled, or dropped with a written reason, or refused by name. A refused
//! field means no host pod at all: a pod that runs without something it asked for is worse than one that waits.
//!
//! `pod_spec` is the pod, `container` its containers with `env` (and `service_env`), `volume` its volumes with
//! `projected` for those made of files, `dns`, `security` the rest.

mod container;
mod dns;
mod env;
mod pod_spec;
mod projected;
mod refusal;
mod security;
mod service_env;
mod volume;

#[cfg(test)]
mod tests;

pub use refusal::Refusal;

use super::key::PodKey;
use super::ownership::Owner;
use super::services::ServiceFacts;
use crate::volumes::Source;
use crate::volumes::files::PodFiles;
use k8s_openapi::api::core::v1::Pod;
use nestling_crds::names::HostName;
use refusal::Refusals;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is known around a pod.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    pub owner: Owner<'a>,
    /// The Services that the pod can see ([`super::services::Services::visible_from`]).
    pub services: &'a [ServiceFacts],
    /// Keys of the objects that `envFrom` may refer to, as far as known.
    pub keys: &'a BTreeMap<Source, Arc<BTreeSet<String>>>,
}

/// Host objects that a pod needs beside itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub sources: BTreeSet<Source>,
    /// Those of `sources` that some `envFrom` names.
    pub env_from: BTreeSet<Source>,
    pub files: PodFiles,
}

/// The outcome: what the pod needs is known even when it cannot be realized.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    pub needs: Needs,
    /// Never empty when an error.
    pub pod: Result<Box<Pod>, Vec<Refusal>>,
}

/// Translates `pod`, whose key is `key`.
pub fn translate(key: &PodKey, pod: &Pod, context: &Context<'_>) -> Translation {
    let mut translator = Translator { key, pod, context, needs: Needs::default(), refusals: Refusals::default() };
    let host = translator.pod();
    let Translator { needs, refusals, .. } = translator;
    Translation { needs, pod: refusals.into_result(Box::new(host)) }
}

/// The pass over one pod; its methods live beside what they translate.
struct Translator<'a> {
    key: &'a PodKey,
    pod: &'a Pod,
    context: &'a Context<'a>,
    needs: Needs,
    refusals: Refusals,
}

impl Translator<'_> {
    /// Name of the host copy of a ConfigMap in the pod's namespace.
    fn config_map(&mut self, name: &str) -> String {
        self.source(Source::config_map(&self.key.namespace, name))
    }

    /// Name of the host copy of a Secret in the pod's namespace.
    fn secret(&mut self, name: &str) -> String {
        self.source(Source::secret(&self.key.namespace, name))
    }

    fn source(&mut self, source: Source) -> String {
        let owner = &self.context.owner;
        let name = source.host_name(&owner.tenant.uid, owner.node).to_string();
        self.needs.sources.insert(source);
        name
    }

    fn pod_secret(&self) -> HostName {
        self.key.secret_name(&self.context.owner.tenant.uid)
    }
}
