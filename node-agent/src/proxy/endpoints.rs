//! Endpoints: the facts that rules need of an `EndpointSlice`, and which endpoints a new connection may go to (upstream's
//! `CategorizeEndpoints`).

use super::table::{Backend, Target};
use crate::services::{PROXY_NAME_LABEL, PortFacts, Protocol, ServiceFacts};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Put by upstream's controllers on the slices of headless Services.
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Where this node is, as topology hints and traffic policies see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// None until the tenant's Node has been read.
    pub zone: Option<String>,
}

/// Names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    /// The Service, in the slice's namespace.
    pub(crate) service: String,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<EndpointFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointFacts {
    pub(crate) address: IpAddr,
    pub(crate) node: Option<String>,
    pub(crate) state: State,
    pub(crate) node_hints: BTreeSet<String>,
    pub(crate) zone_hints: BTreeSet<String>,
}

/// What an endpoint may be used for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Ready,
    /// Serving and terminating: used when there is no ready endpoint at all (upstream's `ProxyTerminatingEndpoints`).
    Draining,
    /// Serving, neither ready nor terminating: never chosen, but its UDP flows live on.
    Serving,
    Unusable,
}

impl SliceFacts {
    /// None for slices that have no rules: of another proxy, of headless Services, and of DNS names.
    pub(crate) fn of(slice: &EndpointSlice) -> Option<Self> {
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

/// The target of one port of a Service, for addresses of one family.
pub(crate) fn target<'a>(
    service: &ServiceFacts,
    port: &PortFacts,
    is_v4: bool,
    slices: impl Iterator<Item = &'a SliceFacts>,
    place: &Place,
) -> Target {
    let endpoints = candidates(port, is_v4, slices);
    let serving: BTreeSet<IpAddr> = if port.protocol == Protocol::Udp {
        endpoints.iter().filter(|(_, endpoint)| endpoint.state < State::Unusable).map(|(address, _)| address.ip()).collect()
    } else {
        BTreeSet::new()
    };
    let chosen = if service.local_only { choose_local(&endpoints, place) } else { choose_cluster(&endpoints, place) };
    let backend = if !chosen.is_empty() {
        Backend::Endpoints { endpoints: chosen.into_iter().collect(), affinity: service.affinity }
    } else if endpoints.values().any(|endpoint| endpoint.state <= State::Draining) {
        Backend::Drop
    } else {
        Backend::Reject
    };
    Target { backend, serving: serving.into_iter().collect() }
}

type Candidates<'a> = BTreeMap<SocketAddr, &'a EndpointFacts>;

/// The Service's endpoints for the port. While an endpoint moves between slices it can be in two: the better state counts.
fn candidates<'a>(port: &PortFacts, is_v4: bool, slices: impl Iterator<Item = &'a SliceFacts>) -> Candidates<'a> {
    let mut found = Candidates::new();
    for slice in slices {
        for number in slice.ports.iter().filter(|p| p.protocol == port.protocol && p.name == port.name).map(|p| p.number) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.address.is_ipv4() == is_v4) {
                let kept = found.entry(SocketAddr::new(endpoint.address, number)).or_insert(endpoint);
                if endpoint.state < kept.state {
                    *kept = endpoint;
                }
            }
        }
    }
    found
}

fn choose_cluster(endpoints: &Candidates<'_>, place: &Place) -> BTreeSet<SocketAddr> {
    let ready: Vec<_> = endpoints.iter().filter(|(_, endpoint)| endpoint.state == State::Ready).collect();
    let near = |hints: fn(&EndpointFacts) -> &BTreeSet<String>, here: Option<&str>| -> Option<BTreeSet<SocketAddr>> {
        // One endpoint without a hint means that the hints are not complete: none is followed.
        let complete = ready.iter().all(|(_, endpoint)| !hints(endpoint).is_empty());
        let chosen: BTreeSet<SocketAddr> =
            ready.iter().filter(|(_, endpoint)| here.is_some_and(|here| hints(endpoint).contains(here))).map(|(a, _)| **a).collect();
        (complete && !chosen.is_empty()).then_some(chosen)
    };
    near(|endpoint| &endpoint.node_hints, Some(&place.node))
        .or_else(|| near(|endpoint| &endpoint.zone_hints, place.zone.as_deref()))
        .unwrap_or_else(|| best(endpoints, |_| true))
}

/// `internalTrafficPolicy: Local`: hints do not count, and the fallback to draining endpoints is made among the local ones.
fn choose_local(endpoints: &Candidates<'_>, place: &Place) -> BTreeSet<SocketAddr> {
    best(endpoints, |endpoint| endpoint.node.as_deref() == Some(&place.node))
}

/// The ready ones among those that count, or else the draining ones.
fn best(endpoints: &Candidates<'_>, counts: impl Fn(&EndpointFacts) -> bool) -> BTreeSet<SocketAddr> {
    let of = |state: State| -> BTreeSet<SocketAddr> {
        endpoints.iter().filter(|(_, endpoint)| endpoint.state == state && counts(endpoint)).map(|(address, _)| *address).collect()
    };
    let ready = of(State::Ready);
    if ready.is_empty() { of(State::Draining) } else { ready }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
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

    fn service(local_only: bool) -> ServiceFacts {
        ServiceFacts {
            name: nestling_crds::names::TenantName::new("a", "s"),
            cluster_ips: vec![],
            ports: vec![],
            local_only,
            affinity: None,
            is_proxied: true,
        }
    }

    fn port(protocol: Protocol) -> PortFacts {
        PortFacts { name: String::new(), protocol, port: 80 }
    }

    /// `R` ready, `D` draining, `S` serving only, `U` unusable; then the node; then `@node` and `%zone` hints.
    fn endpoint(index: usize, text: &str) -> EndpointFacts {
        let mut words = text.split(' ');
        let state = match words.next().unwrap() {
            "R" => State::Ready,
            "D" => State::Draining,
            "S" => State::Serving,
            _ => State::Unusable,
        };
        let node = words.next().unwrap().to_owned();
        let hints = |mark: char| text.split(' ').filter_map(|word| word.strip_prefix(mark)).map(str::to_owned).collect();
        EndpointFacts {
            address: IpAddr::from([10, 0, 0, u8::try_from(index).unwrap() + 1]),
            node: Some(node),
            state,
            node_hints: hints('@'),
            zone_hints: hints('%'),
        }
    }

    fn slice_of(endpoints: &[&str], protocol: Protocol) -> SliceFacts {
        SliceFacts {
            service: "s".into(),
            ports: vec![SlicePort { name: String::new(), protocol, number: 8080 }],
            endpoints: endpoints.iter().enumerate().map(|(i, text)| endpoint(i, text)).collect(),
        }
    }

    fn place() -> Place {
        Place { node: "here".into(), zone: Some("z1".into()) }
    }

    /// Chosen endpoints by index, or the word for none.
    fn outcome(local_only: bool, endpoints: &[&str]) -> String {
        let slices = [slice_of(endpoints, Protocol::Tcp)];
        match target(&service(local_only), &port(Protocol::Tcp), true, slices.iter(), &place()).backend {
            Backend::Endpoints { endpoints, .. } => endpoints
                .iter()
                .map(|a| match a.ip() {
                    IpAddr::V4(v4) => (v4.octets()[3] - 1).to_string(),
                    IpAddr::V6(_) => unreachable!(),
                })
                .collect::<Vec<_>>()
                .join(","),
            Backend::Reject => "reject".into(),
            Backend::Drop => "drop".into(),
        }
    }

    #[rstest]
    #[case::all_ready(&["R here", "R far"], "0,1")]
    #[case::only_ready(&["R here", "D far", "S far", "U far"], "0")]
    #[case::draining_when_none_is_ready(&["D here", "U far", "D far"], "0,2")]
    #[case::none(&[], "reject")]
    #[case::serving_is_not_enough(&["S here", "U far"], "reject")]
    #[case::zone_hints(&["R here %z1", "R far %z2", "R far %z1"], "0,2")]
    #[case::incomplete_zone_hints(&["R here %z1", "R far"], "0,1")]
    #[case::no_hint_for_here(&["R here %z2", "R far %z3"], "0,1")]
    #[case::node_hints_come_first(&["R here @here %z1", "R far @far %z1"], "0")]
    #[case::node_hints_for_others_fall_to_zones(&["R far @far %z1", "R far @other %z2"], "0")]
    #[case::only_ready_ones_need_hints(&["R here %z1", "D far", "R far %z2"], "0")]
    #[case::hints_of_draining_ones_do_not_count(&["D here %z1", "D far %z2"], "0,1")]
    fn cluster(#[case] endpoints: &[&str], #[case] expected: &str) {
        assert_eq!(outcome(false, endpoints), expected);
    }

    #[rstest]
    #[case::local(&["R here", "R far"], "0")]
    #[case::local_draining(&["D here", "R far"], "0")]
    #[case::elsewhere(&["R far"], "drop")]
    #[case::draining_elsewhere(&["D far", "U here"], "drop")]
    #[case::nowhere(&["U here"], "reject")]
    #[case::hints_are_not_followed(&["R here %z2", "R here %z1"], "0,1")]
    fn local(#[case] endpoints: &[&str], #[case] expected: &str) {
        assert_eq!(outcome(true, endpoints), expected);
    }

    #[test]
    fn an_endpoint_in_two_slices_counts_once_in_its_better_state() {
        let slices = [slice_of(&["U here"], Protocol::Tcp), slice_of(&["R here"], Protocol::Tcp)];
        for order in [[0, 1], [1, 0]] {
            let target = target(&service(false), &port(Protocol::Tcp), true, order.iter().map(|i| &slices[*i]), &place());
            assert!(matches!(target.backend, Backend::Endpoints { endpoints, .. } if endpoints.len() == 1));
        }
    }

    #[test]
    fn ports_match_by_name_and_protocol() {
        let mut slices = [slice_of(&["R here"], Protocol::Udp)];
        assert_eq!(target(&service(false), &port(Protocol::Tcp), true, slices.iter(), &place()).backend, Backend::Reject);
        slices[0].ports[0].name = "other".into();
        assert_eq!(target(&service(false), &port(Protocol::Udp), true, slices.iter(), &place()).backend, Backend::Reject);
    }

    #[test]
    fn udp_flows_may_stay_with_every_serving_endpoint() {
        let slices = [slice_of(&["R here", "D here", "S here", "U here"], Protocol::Udp)];
        let target = target(&service(false), &port(Protocol::Udp), true, slices.iter(), &place());
        assert_eq!(target.serving.len(), 3);
    }

    proptest! {
        #[test]
        fn what_is_chosen_can_serve(
            local_only: bool,
            endpoints in proptest::collection::vec("[RDSU] (here|far)( @here| @far)?( %z1| %z2)?", 0..8),
        ) {
            let texts: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            let outcome = outcome(local_only, &texts);
            let count = |state: char| texts.iter().filter(|t| t.starts_with(state)).count();
            match outcome.as_str() {
                "reject" => prop_assert_eq!(count('R') + count('D'), 0),
                "drop" => prop_assert!(local_only && count('R') + count('D') > 0),
                chosen => {
                    let states: BTreeSet<char> = chosen.split(',').map(|i| texts[i.parse::<usize>().unwrap()].chars().next().unwrap()).collect();
                    prop_assert!(states == ['R'].into() || states == ['D'].into());
                    prop_assert!(!local_only || chosen.split(',').all(|i| texts[i.parse::<usize>().unwrap()].contains(" here")));
                    prop_assert!(local_only || count('R') == 0 || states == ['R'].into());
                }
            }
        }
    }
}
