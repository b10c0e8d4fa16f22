//! The host nodes that serve a tenant, and what the tenant sees of them.

use super::{Raw, rules};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Which host nodes serve the tenant, and how much of them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Nodes {
    /// Host nodes that serve the tenant, e.g. `{matchLabels: {pool: tenants}}`. Default: all.
    pub selector: NodeSelector,
    /// Labels of the tenant's Nodes, e.g. `{team: a}`. Default: none beside those of every Node.
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = rules::bounded(63), "x-kubernetes-validations" = rules::node_labels()))]
    pub labels: BTreeMap<String, String>,
    /// What the tenant sees of each node at most, e.g. `{cpu: "4", memory: 8Gi}`. Default: all of it.
    #[schemars(extend("maxProperties" = 32))]
    pub capacity: BTreeMap<String, Quantity>,
    /// Pod manifests that every node of the tenant runs. Not supported yet.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::static_pods()))]
    pub static_pods: Vec<Raw>,
}

/// A label selector of host nodes; all requirements must hold.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct NodeSelector {
    /// Labels that a node must have, e.g. `{pool: tenants}`. Default: none.
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements, e.g. `[{key: pool, operator: NotIn, values: [control]}]`. Default: none.
    #[schemars(length(max = 32), extend("x-kubernetes-validations" = rules::match_expressions()))]
    pub match_expressions: Vec<NodeRequirement>,
    /// Labels without `matchLabels` above them, the former shape. Kept rather than pruned, so that the operator can refuse them:
    /// a selector that silently became empty would select all nodes.
    #[serde(flatten)]
    #[schemars(skip)]
    pub former: BTreeMap<String, Value>,
}

/// A requirement on a label of a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeRequirement {
    /// The label's key, e.g. `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label relates to the values.
    pub operator: NodeOperator,
    /// Values for `In` and `NotIn`, e.g. `[a, b]`. Default: none.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label relates to values.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeOperator {
    /// It has one of them.
    In,
    /// It has none of them, or the label is missing.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

impl NodeSelector {
    /// Whether a node with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let Self { match_labels, match_expressions, former } = self;
        match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && match_expressions.iter().all(|requirement| requirement.matches(labels))
            && former.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty() && self.former.is_empty()
    }
}

impl NodeRequirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        let listed = label.is_some_and(|label| self.values.contains(label));
        match self.operator {
            NodeOperator::In => listed,
            NodeOperator::NotIn => !listed,
            NodeOperator::Exists => label.is_some(),
            NodeOperator::DoesNotExist => label.is_none(),
        }
    }
}

/// As kubectl writes selectors: `pool=a,zone in (x,y),!spot`.
impl fmt::Display for NodeSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let requirements = self.match_expressions.iter().map(|NodeRequirement { key, operator, values }| match operator {
            NodeOperator::In => format!("{key} in ({})", values.join(",")),
            NodeOperator::NotIn => format!("{key} notin ({})", values.join(",")),
            NodeOperator::Exists => key.clone(),
            NodeOperator::DoesNotExist => format!("!{key}"),
        });
        f.write_str(&labels.chain(requirements).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({}), true, "")]
    #[case(json!({"matchLabels": {"pool": "a"}}), true, "pool=a")]
    #[case(json!({"matchLabels": {"pool": "b"}}), false, "pool=b")]
    #[case(json!({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["a", "b"]}]}), true, "pool in (a,b)")]
    #[case(json!({"matchExpressions": [{"key": "pool", "operator": "NotIn", "values": ["a"]}]}), false, "pool notin (a)")]
    #[case(json!({"matchExpressions": [{"key": "spot", "operator": "NotIn", "values": ["true"]}]}), true, "spot notin (true)")]
    #[case(json!({"matchExpressions": [{"key": "spot", "operator": "Exists"}]}), false, "spot")]
    #[case(json!({"matchLabels": {"pool": "a"}, "matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}), true, "pool=a,!spot")]
    #[case(json!({"pool": "b"}), false, "")]
    fn selectors_select_as_those_of_kubernetes(#[case] selector: Value, #[case] matches: bool, #[case] shown: &str) {
        let selector: NodeSelector = serde_json::from_value(selector).unwrap();
        assert_eq!(selector.matches(&BTreeMap::from([("pool".to_owned(), "a".to_owned())])), matches);
        assert_eq!(selector.to_string(), shown);
    }
}
