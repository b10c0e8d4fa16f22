//! The command line of `hostcluster`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::fault::{self, Ending};
use crate::image::{ImageSpec, Process};
use crate::topology::DEFAULT_NODES;
use crate::workdir::{Cache, Lock, WorkDir};
use crate::{archive, cluster, health, launch, supervisor};

/// A multi-node Kubernetes cluster on this machine, without Docker and without an image registry.
#[derive(Debug, Parser)]
#[command(name = "hostcluster", version)]
pub struct Cli {
    /// Where the cluster keeps its state.
    #[arg(long, global = true, env = "NESTLING_HOST_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build programs and images where needed and start the cluster; on a healthy cluster, do nothing.
    Up {
        #[arg(long, default_value_t = DEFAULT_NODES)]
        nodes: u8,
        /// Keep a cluster that has more nodes.
        #[arg(long)]
        at_least: bool,
    },
    /// Remove the cluster, whatever state it is in.
    Down,
    /// Print what runs; exit code 1 unless the cluster is healthy.
    Status,
    /// Print the path of the kubeconfig.
    Kubeconfig,
    /// Build the programs and images without starting anything, and print the images' archives.
    Images,
    /// Import OCI archives on every node.
    LoadImage {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Write an OCI archive with programs of this machine and the shared libraries that they load.
    WriteImage(WriteImage),
    /// Run commands on a node, or stop, start and disconnect it.
    #[command(subcommand)]
    Node(NodeVerb),
    /// End a service and wait until the supervisor has started it again.
    Restart {
        /// kubelet, containerd, kube-proxy (with a node), apiserver, etcd, controller-manager, scheduler.
        service: String,
        /// All nodes if left out.
        node: Option<String>,
        /// SIGKILL instead of SIGTERM.
        #[arg(long)]
        crash: bool,
    },
    #[command(name = launch::LAUNCH, hide = true)]
    UnitLaunch { spec: PathBuf },
    #[command(name = launch::INIT, hide = true)]
    UnitInit { spec: PathBuf },
}

#[derive(Debug, clap::Args)]
struct WriteImage {
    /// Full reference, with registry and tag.
    #[arg(long)]
    name: String,
    /// `SOURCE[:PATH]`: a program and where it goes (default `/usr/local/bin/<name>`); the first is the entrypoint. Repeatable.
    #[arg(long = "program", required = true)]
    programs: Vec<String>,
    /// `uid[:gid]` that the image runs as.
    #[arg(long, default_value = "65532:65532")]
    user: String,
    #[arg(long, short)]
    output: PathBuf,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Run a command on a node, in all its namespaces; `control` is the control plane.
    Exec {
        node: String,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Power off.
    Kill { node: String },
    /// Power on.
    Start { node: String },
    /// Disconnect its network cable.
    Partition { node: String },
    /// Connect its network cable again.
    Heal { node: String },
}

pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let work = WorkDir::new(&cli.dir.unwrap_or_else(WorkDir::default_path)).context("working directory")?;
    match cli.command {
        // These replace the process and need no runtime.
        Verb::UnitLaunch { spec } => match launch::become_holder(&spec)? {},
        Verb::UnitInit { spec } => match supervisor::run(&spec)? {},
        Verb::Node(NodeVerb::Exec { node, command }) => exec(&work, &node, &command),
        verb => tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run_async(verb, &work)),
    }
}

async fn run_async(verb: Verb, work: &WorkDir) -> anyhow::Result<ExitCode> {
    let cache = Cache::from_env();
    match verb {
        Verb::Up { nodes, at_least } => {
            cluster::up(work, &cache, nodes, at_least).await?;
        }
        Verb::Down => {
            let _lock = Lock::machine()?;
            cluster::down(work).await?;
        }
        Verb::Status => {
            let (text, well) = health::report(work).await;
            print!("{text}");
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Verb::Kubeconfig => {
            fault::nodes(work)?;
            println!("{}", work.kubeconfig().display());
        }
        Verb::Images => {
            for image in cluster::parts(&cache).await?.images {
                println!("{}\t{}", image.name, image.path.display());
            }
        }
        Verb::LoadImage { archives } => {
            for archive in archives {
                cluster::load_image(work, &archive).await.with_context(|| format!("load {}", archive.display()))?;
            }
        }
        Verb::WriteImage(request) => write_image(request).await?,
        Verb::Node(verb) => node(work, verb).await?,
        Verb::Restart { service, node, crash } => {
            let ending = if crash { Ending::Crash } else { Ending::Graceful };
            let nodes = match node {
                Some(name) => vec![fault::node(work, &name)?],
                None => fault::nodes(work)?,
            };
            let units: std::collections::BTreeSet<_> = nodes.into_iter().map(|node| fault::service_of(&service, Some(node))).collect();
            for (unit, service) in units {
                fault::restart(work, &unit, &service, ending).await?;
            }
        }
        Verb::UnitLaunch { .. } | Verb::UnitInit { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn node(work: &WorkDir, verb: NodeVerb) -> anyhow::Result<()> {
    let _lock = Lock::machine()?;
    match verb {
        NodeVerb::Kill { node } => fault::kill(work, fault::node(work, &node)?).await?,
        NodeVerb::Start { node } => fault::start(work, fault::node(work, &node)?).await?,
        NodeVerb::Partition { node } => fault::partition(work, fault::node(work, &node)?).await?,
        NodeVerb::Heal { node } => fault::heal(work, fault::node(work, &node)?).await?,
        NodeVerb::Exec { .. } => {}
    }
    Ok(())
}

/// With the caller's terminal and exit code; `unit` is a node or `control`.
fn exec(work: &WorkDir, unit: &str, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let argv = launch::inside(work, unit, command)?;
    let status = Command::new(&argv[0]).args(&argv[1..]).stdin(Stdio::inherit()).status().context("nsenter")?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

async fn write_image(request: WriteImage) -> anyhow::Result<()> {
    let mut image = ImageSpec::new(&request.name, Process { user: request.user, ..Process::default() });
    for program in &request.programs {
        let (source, path) = if let Some((source, path)) = program.split_once(':') {
            (PathBuf::from(source), path.to_owned())
        } else {
            let source = PathBuf::from(program);
            let name = source.file_name().context("a program needs a file name")?.to_string_lossy().into_owned();
            (source, format!("/usr/local/bin/{name}"))
        };
        image.linked_program(&path, &source).await?;
        if image.process.entrypoint.is_empty() {
            image.process.entrypoint = vec![path];
        }
    }
    archive::write(&image, &request.output)?;
    Ok(())
}
