//! Where the programs and kubeconfigs of a prepared machine lie.

use std::path::PathBuf;

/// Paths below the project's root.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Self { root: manifest.parent().map(PathBuf::from).unwrap_or(manifest) }
    }
}

impl Paths {
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// `.nestling`: all that the commands of this project leave in the tree; ignored by git.
    pub fn state(&self) -> PathBuf {
        self.root.join(".nestling")
    }

    /// A program that `make` put there: `kubectl`, `helm`, `kubectl-nestling`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.state().join("bin").join(name)
    }

    /// The host cluster: what `KUBECONFIG` names, else the local one.
    pub fn host_kubeconfig(&self) -> PathBuf {
        std::env::var_os("KUBECONFIG").map_or_else(|| self.state().join("host").join("kubeconfig"), PathBuf::from)
    }

    /// Kubeconfigs of tenants made by tests.
    pub fn tenant_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        self.state().join("tenants").join(format!("{namespace}-{name}.kubeconfig"))
    }
}
