//! Process 1 of a unit: mounts its file systems, starts its services and restarts them when they end, and reaps all other processes.
//!
//! Single-threaded and synchronous, because it must reap every child of the process namespace, known or not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::files::{self, Access, FileError};
use crate::unit::{self, Disks, Endpoint, Running, Service, Services, UnitSpec};

const TICK: Duration = Duration::from_millis(100);
/// A service that ended sooner than this waits before it is started again.
const STEADY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    #[error("cannot mount {target}")]
    Mount { target: String, source: Errno },
    #[error("cannot prepare a directory")]
    File(#[from] FileError),
    #[error("cannot set the hostname")]
    Hostname(#[source] Errno),
    #[error("cannot wait for children")]
    Wait(#[source] Errno),
}

/// The body of `hostcluster unit-init`.
pub(crate) fn run(spec_path: &Path) -> Result<Infallible, SupervisorError> {
    let spec = UnitSpec::read(spec_path)?;
    set_up_disks(&spec)?;
    nix::unistd::sethostname(&spec.name).map_err(SupervisorError::Hostname)?;
    let mut slots: Vec<Slot> = spec.services.iter().cloned().map(Slot::new).collect();
    record(&spec, &slots)?;
    loop {
        let mut changed = reap(&mut slots)?;
        for slot in &mut slots {
            changed |= slot.start_if_due(&spec);
        }
        if changed {
            record(&spec, &slots)?;
        }
        std::thread::sleep(TICK);
    }
}

fn bind(source: &Path, target: &Path) -> Result<(), SupervisorError> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|source| SupervisorError::Mount { target: target.display().to_string(), source })
}

fn fresh(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), SupervisorError> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .map_err(|source| SupervisorError::Mount { target: target.display().to_string(), source })
}

fn set_up_disks(spec: &UnitSpec) -> Result<(), SupervisorError> {
    let Disks { layered, volatile, own, pinned_settings } = &spec.disks;
    // Shared, so that what the runtime mounts reaches pods that mount a host path with propagation.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .map_err(|source| SupervisorError::Mount { target: "/".to_owned(), source })?;
    fresh("proc", Path::new("/proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, "")?;

    // Opened before anything is mounted above them: the work directory itself may be below a layered one.
    let open = |path: &Path| File::open(path).map_err(|source| FileError::new("open", path, source));
    let mut sources: Vec<(PathBuf, File)> = Vec::new();
    for (target, source) in own {
        files::make_dir(source)?;
        sources.push((target.clone(), open(source)?));
    }
    sources.push((spec.dir.clone(), open(&spec.dir)?));

    for target in layered.iter().filter(|target| target.is_dir()) {
        let layer = spec.dir.join("root").join(target.strip_prefix("/").unwrap_or(target));
        let scratch = spec.dir.join("scratch").join(target.strip_prefix("/").unwrap_or(target));
        files::make_dir(&layer)?;
        files::make_dir(&scratch)?;
        let options = format!("lowerdir={},upperdir={},workdir={}", target.display(), layer.display(), scratch.display());
        fresh("overlay", target, MsFlags::empty(), &options)?;
    }
    for target in volatile {
        fresh("tmpfs", target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    }
    for (target, source) in &sources {
        files::make_dir(target)?;
        bind(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())), target)?;
    }
    for (setting, value) in pinned_settings {
        if std::fs::read_to_string(setting).is_ok_and(|now| now.trim() != value) {
            let shown = spec.dir.join("settings").join(setting.strip_prefix("/").unwrap_or(setting));
            files::write(&shown, format!("{value}\n"), Access::Public)?;
            bind(&shown, setting)?;
        }
    }
    Ok(())
}

/// A service and its state.
struct Slot {
    service: Service,
    state: State,
    starts: u64,
}

enum State {
    /// Not before this moment.
    Waiting(Instant),
    Running {
        pid: i32,
        since: Instant,
    },
}

impl Slot {
    fn new(service: Service) -> Self {
        Self { service, state: State::Waiting(Instant::now()), starts: 0 }
    }

    fn start_if_due(&mut self, spec: &UnitSpec) -> bool {
        let State::Waiting(until) = self.state else { return false };
        let now = Instant::now();
        if now < until || !self.service.after.iter().all(answers) {
            return false;
        }
        match spawn(spec, &self.service) {
            Ok(pid) => {
                self.starts += 1;
                self.state = State::Running { pid, since: now };
                true
            }
            Err(error) => {
                eprintln!("cannot start {}: {error}", self.service.name);
                self.state = State::Waiting(now + PAUSE);
                false
            }
        }
    }
}

fn answers(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(address) => TcpStream::connect_timeout(address, TICK).is_ok(),
        Endpoint::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}

fn spawn(spec: &UnitSpec, service: &Service) -> std::io::Result<i32> {
    let log = File::options().create(true).append(true).open(spec.log(&service.name))?;
    let (program, arguments) = service.argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    // Nothing of the caller's environment, so that a unit does not depend on who starts it.
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // Dropping the handle neither kills nor waits: `reap` waits for every child.
    command.spawn().map(|child| child.id().cast_signed())
}

/// Reaps all children that have ended; true when a service was among them.
fn reap(slots: &mut [Slot]) -> Result<bool, SupervisorError> {
    let mut changed = false;
    loop {
        let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(changed),
            Err(Errno::EINTR) => continue,
            Ok(status) => status,
            Err(error) => return Err(SupervisorError::Wait(error)),
        };
        let Some(ended) = status.pid() else { continue };
        for slot in slots.iter_mut() {
            if let State::Running { pid, since } = slot.state
                && pid == ended.as_raw()
            {
                eprintln!("{} ended after {:.1} s: {status:?}", slot.service.name, since.elapsed().as_secs_f64());
                let pause = if since.elapsed() < STEADY { PAUSE } else { Duration::ZERO };
                slot.state = State::Waiting(Instant::now() + pause);
                changed = true;
            }
        }
    }
}

fn record(spec: &UnitSpec, slots: &[Slot]) -> Result<(), FileError> {
    let mut services: Services = BTreeMap::new();
    for slot in slots {
        if let State::Running { pid, .. } = slot.state {
            services.insert(slot.service.name.clone(), Running { pid, starts: slot.starts });
        }
    }
    let path = unit::services_path(&spec.dir);
    let json = serde_json::to_vec(&services).map_err(|source| FileError::new("render", &path, source.into()))?;
    files::write(&path, json, Access::Public)
}
