//! Tenants' objects for the tests: from API objects, so that the whole way to packets is walked.

use kube::runtime::watcher::Event;
use nestling_node_agent::proxy::endpoints::Place;
use nestling_node_agent::proxy::services::TableBuilder;
use nestling_node_agent::proxy::table::ServiceTable;
use nestling_node_agent::services::ServiceFacts;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct Described {
    service: Value,
    slice: Value,
}

/// A Service of one port with these endpoints, on this node.
pub(crate) fn service(address: &str, protocol: &str, port: u16, endpoints: &[&str]) -> Described {
    let endpoints: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
    let number = endpoints.first().map_or(port, SocketAddr::port);
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let list: Vec<Value> = endpoints
        .iter()
        .filter(|endpoint| endpoint.port() == number)
        .map(|endpoint| json!({"addresses": [endpoint.ip().to_string()], "nodeName": "here"}))
        .collect();
    Described {
        service: json!({"spec": {"clusterIP": address, "ports": [{"port": port, "protocol": protocol}]}}),
        slice: json!({"addressType": family, "ports": [{"port": number, "protocol": protocol}], "endpoints": list}),
    }
}

impl Described {
    pub(crate) fn sticky(mut self, seconds: u32) -> Self {
        self.service["spec"]["sessionAffinity"] = json!("ClientIP");
        self.service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
        self
    }

    pub(crate) fn local_only(mut self) -> Self {
        self.service["spec"]["internalTrafficPolicy"] = json!("Local");
        self
    }

    /// The endpoints are on another node.
    pub(crate) fn elsewhere(mut self) -> Self {
        for endpoint in self.slice["endpoints"].as_array_mut().unwrap() {
            endpoint["nodeName"] = json!("there");
        }
        self
    }
}

pub(crate) fn table(services: &[Described]) -> Arc<ServiceTable> {
    let ranges = vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()];
    let mut builder = TableBuilder::new(Place { node: "here".into(), zone: None }, ranges);
    builder.take_slice(Event::Init);
    for (index, described) in services.iter().enumerate() {
        let name = format!("s-{index}");
        let (mut service, mut slice) = (described.service.clone(), described.slice.clone());
        service["metadata"] = json!({"namespace": "default", "name": name});
        slice["metadata"] = json!({"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}});
        let facts = ServiceFacts::of(&serde_json::from_value(service).unwrap()).unwrap();
        builder.take_services([(facts.name.clone(), Some(Arc::new(facts)))]);
        builder.take_slice(Event::InitApply(serde_json::from_value(slice).unwrap()));
    }
    builder.take_slice(Event::InitDone);
    builder.table().unwrap()
}
