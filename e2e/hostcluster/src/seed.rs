//! The images of a node, unpacked once for all nodes and later runs.
//!
//! An import takes seconds per node. So one containerd, which never runs a container, unpacks everything into the cache, and the data
//! directory of a new node starts as hard links to that. Blobs and unpacked layers are never written again; only the small database
//! files are copied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalog::Stored;
use crate::command::{self, CommandError, Run};
use crate::containerd::{self, ConfigError, Machine};
use crate::files::{self, FileError};
use crate::launch::{self, LaunchError};
use crate::programs::{BuildError, Programs, Versions};
use crate::topology::SEED;
use crate::unit::UnitSpec;
use crate::workdir::{Cache, LockError, WorkDir};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("cannot find a program")]
    Program(#[from] BuildError),
    #[error("cannot configure containerd")]
    Configure(#[from] ConfigError),
    #[error("cannot run containerd")]
    Run(#[from] LaunchError),
    #[error("cannot keep the unpacked images")]
    File(#[from] FileError),
    #[error("cannot copy the unpacked images to a node")]
    Copy(#[source] CommandError),
    #[error("cannot lock the cache")]
    Lock(#[from] LockError),
}

/// The directory that [`plant`] copies; made when the cache lacks it.
pub(crate) async fn ensure(
    work: &WorkDir,
    cache: &Cache,
    versions: &Versions,
    programs: &Programs,
    machine: &Machine,
    images: &[Stored],
) -> Result<PathBuf, SeedError> {
    let containerd_key = programs.key("containerd")?;
    let parts = std::iter::once(containerd_key.as_bytes()).chain(images.iter().map(|image| image.key.as_bytes()));
    let seed = cache.seed(&files::key(parts));
    if seed.exists() {
        return Ok(seed);
    }
    let _lock = cache.lock("unpacking images")?;
    if !seed.exists() {
        command::step(
            &format!("unpack {} images", images.len()),
            Duration::from_secs(30),
            make(work, &seed, versions, programs, machine, images),
        )
        .await?;
    }
    Ok(seed)
}

async fn make(
    work: &WorkDir,
    seed: &Path,
    versions: &Versions,
    programs: &Programs,
    machine: &Machine,
    images: &[Stored],
) -> Result<(), SeedError> {
    let dir = work.unit(SEED);
    containerd::write_config(&dir, versions, programs, machine)?;
    let spec = UnitSpec {
        name: SEED.to_owned(),
        netns: None,
        disks: containerd::runtime_disks(&dir),
        services: vec![containerd::runtime_service(programs)?],
        dir: dir.clone(),
    };
    launch::start(work, &spec).await?;
    let ctr = programs.path("ctr")?;
    let imported = async {
        containerd::ready(work, SEED, ctr).await?;
        for image in images {
            containerd::import(work, SEED, ctr, &image.path).await?;
        }
        Ok::<_, LaunchError>(())
    }
    .await;
    // Also after a failure, and before its files are moved.
    launch::stop(work, SEED).await?;
    imported?;

    // Renamed at the end, so that a seed in the cache is always complete.
    let parent = seed.parent().unwrap_or(Path::new("/"));
    files::make_dir(parent)?;
    let temporary = seed.with_extension("new");
    let _ = std::fs::remove_dir_all(&temporary);
    Run::new(["mv".as_ref(), dir.join("containerd").as_os_str(), temporary.as_os_str()])
        .deadline(Duration::from_secs(300))
        .output()
        .await
        .map_err(SeedError::Copy)?;
    std::fs::rename(&temporary, seed).map_err(|source| FileError::new("rename to", seed, source))?;
    std::fs::remove_dir_all(&dir).map_err(|source| FileError::new("remove", &dir, source))?;
    Ok(())
}

/// Makes `target` a data directory with all images in it.
pub(crate) async fn plant(seed: &Path, target: &Path) -> Result<(), SeedError> {
    // Links fail across file systems; then it is a copy, which shares blocks where the file system can.
    let script = r#"set -e
mkdir -p "$2"
cp -al "$1/." "$2/" 2>/dev/null || cp -a --reflink=auto "$1/." "$2/"
find "$2" -name '*.db' -type f -exec sh -c 'for f; do cp -p "$f" "$f.own"; mv "$f.own" "$f"; done' sh {} +
"#;
    let argv = ["sh".as_ref(), "-c".as_ref(), script.as_ref(), "sh".as_ref(), seed.as_os_str(), target.as_os_str()];
    Run::new(argv).deadline(Duration::from_secs(300)).output().await.map_err(SeedError::Copy)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_are_copied_and_the_rest_is_linked() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let (seed, target) = (dir.path().join("seed"), dir.path().join("a/target"));
        std::fs::create_dir_all(seed.join("deep")).unwrap();
        std::fs::write(seed.join("deep/meta.db"), "one").unwrap();
        std::fs::write(seed.join("blob"), "two").unwrap();
        plant(&seed, &target).await.unwrap();
        let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
        assert_eq!(inode(seed.join("blob")), inode(target.join("blob")));
        assert_ne!(inode(seed.join("deep/meta.db")), inode(target.join("deep/meta.db")));
        assert_eq!(std::fs::read(target.join("deep/meta.db")).unwrap(), b"one");
    }
}
