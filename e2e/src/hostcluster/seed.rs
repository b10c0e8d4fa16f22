//! The images of a node, unpacked once for all nodes and all later runs.
//!
//! Importing takes seconds per node. So one containerd that never runs a container unpacks everything into the cache, and each new
//! node's data directory starts as hard links to that: blobs and unpacked layers are never written again, only the small database
//! files and empty directories are copied.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::binaries::{Binaries, BuildError};
use super::cgroup::Hierarchies;
use super::command::{CommandError, Run};
use super::containerd;
use super::files::{self, FileError};
use super::image::catalog::Stored;
use super::launch::{self, LaunchError};
use super::lock::{Lock, LockError};
use super::node::{self, Machine, NodeError};
use super::process::{self, Identity};
use super::progress;
use super::unit::{self, UnitSpec};
use super::versions::Versions;
use super::workdir::{Cache, WorkDir};

pub const UNIT: &str = "seed";

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("a program is missing")]
    Program(#[from] BuildError),
    #[error("cannot configure containerd")]
    Configure(#[from] NodeError),
    #[error("cannot run containerd")]
    Run(#[from] LaunchError),
    #[error("cannot keep the unpacked images")]
    File(#[from] FileError),
    #[error("cannot copy the unpacked images to a node")]
    Copy(#[source] CommandError),
    #[error("another run holds the cache")]
    Lock(#[from] LockError),
    #[error("cannot find control groups")]
    Cgroup(#[from] super::cgroup::CgroupError),
    #[error("containerd did not stop")]
    Stuck,
}

/// The directory to plant into nodes; made when the cache lacks it.
pub async fn ensure(
    work: &WorkDir,
    cache: &Cache,
    versions: &Versions,
    binaries: &Binaries,
    machine: &Machine,
    images: &[Stored],
) -> Result<PathBuf, SeedError> {
    let containerd_key = binaries.key("containerd")?;
    let parts = std::iter::once(containerd_key.as_bytes()).chain(images.iter().map(|image| image.key.as_bytes()));
    let seed = cache.seed(&files::key(parts));
    if seed.exists() {
        return Ok(seed);
    }
    let _lock = Lock::take(&cache.root().join("lock"), "unpacking images")?;
    if !seed.exists() {
        progress::step(
            &format!("unpack {} images", images.len()),
            Duration::from_secs(30),
            make(work, &seed, versions, binaries, machine, images),
        )
        .await?;
    }
    Ok(seed)
}

async fn make(
    work: &WorkDir,
    seed: &Path,
    versions: &Versions,
    binaries: &Binaries,
    machine: &Machine,
    images: &[Stored],
) -> Result<(), SeedError> {
    let dir = work.unit(UNIT);
    node::write_runtime_config(&dir, versions, binaries, machine)?;
    let spec = UnitSpec {
        name: UNIT.to_owned(),
        netns: None,
        disks: node::runtime_disks(&dir),
        services: vec![node::runtime_service(binaries)?],
        dir: dir.clone(),
    };
    launch::start(work, &spec).await?;
    let ctr = binaries.path("ctr")?;
    let imported = async {
        containerd::ready(work, UNIT, ctr).await?;
        for image in images {
            containerd::import(work, UNIT, ctr, &image.path).await?;
        }
        Ok::<_, LaunchError>(())
    }
    .await;
    // Stopped before its files are taken, whatever happened.
    unit::holder(work, UNIT).into_iter().for_each(Identity::kill);
    let hierarchies = Hierarchies::detect()?;
    if !process::kill_all(|| hierarchies.processes(UNIT), Duration::from_secs(10)).await {
        return Err(SeedError::Stuck);
    }
    hierarchies.remove(UNIT).await?;
    imported?;

    // Through a name beside the final one, so that a seed in the cache is always whole.
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
pub async fn plant(seed: &Path, target: &Path) -> Result<(), SeedError> {
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
    async fn planted_databases_are_their_own_and_the_rest_is_shared() {
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
