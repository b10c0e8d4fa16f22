//! Tenants made for tests.

use super::kubectl::Kubectl;
use super::namespace::Namespace;
use super::paths::Paths;
use super::plugin::tenant_kubectl;
use anyhow::{Context, Result};
use std::sync::{Mutex, OnceLock, PoisonError};

const READY_SECONDS: u32 = 110;

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

    /// Only applies it; what becomes of it is for the caller to see.
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

/// The tenant that tests share which do not change a tenant as such. Left standing for the next run.
pub fn shared() -> Result<&'static Tenant> {
    static SHARED: OnceLock<Tenant> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(tenant) = SHARED.get() {
        return Ok(tenant);
    }
    let tenant = Tenant::create("shared", "{etcd: {storage: {medium: Memory}}}")?;
    Ok(SHARED.get_or_init(|| tenant))
}

/// Everything a person would ask for next.
fn explain(host: &Namespace, name: &str) -> String {
    let look = |args: &[&str]| host.run(args).unwrap_or_else(|error| format!("{error:#}\n"));
    format!(
        "tenant {name} is not Ready\n{}\n{}\n{}",
        look(&[
            "get",
            "virtualcluster",
            name,
            "-o",
            "jsonpath={range .status.conditions[*]}{.type}={.status} {.reason}: {.message}{\"\\n\"}{end}"
        ]),
        look(&["get", "pods", "-o", "wide"]),
        look(&["get", "events", "--sort-by=.lastTimestamp"]),
    )
}
