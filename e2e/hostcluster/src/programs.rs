//! The programs of the cluster: `versions.toml` lists them with their versions, and [`ensure`] compiles them from their pinned Go
//! modules, once per content.
//!
//! A finished program is kept in the cache under a key over everything that went into it. A build that was interrupted continues from
//! Go's own cache of packages, and a second clone builds nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::command::{self, CommandError, Run};
use crate::files::{self, FileError};
use crate::workdir::{Cache, LockError};

const TEXT: &str = include_str!("../versions.toml");

#[derive(Debug, thiserror::Error)]
pub enum VersionsError {
    #[error("versions.toml does not parse")]
    Parse(#[source] toml::de::Error),
    #[error("versions.toml lists no image {0:?}")]
    NoImage(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    #[serde(rename = "family")]
    pub families: Vec<Family>,
    /// Short name to full upstream image reference.
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

/// A cold kube-apiserver compiles its whole module graph: minutes on two cores, more on a busy or slow machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read the version of the Go toolchain")]
    Go(#[source] CommandError),
    #[error("cannot build {program}")]
    Build { program: String, source: CommandError },
    #[error("cannot keep {program} in the cache")]
    Keep { program: String, source: FileError },
    #[error("cannot read the module files of {family}")]
    Module { family: String, source: FileError },
    #[error("cannot lock the cache")]
    Lock(#[from] LockError),
    #[error("versions.toml lists no program {0:?}")]
    Unknown(String),
}

/// Path of each program by name; the path's folder is the key over its content.
#[derive(Debug, Clone)]
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    pub fn path(&self, program: &str) -> Result<&Path, BuildError> {
        self.0.get(program).map(PathBuf::as_path).ok_or_else(|| BuildError::Unknown(program.to_owned()))
    }

    /// Equal keys are equal programs.
    pub fn key(&self, program: &str) -> Result<String, BuildError> {
        Ok(self.path(program)?.display().to_string())
    }
}

struct Target<'a> {
    family: &'a Family,
    program: &'a str,
    package: &'a str,
    path: PathBuf,
}

/// Builds what the cache lacks.
pub async fn ensure(versions: &Versions, cache: &Cache) -> Result<Programs, BuildError> {
    let mut targets = Vec::new();
    for family in &versions.families {
        let toolchain = toolchain(family).await?;
        for (program, package) in &family.binaries {
            let key = key(family, package, &toolchain)?;
            targets.push(Target { family, program, package, path: cache.program(&key, program) });
        }
    }
    let missing: Vec<&Target<'_>> = targets.iter().filter(|target| !target.path.exists()).collect();
    if !missing.is_empty() {
        let _lock = cache.lock("building programs")?;
        for (index, target) in missing.iter().enumerate() {
            if !target.path.exists() {
                let label = format!("[{}/{}] build {} {}", index + 1, missing.len(), target.program, target.family.version);
                command::step(&label, Duration::from_secs(30), build(target)).await?;
            }
        }
    }
    Ok(Programs(targets.into_iter().map(|target| (target.program.to_owned(), target.path)).collect()))
}

async fn toolchain(family: &Family) -> Result<String, BuildError> {
    let dir = family.tools_dir();
    let argv = ["go".as_ref(), "-C".as_ref(), dir.as_os_str(), "env".as_ref(), "GOVERSION".as_ref(), "GOOS".as_ref(), "GOARCH".as_ref()];
    Run::new(argv).deadline(BUILD_DEADLINE).text().await.map_err(BuildError::Go)
}

fn key(family: &Family, package: &str, toolchain: &str) -> Result<String, BuildError> {
    let module = |source| BuildError::Module { family: family.name.clone(), source };
    let go_mod = files::read(&family.tools_dir().join("go.mod")).map_err(module)?;
    let go_sum = files::read(&family.tools_dir().join("go.sum")).map_err(module)?;
    let flags = family.build_flags().join("\n");
    let cgo = if family.cgo { "cgo" } else { "" };
    Ok(files::key([&go_mod, &go_sum, &flags, cgo, package, toolchain].map(|part: &str| part.as_bytes())))
}

async fn build(target: &Target<'_>) -> Result<(), BuildError> {
    let keep = |source| BuildError::Keep { program: target.program.to_owned(), source };
    let parent = target.path.parent().unwrap_or(Path::new("/"));
    files::make_dir(parent).map_err(keep)?;
    let temporary = parent.join(format!(".{}.building", target.program));
    let mut argv = vec!["env".to_owned(), format!("CGO_ENABLED={}", u8::from(target.family.cgo)), "GOWORK=off".to_owned()];
    argv.extend(["go".to_owned(), "-C".to_owned(), target.family.tools_dir().display().to_string(), "build".to_owned()]);
    argv.extend(target.family.build_flags());
    argv.extend(["-o".to_owned(), temporary.display().to_string(), target.package.to_owned()]);
    let failed = |source| BuildError::Build { program: target.program.to_owned(), source };
    Run::new(argv).deadline(BUILD_DEADLINE).output().await.map_err(failed)?;
    std::fs::rename(&temporary, &target.path).map_err(|source| keep(FileError::new("rename to", &target.path, source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family_of(program: &str) -> Family {
        Versions::load().unwrap().families.into_iter().find(|family| family.binaries.contains_key(program)).unwrap()
    }

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
        let kubernetes = family_of("kubelet").version;
        for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
            assert!(versions.image(name).unwrap().ends_with(&format!(":{kubernetes}")));
        }
    }

    #[test]
    fn staging_modules_follow_kubernetes() {
        let family = family_of("kubelet");
        let staging = family.version.replacen("v1.", "v0.", 1);
        let go_mod = std::fs::read_to_string(family.tools_dir().join("go.mod")).unwrap();
        let replaced =
            go_mod.lines().filter(|line| line.contains("=>")).inspect(|line| assert!(line.ends_with(&staging), "{line}")).count();
        assert_eq!(replaced, 33, "every staging module needs its replace line");
    }

    #[test]
    fn key_changes_with_flags_package_and_toolchain() {
        let family = &family_of("runc");
        let base = key(family, "p", "go1").unwrap();
        assert_eq!(base, key(family, "p", "go1").unwrap());
        assert_ne!(base, key(family, "q", "go1").unwrap());
        assert_ne!(base, key(family, "p", "go2").unwrap());
        let untagged = Family { tags: Vec::new(), ..family.clone() };
        assert_ne!(base, key(&untagged, "p", "go1").unwrap());
    }
}
