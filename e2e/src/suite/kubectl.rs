//! The real kubectl and `kubectl nestling`, and where programs and kubeconfigs are.

use super::process::{Finished, Running, run};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_mins(2);

/// Paths below the project's root.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Self { root: manifest.parent().map(PathBuf::from).unwrap_or(manifest) }
    }
}

impl Paths {
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// `.nestling`: what the commands of this project write into the tree; ignored by git.
    pub fn state(&self) -> PathBuf {
        self.root.join(".nestling")
    }

    /// A program that `make` put there: `kubectl`, `helm`, `kubectl-nestling`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.state().join("bin").join(name)
    }

    /// The host cluster: what `KUBECONFIG` names, else the local one.
    pub fn host_kubeconfig(&self) -> PathBuf {
        std::env::var_os("KUBECONFIG").map_or_else(|| self.state().join("host").join("kubeconfig"), PathBuf::from)
    }

    /// Kubeconfigs of tenants made by tests.
    pub fn tenant_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        self.state().join("tenants").join(format!("{namespace}-{name}.kubeconfig"))
    }
}

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

    /// Status and output of a call that may fail.
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

    /// A call that keeps running (`logs -f`, `port-forward`, `attach`).
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

/// Status and output of `kubectl nestling` with this kubeconfig of the host; it may fail.
pub fn plugin(args: &[&str], kubeconfig: &Path) -> Result<Finished> {
    let mut command = Command::new(Paths::default().program("kubectl-nestling"));
    command.env("KUBECONFIG", kubeconfig).args(args);
    run(&mut command, None, Duration::from_secs(30))
}

/// The tenant as its admin sees it. Its kubeconfig is written to `file`.
pub fn tenant_kubectl(namespace: &str, name: &str, file: &Path) -> Result<Kubectl> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let args = ["kubeconfig", name, "-n", namespace, "--output", &file.to_string_lossy()];
    plugin(&args, &Paths::default().host_kubeconfig())?.ok("kubectl nestling kubeconfig")?;
    Ok(Kubectl::new(file))
}
