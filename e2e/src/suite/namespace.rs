//! A namespace of one test's own.

use super::kubectl::Kubectl;
use super::wait::eventually;
use anyhow::Result;
use std::time::Duration;

/// Deleted (without waiting) when dropped, so that a failing test cleans up too.
#[derive(Debug)]
pub struct Namespace {
    cluster: Kubectl,
    kubectl: Kubectl,
    name: String,
}

impl Namespace {
    /// Made anew: what an earlier, killed run left under the name is removed first.
    pub fn create(cluster: &Kubectl, name: &str) -> Result<Self> {
        cluster.run(&["delete", "namespace", name, "--ignore-not-found"])?;
        cluster.run(&["create", "namespace", name])?;
        let kubectl = cluster.in_namespace(name);
        // Pods are refused until the default service account is there.
        eventually("the default service account exists", Duration::from_secs(30), || kubectl.run(&["get", "serviceaccount", "default"]))?;
        Ok(Self { cluster: cluster.clone(), kubectl, name: name.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::ops::Deref for Namespace {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.run(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]) {
            eprintln!("left namespace {}: {error:#}", self.name);
        }
    }
}
