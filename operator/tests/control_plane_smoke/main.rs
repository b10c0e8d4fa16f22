//! Starts real etcd, kube-apiserver, kube-controller-manager and kube-scheduler exactly as the operator builds them, with
//! its certificates, flags and configuration files, on this machine. That control plane is then the host of an operator with
//! the chart's rights. Not run by default, because it needs the binaries (with kubectl and helm) and the ports 2379–2381, 6443,
//! 10257 and 10259:
//!
//! ```sh
//! NESTLING_BIN_DIR=<folder> cargo test -p nestling-operator --test control_plane_smoke -- --ignored --nocapture
//! ```

mod kubelet;
mod rights;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use http::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PodTemplateSpec, Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use kubelet::Kubelet;
use nestling_crds::names::NodeName;
use nestling_operator::config::OperatorConfig;
use nestling_operator::smoke::{
    self, Dereferenced, Endpoint, Membership, Pki, PkiPolicy, PkiSecrets, Running, ValidatedCluster, containers, installation,
};
use nestling_runtime::testing::contract;
use rights::Host;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs NESTLING_BIN_DIR with etcd and the Kubernetes binaries, and free ports"]
async fn a_control_plane_as_built_comes_up() -> Result<()> {
    let binaries = PathBuf::from(std::env::var_os("NESTLING_BIN_DIR").context("NESTLING_BIN_DIR is not set")?);
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let pod_ip = own_address()?;
    let root = tempfile::tempdir()?;

    let (cluster, reads) = cluster()?;
    let url = format!("https://{pod_ip}:443");
    let endpoint = Endpoint { service_ip: pod_ip, host_url: url.clone(), url, sans: Vec::new() };
    let policy = PkiPolicy { leaf_lifetime: SignedDuration::from_hours(1), ca_lifetime: SignedDuration::from_hours(24) };
    let pki = smoke::plan(&cluster, &endpoint, &reads.installation, &BTreeMap::new(), Timestamp::now(), &policy)?;
    let built = smoke::resources(&cluster, &pki);
    let kubelet = Kubelet {
        binaries,
        root: root.path(),
        pod_ip,
        secrets: by_name(&pki.secrets, &built.apiserver_config),
        config_maps: BTreeMap::from([(built.controllers_config.metadata.name.clone().unwrap_or_default(), built.controllers_config)]),
    };
    let (members, controllers) = (&built.members.spec.template, &built.controllers.spec.template);
    let result = Box::pin(run(&kubelet, &cluster, &pki, members, controllers)).await;
    if result.is_err() {
        let kept = root.keep();
        eprintln!("logs and files are in {}", kept.display());
    }
    result
}

async fn run(
    kubelet: &Kubelet<'_>,
    cluster: &ValidatedCluster,
    pki: &Pki,
    members: &PodTemplateSpec,
    controllers: &PodTemplateSpec,
) -> Result<()> {
    let began = Instant::now();
    let member = format!("{}-control-plane-0", cluster.name);
    an_empty_directory_needs_a_ticket(kubelet, &member, members).await?;
    let _etcd = kubelet.start(&member, members, containers::ETCD)?;
    let _apiserver = kubelet.start(&member, members, containers::API_SERVER)?;

    let identity = smoke::super_admin(&pki.secrets.ca, Timestamp::now())?;
    let admin = client(kubelet.pod_ip, &pki.ca_bundle, Some((&identity.certificate, &identity.key)))?;
    eventually("kube-apiserver is ready", || async { ok(&admin, "/readyz").await }).await?;
    eprintln!("etcd and kube-apiserver ready after {:.1} s", began.elapsed().as_secs_f32());

    let _manager = kubelet.start("controllers", controllers, containers::CONTROLLER_MANAGER)?;
    let _scheduler = kubelet.start("controllers", controllers, containers::SCHEDULER)?;

    nobody_gets_in_without_credentials(kubelet.pod_ip, &pki.ca_bundle).await?;
    controllers_work(&admin, &pki.ca_bundle).await?;
    eprintln!("controllers at work after {:.1} s", began.elapsed().as_secs_f32());
    service_account_tokens_are_honoured(&admin).await?;
    contract::check(&admin).await.context("the API does not behave as the tests' ApiServer")?;
    secrets_are_encrypted(kubelet, &admin).await?;
    a_nodes_certificate_is_a_node(kubelet.pod_ip, pki).await?;
    room_is_made_in_a_full_etcd(kubelet.pod_ip, &admin, cluster, pki).await?;
    eprintln!("rights of the operator, after {:.1} s", began.elapsed().as_secs_f32());
    the_chart_fences_the_operator(kubelet, pki, (&identity.certificate, &identity.key)).await
}

async fn the_chart_fences_the_operator(kubelet: &Kubelet<'_>, pki: &Pki, (certificate, key): (&str, &str)) -> Result<()> {
    let server = format!("https://{}:6443", kubelet.pod_ip);
    let (ca, certificate, key) = (base64(&pki.ca_bundle), base64(certificate), base64(key));
    let kubeconfig = |name: &str, user: Option<&str>| {
        let path = kubelet.root.join(name);
        Host::kubeconfig(&path, &server, &ca, &certificate, &key, user).map(|()| path)
    };
    let operator = kubeconfig("operator.kubeconfig", Some(rights::OPERATOR))?;
    let control_api = kubeconfig("control-api.kubeconfig", Some(rights::CONTROL_API))?;
    let host = Host { binaries: &kubelet.binaries, kubeconfig: kubeconfig("admin.kubeconfig", None)?, root: kubelet.root };
    rights::check(&host, &operator, &control_api).await
}

/// etcd itself refuses to begin without one: it would take the ID of a member whose votes are lost.
async fn an_empty_directory_needs_a_ticket(kubelet: &Kubelet<'_>, member: &str, members: &PodTemplateSpec) -> Result<()> {
    let mut without = members.clone();
    let annotations = without.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.remove("nestling.dev/initial-cluster").context("a new cluster has a ticket in its template")?;
    let mut etcd = kubelet.start(member, &without, containers::ETCD)?;
    let ended = tokio::time::timeout(DEADLINE, etcd.wait()).await.context("etcd began in an empty directory without a ticket")??;
    ensure!(!ended.success(), "etcd ended without an error");
    Ok(())
}

async fn nobody_gets_in_without_credentials(address: IpAddr, ca: &str) -> Result<()> {
    let anonymous = client(address, ca, None)?;
    ensure!(ok(&anonymous, "/readyz").await && ok(&anonymous, "/livez?exclude=etcd").await, "probes must get in");
    match anonymous.request_text(Request::get("/api").body(Vec::new())?).await {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
        other => bail!("anonymous request to /api: {other:?}"),
    }
}

async fn controllers_work(admin: &Client, ca: &str) -> Result<()> {
    let roots: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    eventually("kube-controller-manager publishes the root CA", || async {
        let root = roots.get_opt("kube-root-ca.crt").await.ok().flatten();
        root.and_then(|root| root.data?.get("ca.crt").cloned()).is_some_and(|published| published.trim() == ca.trim())
    })
    .await?;
    let leases: Api<Lease> = Api::namespaced(admin.clone(), "kube-system");
    eventually("both lead", || async {
        let held = |lease: kube::Result<Lease>| lease.is_ok_and(|lease| lease.spec.is_some_and(|spec| spec.holder_identity.is_some()));
        held(leases.get("kube-controller-manager").await) && held(leases.get("kube-scheduler").await)
    })
    .await
}

/// Signed with the key of `<vc>-sa` by kube-apiserver, checked with its public half.
async fn service_account_tokens_are_honoured(admin: &Client) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    eventually("the default service account is there", || async { accounts.get("default").await.is_ok() }).await?;
    let request = TokenRequest::default();
    let token = accounts
        .create_token_request("default", &PostParams::default(), &request)
        .await?
        .status
        .and_then(|status| status.token)
        .context("no token")?;
    let review = TokenReview { spec: TokenReviewSpec { token, audiences: None }, ..TokenReview::default() };
    let review = Api::<TokenReview>::all(admin.clone()).create(&PostParams::default(), &review).await?;
    let user = review.status.and_then(|status| status.user).and_then(|user| user.username);
    ensure!(user.as_deref() == Some("system:serviceaccount:default:default"), "{user:?}");
    Ok(())
}

/// The encryption configuration of the spec is in force: what lies in etcd is not what was written.
async fn secrets_are_encrypted(kubelet: &Kubelet<'_>, admin: &Client) -> Result<()> {
    let marker = "a-marker-that-must-not-lie-on-disk";
    let secret = Secret {
        string_data: Some(BTreeMap::from([("marker".to_owned(), marker.to_owned())])),
        metadata: kube::core::ObjectMeta { name: Some("marker".to_owned()), ..Default::default() },
        ..Secret::default()
    };
    Api::<Secret>::namespaced(admin.clone(), "default").create(&PostParams::default(), &secret).await?;
    let data = kubelet.root.join("etcd/var/lib/etcd/data/member");
    let on_disk = |text: &str| -> Result<bool> {
        let mut found = false;
        for folder in ["wal", "snap"] {
            for file in std::fs::read_dir(data.join(folder))? {
                found |= std::fs::read(file?.path())?.windows(text.len()).any(|window| window == text.as_bytes());
            }
        }
        Ok(found)
    };
    ensure!(!on_disk(marker)?, "the Secret lies in clear text in etcd");
    ensure!(on_disk("k8s:enc:secretbox:v1:first:")?, "no encrypted object in etcd");
    Ok(())
}

/// As an agent gets it from the control API: the Node authorizer lets it at its own Node and nothing else.
async fn a_nodes_certificate_is_a_node(address: IpAddr, pki: &Pki) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
    let hour = SignedDuration::from_hours(1);
    let signed = smoke::sign_kubelet(&pki.secrets.ca, &NodeName::new("node-1"), csr.der(), Timestamp::now(), hour)?;
    let node = client(address, &pki.ca_bundle, Some((&signed.chain_pem, &key.serialize_pem())))?;
    let nodes: Api<Node> = Api::all(node.clone());
    ensure!(nodes.get_opt("node-1").await?.is_none(), "there is no such Node yet");
    let own: Node = serde_json::from_value(json!({"metadata": {"name": "node-1"}}))?;
    nodes.create(&PostParams::default(), &own).await?;
    let other: Node = serde_json::from_value(json!({"metadata": {"name": "node-2"}}))?;
    let refused = nodes.create(&PostParams::default(), &other).await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
    let secrets = Api::<Secret>::namespaced(node, "default").list(&kube::api::ListParams::default()).await;
    ensure!(matches!(&secrets, Err(kube::Error::Api(status)) if status.code == 403), "{secrets:?}");
    Ok(())
}

/// At its quota etcd refuses writes, also when objects have been deleted, until room is made.
async fn room_is_made_in_a_full_etcd(address: IpAddr, admin: &Client, cluster: &ValidatedCluster, pki: &Pki) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let large = |index: usize| ConfigMap {
        metadata: kube::core::ObjectMeta { name: Some(format!("large-{index}")), ..Default::default() },
        data: Some(BTreeMap::from([("text".to_owned(), "x".repeat(900_000))])),
        ..ConfigMap::default()
    };
    let reclaim = || smoke::reclaim_space(&pki.secrets.ca, address, &cluster.name, &cluster.namespace);
    ensure!(reclaim().await?.contains("Enough"), "there is no alarm yet");
    let mut created = 0;
    // Room is made once or twice before objects fill all of it.
    loop {
        while maps.create(&PostParams::default(), &large(created)).await.is_ok() {
            created += 1;
            ensure!(created < 200, "etcd has no quota");
        }
        match reclaim().await? {
            outcome if outcome.contains("Full") => break,
            outcome => ensure!(outcome.contains("Reclaimed"), "{created} objects: {outcome}"),
        }
    }
    for index in 0..created {
        maps.delete(&format!("large-{index}"), &DeleteParams::default()).await?;
    }
    ensure!(maps.create(&PostParams::default(), &large(created)).await.is_err(), "the alarm ends by itself");
    let reclaimed = reclaim().await?;
    ensure!(reclaimed.contains("Reclaimed"), "{reclaimed}");
    eventually("writes are accepted again", || async { maps.create(&PostParams::default(), &large(created)).await.is_ok() }).await
}

/// Every configuration file that a spec may carry, so that the real programs judge what we make of it.
fn cluster() -> Result<(ValidatedCluster, Dereferenced)> {
    let vc = serde_json::from_value(json!({
        "apiVersion": "nestling.dev/v1alpha1",
        "kind": "VirtualCluster",
        "metadata": {"name": "dev", "namespace": "team-a", "uid": "6c9f9a0e-5a43-4c1c-9a53-0f6f3a9f7e11"},
        "spec": {
            "etcd": {"storage": {"medium": "Memory", "size": "256Mi"}},
            "controlPlane": {
                "apiServer": {
                    "extraArgs": [{"name": "event-ttl", "value": "2h"}],
                    "authentication": {"jwt": []},
                    "audit": {"rules": [{"level": "Metadata"}]},
                    "encryption": {"secretRef": {"name": "keys"}},
                    "admission": {"plugins": [{
                        "name": "PodSecurity",
                        "configuration": {"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration"},
                    }]},
                },
                "controllerManager": {"controllers": ["*", "-cronjob"], "extraArgs": [{"name": "v", "value": "2"}]},
                "scheduler": {"profiles": [{"schedulerName": "default-scheduler"}, {"schedulerName": "packing"}]},
            },
        },
    }))?;
    let installation = installation::generate(Timestamp::now(), SignedDuration::from_hours(24))?;
    let encryption = json!({"resources": [{
        "resources": ["secrets"],
        "providers": [
            {"secretbox": {"keys": [{"name": "first", "secret": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}]}},
            {"identity": {}},
        ],
    }]});
    let keys = BTreeMap::from([("encryption.yaml".to_owned(), ByteString(encryption.to_string().into_bytes()))]);
    let reads = Dereferenced {
        running: Running::default(),
        may_change_version: true,
        encryption: Some(Secret { data: Some(keys), ..Secret::default() }),
        host_ranges: Vec::new(),
        taken: Vec::new(),
        host_nodes: Vec::new(),
        pinned_node: None,
        adopted_range: None,
        membership: Membership { slots: 1, formed: false },
        secrets: BTreeMap::new(),
        installation: Arc::new(installation),
    };
    let config = OperatorConfig::try_parse_from(["nestling-operator", "--identity=smoke"])?;
    match smoke::validate(&vc, &reads, &config) {
        Ok(cluster) => Ok((cluster, reads)),
        Err(problems) => bail!("{problems:?}"),
    }
}

fn by_name(secrets: &PkiSecrets, files: &Secret) -> BTreeMap<String, Secret> {
    let PkiSecrets { ca, service_account, apiserver, etcd, controllers, admin_kubeconfig } = secrets;
    [ca, service_account, apiserver, etcd, controllers, admin_kubeconfig, files]
        .map(|secret| (secret.metadata.name.clone().unwrap_or_default(), secret.clone()))
        .into()
}

fn client(address: IpAddr, ca: &str, identity: Option<(&str, &str)>) -> Result<Client> {
    let mut config = Config::new(format!("https://{address}:6443").parse()?);
    config.root_cert = Some(vec![CertificateDer::from_pem_slice(ca.as_bytes())?.to_vec()]);
    if let Some((certificate, key)) = identity {
        config.auth_info = AuthInfo {
            client_certificate_data: Some(base64(certificate)),
            client_key_data: Some(base64(key).into()),
            ..AuthInfo::default()
        };
    }
    Ok(Client::try_from(config)?)
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

async fn ok(client: &Client, path: &str) -> bool {
    match Request::get(path).body(Vec::new()) {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !check().await {
        ensure!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// An address of this machine that is not loopback: the API refuses loopback addresses as endpoints. Nothing is sent.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9").context("this machine needs a route to anywhere")?;
    Ok(socket.local_addr()?.ip())
}
