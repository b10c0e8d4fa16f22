//! The images that every node has, under their upstream names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::{self, ArchiveError};
use crate::command::{self, CommandError, Run};
use crate::files::{self, FileError};
use crate::image::{Capability, Entry, ImageSpec, LibraryError, Process};
use crate::programs::{BuildError, Programs, Versions, VersionsError};
use crate::workdir::{Cache, LockError};

const PAUSE_SOURCE: &str = include_str!("../images/pause.c");
const BUSYBOX: &str = "/bin/busybox";
/// The entrypoint of upstream's Kubernetes images, which runs its arguments as a command.
const LOG_RUNNER: &str = "kube-log-runner";

/// Counts as part of every image's content: raise it when the layout of images changes.
const LAYOUT: &str = "1";

#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error("no such program")]
    Program(#[from] BuildError),
    #[error("no such image")]
    Version(#[from] VersionsError),
    #[error("cannot compile the pause program")]
    Pause(#[source] CommandError),
    #[error("cannot read a file for an image")]
    File(#[from] FileError),
    #[error("cannot find a program's libraries")]
    Libraries(#[from] LibraryError),
    #[error("cannot list busybox's applets")]
    Applets(#[source] CommandError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot lock the cache")]
    Lock(#[from] LockError),
    #[error("the image writer did not finish")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// An image archive in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    /// Equal keys are equal images.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
}

/// Writes the images that the cache lacks, and returns all in a fixed order.
pub(crate) async fn ensure(versions: &Versions, programs: &Programs, cache: &Cache) -> Result<Vec<Stored>, CatalogError> {
    let shell = Shell::find().await?;
    let mut stored = Vec::new();
    for (short, name) in &versions.images {
        let key = content_key(short, name, programs, &shell)?;
        stored.push((short, Stored { name: name.clone(), path: cache.image(&key, short), key }));
    }
    let missing = stored.iter().filter(|(_, image)| !image.path.exists()).count();
    if missing > 0 {
        let _lock = cache.lock("writing images")?;
        let mut done = 0;
        for (short, image) in &stored {
            if !image.path.exists() {
                done += 1;
                let label = format!("[{done}/{missing}] image {}", image.name);
                command::step(&label, Duration::from_secs(30), async {
                    let spec = spec(short, &image.name, programs, &shell, cache).await?;
                    let path = image.path.clone();
                    tokio::task::spawn_blocking(move || archive::write(&spec, &path)).await.map_err(CatalogError::Interrupted)??;
                    Ok::<_, CatalogError>(())
                })
                .await?;
            }
        }
    }
    Ok(stored.into_iter().map(|(_, image)| image).collect())
}

/// The machine's busybox: the shell in test images.
struct Shell {
    digest: String,
    applets: Vec<String>,
}

impl Shell {
    async fn find() -> Result<Self, CatalogError> {
        let path = Path::new(BUSYBOX);
        let file = std::fs::File::open(path).map_err(|source| FileError::new("open", path, source))?;
        let (digest, _) = files::sha256(file).map_err(|source| FileError::new("read", path, source))?;
        let applets = Run::new([BUSYBOX, "--list"]).text().await.map_err(CatalogError::Applets)?;
        Ok(Self { digest, applets: applets.lines().filter(|applet| *applet != "busybox").map(str::to_owned).collect() })
    }

    async fn add_to(&self, image: &mut ImageSpec) -> Result<(), CatalogError> {
        image.linked_program(BUSYBOX, Path::new(BUSYBOX)).await?;
        for applet in &self.applets {
            image.symlink(&format!("/bin/{applet}"), "busybox");
        }
        Ok(())
    }
}

/// The name that upstream gives the program of an image. Short names of further versions end with the version.
fn program_of(short: &str) -> &str {
    short.find("-v1.").map_or(short, |end| &short[..end])
}

/// The built programs inside an image, by its short name.
fn contents(short: &str) -> Vec<&str> {
    match program_of(short) {
        "etcd" => vec!["etcd", "etcdctl", "etcdutl"],
        "pause" | "busybox" => Vec::new(),
        "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" => vec![short, LOG_RUNNER],
        own_name => vec![own_name],
    }
}

fn content_key(short: &str, name: &str, programs: &Programs, shell: &Shell) -> Result<String, CatalogError> {
    let mut parts = vec![LAYOUT.to_owned(), name.to_owned()];
    for program in contents(short) {
        parts.push(programs.key(program)?);
    }
    match short {
        "pause" => parts.push(PAUSE_SOURCE.to_owned()),
        "busybox" | "agnhost" => parts.push(shell.digest.clone()),
        _ => {}
    }
    Ok(files::key(parts.iter().map(String::as_bytes)))
}

async fn spec(short: &str, name: &str, programs: &Programs, shell: &Shell, cache: &Cache) -> Result<ImageSpec, CatalogError> {
    let entrypoint = |program: &str| Process { entrypoint: vec![program.to_owned()], ..Process::default() };
    let image = match short {
        "pause" => {
            let mut image = ImageSpec::new(name, Process { user: "65535:65535".to_owned(), ..entrypoint("/pause") });
            image.program("/pause", &compile_pause(cache).await?, None);
            image
        }
        "busybox" => {
            let mut image = ImageSpec::new(name, Process { arguments: vec!["sh".to_owned()], ..Process::default() });
            shell.add_to(&mut image).await?;
            image
        }
        "agnhost" => {
            let mut image = ImageSpec::new(name, Process { arguments: vec!["pause".to_owned()], ..entrypoint("/agnhost") });
            image.program("/agnhost", programs.path("agnhost")?, None);
            image.symlink("/agnhost-2", "agnhost");
            image.entry("/uploads", Entry::Directory { mode: 0o755 });
            shell.add_to(&mut image).await?;
            image
        }
        "coredns" => {
            let mut image = ImageSpec::new(name, Process { user: "nonroot:nonroot".to_owned(), ..entrypoint("/coredns") });
            image.program("/coredns", programs.path("coredns")?, Some(Capability::NetBindService));
            image
        }
        "etcd" => {
            let mut image = ImageSpec::new(name, Process::default());
            for program in contents(short) {
                image.program(&format!("/usr/local/bin/{program}"), programs.path(program)?, None);
            }
            image
        }
        "local-path-provisioner" => {
            let mut image = ImageSpec::new(name, entrypoint("local-path-provisioner"));
            image.program("/usr/bin/local-path-provisioner", programs.path(short)?, None);
            image
        }
        program => {
            // Upstream sets this capability on kube-apiserver alone.
            let inside = program_of(program);
            let capability = (inside == "kube-apiserver").then_some(Capability::NetBindService);
            let mut image = ImageSpec::new(name, entrypoint("/go-runner"));
            image.program("/go-runner", programs.path(LOG_RUNNER)?, None);
            image.program(&format!("/usr/local/bin/{inside}"), programs.path(program)?, capability);
            image
        }
    };
    Ok(image)
}

async fn compile_pause(cache: &Cache) -> Result<PathBuf, CatalogError> {
    let key = files::key([PAUSE_SOURCE.as_bytes()]);
    let program = cache.program(&key, "pause");
    if !program.exists() {
        let source = program.with_extension("c");
        files::write(&source, PAUSE_SOURCE, files::Access::Public)?;
        let temporary = program.with_extension("building");
        let argv =
            ["gcc".as_ref(), "-Os".as_ref(), "-static".as_ref(), "-s".as_ref(), "-o".as_ref(), temporary.as_os_str(), source.as_os_str()];
        Run::new(argv).deadline(Duration::from_secs(60)).output().await.map_err(CatalogError::Pause)?;
        std::fs::rename(&temporary, &program).map_err(|source| FileError::new("rename to", &program, source))?;
    }
    Ok(program)
}
