//! The operator as a process, what the kernel charges it with, and what it asks of the host's API.

use super::host::{Host, SYSTEM, start};
use crate::suite::bare::free_port;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::{Child, Command};

/// Time that it has to end by itself.
const DRAIN: Duration = Duration::from_secs(40);
/// Clock ticks per second in `/proc`, on every Linux.
const TICKS: f64 = 100.0;

pub(crate) struct Operator(Child);

/// What it has used since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// MiB of anonymous memory now.
    pub(crate) anonymous: f64,
    /// MiB resident at most.
    pub(crate) peak: f64,
    pub(crate) connections: usize,
}

impl Operator {
    /// The program as the chart runs it, but for its addresses.
    pub(crate) fn start(program: &Path, host: &Host) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("operator").env("KUBECONFIG", host.operators_kubeconfig()?).envs([
            ("POD_NAME", "nestling-operator-0".to_owned()),
            ("NESTLING_NAMESPACE", SYSTEM.to_owned()),
            ("NESTLING_CONTROL_ADDRESS", format!("127.0.0.1:{}", free_port()?)),
            ("NESTLING_ADMIN_ADDRESS", format!("127.0.0.1:{}", free_port()?)),
        ]);
        Ok(Self(start(&mut command, &host.file("operator.log"))?))
    }

    /// As a rollout ends it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        kill(self.pid()?, Signal::SIGTERM)?;
        let ended = tokio::time::timeout(DRAIN, self.0.wait()).await.context("the operator does not end")??;
        ensure!(ended.success(), "the operator ended with {ended}");
        Ok(())
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        let proc = PathBuf::from(format!("/proc/{}", self.pid()?));
        let stat = std::fs::read_to_string(proc.join("stat"))?;
        // Behind the name, which may hold anything but ends with the last parenthesis: utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: f64 = [11, 12].iter().map(|field| fields.get(*field).and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0)).sum();
        let status = std::fs::read_to_string(proc.join("status"))?;
        let mebibytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
            let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
            anyhow::Ok(kibibytes / 1024.0)
        };
        let sockets = std::fs::read_dir(proc.join("fd"))?.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        Ok(Usage {
            cpu_seconds: ticks / TICKS,
            anonymous: mebibytes("RssAnon:")?,
            peak: mebibytes("VmHWM:")?,
            connections: sockets.filter(|target| target.to_string_lossy().starts_with("socket:")).count(),
        })
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.0.id().context("the operator has ended")?.cast_signed()))
    }
}

/// Calls of the operator at the host's API.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// By verb and resource, leases apart.
    pub(crate) writes: BTreeMap<String, usize>,
    pub(crate) reads: BTreeMap<String, usize>,
}

impl Calls {
    pub(crate) fn written(&self) -> usize {
        self.writes.values().sum()
    }

    pub(crate) fn gets(&self) -> usize {
        self.reads.iter().filter(|(call, _)| call.starts_with("get ")).map(|(_, count)| count).sum()
    }
}

/// The audit log of the host's API, from where it ended at creation.
pub(crate) struct Audit {
    log: PathBuf,
    from: u64,
}

impl Audit {
    pub(crate) fn begin(host: &Host) -> Self {
        let log = host.audit_log();
        let from = std::fs::metadata(&log).map_or(0, |file| file.len());
        Self { log, from }
    }

    pub(crate) fn calls(&self) -> Result<Calls> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut calls = Calls::default();
        for line in BufReader::new(file).lines() {
            // The last line may be half written.
            let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (verb, resource, part) = (text("/verb"), text("/objectRef/resource"), text("/objectRef/subresource"));
            if resource == "leases" {
                continue;
            }
            let separator = if part.is_empty() { "" } else { "/" };
            let group = if matches!(verb, "get" | "list" | "watch") { &mut calls.reads } else { &mut calls.writes };
            *group.entry(format!("{verb} {resource}{separator}{part}")).or_default() += 1;
        }
        Ok(calls)
    }
}
