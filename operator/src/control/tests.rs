//! The control API over TLS on loopback, with tokens that name their user.

use super::ControlService;
use super::auth::TokenReviewer;
use super::auth::tests::review_tokens;
use super::server::ControlListener;
use super::snapshot::{Assignment, Nodes, TenantSnapshot};
use crate::control::authorities::Authorities;
use crate::host::ServedStores;
use crate::host::testing::{cluster, meta};
use crate::metrics::CallMetrics;
use crate::model::keys;
use crate::model::{HostAddress, HostNode};
use crate::pki::installation::{self, InstallationCas};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use nestling_control_api::v1alpha1::control_client::ControlClient;
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_control_api::v1alpha1::{CertificateKind, SignRequest, Tenant, WatchCloudNodesRequest, WatchRequest};
use nestling_crds::labels;
use nestling_crds::names::{NodeName, TenantUid};
use nestling_runtime::metrics::Metrics;
use nestling_runtime::testing::ApiServer;
use nestling_runtime::tls;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Streaming};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const HOST: &str = "nestling-control-api.nestling-system.svc";
const AGENT_1: &str = "system:serviceaccount:nestling-system:nestling-agent|x|n1";
const AGENT_2: &str = "system:serviceaccount:nestling-system:nestling-agent|x|n2";
const CLOUD: &str = "system:serviceaccount:team:dev-cloud-controller|sa-1|n1";

struct Api {
    client: ControlClient<Channel>,
    publish: watch::Sender<Arc<TenantSnapshot>>,
    installation: Arc<InstallationCas>,
    shutdown: CancellationToken,
}

async fn start() -> Api {
    tls::install_provider();
    let installation = Arc::new(installation::generate(Timestamp::now(), SignedDuration::from_hours(100)).unwrap());
    // Any authority will do for a tenant.
    let data: BTreeMap<String, String> = installation
        .to_secret("x")
        .data
        .unwrap()
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("control-")?.to_owned(), BASE64_STANDARD.encode(value.0))))
        .collect();
    assert!(data.contains_key(keys::CA));
    let host = ApiServer::new();
    review_tokens(&host);
    let secret = json!({"metadata": {"namespace": "team", "name": "dev-ca"}, "data": data});
    host.put(&serde_json::from_value::<Secret>(secret).unwrap());
    let client = host.client();
    let (stores, mut writers) = ServedStores::new();
    let owner = json!({"apiVersion": "nestling.dev/v1alpha1", "kind": "VirtualCluster", "name": "dev", "uid": "vc-1"});
    meta(
        &mut writers.service_accounts,
        &json!({"namespace": "team", "name": "dev-cloud-controller", "uid": "sa-1", "labels": {labels::TENANT: "vc-1"}, "ownerReferences": [owner]}),
    );
    cluster(&mut writers.clusters, json!({"metadata": {"namespace": "team", "name": "dev", "uid": "vc-1"}, "spec": {}}));
    let authorities = Arc::new(Authorities::new(client.clone()));
    let (publish, snapshots) = watch::channel(Arc::new(served_on("n1")));
    let shutdown = CancellationToken::new();
    let service = ControlService {
        stores,
        authorities,
        snapshots,
        tokens: TokenReviewer::new(client),
        installation: installation.clone(),
        system_namespace: "nestling-system".into(),
        lifetime: SignedDuration::from_hours(1),
        shutdown: shutdown.clone(),
        metrics: CallMetrics::register(&Metrics::default()),
    };
    let listener = ControlListener::bind("127.0.0.1:0".parse().unwrap(), HOST.into(), installation.clone()).await.unwrap();
    let address = listener.address().unwrap();
    tokio::spawn(listener.serve(service, shutdown.clone()));
    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(installation.control_ca())).domain_name(HOST);
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(trust).unwrap();
    Api { client: ControlClient::new(endpoint.connect().await.unwrap()), publish, installation, shutdown }
}

/// Tenant vc-1 of `team`/`dev` on this node, on a host with nodes n1 and n2.
fn served_on(node: &str) -> TenantSnapshot {
    let tenant = Tenant { uid: "vc-1".into(), namespace: "team".into(), name: "dev".into(), ..Tenant::default() };
    let served = Assignment { tenant, nodes: Nodes::Pinned(NodeName::new(node)) };
    let node = |name: &str, address: &str| {
        let addresses = [("InternalIP", address), ("Hostname", name)];
        let addresses = addresses.map(|(type_, address)| HostAddress { type_: type_.into(), address: address.into() }).to_vec();
        (NodeName::new(name), Arc::new(HostNode { addresses, ..HostNode::named(name) }))
    };
    TenantSnapshot {
        tenants: [(TenantUid::new("vc-1"), Arc::new(served))].into(),
        nodes: [node("n1", "172.30.0.1"), node("n2", "172.30.0.2")].into(),
        ..TenantSnapshot::default()
    }
}

fn by<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    timeout(Duration::from_secs(5), stream.message()).await.expect("nothing came").unwrap()
}

fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:admin");
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn sign(kind: CertificateKind, tenant: &str) -> SignRequest {
    SignRequest { tenant_uid: tenant.into(), kind: kind.into(), csr_der: csr() }
}

#[tokio::test]
async fn an_agent_receives_its_tenants_and_their_changes() {
    let mut api = start().await;
    let mut stream = api.client.watch(by(AGENT_1, WatchRequest {})).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await.unwrap().event, Some(Event::Upsert(tenant)) if tenant.uid == "vc-1"));
    assert!(matches!(next(&mut stream).await.unwrap().event, Some(Event::Synced(_))));
    api.publish.send_replace(Arc::new(served_on("n2")));
    assert!(matches!(next(&mut stream).await.unwrap().event, Some(Event::Remove(removed)) if removed.uid == "vc-1"));

    let mut other = api.client.watch(by(AGENT_2, WatchRequest {})).await.unwrap().into_inner();
    assert!(matches!(next(&mut other).await.unwrap().event, Some(Event::Upsert(_))));
    // A replica that leaves ends its streams rather than hold up the drain.
    api.shutdown.cancel();
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_cloud_controller_receives_its_nodes() {
    let mut api = start().await;
    let mut stream = api.client.watch_cloud_nodes(by(CLOUD, WatchCloudNodesRequest {})).await.unwrap().into_inner();
    let names = |nodes: nestling_control_api::v1alpha1::CloudNodes| nodes.nodes.into_iter().map(|node| node.name).collect::<Vec<_>>();
    assert_eq!(names(next(&mut stream).await.unwrap()), ["n1"]);
    // While the tenant is not served nothing is sent: an empty set would delete its nodes.
    api.publish.send_replace(Arc::new(TenantSnapshot::default()));
    api.publish.send_replace(Arc::new(served_on("n2")));
    assert_eq!(names(next(&mut stream).await.unwrap()), ["n2"]);
}

#[tokio::test]
async fn callers_get_only_what_is_theirs() {
    let mut api = start().await;
    assert_eq!(api.client.watch(Request::new(WatchRequest {})).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(api.client.watch(by(CLOUD, WatchRequest {})).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(api.client.watch_cloud_nodes(by(AGENT_1, WatchCloudNodesRequest {})).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(api.client.sign(by(CLOUD, sign(CertificateKind::Kubelet, "vc-1"))).await.unwrap_err().code(), Code::PermissionDenied);
    // n2 does not serve the tenant.
    for kind in [CertificateKind::Kubelet, CertificateKind::Proxy] {
        assert_eq!(api.client.sign(by(AGENT_2, sign(kind, "vc-1"))).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let refused = api.client.sign(by(AGENT_1, sign(CertificateKind::Unspecified, "vc-1"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let garbled = SignRequest { csr_der: b"no".to_vec(), ..sign(CertificateKind::Kubelet, "vc-1") };
    assert_eq!(api.client.sign(by(AGENT_1, garbled)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_operator_decides_what_is_signed() {
    let mut api = start().await;
    for (kind, tenant, subject, addresses) in [
        (CertificateKind::Kubelet, "vc-1", "O=system:nodes, CN=system:node:n1", vec![]),
        (CertificateKind::Proxy, "vc-1", "O=nestling:proxies, CN=system:kube-proxy:n1", vec![]),
        (CertificateKind::KubeletServing, "", "CN=system:node:n1", vec!["DNS:n1", "IP:172.30.0.1"]),
    ] {
        let answer = api.client.sign(by(AGENT_1, sign(kind, tenant))).await.unwrap().into_inner();
        let (_, pem) = x509_parser::pem::parse_x509_pem(answer.chain_pem.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
        assert_eq!(certificate.subject().to_string(), subject);
        assert_eq!(certificate.validity().not_after.timestamp(), answer.not_after);
        let names = certificate.subject_alternative_name().unwrap().map(|names| names.value.general_names.clone()).unwrap_or_default();
        let mut shown: Vec<String> = names
            .iter()
            .map(|name| match name {
                GeneralName::DNSName(name) => format!("DNS:{name}"),
                GeneralName::IPAddress([a, b, c, d]) => format!("IP:{a}.{b}.{c}.{d}"),
                other => format!("{other:?}"),
            })
            .collect();
        shown.sort();
        assert_eq!(shown, addresses);
    }
    assert!(!api.installation.node_serving_ca().is_empty());
}
