//! Condition `Exposed`: whether clients reach the tenant's API where the spec says.

use crate::conditions::ConditionState;
use crate::model::ExposeSettings;
use k8s_openapi::api::core::v1::Service;
use nestling_crds::v1alpha1::ExposeType;

/// `live` is the Service in front of the API.
pub(super) fn exposed(expose: &ExposeSettings, live: &Service) -> ConditionState {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    match expose.type_ {
        ExposeType::ClusterIP | ExposeType::Gateway => ConditionState::yes("ClusterIP", "reached from inside the host cluster"),
        ExposeType::NodePort => node_port(expose, live, name),
        ExposeType::LoadBalancer => {
            let balancer = live.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first());
            match balancer.and_then(|ingress| ingress.ip.as_ref().or(ingress.hostname.as_ref())) {
                Some(address) => ConditionState::yes("LoadBalancer", format!("the load balancer has the address {address}")),
                None => ConditionState::no(
                    "LoadBalancerPending",
                    format!(
                        "Service {name} has no address of a load balancer yet; see its events, and whether the host has load balancers"
                    ),
                ),
            }
        }
    }
}

/// The spec names the node's address: of those that the host's nodes have, only the user knows which one clients reach.
fn node_port(expose: &ExposeSettings, live: &Service, name: &str) -> ConditionState {
    let host = expose.hostname.as_deref().unwrap_or_default();
    match live.spec.as_ref().and_then(|spec| spec.ports.iter().flatten().find_map(|port| port.node_port)) {
        None => ConditionState::no("NodePortPending", format!("Service {name} has no node port yet")),
        Some(port) => ConditionState::yes("NodePort", format!("reached at {host}:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::validate::testing::cluster;
    use rstest::rstest;
    use serde_json::{Value, json};

    #[rstest]
    #[case(json!({}), json!({}), Some("ClusterIP"))]
    #[case(json!({"type": "LoadBalancer"}), json!({"status": {"loadBalancer": {}}}), None)]
    #[case(json!({"type": "LoadBalancer"}), json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}}), Some("LoadBalancer"))]
    #[case(json!({"type": "LoadBalancer"}), json!({"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}}), Some("LoadBalancer"))]
    #[case(json!({"type": "NodePort", "hostname": "api.example.com"}), json!({"spec": {"ports": [{"port": 443}]}}), None)]
    #[case(json!({"type": "NodePort", "hostname": "api.example.com"}), json!({"spec": {"ports": [{"port": 443, "nodePort": 30443}]}}), Some("NodePort"))]
    fn clients_reach_the_api_or_the_reason_says_what_is_missing(#[case] expose: Value, #[case] live: Value, #[case] yes: Option<&str>) {
        let live: Service = serde_json::from_value(live).unwrap();
        let state = exposed(&cluster(&json!({"expose": expose})).expose, &live);
        assert_eq!(state.is_true().then_some(state.reason.as_str()), yes, "{state:?}");
        assert!(yes.is_some() || !state.message.is_empty());
    }
}
