//! The agent's side of the control API against an operator in this process: real TLS, real gRPC, a host API that holds one
//! ConfigMap.

use super::certificates::{self, Purpose};
use super::{Change, Operator, watch};
use crate::fixtures::Ca;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use nestling_control_api::v1alpha1::control_server::{Control, ControlServer};
use nestling_control_api::v1alpha1::watch_event::Event;
use nestling_control_api::v1alpha1::{
    CertificateKind, CloudNodes, Removed, SignRequest, SignResponse, Synced, Tenant, WatchCloudNodesRequest, WatchEvent, WatchRequest,
};
use nestling_crds::names::TenantUid;
use nestling_runtime::control::ControlArgs;
use nestling_runtime::readiness::Readiness;
use nestling_runtime::testing::ApiServer;
use nestling_runtime::tls::{self, Certificate};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType};
use rustls::client::ResolvesClientCert as _;
use rustls_pki_types::CertificateSigningRequestDer;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const NAME: &str = "nestling-control-api.nestling-system.svc";

type Sent = Result<WatchEvent, Status>;

/// Sends `events` to each watch, then what `later` brings; signs with `ca`.
#[derive(Clone)]
struct FakeOperator {
    ca: Arc<Ca>,
    events: Arc<Mutex<Vec<Event>>>,
    later: Arc<Mutex<Option<mpsc::Sender<Sent>>>>,
}

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("authorization") {
        Some(token) if token == "Bearer secret" => Ok(()),
        _ => Err(Status::unauthenticated("no token")),
    }
}

#[tonic::async_trait]
impl Control for FakeOperator {
    type WatchStream = ReceiverStream<Sent>;
    type WatchCloudNodesStream = ReceiverStream<Result<CloudNodes, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        check(&request)?;
        let (sender, receiver) = mpsc::channel(16);
        for event in self.events.lock().unwrap().iter().cloned() {
            sender.try_send(Ok(WatchEvent { event: Some(event) })).unwrap();
        }
        *self.later.lock().unwrap() = Some(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        check(&request)?;
        let request = request.into_inner();
        assert_eq!((request.kind(), request.tenant_uid.as_str()), (CertificateKind::Kubelet, "a"));
        let der = CertificateSigningRequestDer::from(request.csr_der);
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        csr.params.distinguished_name.push(DnType::CommonName, "system:node:worker-7");
        let leaf = csr.signed_by(&self.ca.0).unwrap();
        let not_after = jiff::Timestamp::now().as_second() + 3600;
        Ok(Response::new(SignResponse { chain_pem: leaf.pem(), not_after }))
    }

    async fn watch_cloud_nodes(&self, _: Request<WatchCloudNodesRequest>) -> Result<Response<Self::WatchCloudNodesStream>, Status> {
        Err(Status::unimplemented("not for agents"))
    }
}

/// Serves until aborted.
fn serve(operator: &FakeOperator, listener: TcpListener) -> JoinHandle<()> {
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let certificate = Arc::new(operator.ca.sign(params, NAME).install());
    let config = Arc::new(tls::server_config(certificate, None, &[tls::ALPN_H2]));
    let service = ControlServer::new(operator.clone());
    tokio::spawn(async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(tls::incoming(listener, config)).await.unwrap();
    })
}

/// A host API that has the installation's ConfigMap.
fn host(ca: &Ca) -> Client {
    let data = json!({"control-ca.crt": ca.pem(), "kubelet-client-ca.crt": ca.pem()});
    let map = json!({"metadata": {"namespace": "nestling-system", "name": "nestling-installation-ca"}, "data": data});
    let api = ApiServer::new();
    api.put(&serde_json::from_value::<ConfigMap>(map).unwrap());
    api.client()
}

struct World {
    fake: FakeOperator,
    address: SocketAddr,
    server: JoinHandle<()>,
    operator: Operator,
    _token: tempfile::NamedTempFile,
}

async fn world(events: Vec<Event>) -> World {
    tls::install_provider();
    let ca = Arc::new(Ca::new("control"));
    let fake = FakeOperator { ca: ca.clone(), events: Arc::new(Mutex::new(events)), later: Arc::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret\n").unwrap();
    let args = ControlArgs {
        operator: format!("https://{NAME}:{}", address.port()),
        operator_address: Some(address.ip()),
        operator_token_file: token.path().into(),
    };
    let server = serve(&fake, listener);
    World { address, server, operator: Operator::new(host(&ca), "nestling-system", args), fake, _token: token }
}

fn upsert(uid: &str) -> Event {
    Event::Upsert(Tenant {
        uid: uid.into(),
        workload_namespace: format!("team-{uid}"),
        endpoint: "https://10.96.3.4:443".into(),
        ca_bundle: b"pem".to_vec(),
        dns_address: "10.96.0.10".into(),
        kubernetes_address: "10.96.0.1".into(),
        cluster_domain: "cluster.local".into(),
        ..Tenant::default()
    })
}

async fn next(changes: &mut mpsc::Receiver<Change>) -> String {
    let change = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await.expect("in time").unwrap();
    match change {
        Change::Serve(spec) => format!("+{}", spec.uid),
        Change::Remove(uid) => format!("-{uid}"),
        Change::Synced(all) => format!("={}", all.len()),
    }
}

#[tokio::test]
async fn a_lost_operator_changes_nothing_until_it_is_back() {
    let world = world(vec![upsert("a"), upsert("b"), Event::Synced(Synced::default())]).await;
    let readiness = Readiness::default();
    let (sender, mut changes) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let follow = watch::follow(world.operator.clone(), sender, readiness.pending("tenants"), stop.clone());
    let script = async {
        assert_eq!([next(&mut changes).await, next(&mut changes).await, next(&mut changes).await], ["+a", "+b", "=2"]);
        while !readiness.is_ready() {
            tokio::task::yield_now().await;
        }

        let later = world.fake.later.lock().unwrap().clone().unwrap();
        later.send(Ok(WatchEvent { event: Some(Event::Remove(Removed { uid: "b".into() })) })).await.unwrap();
        assert_eq!(next(&mut changes).await, "-b");

        // The operator stops and its streams end; it returns with another set.
        world.server.abort();
        drop(later);
        *world.fake.later.lock().unwrap() = None;
        *world.fake.events.lock().unwrap() = vec![upsert("c"), Event::Synced(Synced::default())];
        assert!(changes.try_recv().is_err());
        assert!(readiness.is_ready(), "an agent without its operator goes on");
        let listener = loop {
            match TcpListener::bind(world.address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let _server = serve(&world.fake, listener);
        assert_eq!([next(&mut changes).await, next(&mut changes).await, next(&mut changes).await], ["+c", "-a", "=1"]);
        stop.cancel();
    };
    tokio::join!(follow, script);
}

#[tokio::test]
async fn a_certificate_is_signed_for_a_key_that_stays_here() {
    let world = world(vec![]).await;
    let purpose = Purpose::Kubelet(TenantUid::new("a"));
    let issued = tokio::time::timeout(Duration::from_secs(20), certificates::first(&world.operator, &purpose)).await.expect("in time");
    let certificate = Certificate::default();
    issued.install(&certificate).unwrap();
    let shown = certificate.resolve(&[], &[]).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&shown.cert[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=system:node:worker-7");
    assert!(shown.keys_match().is_ok());
}
