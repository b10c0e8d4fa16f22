//! The host's API: a real etcd and kube-apiserver with the chart applied, and nothing else. There are no controllers and no
//! nodes, so the Deployments of the chart start nothing; `workloads` plays what tenants need of them.

use crate::suite::bare::{free_port, lone_etcd, service_account_keys};
use crate::suite::{Paths, run};
use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nestling_hostcluster::programs::Programs;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Services get loopback addresses, so that a tenant's Service leads to the simulated API that listens there.
const SERVICES: &str = "127.64.0.0/16";
/// Namespace of the installation.
pub(crate) const SYSTEM: &str = "nestling-system";
/// The operator's user, as its service account would be.
const OPERATOR: &str = "system:serviceaccount:nestling-system:nestling-operator";
/// Another service account: the same priority level of the host's API, another flow in it.
const OTHER: &str = "system:serviceaccount:default:other";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const DEADLINE: Duration = Duration::from_secs(120);

/// Every call of the operator, with its verb and resource.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- {level: Metadata, users: ['system:serviceaccount:nestling-system:nestling-operator']}
- {level: None}
";

/// Where etcd, kube-apiserver, kubectl and helm are.
pub(crate) enum Tools {
    Folder(PathBuf),
    Built(Programs),
}

impl Tools {
    fn path(&self, program: &str) -> Result<PathBuf> {
        match self {
            Self::Folder(folder) => Ok(folder.join(program)),
            Self::Built(programs) => Ok(programs.path(program)?.to_owned()),
        }
    }
}

pub(crate) struct Host {
    folder: PathBuf,
    url: String,
    authority: Issuer<'static, KeyPair>,
    _programs: [Child; 2],
}

impl Host {
    /// Starts the API in `folder` and applies the chart.
    pub(crate) async fn start(programs: &Tools, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let authority = authority(folder)?;
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        certificate(&authority, folder, "apiserver", "kube-apiserver", None, &[address])?;
        std::fs::write(path("audit.yaml"), AUDIT_POLICY)?;
        let keys = service_account_keys(folder)?;
        let (flags, client) = lone_etcd(folder)?;
        let api = free_port()?;
        let etcd = start(
            Command::new(programs.path("etcd")?).args(flags).args(["--unsafe-no-fsync", "--quota-backend-bytes=8589934592"]),
            &folder.join("etcd.log"),
        )?;
        let apiserver = start(
            Command::new(programs.path("kube-apiserver")?).args(keys).args([
                format!("--etcd-servers={client}"),
                format!("--secure-port={api}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--tls-cert-file={}", path("apiserver.crt")),
                format!("--tls-private-key-file={}", path("apiserver.key")),
                format!("--client-ca-file={}", path("ca.crt")),
                format!("--service-cluster-ip-range={SERVICES}"),
                "--authorization-mode=Node,RBAC".to_owned(),
                // Nothing makes the token of a pod's service account here.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--audit-policy-file={}", path("audit.yaml")),
                format!("--audit-log-path={}", path("audit.log")),
                "--audit-log-maxsize=10000".to_owned(),
            ]),
            &folder.join("kube-apiserver.log"),
        )?;
        let url = format!("https://127.0.0.1:{api}");
        let this = Self { folder: folder.to_owned(), url, authority, _programs: [etcd, apiserver] };
        let admin = this.kubeconfig("admin", "bench-admin", "system:masters")?;
        this.ready().await?;
        install(programs, &admin).await?;
        Ok(this)
    }

    /// For everything that the benchmark does itself; no limit of the API's applies to it.
    pub(crate) async fn admin(&self) -> Result<Client> {
        self.client(&self.kubeconfig("admin", "bench-admin", "system:masters")?).await
    }

    pub(crate) async fn other(&self) -> Result<Client> {
        self.client(&self.kubeconfig("other", OTHER, SERVICE_ACCOUNTS)?).await
    }

    pub(crate) fn operators_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig("operator", OPERATOR, SERVICE_ACCOUNTS)
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.folder.join("audit.log")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    async fn client(&self, kubeconfig: &Path) -> Result<Client> {
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// A kubeconfig with a certificate for `user` in `group`.
    fn kubeconfig(&self, name: &str, user: &str, group: &str) -> Result<PathBuf> {
        let kubeconfig = self.folder.join(format!("{name}.kubeconfig"));
        if kubeconfig.exists() {
            return Ok(kubeconfig);
        }
        certificate(&self.authority, &self.folder, name, user, Some(group), &[])?;
        let path = |name: String| self.folder.join(name);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "host",
            "clusters": [{"name": "host", "cluster": {"server": self.url, "certificate-authority": path("ca.crt".to_owned())}}],
            "users": [{"name": "host", "user": {
                "client-certificate": path(format!("{name}.crt")), "client-key": path(format!("{name}.key")),
            }}],
            "contexts": [{"name": "host", "context": {"cluster": "host", "user": "host"}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(kubeconfig)
    }

    async fn ready(&self) -> Result<()> {
        let client = self.admin().await?;
        let begun = Instant::now();
        loop {
            match client.request_text(http::Request::get("/readyz").body(Vec::new())?).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    ensure!(
                        begun.elapsed() < DEADLINE,
                        "the host's API is not ready after {DEADLINE:?}: {error}; logs in {}",
                        self.folder.display()
                    );
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Applies the chart as Helm renders it.
async fn install(programs: &Tools, kubeconfig: &Path) -> Result<()> {
    let chart = Paths::default().root().join("charts").join("nestling");
    let (helm, kubectl) = (programs.path("helm")?, programs.path("kubectl")?);
    let kubeconfig = kubeconfig.to_owned();
    let apply = move || {
        let mut template = StdCommand::new(helm);
        template.args(["template", "nestling"]).arg(chart).args(["--namespace", SYSTEM, "--include-crds"]);
        let rendered = run(&mut template, None, DEADLINE)?.ok("helm template")?;
        let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {SYSTEM}}}}}\n---\n");
        let mut apply = StdCommand::new(kubectl);
        apply.arg("--kubeconfig").arg(kubeconfig).args(["apply", "--server-side", "-f", "-"]);
        run(&mut apply, Some(&format!("{namespace}{rendered}")), DEADLINE)?.ok("kubectl apply")
    };
    tokio::task::spawn_blocking(apply).await?.map(drop)
}

/// Starts a program that ends with its handle.
pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log).with_context(|| format!("create {}", log.display()))?;
    let shown = command.as_std().get_program().display().to_string();
    let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
    command.spawn().with_context(|| format!("start {shown}"))
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.crt"), params.self_signed(&key)?.pem())?;
    Ok(Issuer::new(params, key))
}

/// Writes `<name>.crt` and `<name>.key`.
fn certificate(
    authority: &Issuer<'static, KeyPair>,
    folder: &Path,
    name: &str,
    user: &str,
    group: Option<&str>,
    addresses: &[IpAddr],
) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
    let key = KeyPair::generate()?;
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    std::fs::write(folder.join(format!("{name}.crt")), params.signed_by(&key, authority)?.pem())?;
    Ok(())
}
