//! Compiles the cluster's programs from their pinned Go modules, once per content.
//!
//! A finished program lies in the cache under a key over everything that went into it, so a build that was cut off goes on where
//! it was (Go keeps its own cache of packages), and a second checkout builds nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{CommandError, Run};
use super::files::{self, FileError};
use super::lock::{Lock, LockError};
use super::progress;
use super::versions::{Family, Versions};
use super::workdir::Cache;

/// A cold kube-apiserver compiles its whole module graph: minutes on two cores, more on a busy or slow machine.
const BUILD_DEADLINE: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot ask Go for its version")]
    Go(#[source] CommandError),
    #[error("cannot build {program}")]
    Build { program: String, source: CommandError },
    #[error("cannot keep {program} in the cache")]
    Keep { program: String, source: FileError },
    #[error("cannot read the module files of {family}")]
    Module { family: String, source: FileError },
    #[error("another run holds the cache")]
    Lock(#[from] LockError),
    #[error("no program {0:?} was built")]
    Unknown(String),
}

/// Where each program lies; the path's folder names its content.
#[derive(Debug, Clone)]
pub struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    pub fn path(&self, program: &str) -> Result<&Path, BuildError> {
        self.0.get(program).map(PathBuf::as_path).ok_or_else(|| BuildError::Unknown(program.to_owned()))
    }

    /// What a program is, as a key: equal keys are equal programs.
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
pub async fn ensure(versions: &Versions, cache: &Cache) -> Result<Binaries, BuildError> {
    let mut targets = Vec::new();
    for family in &versions.families {
        let toolchain = toolchain(family).await?;
        for (program, package) in &family.binaries {
            let key = key(family, package, &toolchain)?;
            targets.push(Target { family, program, package, path: cache.binary(&key, program) });
        }
    }
    let missing: Vec<&Target<'_>> = targets.iter().filter(|target| !target.path.exists()).collect();
    if !missing.is_empty() {
        let _lock = Lock::take(&cache.root().join("lock"), "building programs")?;
        for (index, target) in missing.iter().enumerate() {
            if !target.path.exists() {
                let label = format!("[{}/{}] build {} {}", index + 1, missing.len(), target.program, target.family.version);
                progress::step(&label, Duration::from_secs(30), build(target)).await?;
            }
        }
    }
    Ok(Binaries(targets.into_iter().map(|target| (target.program.to_owned(), target.path)).collect()))
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

    #[test]
    fn key_changes_with_flags_package_and_toolchain() {
        let versions = Versions::load().unwrap();
        let family = versions.family_of("runc").unwrap();
        let base = key(family, "p", "go1").unwrap();
        assert_eq!(base, key(family, "p", "go1").unwrap());
        assert_ne!(base, key(family, "q", "go1").unwrap());
        assert_ne!(base, key(family, "p", "go2").unwrap());
        let untagged = Family { tags: Vec::new(), ..family.clone() };
        assert_ne!(base, key(&untagged, "p", "go1").unwrap());
    }
}
