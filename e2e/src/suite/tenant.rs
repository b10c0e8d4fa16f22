//! Namespaces and tenants made for tests.

use super::kubectl::{Kubectl, Paths, tenant_kubectl};
use super::process::eventually;
use anyhow::{Context, Result, anyhow};
use std::sync::OnceLock;
use std::time::Duration;

const READY_SECONDS: u32 = 110;

/// Deleted (without waiting) when dropped, so that a failing test cleans up too.
#[derive(Debug)]
pub struct Namespace {
    cluster: Kubectl,
    kubectl: Kubectl,
    name: String,
}

impl Namespace {
    /// Deletes a namespace of that name first, which an interrupted run may have left.
    pub fn create(cluster: &Kubectl, name: &str) -> Result<Self> {
        cluster.run(&["delete", "namespace", name, "--ignore-not-found"])?;
        cluster.run(&["create", "namespace", name])?;
        let kubectl = cluster.in_namespace(name);
        // Pods are refused until the default service account is there.
        eventually("the default service account exists", Duration::from_secs(30), || kubectl.run(&["get", "serviceaccount", "default"]))?;
        Ok(Self { cluster: cluster.clone(), kubectl, name: name.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl std::ops::Deref for Namespace {
    type Target = Kubectl;

    fn deref(&self) -> &Kubectl {
        &self.kubectl
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.run(&["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]) {
            eprintln!("left namespace {}: {error:#}", self.name);
        }
    }
}

/// A `VirtualCluster` that is Ready. Deleted with its namespace when dropped.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    host: Namespace,
    kubectl: Kubectl,
}

impl Tenant {
    /// Applies a `VirtualCluster` with this spec (YAML flow mapping) in a namespace of its own, and waits for it.
    pub fn create(name: &str, spec: &str) -> Result<Self> {
        let pending = Self::apply(name, spec)?;
        pending.wait_for(&format!("virtualcluster/{name}"), "condition=Ready", READY_SECONDS).with_context(|| explain(&pending, name))?;
        let kubectl = tenant_kubectl(pending.name(), name, &Paths::default().tenant_kubeconfig(pending.name(), name))?;
        Ok(Self { name: name.to_owned(), host: pending, kubectl })
    }

    /// Applies it without waiting.
    pub fn apply(name: &str, spec: &str) -> Result<Namespace> {
        let host = Namespace::create(&Kubectl::host(), &format!("e2e-{name}"))?;
        host.apply(&manifest(name, spec))?;
        Ok(host)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host namespace of the control plane.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The tenant as its admin sees it.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A namespace inside the tenant.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(&self.kubectl, name)
    }

    /// The host namespace of the tenant's pods.
    pub fn workload_namespace(&self) -> Result<String> {
        self.host.field(&format!("virtualcluster/{}", self.name), ".status.workloadNamespace")
    }
}

/// The manifest of a `VirtualCluster`.
pub fn manifest(name: &str, spec: &str) -> String {
    format!("apiVersion: nestling.dev/v1alpha1\nkind: VirtualCluster\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The tenant that tests share which do not change a tenant as such; kept for the next run. Its failure is remembered: tests that
/// follow fail at once instead of waiting for it again.
pub fn shared() -> Result<&'static Tenant> {
    static SHARED: OnceLock<Result<Tenant, String>> = OnceLock::new();
    let tenant =
        SHARED.get_or_init(|| Tenant::create("shared", "{etcd: {storage: {medium: Memory}}}").map_err(|error| format!("{error:#}")));
    tenant.as_ref().map_err(|error| anyhow!("the shared tenant: {error}"))
}

/// Conditions, pods and events of a tenant that is not Ready.
fn explain(host: &Namespace, name: &str) -> String {
    let output = |args: &[&str]| host.run(args).unwrap_or_else(|error| format!("{error:#}\n"));
    format!(
        "tenant {name} is not Ready\n{}\n{}\n{}",
        output(&[
            "get",
            "virtualcluster",
            name,
            "-o",
            "jsonpath={range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}"
        ]),
        output(&["get", "pods", "-o", "wide"]),
        output(&["get", "events", "--sort-by=.lastTimestamp"]),
    )
}
