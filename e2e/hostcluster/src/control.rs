//! The host's own control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in one unit.

use std::net::{Ipv4Addr, SocketAddr};

use crate::containerd::ConfigError;
use crate::pki::{self, Pair};
use crate::programs::Programs;
use crate::topology::{API_PORT, CONTROL, CONTROL_ADDRESS, POD_CIDR, SERVICE_CIDR, api_address};
use crate::unit::{Disks, Endpoint, Service, UnitSpec};
use crate::workdir::WorkDir;

/// The unit of the control plane; also writes the kubeconfigs that it reads.
pub(crate) fn unit(work: &WorkDir, programs: &Programs) -> Result<UnitSpec, ConfigError> {
    let dir = work.unit(CONTROL);
    let certificates = work.pki();
    for component in ["kube-controller-manager", "kube-scheduler"] {
        pki::write_kubeconfig(&dir.join(format!("{component}.kubeconfig")), &certificates, &Pair::at(&certificates, component))?;
    }
    let program = |name: &str| programs.path(name).map(|path| path.display().to_string());
    let etcd_address = SocketAddr::from((Ipv4Addr::LOCALHOST, 2379));
    let file = |name: &str| certificates.join(name).display().to_string();
    let in_dir = |name: &str| dir.join(name).display().to_string();

    let etcd = vec![
        program("etcd")?,
        format!("--data-dir={}", in_dir("etcd")),
        // Reachable from the control plane's own network namespace alone.
        format!("--listen-client-urls=http://{etcd_address}"),
        format!("--advertise-client-urls=http://{etcd_address}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        // After a power loss the cluster is built again, so there is no need to wait for disks.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    let apiserver = vec![
        program("kube-apiserver")?,
        format!("--etcd-servers=http://{etcd_address}"),
        format!("--advertise-address={CONTROL_ADDRESS}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--enable-aggregator-routing=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // Watches do not end by themselves; the default waits a minute for them at shutdown.
        "--shutdown-watch-termination-grace-period=2s".to_owned(),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        format!("--kubelet-client-certificate={}", file("apiserver-kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={}", file("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", file("front-proxy-client.key")),
    ];
    let client = |component: &str| {
        let path = in_dir(&format!("{component}.kubeconfig"));
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(|flag| format!("--{flag}={path}"))
    };
    let mut controller_manager = vec![program("kube-controller-manager")?];
    controller_manager.extend(client("kube-controller-manager"));
    controller_manager.extend([
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        // The topology fixes the pod range of each node; Node objects are created with theirs.
        "--allocate-node-cidrs=false".to_owned(),
        format!("--cluster-cidr={POD_CIDR}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
    ]);
    let mut scheduler = vec![program("kube-scheduler")?, "--leader-elect=false".to_owned()];
    scheduler.extend(client("kube-scheduler"));

    let service = |name: &str, argv, after: Option<SocketAddr>| Service {
        name: name.to_owned(),
        argv,
        after: after.map(Endpoint::Tcp).into_iter().collect(),
    };
    let api = Some(api_address());
    Ok(UnitSpec {
        name: CONTROL.to_owned(),
        netns: Some(work.netns(CONTROL)),
        disks: Disks::default(),
        services: vec![
            service("etcd", etcd, None),
            service("kube-apiserver", apiserver, Some(etcd_address)),
            service("kube-controller-manager", controller_manager, api),
            service("kube-scheduler", scheduler, api),
        ],
        dir,
    })
}
