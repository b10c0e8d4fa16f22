//! The chart's rights on a real kube-apiserver, which is the host here. The operator runs as its service account and builds
//! clusters, so nothing that it writes is refused; and what its policies name is refused to that account, with the reason.

use crate::kubelet;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const OPERATOR: &str = "system:serviceaccount:nestling-system:nestling-operator";
pub(crate) const CONTROL_API: &str = "system:serviceaccount:nestling-system:nestling-control-api";

/// A host cluster without nodes.
pub(crate) struct Host<'a> {
    pub binaries: &'a Path,
    /// Kubeconfig of its administrator.
    pub kubeconfig: PathBuf,
    /// For logs.
    pub root: &'a Path,
}

impl Host<'_> {
    /// Writes a kubeconfig for an identity, which acts as another user if one is named. Values are in base64.
    pub(crate) fn kubeconfig(path: &Path, server: &str, ca: &str, certificate: &str, key: &str, user: Option<&str>) -> Result<()> {
        let user = json!({"client-certificate-data": certificate, "client-key-data": key, "as": user});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "host",
            "clusters": [{"name": "host", "cluster": {"server": server, "certificate-authority-data": ca}}],
            "users": [{"name": "host", "user": user}],
            "contexts": [{"name": "host", "context": {"cluster": "host", "user": "host"}}],
        });
        std::fs::write(path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    async fn output(&self, program: &str, args: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(self.binaries.join(program));
        command.args(args).env("KUBECONFIG", &self.kubeconfig).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        child.stdin.take().context("no standard input")?.write_all(input.as_bytes()).await?;
        Ok(tokio::time::timeout(DEADLINE, child.wait_with_output()).await.with_context(|| format!("{program} {args:?} hangs"))??)
    }

    async fn run(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        let output = self.output(program, args, input).await?;
        ensure!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run("kubectl", args, "").await
    }

    async fn apply(&self, manifests: &str) -> Result<()> {
        self.run("kubectl", &["apply", "--server-side", "-f", "-"], manifests).await.map(drop)
    }

    /// The operator may not do this, for this reason.
    async fn refused(&self, args: &[&str], input: &str, reason: &str) -> Result<()> {
        let acting = format!("--as={OPERATOR}");
        let output = self.output("kubectl", &[args, &["--dry-run=server", &acting]].concat(), input).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && error.contains(reason), "kubectl {args:?} should be refused: {reason}\n{error}\n{input}");
        Ok(())
    }

    async fn creation_refused(&self, manifest: &str, reason: &str) -> Result<()> {
        self.refused(&["create", "-f", "-"], manifest, reason).await
    }

    async fn may(&self, verb: &str, resource: &str, namespace: &str) -> Result<bool> {
        self.may_as(OPERATOR, verb, resource, namespace).await
    }

    async fn may_as(&self, user: &str, verb: &str, resource: &str, namespace: &str) -> Result<bool> {
        let acting = format!("--as={user}");
        let output = self.output("kubectl", &["auth", "can-i", verb, resource, "-n", namespace, &acting], "").await?;
        Ok(String::from_utf8_lossy(&output.stdout).trim() == "yes")
    }

    /// Starts the operator or the control API as its service account. It ends with the handle.
    fn start(&self, program: &str, args: &[&str], kubeconfig: &Path) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestling-operator"));
        command.args([program, "--admin-address=127.0.0.1:0"]).args(args).env("KUBECONFIG", kubeconfig);
        kubelet::spawn(&mut command, &self.root.join(format!("{program}.log")))
    }
}

/// `operator`, `control_api`: kubeconfigs of an administrator acting as their service accounts.
pub(crate) async fn check(host: &Host<'_>, operator: &Path, control_api: &Path) -> Result<()> {
    install(host).await.context("install the chart")?;
    // The control API waits for what the operator makes.
    let _control_api = host.start("control-api", &["--control-address=127.0.0.1:0"], control_api)?;
    let _operator = host.start("operator", &["--identity=smoke"], operator)?;
    clusters_are_built(host).await.context("the operator builds clusters with its rights")?;
    the_control_api_changes_nothing(host).await.context("the control API")?;
    foreign_objects_are_refused(host).await.context("objects of others")?;
    pods_with_rights_are_refused(host).await.context("pods")?;
    bindings_are_refused(host).await.context("role bindings")?;
    rights_end_with_the_clusters_namespace(host).await.context("namespaces without a VirtualCluster")?;
    namespaces_and_clusters_are_refused(host).await.context("namespaces and VirtualClusters")?;
    clusters_are_removed(host).await.context("the operator removes clusters with its rights")
}

async fn install(host: &Host<'_>) -> Result<()> {
    let chart = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/nestling"));
    host.kubectl(&["create", "namespace", "nestling-system"]).await?;
    let chart = chart.to_string_lossy();
    let manifests = host.run("helm", &["template", "nestling", &chart, "--namespace=nestling-system", "--include-crds"], "").await?;
    host.apply(&manifests).await?;
    host.kubectl(&["wait", "crd/virtualclusters.nestling.dev", "--for=condition=Established", "--timeout=30s"]).await?;
    // An apiserver takes a moment before it enforces a new policy.
    let probe = unlabelled(&binding("kube-system", "nestling-operator-cluster", "nestling-operator"));
    eventually("the policies are in force", || async { host.creation_refused(&probe, "which belongs to Kubernetes").await }).await?;
    Ok(())
}

const CLUSTERS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: builder, namespace: team-a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: of-a-user, namespace: team-a}}
---
{apiVersion: nestling.dev/v1alpha1, kind: VirtualCluster, metadata: {name: stacked, namespace: team-a},
 spec: {etcd: {storage: {medium: Memory}}, isolation: {quota: {pods: '10'}}}}
---
{apiVersion: nestling.dev/v1alpha1, kind: VirtualCluster, metadata: {name: external, namespace: team-a},
 spec: {topology: External, deletionPolicy: Retain}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: team-c}}
---
{apiVersion: nestling.dev/v1alpha1, kind: VirtualCluster, metadata: {name: goes, namespace: team-c}, spec: {deletionPolicy: Retain}}
";

async fn clusters_are_built(host: &Host<'_>) -> Result<()> {
    host.apply(CLUSTERS).await?;
    for (namespace, cluster) in [("team-a", "stacked"), ("team-a", "external"), ("team-c", "goes")] {
        let get = |output| ["get", "virtualcluster", cluster, "-n", namespace, "-o", output];
        eventually(&format!("cluster {cluster} is built"), || async {
            host.kubectl(&["get", "deployment", &format!("{cluster}-controllers"), "-n", namespace]).await?;
            let workload = host.kubectl(&get("jsonpath={.status.workloadNamespace}")).await?;
            host.kubectl(&["get", "rolebinding/nestling-agent", "networkpolicy/nestling", "-n", &workload]).await?;
            let degraded = host.kubectl(&get("jsonpath={.status.conditions[?(@.type==\"Degraded\")].status}")).await?;
            ensure!(degraded != "True", "{}", host.kubectl(&get("yaml")).await?);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// It has read what it serves, and may do no more.
async fn the_control_api_changes_nothing(host: &Host<'_>) -> Result<()> {
    let may = async |verb: &str, resource: &str, namespace: &str| host.may_as(CONTROL_API, verb, resource, namespace).await;
    for cluster in ["stacked", "external"] {
        ensure!(may("get", &format!("secrets/{cluster}-ca"), "team-a").await?, "it may not read the authority of {cluster}");
        ensure!(!may("get", &format!("secrets/{cluster}-sa"), "team-a").await?, "it may read the keys of {cluster}");
    }
    for resource in ["secrets", "virtualclusters.nestling.dev", "deployments.apps", "rolebindings.rbac.authorization.k8s.io", "pods"] {
        for verb in ["create", "update", "patch", "delete"] {
            ensure!(!may(verb, resource, "team-a").await?, "it may {verb} {resource}");
        }
    }
    ensure!(!may("list", "secrets", "team-a").await? && !may("get", "secrets", "kube-system").await?);
    let log = std::fs::read_to_string(host.root.join("control-api.log"))?;
    ensure!(!log.to_lowercase().contains("forbidden"), "the control API lacks a right:\n{log}");
    let log = std::fs::read_to_string(host.root.join("operator.log"))?;
    ensure!(!log.contains("reconcile failed") && !log.contains("watch failed"), "the operator lacks a right:\n{log}");
    Ok(())
}

async fn clusters_are_removed(host: &Host<'_>) -> Result<()> {
    let delete = |cluster, cascade| ["delete", "virtualcluster", cluster, "-n", "team-a", cascade, "--timeout=50s"];
    // A foreground deletion takes what the cluster owns first, and so the operator's rights.
    host.kubectl(&delete("external", "--cascade=foreground")).await?;
    host.kubectl(&["get", "secret", "external-ca", "-n", "team-a"]).await.context("the keys of a retained cluster stay")?;
    ensure!(host.may("get", "secrets", "team-a").await?, "the rights go while another cluster needs them");
    host.kubectl(&delete("stacked", "--cascade=background")).await?;
    eventually("the operator's rights go with the last cluster", || async {
        ensure!(!host.may("get", "secrets", "team-a").await?, "the operator may still read Secrets");
        Ok(())
    })
    .await?;
    // Whoever owns the namespace can delete what was retained: no policy is in the way.
    host.kubectl(&["delete", "secret", "external-ca", "-n", "team-a"]).await?;
    // A namespace takes the operator's rights with it, at any time; its clusters must not keep it for ever.
    host.kubectl(&["delete", "namespace", "team-c", "--timeout=50s"]).await.map(drop)
}

/// An object of the operator's making, as far as its labels say.
fn labelled(kind: &str, namespace: &str, rest: &str) -> String {
    let labels = "nestling.dev/tenant: x, nestling.dev/cluster: stacked, app.kubernetes.io/managed-by: nestling-operator";
    format!("{{{kind}, metadata: {{name: forged, namespace: {namespace}, labels: {{{labels}}}}}{rest}}}")
}

const CONFIG_MAP: &str = "apiVersion: v1, kind: ConfigMap";

async fn foreign_objects_are_refused(host: &Host<'_>) -> Result<()> {
    let system = unlabelled(&binding("kube-system", "nestling-operator-cluster", "nestling-operator"));
    host.creation_refused(&system, "may not write in namespace kube-system, which belongs to Kubernetes").await?;
    // By RBAC: there is no binding, and there can be none.
    host.creation_refused(&labelled(CONFIG_MAP, "kube-system", ""), "cannot create resource \"configmaps\"").await?;
    let installation = labelled("apiVersion: v1, kind: Secret", "nestling-system", "");
    host.creation_refused(&installation, "may write only its Lease and the installation's authorities").await?;
    let unlabelled = format!("{{{CONFIG_MAP}, metadata: {{name: forged, namespace: team-a}}}}");
    host.creation_refused(&unlabelled, "only objects with the label nestling.dev/tenant").await?;
    let seize = [
        "patch",
        "configmap",
        "of-a-user",
        "-n",
        "team-a",
        "--type=merge",
        "-p",
        r#"{"metadata": {"labels": {"nestling.dev/tenant": "x"}}}"#,
    ];
    host.refused(&seize, "", "the object belongs to no tenant").await?;
    let token = labelled("apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token", "team-a", "");
    let token = token.replace("name: forged,", "name: forged, annotations: {kubernetes.io/service-account.name: builder},");
    host.creation_refused(&token, "must not be of type kubernetes.io/service-account-token").await?;
    let addresses = labelled("apiVersion: v1, kind: Service", "team-a", ", spec: {ports: [{port: 80}], externalIPs: [192.0.2.1]}");
    host.creation_refused(&addresses, "must not claim external addresses").await
}

/// A Deployment with these fields in its pods' spec and in its container.
fn deployment(pod: &str, container: &str) -> String {
    let labels = "{app: forged}";
    let container = format!("{{name: c, image: i, {container}}}");
    let template = format!("{{metadata: {{labels: {labels}}}, spec: {{{pod}, containers: [{container}]}}}}");
    let spec = format!(", spec: {{selector: {{matchLabels: {labels}}}, template: {template}}}");
    labelled("apiVersion: apps/v1, kind: Deployment", "team-a", &spec)
}

async fn pods_with_rights_are_refused(host: &Host<'_>) -> Result<()> {
    const CONFINED: &str = "securityContext: {allowPrivilegeEscalation: false}";
    const NO_TOKEN: &str = "automountServiceAccountToken: false";
    let acting = format!("--as={OPERATOR}");
    host.run("kubectl", &["create", "--dry-run=server", "-f", "-", &acting], &deployment(NO_TOKEN, CONFINED)).await?;
    let token = |audience: &str| {
        format!("{NO_TOKEN}, volumes: [{{name: v, projected: {{sources: [{{serviceAccountToken: {{path: t{audience}}}}}]}}}}]")
    };
    let cases = [
        (format!("{NO_TOKEN}, serviceAccountName: builder"), CONFINED, "may not use service account builder"),
        ("automountServiceAccountToken: true".to_owned(), CONFINED, "automountServiceAccountToken must be false"),
        (token(""), CONFINED, "tokens of audience nestling-control only"),
        (token(", audience: https://kubernetes.default.svc"), CONFINED, "tokens of audience nestling-control only"),
        (format!("{NO_TOKEN}, volumes: [{{name: v, hostPath: {{path: /}}}}]"), CONFINED, "(no hostPath)"),
        (format!("{NO_TOKEN}, hostNetwork: true"), CONFINED, "host's network, process or IPC namespace"),
        (format!("{NO_TOKEN}, hostPID: true"), CONFINED, "host's network, process or IPC namespace"),
        (NO_TOKEN.to_owned(), "securityContext: {privileged: true}", "may not be privileged"),
        (NO_TOKEN.to_owned(), "tty: false", "may not be privileged, escalate privileges"),
        (
            NO_TOKEN.to_owned(),
            "ports: [{containerPort: 80, hostPort: 80}], securityContext: {allowPrivilegeEscalation: false}",
            "ports on nodes",
        ),
    ];
    for (pod, container, reason) in cases {
        host.creation_refused(&deployment(&pod, container), reason).await?;
    }
    let init = deployment(&format!("{NO_TOKEN}, initContainers: [{{name: i, image: i, securityContext: {{privileged: true}}}}]"), CONFINED);
    host.creation_refused(&init, "may not be privileged").await?;
    // Of pods that run it writes annotations, and deletes them.
    let pod = labelled("apiVersion: v1, kind: Pod", "team-a", ", spec: {containers: [{name: c, image: i}]}");
    host.apply(&pod).await?;
    host.apply("{apiVersion: v1, kind: Pod, metadata: {name: foreign, namespace: team-a}, spec: {containers: [{name: c, image: i}]}}")
        .await?;
    let patch = |name, patch| ["patch", "pod", name, "-n", "team-a", "-p", patch];
    let annotate = r#"{"metadata": {"annotations": {"a": "b"}}}"#;
    host.kubectl(&[&patch("forged", annotate)[..], &["--dry-run=server", &acting]].concat()).await?;
    host.kubectl(&["delete", "pod", "forged", "-n", "team-a", "--dry-run=server", &acting]).await?;
    let image = r#"{"spec": {"containers": [{"name": "c", "image": "other"}]}}"#;
    host.refused(&patch("forged", image), "", "may change only the metadata of pods").await?;
    host.refused(&patch("foreign", annotate), "", "only objects with the label nestling.dev/tenant").await?;
    host.refused(&["delete", "pod", "foreign", "-n", "team-a"], "", "the object belongs to no tenant").await
}

fn binding(namespace: &str, role: &str, account: &str) -> String {
    let role = format!("roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}");
    let subjects = format!("subjects: [{{kind: ServiceAccount, name: {account}, namespace: nestling-system}}]");
    labelled("apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding", namespace, &format!(", {role}, {subjects}"))
}

/// Without the label by which `nestling-operator-access` selects it, so that the other policies alone judge it.
fn unlabelled(binding: &str) -> String {
    binding.replace("app.kubernetes.io/managed-by: nestling-operator", "a: b")
}

async fn bindings_are_refused(host: &Host<'_>) -> Result<()> {
    let path = "jsonpath={.status.workloadNamespace}";
    let workload = host.kubectl(&["get", "virtualcluster", "stacked", "-n", "team-a", "-o", path]).await?;
    // By RBAC itself.
    host.creation_refused(&binding(&workload, "cluster-admin", "nestling-agent"), "attempting to grant RBAC permissions").await?;
    for (role, account) in [("nestling-agent-workload", "nestling-agent"), ("nestling-operator-workload", "nestling-operator")] {
        let refusal = format!("may bind ClusterRole {role} only to service account {account}");
        host.creation_refused(&binding(&workload, role, "other"), &refusal).await?;
        let refusal = format!("may not bind ClusterRole {role} in namespace team-a, which is no workload namespace");
        host.creation_refused(&binding("team-a", role, "nestling-agent"), &refusal).await?;
    }
    let refusal = "may bind ClusterRole nestling-operator-cluster only to service account nestling-operator";
    host.creation_refused(&binding("team-a", "nestling-operator-cluster", "other"), refusal).await?;
    let role = |name: &str, rule: &str| {
        let rules = format!(", rules: [{{apiGroups: [''], {rule}}}]");
        labelled("apiVersion: rbac.authorization.k8s.io/v1, kind: Role", "team-a", &rules).replace("name: forged", &format!("name: {name}"))
    };
    let refusal = "may make only Roles for the control API";
    host.creation_refused(&role("forged", "resources: [secrets], resourceNames: [stacked-ca], verbs: [get]"), refusal).await?;
    host.creation_refused(&role("stacked-control-api", "resources: [secrets], verbs: [get]"), refusal).await?;
    host.creation_refused(&role("stacked-control-api", "resources: [secrets], resourceNames: [stacked-ca], verbs: [get, patch]"), refusal)
        .await?;
    let refusal = "may not bind ClusterRole nestling-operator-cluster";
    host.creation_refused(&binding(&workload, "nestling-operator-cluster", "nestling-operator"), refusal).await
}

async fn rights_end_with_the_clusters_namespace(host: &Host<'_>) -> Result<()> {
    host.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team-b}}").await?;
    let own = |namespace| binding(namespace, "nestling-operator-cluster", "nestling-operator");
    // The text is Kubernetes' own; the name of the binding says what it is about.
    host.creation_refused(
        &own("team-b"),
        "with binding 'namespace-needs-a-virtualcluster' denied request: failed to configure binding: no params found",
    )
    .await?;
    // Without the label that makes the policy apply, another one does.
    host.creation_refused(&unlabelled(&own("team-b")), "RoleBindings must have the label app.kubernetes.io/managed-by: nestling-operator")
        .await?;
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("create", "secrets"),
        ("create", "deployments.apps"),
        ("patch", "services"),
    ] {
        ensure!(host.may(verb, resource, "team-a").await?, "the operator may not {verb} {resource} beside a VirtualCluster");
        for namespace in ["team-b", "default", "kube-system", "nestling-system"] {
            let installation = (namespace, verb, resource) == ("nestling-system", "create", "secrets");
            ensure!(installation || !host.may(verb, resource, namespace).await?, "the operator may {verb} {resource} in {namespace}");
        }
    }
    // Others are not concerned by its policies.
    host.run("kubectl", &["create", "--dry-run=server", "-f", "-"], &binding("team-b", "view", "other").replace("nestling-operator}", "x}"))
        .await
        .map(drop)
}

async fn namespaces_and_clusters_are_refused(host: &Host<'_>) -> Result<()> {
    host.creation_refused("{apiVersion: v1, kind: Namespace, metadata: {name: forged}}", "only namespaces with the labels").await?;
    let labels = r#"{"metadata": {"labels": {"nestling.dev/tenant": "x", "nestling.dev/component": "workload"}}}"#;
    host.refused(&["patch", "namespace", "team-a", "--type=merge", "-p", labels], "", "no tenant's workload namespace").await?;
    host.refused(&["delete", "namespace", "team-a"], "", "no tenant's workload namespace").await?;
    let cluster = |patch| ["patch", "virtualcluster", "stacked", "-n", "team-a", "--type=merge", "-p", patch];
    host.refused(
        &cluster(r#"{"spec": {"isolation": {"podSecurity": "privileged"}}}"#),
        "",
        "may not create, change or delete VirtualClusters",
    )
    .await?;
    host.refused(&cluster(r#"{"metadata": {"finalizers": ["nestling.dev/cleanup", "example.com/other"]}}"#), "", "only its own finalizer")
        .await
}

/// Tries until it works, or says what failed last.
async fn eventually<F: Future<Output = Result<()>>>(what: &str, check: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match check().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.context(format!("not within {DEADLINE:?}: {what}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
