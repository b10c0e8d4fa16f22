//! Starts a unit, stops it, and runs commands inside it.
//!
//! A start is three processes: the caller spawns *launch*, which leaves the caller's session, records its identity, enters the unit's
//! control group and becomes `unshare`; that one holds the namespaces and has the supervisor as its only child, process 1 of the
//! unit. So every process can be found at any time, by that record or by its group.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cgroup::{CgroupError, Hierarchies};
use crate::command::{CommandError, Run};
use crate::files::{self, Access, FileError};
use crate::unit::{self, Identity, UnitSpec};
use crate::workdir::WorkDir;

/// Hidden subcommands of the `hostcluster` program.
pub(crate) const LAUNCH: &str = "unit-launch";
pub(crate) const INIT: &str = "unit-init";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("cannot prepare the unit's files")]
    File(#[from] FileError),
    #[error("cannot prepare or remove the unit's control group")]
    Cgroup(#[from] CgroupError),
    #[error("cannot start {program}")]
    Start { program: String, source: std::io::Error },
    #[error("cannot leave the caller's session")]
    Session(#[source] nix::errno::Errno),
    #[error("{unit} is not running")]
    NotRunning { unit: String },
    #[error("the supervisor of {unit} did not start (log: {log})")]
    NoSupervisor { unit: String, log: String },
    #[error("processes of {unit} do not end: {pids:?}")]
    Stuck { unit: String, pids: Vec<i32> },
    #[error("a command in a unit failed")]
    Inside(#[from] CommandError),
}

/// Writes the spec and starts the unit; returns when its supervisor has begun.
pub(crate) async fn start(work: &WorkDir, spec: &UnitSpec) -> Result<(), LaunchError> {
    Hierarchies::detect()?.create(&spec.name)?;
    let path = spec.write()?;
    for stale in [unit::holder_path(&spec.dir), unit::services_path(&spec.dir)] {
        let _ = std::fs::remove_file(stale);
    }
    let log_path = spec.log("unit");
    files::make_dir(log_path.parent().unwrap_or(&spec.dir))?;
    let opened = File::options().create(true).append(true).open(&log_path).and_then(|log| Ok((log.try_clone()?, log)));
    let (out, err) = opened.map_err(|source| FileError::new("open", &log_path, source))?;
    let program = work.program();
    let failed = |source| LaunchError::Start { program: program.display().to_string(), source };
    let mut child = Command::new(&program).arg(LAUNCH).arg(&path).stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(failed)?;
    for _ in 0..200 {
        if unit::services_path(&spec.dir).exists() {
            return Ok(());
        }
        if child.try_wait().map_err(failed)?.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Err(LaunchError::NoSupervisor { unit: spec.name.clone(), log: log_path.display().to_string() })
}

/// The body of `hostcluster unit-launch`: becomes the holder of the unit.
pub(crate) fn become_holder(spec_path: &Path) -> Result<Infallible, LaunchError> {
    let spec = UnitSpec::read(spec_path)?;
    nix::unistd::setsid().map_err(LaunchError::Session)?;
    Hierarchies::detect()?.join(&spec.name)?;
    let record = unit::holder_path(&spec.dir);
    let own = Identity::of(std::process::id().cast_signed());
    let json = serde_json::to_vec(&own).map_err(|source| FileError::new("render", &record, source.into()))?;
    files::write(&record, json, Access::Public)?;

    let program = std::env::current_exe().map_err(|source| LaunchError::Start { program: "hostcluster".to_owned(), source })?;
    let mut argv: Vec<OsString> = Vec::new();
    if let Some(netns) = &spec.netns {
        argv.push("nsenter".into());
        argv.push(joined("--net=", netns));
    }
    argv.push("unshare".into());
    if spec.netns.is_none() {
        argv.push("--net".into());
    }
    // Not `ip netns exec`: it would mount a new sysfs over the control groups.
    argv.extend(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--propagation", "private", "--"].map(OsString::from));
    argv.extend([program.into_os_string(), INIT.into(), spec_path.as_os_str().to_owned()]);
    let source = Command::new(&argv[0]).args(&argv[1..]).exec();
    Err(LaunchError::Start { program: argv[0].display().to_string(), source })
}

/// Ends a unit and removes its control groups; its files stay.
pub(crate) async fn stop(work: &WorkDir, unit: &str) -> Result<(), LaunchError> {
    let hierarchies = Hierarchies::detect()?;
    // The kernel ends the process namespace with its holder. Other processes are left only by a start that was interrupted.
    if let Some(holder) = unit::holder(work, unit) {
        holder.kill();
    }
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let alive: Vec<Identity> =
            hierarchies.processes(unit).into_iter().filter_map(Identity::of).filter(|process| process.alive()).collect();
        if alive.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            return Err(LaunchError::Stuck { unit: unit.to_owned(), pids: alive.iter().map(|process| process.pid).collect() });
        }
        // Repeated, because they may fork meanwhile.
        alive.into_iter().for_each(Identity::kill);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hierarchies.remove(unit).await?;
    let _ = std::fs::remove_file(unit::holder_path(&work.unit(unit)));
    let _ = std::fs::remove_file(unit::services_path(&work.unit(unit)));
    Ok(())
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(flag);
    argument.push(path);
    argument
}

/// Argument vector that runs `argv` inside the unit, in all its namespaces.
pub(crate) fn inside<I, S>(work: &WorkDir, unit: &str, argv: I) -> Result<Vec<OsString>, LaunchError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let holder = unit::holder(work, unit).ok_or_else(|| LaunchError::NotRunning { unit: unit.to_owned() })?;
    let ns = PathBuf::from(format!("/proc/{}/ns", holder.pid));
    // The holder stays in the machine's process namespace; its child is process 1 of the unit's.
    let mut full = vec![OsString::from("nsenter"), joined("--pid=", &ns.join("pid_for_children"))];
    full.extend([("--mount=", "mnt"), ("--uts=", "uts"), ("--net=", "net")].map(|(flag, name)| joined(flag, &ns.join(name))));
    full.push("--".into());
    full.extend(argv.into_iter().map(|arg| arg.as_ref().to_owned()));
    Ok(full)
}

pub(crate) fn run_inside<I, S>(work: &WorkDir, unit: &str, argv: I) -> Result<Run, LaunchError>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    Ok(Run::new(inside(work, unit, argv)?))
}
