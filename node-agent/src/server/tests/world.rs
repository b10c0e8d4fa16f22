//! A node with two tenants, alike in every name, and a client for the role of a tenant's apiserver.

use crate::cri::fake::FakeCri;
use crate::cri::{Cri, labels as cri_labels, v1};
pub(super) use crate::fixtures::{Ca, NODE};
use crate::fixtures::{Pair, tenant_spec, tenant_with};
use crate::server::{ClientCas, Limits, Server, ServerConfig};
use crate::tenant::{StoreWriters, Tenant, TenantSpec, Tenants};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use nestling_crds::labels;
use nestling_crds::names::{HostName, TenantUid, WorkloadNamespace};
use nestling_runtime::testing::ApiServer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::RootCertStore;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

pub(super) const USER: &str = "kube-apiserver-kubelet-client";

fn leaf(ca: &Ca, user: &str, san: SanType, usage: ExtendedKeyUsagePurpose) -> Pair {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![san];
    params.extended_key_usages = vec![usage];
    ca.sign(params, user)
}

/// What a tenant's apiserver shows a kubelet.
pub(super) fn client_pair(ca: &Ca, tenant: &str) -> Pair {
    let uri = SanType::URI(format!("nestling://tenants/{tenant}").try_into().unwrap());
    leaf(ca, USER, uri, ExtendedKeyUsagePurpose::ClientAuth)
}

type Allow = Box<dyn Fn(&SubjectAccessReviewSpec) -> bool + Send>;

/// Who may do what, decided by a test; asked questions are kept.
pub(super) struct Reviews {
    pub(super) asked: Mutex<Vec<SubjectAccessReviewSpec>>,
    pub(super) allow: Mutex<Allow>,
    pub(super) down: Mutex<bool>,
}

pub(super) struct TestTenant {
    pub(super) uid: &'static str,
    pub(super) tenant: Arc<Tenant>,
    pub(super) reviews: Arc<Reviews>,
    pub(super) pods: Writer<Pod>,
    pub(super) host_pods: Writer<Pod>,
}

impl TestTenant {
    fn new(uid: &'static str) -> Self {
        let reviews = Arc::new(Reviews { asked: Mutex::default(), allow: Mutex::new(Box::new(|_| true)), down: Mutex::new(false) });
        let client = review_client(reviews.clone());
        let uid_name = TenantUid::new(uid);
        let workload_namespace = WorkloadNamespace::for_cluster("team", "dev", &uid_name);
        let (tenant, writers) = tenant_with(TenantSpec { uid: uid_name, workload_namespace, ..tenant_spec() }, &client);
        let StoreWriters { tenant: mut pods, host: mut host_pods } = writers;
        for writer in [&mut pods, &mut host_pods] {
            writer.apply_watcher_event(&Event::Init);
            writer.apply_watcher_event(&Event::InitDone);
        }
        Self { uid, tenant, reviews, pods, host_pods }
    }

    pub(super) fn host_uid(&self) -> String {
        format!("host-of-{}", self.uid)
    }

    pub(super) fn sandbox_id(&self) -> String {
        format!("sandbox-{}", self.uid)
    }

    pub(super) fn container_id(&self) -> String {
        format!("container-{}", self.uid)
    }

    /// Pod `web` in `default`, with container `main`, both sides of it; the runtime runs both.
    fn add_pod(&mut self, cri: &FakeCri, log: &Path) {
        let pod_uid = format!("pod-{}", self.uid);
        let spec = json!({
            "nodeName": NODE,
            "containers": [{"name": "main", "image": "app:1"}, {"name": "waiting", "image": "app:1", "tty": true}],
        });
        let status = json!({"startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            {"name": "main", "image": "app:1", "imageID": "", "ready": true, "restartCount": 0,
             "containerID": format!("containerd://{}", self.container_id()), "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}},
            {"name": "waiting", "image": "app:1", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"waiting": {"reason": "ImagePullBackOff"}}},
        ]});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web", "uid": pod_uid}, "spec": spec, "status": status,
        }))
        .unwrap();
        let name = HostName::for_object(&self.tenant.spec.uid, "Pod", "default", "web", &pod_uid);
        let host: Pod = serde_json::from_value(json!({
            "metadata": {
                "namespace": self.tenant.spec.workload_namespace.as_str(), "name": name.as_str(), "uid": self.host_uid(),
                "labels": {labels::TENANT: self.uid, labels::POD_UID: pod_uid, labels::NODE: NODE},
            },
            "spec": spec, "status": status,
        }))
        .unwrap();
        self.pods.apply_watcher_event(&Event::Apply(pod));
        self.host_pods.apply_watcher_event(&Event::Apply(host));

        let sandbox_labels = [(labels::TENANT.to_owned(), self.uid.to_owned()), (cri_labels::POD_UID.to_owned(), self.host_uid())];
        let container_labels =
            [(cri_labels::POD_UID.to_owned(), self.host_uid()), (cri_labels::CONTAINER_NAME.to_owned(), "main".to_owned())];
        let metadata = v1::ContainerMetadata { name: "main".into(), attempt: 0 };
        cri.with(|state| {
            state.sandboxes.push(v1::PodSandbox { id: self.sandbox_id(), labels: sandbox_labels.clone().into(), ..Default::default() });
            let container = v1::Container {
                id: self.container_id(),
                pod_sandbox_id: self.sandbox_id(),
                metadata: Some(metadata.clone()),
                image: Some(v1::ImageSpec { image: "app:1".into(), ..Default::default() }),
                state: v1::ContainerState::ContainerRunning.into(),
                labels: container_labels.into(),
                ..Default::default()
            };
            // Something the host put into the pod, which its tenant did not ask for.
            let injected =
                [(cri_labels::POD_UID.to_owned(), self.host_uid()), (cri_labels::CONTAINER_NAME.to_owned(), "injected".to_owned())];
            let injected = v1::Container { id: format!("injected-{}", self.uid), labels: injected.into(), ..container.clone() };
            state.containers.extend([container, injected]);
            let status = v1::ContainerStatus {
                id: self.container_id(),
                state: v1::ContainerState::ContainerRunning.into(),
                log_path: log.to_string_lossy().into_owned(),
                ..Default::default()
            };
            state.statuses.insert(self.container_id(), status);
            state.stats.push(sandbox_stats(&self.sandbox_id(), sandbox_labels.into(), metadata));
        });
    }
}

fn sandbox_stats(id: &str, labels: std::collections::HashMap<String, String>, metadata: v1::ContainerMetadata) -> v1::PodSandboxStats {
    let amount = |value| Some(v1::UInt64Value { value });
    let timestamp = 1_700_000_000_000_000_000;
    let cpu = |value| v1::CpuUsage { timestamp, usage_core_nano_seconds: amount(value), ..Default::default() };
    let memory = |value| v1::MemoryUsage { timestamp, working_set_bytes: amount(value), ..Default::default() };
    let container = v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes { metadata: Some(metadata), ..Default::default() }),
        cpu: Some(cpu(1_500_000_000)),
        memory: Some(memory(2048)),
        ..Default::default()
    };
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes { id: id.to_owned(), labels, ..Default::default() }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: Some(cpu(2_000_000_000)),
            memory: Some(memory(4096)),
            containers: vec![container],
            ..Default::default()
        }),
        windows: None,
    }
}

fn review_client(reviews: Arc<Reviews>) -> kube::Client {
    let api = ApiServer::new();
    api.respond("create", "subjectaccessreviews", move |request| {
        if *reviews.down.lock().unwrap() {
            return (500, json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "InternalError", "code": 500}));
        }
        let mut review: SubjectAccessReview = serde_json::from_value(request.body.clone()).unwrap();
        let allowed = reviews.allow.lock().unwrap()(&review.spec);
        reviews.asked.lock().unwrap().push(review.spec.clone());
        review.status = Some(SubjectAccessReviewStatus { allowed, ..Default::default() });
        (201, json!(review))
    });
    api.client()
}

pub(super) struct World {
    pub(super) a: TestTenant,
    pub(super) b: TestTenant,
    pub(super) cri: Arc<FakeCri>,
    pub(super) tenants: Tenants,
    pub(super) kubelet_clients: Ca,
    pub(super) client_cas: ClientCas,
    pub(super) dir: tempfile::TempDir,
    pub(super) addr: SocketAddr,
    serving: Ca,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(super) async fn with_limits(limits: Limits) -> Self {
        Self::with_runtime(limits, None, &[]).await
    }

    /// With a runtime other than the fake, whose logs lie below `log_roots`.
    pub(super) async fn with_runtime(limits: Limits, runtime: Option<Arc<dyn Cri>>, log_roots: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cri = Arc::new(FakeCri::default());
        let tenants = Tenants::default();
        let [a, b] = ["tenant-a", "tenant-b"].map(|uid| {
            let mut tenant = TestTenant::new(uid);
            tenant.add_pod(&cri, &dir.path().join(format!("{uid}.log")));
            tenants.insert(tenant.tenant.clone());
            tenant
        });
        let (serving, kubelet_clients, client_cas) = (Ca::new("node-serving"), Ca::new("kubelet-client"), ClientCas::default());
        client_cas.replace(kubelet_clients.pem().as_bytes()).unwrap();
        let pair = leaf(&serving, "node", SanType::IpAddress(Ipv4Addr::LOCALHOST.into()), ExtendedKeyUsagePurpose::ServerAuth);
        let config = ServerConfig {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            serving: Arc::new(pair.install()),
            client_cas: client_cas.clone(),
            tenants: tenants.clone(),
            cri: runtime.unwrap_or_else(|| cri.clone()),
            log_roots: log_roots.iter().map(Into::into).chain([dir.path().to_path_buf()]).collect(),
            limits,
        };
        let server = Server::bind(config).await.unwrap();
        let addr = server.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server.serve(shutdown.clone()));
        Self { a, b, cri, tenants, kubelet_clients, client_cas, dir, addr, serving, shutdown, server }
    }

    /// A connection as the given tenant's apiserver.
    pub(super) async fn client(&self, tenant: &str) -> Client {
        self.connect(Some(client_pair(&self.kubelet_clients, tenant))).await.unwrap()
    }

    pub(super) async fn connect(&self, pair: Option<Pair>) -> std::io::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(self.serving.0.as_ref().der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::try_from(pair.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![pair.certificate.der().clone()], key).unwrap()
            }
        };
        let tcp = TcpStream::connect(self.addr).await?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(std::io::Error::other)?;
        let connection = tokio::spawn(async move { connection.with_upgrades().await.map_err(|error| error.to_string()) });
        Ok(Client { sender, connection })
    }

    /// One request on a connection of its own.
    pub(super) async fn get(&self, tenant: &str, path: &str) -> (StatusCode, String) {
        self.client(tenant).await.call("GET", path).await
    }

    pub(super) fn stop(&self) {
        self.shutdown.cancel();
    }

    pub(super) async fn stopped(self) {
        self.shutdown.cancel();
        self.server.await.unwrap();
    }
}

pub(super) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<Result<(), String>>,
}

impl Client {
    pub(super) async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        self.sender.send_request(request).await
    }

    /// The whole answer.
    pub(super) async fn call(&mut self, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path).header("host", "node").body(Empty::new()).unwrap();
        let response = self.send(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// An upgrade that is granted: the headers of the answer, and the stream.
    pub(super) async fn upgrade(
        &mut self,
        method: &str,
        path: &str,
        protocol: &str,
    ) -> Result<(http::HeaderMap, Upgraded), (StatusCode, String)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "node")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, protocol)
            .header("authorization", "Bearer of-the-tenant");
        let negotiation: &[_] = if protocol == "websocket" {
            &[
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "v4.channel.k8s.io"),
            ]
        } else {
            let version = if path.starts_with("/portForward") { "portforward.k8s.io" } else { "v4.channel.k8s.io" };
            &[("x-stream-protocol-version", version)]
        };
        for (name, value) in negotiation {
            request = request.header(*name, *value);
        }
        let mut response = self.send(request.body(Empty::new()).unwrap()).await.unwrap();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let headers = response.headers().clone();
            return Ok((headers, hyper::upgrade::on(&mut response).await.unwrap()));
        }
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Err((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits for the server to end the connection.
    pub(super) async fn closed(self) {
        let _ = tokio::time::timeout(std::time::Duration::from_secs(10), self.connection).await.expect("closed in time");
    }
}
