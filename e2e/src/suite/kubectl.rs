//! The real kubectl against one cluster.

use super::paths::Paths;
use super::process::{Finished, Running, run};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_mins(2);

/// kubectl with one kubeconfig and, when set, one namespace.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Option<String>,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path) -> Self {
        Self { program: Paths::default().program("kubectl"), kubeconfig: kubeconfig.to_owned(), namespace: None }
    }

    /// The host cluster.
    pub fn host() -> Self {
        Self::new(&Paths::default().host_kubeconfig())
    }

    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The command line, for callers that wrap it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(namespace) = &self.namespace {
            command.arg("--namespace").arg(namespace);
        }
        command.args(args);
        command
    }

    /// Standard output of a call that must succeed.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.output(args)?.ok(&format!("kubectl {}", args.join(" ")))
    }

    /// A call whose failure is a result too.
    pub fn output(&self, args: &[&str]) -> Result<Finished> {
        run(&mut self.command(args), None, DEADLINE)
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.try_apply(manifest)?.ok("kubectl apply")
    }

    pub fn try_apply(&self, manifest: &str) -> Result<Finished> {
        run(&mut self.command(&["apply", "-f", "-"]), Some(manifest), DEADLINE)
    }

    /// A call with `-o json`.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.run(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} printed no JSON", args.join(" ")))
    }

    /// One field of one object, empty when it is not set.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.run(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// A call that goes on (`logs -f`, `port-forward`, `attach`).
    pub fn start(&self, args: &[&str]) -> Result<Running> {
        Running::start(&mut self.command(args))
    }

    /// `kubectl wait --for=…` with a time-out in seconds.
    pub fn wait_for(&self, object: &str, condition: &str, seconds: u32) -> Result<()> {
        self.run(&["wait", object, &format!("--for={condition}"), &format!("--timeout={seconds}s")]).map(drop)
    }

    /// `kubectl rollout status`.
    pub fn rolled_out(&self, object: &str) -> Result<()> {
        self.run(&["rollout", "status", object, "--timeout=110s"]).map(drop)
    }

    /// Names that a `get` lists, sorted.
    pub fn names(&self, args: &[&str]) -> Result<Vec<String>> {
        let text = self.run(&[&["get"], args, &["-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}"]].concat())?;
        let mut names: Vec<String> = text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}
