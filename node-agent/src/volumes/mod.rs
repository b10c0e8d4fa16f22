//! What a pod mounts or reads that is an object of the tenant: ConfigMaps, Secrets, service-account tokens and the
//! downward API.
//!
//! Two kinds of host object come of it. A **copy** of each tenant ConfigMap and Secret that some pod of the node refers
//! to (`source` names it, `render` builds it, `copy` follows one tenant object, `copies` counts the pods that want it);
//! every agent owns its own copies, so two agents never write one object. And one **pod Secret** for each pod that needs
//! it, with the pod's tokens and downward-API files (`files` says which, `tokens` and `downward` fill them, `pod_secret`
//! writes it); it is never shared and goes with the pod. `inventory` finds what an earlier life of the agent left.
//!
//! A missing object is not waited for: the host pod refers to a copy that does not exist, and the host's kubelet says
//! and does what a kubelet says and does. Only an object whose existence is not yet known holds a pod back.

pub mod copies;
#[cfg(test)]
mod copies_tests;
mod copy;
pub mod downward;
mod error;
pub mod files;
pub mod inventory;
pub mod pod_secret;
#[cfg(test)]
mod pod_secret_tests;
mod render;
mod source;
mod tokens;

pub use error::VolumesError;
pub use source::{Source, SourceKind};
