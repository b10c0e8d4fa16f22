//! Where things lie: the work directory of one cluster and the cache all clusters of a user share.

use std::path::{Path, PathBuf};

/// State of one host cluster; everything below it is removed by `down`.
#[derive(Debug, Clone)]
pub struct WorkDir(PathBuf);

impl WorkDir {
    /// `path` need not exist yet; it is made absolute because units run with other working directories.
    pub fn new(path: &Path) -> std::io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// `.nestling/host` under the project root.
    pub fn default_path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/")).join(".nestling/host")
    }

    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }
    pub fn netns_dir(&self) -> PathBuf {
        self.0.join("netns")
    }
    pub fn netns(&self, name: &str) -> PathBuf {
        self.netns_dir().join(name)
    }
    pub fn units(&self) -> PathBuf {
        self.0.join("units")
    }
    /// Directory of one unit (a node, the control plane): its spec, its service records, its disks and its logs.
    pub fn unit(&self, name: &str) -> PathBuf {
        self.units().join(name)
    }
    pub fn logs(&self, unit: &str) -> PathBuf {
        self.unit(unit).join("log")
    }
    /// The copy of this program that units run: a rebuild must not change what a node restarts with.
    pub fn program(&self) -> PathBuf {
        self.0.join("hostcluster")
    }
    /// Symlinks to kubectl and helm for people and scripts.
    pub fn bin(&self) -> PathBuf {
        self.0.parent().unwrap_or(&self.0).join("bin")
    }
}

/// Content-keyed build results, outside the tree so that a clean checkout starts warm.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// `NESTLING_CACHE`, else `XDG_CACHE_HOME/nestling`, else `~/.cache/nestling`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = var("NESTLING_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("nestling")))
            .or_else(|| var("HOME").map(|dir| dir.join(".cache/nestling")))
            .unwrap_or_else(|| PathBuf::from("/var/cache/nestling"));
        Self(root)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }
    pub fn binary(&self, key: &str, name: &str) -> PathBuf {
        self.0.join("bin").join(key).join(name)
    }
    pub fn image(&self, key: &str, name: &str) -> PathBuf {
        self.0.join("images").join(key).join(format!("{name}.oci.tar"))
    }
    pub fn seed(&self, key: &str) -> PathBuf {
        self.0.join("seed").join(key)
    }
}
