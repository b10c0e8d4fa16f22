//! The Services: `<vc>-apiserver` in front of the tenant's API, and one of each member of etcd.

use crate::model::metadata::{component, selector};
use crate::model::{API_PORT, ValidatedCluster, metadata, names};
use crate::reconcile::build::{apiserver, etcd};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nestling_crds::labels;
use nestling_crds::v1alpha1::{ExposeType, Topology};

/// Label that the StatefulSet controller gives each pod.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

pub(super) fn api(cluster: &ValidatedCluster) -> Service {
    let (component, lone_pod) = match cluster.topology {
        Topology::External => (component::APISERVER, false),
        Topology::Stacked | Topology::SingleNode => (component::CONTROL_PLANE, cluster.replicas == 1),
    };
    let expose = &cluster.expose;
    let type_ = match expose.type_ {
        ExposeType::NodePort => "NodePort",
        ExposeType::LoadBalancer => "LoadBalancer",
        // A Gateway needs nothing but a cluster address behind it.
        ExposeType::ClusterIP | ExposeType::Gateway => "ClusterIP",
    };
    let annotations = (!expose.annotations.is_empty()).then(|| expose.annotations.clone());
    Service {
        metadata: ObjectMeta { annotations, ..metadata::owned(cluster, names::apiserver(&cluster.name)) },
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector(cluster, component)),
            ports: Some(vec![service_port("https", API_PORT, apiserver::PORT)]),
            // Where there is never a second pod, leaving out the one that is not ready gains nothing, and waiting for its
            // probe and for kube-proxy would cost every start a second or two.
            publish_not_ready_addresses: lone_pod.then_some(true),
            load_balancer_source_ranges: (!expose.source_ranges.is_empty()).then(|| expose.source_ranges.clone()),
            load_balancer_class: expose.load_balancer_class.clone(),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Of each member, with an address of its own. The name of a Service resolves as soon as there is the Service, the name of a pod in a
/// headless one only when the pod has an address; and a resolver that was asked before remembers for half a minute that there was
/// none, or afterwards that it was another one.
pub(super) fn etcd(cluster: &ValidatedCluster) -> Vec<Service> {
    names::members(cluster).into_iter().map(|member| self::member(cluster, member)).collect()
}

/// Members must find each other before any of them is ready.
fn member(cluster: &ValidatedCluster, member: String) -> Service {
    let of_pod = metadata::strings([(labels::TENANT, cluster.uid.as_str()), (POD_NAME, &member)]);
    Service {
        metadata: metadata::owned(cluster, member),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(of_pod),
            ports: Some(vec![
                service_port("client", etcd::CLIENT_PORT, etcd::CLIENT_PORT),
                service_port("peer", etcd::PEER_PORT, etcd::PEER_PORT),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn service_port(name: &str, port: i32, target: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        port,
        target_port: Some(IntOrString::Int(target)),
        ..ServicePort::default()
    }
}
