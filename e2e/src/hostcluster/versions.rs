//! `versions.toml`: which programs and images the host cluster consists of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

const TEXT: &str = include_str!("../../versions.toml");

#[derive(Debug, thiserror::Error)]
pub enum VersionsError {
    #[error("versions.toml does not parse")]
    Parse(#[source] toml::de::Error),
    #[error("versions.toml names no program {0:?}")]
    NoProgram(String),
    #[error("versions.toml names no image {0:?}")]
    NoImage(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    #[serde(rename = "family")]
    pub families: Vec<Family>,
    /// Our short name to the full upstream image reference.
    pub images: BTreeMap<String, String>,
}

/// Programs that share one Go module graph.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Family {
    pub name: String,
    pub module: String,
    pub version: String,
    #[serde(default)]
    pub cgo: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    /// `package.variable=value` pairs given to the linker.
    #[serde(default)]
    pub stamps: Vec<String>,
    /// Program name to Go package.
    pub binaries: BTreeMap<String, String>,
}

impl Versions {
    pub fn load() -> Result<Self, VersionsError> {
        toml::from_str(TEXT).map_err(VersionsError::Parse)
    }

    pub fn image(&self, name: &str) -> Result<&str, VersionsError> {
        self.images.get(name).map(String::as_str).ok_or_else(|| VersionsError::NoImage(name.to_owned()))
    }

    pub fn family_of(&self, program: &str) -> Result<&Family, VersionsError> {
        self.families
            .iter()
            .find(|family| family.binaries.contains_key(program))
            .ok_or_else(|| VersionsError::NoProgram(program.to_owned()))
    }
}

impl Family {
    /// Folder with this family's `go.mod` and `go.sum`.
    pub fn tools_dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(&self.name)
    }

    /// Arguments of `go build` before `-o`.
    pub fn build_flags(&self) -> Vec<String> {
        let mut ldflags = "-s -w".to_owned();
        for stamp in &self.stamps {
            ldflags.push_str(" -X ");
            ldflags.push_str(stamp);
        }
        let mut flags = vec!["-trimpath".to_owned()];
        if !self.tags.is_empty() {
            flags.extend(["-tags".to_owned(), self.tags.join(",")]);
        }
        flags.extend(["-ldflags".to_owned(), ldflags]);
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_modules_agree_with_versions() {
        for family in Versions::load().unwrap().families {
            let go_mod = std::fs::read_to_string(family.tools_dir().join("go.mod")).unwrap();
            let required = format!("{} {}", family.module, family.version);
            assert!(go_mod.lines().any(|line| line.trim().trim_end_matches(" // indirect") == required), "{}: no {required}", family.name);
            for package in family.binaries.values() {
                assert!(
                    go_mod.lines().any(|line| line.trim().trim_start_matches("tool ") == package),
                    "{}: no tool {package}",
                    family.name
                );
            }
        }
    }

    #[test]
    fn stamped_versions_are_the_pinned_ones() {
        for family in Versions::load().unwrap().families {
            let number = family.version.trim_start_matches('v');
            for stamp in family.stamps.iter().filter(|stamp| stamp.to_lowercase().contains("version=")) {
                assert!(stamp.ends_with(number), "{}: {stamp}", family.name);
            }
        }
    }

    #[test]
    fn kubernetes_images_carry_the_kubernetes_version() {
        let versions = Versions::load().unwrap();
        let kubernetes = versions.family_of("kubelet").unwrap().version.clone();
        for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            assert!(versions.image(name).unwrap().ends_with(&format!(":{kubernetes}")));
        }
    }

    #[test]
    fn staging_modules_follow_kubernetes() {
        let family = Versions::load().unwrap().family_of("kubelet").unwrap().clone();
        let staging = family.version.replacen("v1.", "v0.", 1);
        let go_mod = std::fs::read_to_string(family.tools_dir().join("go.mod")).unwrap();
        let replaced =
            go_mod.lines().filter(|line| line.contains("=>")).inspect(|line| assert!(line.ends_with(&staging), "{line}")).count();
        assert_eq!(replaced, 33, "every staging module needs its replace line");
    }
}
