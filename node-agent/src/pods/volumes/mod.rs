//! What a pod mounts or reads that is an object of the tenant: ConfigMaps, Secrets, service-account tokens and the
//! downward API.
//!
//! Two kinds of host object come of it. A **copy** of each tenant ConfigMap and Secret that some pod of the node refers
//! to: `copies` counts the pods that refer to it, `copy` keeps one of them up to date. Every agent owns its own copies, so
//! two agents never write one object. And one **pod Secret** for each pod that needs it, with the pod's tokens and
//! downward-API files (`pod_secret`, with `downward` for the values of fields); it is never shared and goes with the pod.
//! `leftovers` finds what an earlier process of the agent left.
//!
//! A missing object is not waited for: the host pod refers to a copy that does not exist, and the host's kubelet reports it
//! and retries, as for any pod. Only an object whose existence is not yet known holds a pod back.

pub(super) mod copies;
mod copy;
pub(super) mod downward;
pub(super) mod leftovers;
pub(super) mod pod_secret;

#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod pod_secret_tests;
