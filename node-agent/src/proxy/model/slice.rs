//! `EndpointSlice` → the facts that rules are made of.

use super::Protocol;
use super::service::{HEADLESS_LABEL, PROXY_NAME_LABEL};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// The Service, in the slice's namespace.
    pub service: String,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<EndpointFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    pub address: IpAddr,
    pub node: Option<String>,
    pub state: State,
    pub node_hints: BTreeSet<String>,
    pub zone_hints: BTreeSet<String>,
}

/// What an endpoint may be used for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Ready,
    /// Serving and terminating: used when there is no ready endpoint at all (upstream's `ProxyTerminatingEndpoints`).
    Draining,
    /// Serving, neither ready nor terminating: never chosen, but its UDP flows live on.
    Serving,
    Unusable,
}

impl SliceFacts {
    /// None when the proxy has nothing to do with the slice.
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        if labels.contains_key(PROXY_NAME_LABEL) || labels.contains_key(HEADLESS_LABEL) {
            return None;
        }
        let service = labels.get(SERVICE_LABEL).filter(|name| !name.is_empty())?.clone();
        let wants_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None, // FQDN
        };
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                // A slice port without a number means "all ports", which only headless Services can have.
                number: u16::try_from(port.port?).ok().filter(|port| *port > 0)?,
            })
        });
        let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| EndpointFacts::of(endpoint, wants_v4));
        Some(Self { service, ports: ports.collect(), endpoints: endpoints.collect() })
    }
}

impl EndpointFacts {
    fn of(endpoint: &Endpoint, wants_v4: bool) -> Option<Self> {
        // Addresses after the first are undefined by the API; consumers take the first.
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        if address.is_ipv4() != wants_v4 || !is_routable(address) {
            return None;
        }
        let hints = endpoint.hints.as_ref();
        Some(Self {
            address,
            node: endpoint.node_name.clone(),
            state: State::of(endpoint.conditions.as_ref()),
            node_hints: hints.iter().flat_map(|hints| hints.for_nodes.iter().flatten()).map(|hint| hint.name.clone()).collect(),
            zone_hints: hints.iter().flat_map(|hints| hints.for_zones.iter().flatten()).map(|hint| hint.name.clone()).collect(),
        })
    }
}

impl State {
    /// Absent conditions: ready is true, serving is what ready is, terminating is false.
    fn of(conditions: Option<&EndpointConditions>) -> Self {
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        match (ready, serving, terminating) {
            (true, ..) => Self::Ready,
            (false, true, true) => Self::Draining,
            (false, true, false) => Self::Serving,
            (false, false, _) => Self::Unusable,
        }
    }
}

/// The apiserver refuses these too; here it keeps a tenant's slice from ever pointing the node at itself.
fn is_routable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn slice(value: &serde_json::Value) -> Option<SliceFacts> {
        SliceFacts::of(&serde_json::from_value(value.clone()).unwrap())
    }

    #[rstest]
    #[case::headless(json!({HEADLESS_LABEL: "", SERVICE_LABEL: "s"}), "IPv4")]
    #[case::other_proxy(json!({PROXY_NAME_LABEL: "x", SERVICE_LABEL: "s"}), "IPv4")]
    #[case::fqdn(json!({SERVICE_LABEL: "s"}), "FQDN")]
    #[case::no_service(json!({}), "IPv4")]
    fn skipped(#[case] labels: serde_json::Value, #[case] family: &str) {
        assert_eq!(slice(&json!({"metadata": {"labels": labels}, "addressType": family, "endpoints": []})), None);
    }

    #[rstest]
    #[case(None, State::Ready)]
    #[case(Some((Some(true), None, None)), State::Ready)]
    // publishNotReadyAddresses: ready although terminating
    #[case(Some((Some(true), Some(true), Some(true))), State::Ready)]
    #[case(Some((Some(false), None, None)), State::Unusable)]
    #[case(Some((Some(false), Some(true), Some(true))), State::Draining)]
    #[case(Some((Some(false), Some(true), None)), State::Serving)]
    #[case(Some((Some(false), Some(false), Some(true))), State::Unusable)]
    fn states(#[case] conditions: Option<(Option<bool>, Option<bool>, Option<bool>)>, #[case] expected: State) {
        let conditions = conditions.map(|(ready, serving, terminating)| EndpointConditions { ready, serving, terminating });
        assert_eq!(State::of(conditions.as_ref()), expected);
    }

    #[test]
    fn addresses_that_mean_the_node_itself_are_left_out() {
        let endpoints: Vec<_> = ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fd00::1", "10.0.0.1"]
            .map(|address| json!({"addresses": [address]}))
            .into();
        let facts = slice(&json!({"metadata": {"labels": {SERVICE_LABEL: "s"}}, "addressType": "IPv4", "endpoints": endpoints})).unwrap();
        assert_eq!(facts.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>(), ["10.0.0.1"]);
    }
}
