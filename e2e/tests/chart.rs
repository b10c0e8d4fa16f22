//! What the rendered chart grants, and what restricts it. `make lint-chart` renders the chart and runs these tests.

#![allow(clippy::unwrap_used, clippy::panic)] // the whole file is a test

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The objects of the chart with its default values.
fn objects() -> Vec<Value> {
    let folder = std::env::var_os("NESTLING_RENDERED").map_or_else(|| panic!("NESTLING_RENDERED is not set"), PathBuf::from);
    let text = std::fs::read_to_string(folder.join("values.yaml")).unwrap();
    let documents = text.split("\n---\n").filter(|document| document.lines().any(|line| line.starts_with("kind:")));
    documents.map(|document| serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}:\n{document}"))).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

struct Right<'a> {
    /// `*` for all namespaces.
    namespace: &'a str,
    verbs: Vec<&'a str>,
    group: &'a str,
    resource: &'a str,
    names: Vec<&'a str>,
}

/// Rights of the role `kind` `name`, as bound in `namespace`.
fn rights_in<'a>(objects: &'a [Value], kind: &'a str, name: &str, namespace: &'a str) -> Vec<Right<'a>> {
    let role = of_kind(objects, kind).find(|role| role["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {kind} {name}"));
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                rights.push(Right { namespace, verbs: texts(&rule["verbs"]), group, resource, names: texts(&rule["resourceNames"]) });
            }
        }
    }
    rights
}

/// What the chart itself binds to a service account.
fn rights<'a>(objects: &'a [Value], account: &str) -> Vec<Right<'a>> {
    let mut rights = Vec::new();
    for (kind, namespace) in [("ClusterRoleBinding", "*"), ("RoleBinding", "nestling-system")] {
        for binding in of_kind(objects, kind) {
            if binding["subjects"].as_array().unwrap().iter().any(|subject| subject["name"] == account) {
                let role = &binding["roleRef"];
                rights.extend(rights_in(objects, role["kind"].as_str().unwrap(), role["name"].as_str().unwrap(), namespace));
            }
        }
    }
    rights
}

fn shown(rights: &[Right<'_>]) -> Vec<String> {
    let one = |right: &Right<'_>| {
        let names = if right.names.is_empty() { String::new() } else { format!(" [{}]", right.names.join(",")) };
        let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
        format!("{} {}{group}{names} {}", right.namespace, right.resource, right.verbs.join(","))
    };
    let mut shown: Vec<String> = rights.iter().map(one).collect();
    shown.sort();
    shown
}

/// Operation, group and resource of what is checked when `account` writes it.
fn checked<'a>(objects: &'a [Value], account: &str) -> BTreeSet<(&'a str, &'a str, &'a str)> {
    let condition = format!("request.userInfo.username == 'system:serviceaccount:nestling-system:{account}'");
    let mut checked = BTreeSet::new();
    for policy in of_kind(objects, "ValidatingAdmissionPolicy") {
        let conditions: Vec<&Value> = policy["spec"]["matchConditions"].as_array().into_iter().flatten().collect();
        if conditions.len() != 1 || conditions[0]["expression"] != condition.as_str() {
            continue;
        }
        for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().unwrap() {
            for operation in texts(&rule["operations"]) {
                for resource in texts(&rule["resources"]) {
                    checked.insert((operation, texts(&rule["apiGroups"])[0], resource));
                }
            }
        }
    }
    checked
}

/// Not stored, or of no harm to others: what a right to write these gives cannot be restricted further.
const UNCHECKED: [(&str, &str); 4] = [
    ("events.k8s.io", "events"),
    ("nestling.dev", "virtualclusters/status"),
    ("nestling.dev", "virtualclusters/finalizers"),
    // Verb `bind`, with names.
    ("rbac.authorization.k8s.io", "clusterroles"),
];

#[test]
#[ignore = "needs the rendered chart: make lint-chart"]
fn whatever_the_operator_may_write_is_checked_at_admission() {
    let objects = objects();
    let checked = checked(&objects, "nestling-operator");
    let mut unchecked = Vec::new();
    let mut rights = rights(&objects, "nestling-operator");
    for role in ["nestling-operator-cluster", "nestling-operator-workload"] {
        rights.extend(rights_in(&objects, "ClusterRole", role, "bound by the operator"));
    }
    for Right { verbs, group, resource, .. } in rights {
        if UNCHECKED.contains(&(group, resource)) {
            continue;
        }
        let operations = verbs.iter().flat_map(|verb| match *verb {
            "get" | "list" | "watch" => [].as_slice(),
            "create" => ["CREATE"].as_slice(),
            // Server-side apply creates too, but only with the verb `create`.
            "update" | "patch" => ["UPDATE"].as_slice(),
            "delete" => ["DELETE"].as_slice(),
            other => panic!("{other} {resource}"),
        });
        unchecked.extend(
            operations.filter(|operation| !checked.contains(&(**operation, group, resource))).map(|operation| (operation, resource)),
        );
    }
    assert!(unchecked.is_empty(), "no policy checks {unchecked:?}");
}

/// A policy that reports only, or gives way when it cannot be evaluated, restricts nothing.
#[test]
#[ignore = "needs the rendered chart: make lint-chart"]
fn every_policy_denies() {
    let objects = objects();
    let denied: BTreeSet<&str> = of_kind(&objects, "ValidatingAdmissionPolicyBinding")
        .filter(|binding| texts(&binding["spec"]["validationActions"]).contains(&"Deny"))
        // The rights in workload namespaces are others, so that one policy does not concern them.
        .filter(|binding| binding["spec"]["matchResources"].is_null() || binding["metadata"]["name"] == "namespace-needs-a-virtualcluster")
        .map(|binding| binding["spec"]["policyName"].as_str().unwrap())
        .collect();
    let policies: BTreeSet<&str> = of_kind(&objects, "ValidatingAdmissionPolicy")
        .inspect(|policy| assert_eq!(policy["spec"]["failurePolicy"], "Fail", "{policy}"))
        .map(|policy| policy["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(policies, denied);
    assert!(policies.contains("nestling-operator") && policies.contains("nestling-agent"));
}

/// The complete list: a right that is added must be added here too, where a reviewer sees it.
#[test]
#[ignore = "needs the rendered chart: make lint-chart"]
fn the_operators_rights_are_these() {
    let objects = objects();
    let expected = [
        "* clusterroles.rbac.authorization.k8s.io [nestling-operator-cluster,nestling-operator-workload,nestling-agent-workload] bind",
        "* configmaps get,list,watch",
        "* deployments.apps get,list,watch",
        "* events.events.k8s.io create,patch",
        "* namespaces get,list,watch,create,patch,delete",
        "* networkpolicies.networking.k8s.io get,list,watch",
        "* nodes get,list,watch",
        "* persistentvolumeclaims get,list,watch",
        "* poddisruptionbudgets.policy get,list,watch",
        "* pods get,list,watch",
        "* resourcequotas get,list,watch",
        "* rolebindings.rbac.authorization.k8s.io get,list,watch,create,patch,delete",
        "* roles.rbac.authorization.k8s.io get,list,watch",
        "* serviceaccounts get,list,watch",
        "* servicecidrs.networking.k8s.io get,list,watch",
        "* services get,list,watch",
        "* statefulsets.apps get,list,watch",
        "* virtualclusters.nestling.dev get,list,watch,patch",
        "* virtualclusters/finalizers.nestling.dev update",
        "* virtualclusters/status.nestling.dev patch",
        "nestling-system configmaps [nestling-installation-ca] patch",
        "nestling-system configmaps create",
        "nestling-system leases.coordination.k8s.io [nestling-operator] get,update",
        "nestling-system leases.coordination.k8s.io create",
        "nestling-system secrets [nestling-installation-ca] get",
        "nestling-system secrets create",
    ];
    assert_eq!(shown(&rights(&objects, "nestling-operator")), expected);
    let expected = [
        "with-cluster configmaps create,patch",
        "with-cluster deployments.apps create,patch,delete",
        "with-cluster networkpolicies.networking.k8s.io create,patch,delete",
        "with-cluster persistentvolumeclaims create,patch,delete",
        "with-cluster poddisruptionbudgets.policy create,patch,delete",
        "with-cluster pods patch,delete",
        "with-cluster roles.rbac.authorization.k8s.io create,patch",
        "with-cluster secrets get,list,watch,create,patch",
        "with-cluster serviceaccounts create,patch",
        "with-cluster services create,patch,delete",
        "with-cluster statefulsets.apps create,patch",
    ];
    assert_eq!(shown(&rights_in(&objects, "ClusterRole", "nestling-operator-cluster", "with-cluster")), expected);
    let expected = ["workload networkpolicies.networking.k8s.io create,patch,delete", "workload resourcequotas create,patch,delete"];
    assert_eq!(shown(&rights_in(&objects, "ClusterRole", "nestling-operator-workload", "workload")), expected);
}

/// Agents and tenants' controllers reach it: it writes nothing, and the only Secret that it may read without a cluster is the
/// installation's own.
#[test]
#[ignore = "needs the rendered chart: make lint-chart"]
fn the_control_apis_rights_are_these() {
    let expected = [
        "* nodes list,watch",
        "* serviceaccounts list,watch",
        "* services list,watch",
        "* statefulsets.apps list,watch",
        // Stores nothing.
        "* tokenreviews.authentication.k8s.io create",
        "* virtualclusters.nestling.dev list,watch",
        "nestling-system secrets [nestling-installation-ca] get",
    ];
    assert_eq!(shown(&rights(&objects(), "nestling-control-api")), expected);
}

/// The two programs of the operator's image share neither a service account nor a Service.
#[test]
#[ignore = "needs the rendered chart: make lint-chart"]
fn the_control_api_runs_apart_from_the_operator() {
    let objects = objects();
    for (name, program) in [("nestling-operator", "operator"), ("nestling-control-api", "control-api")] {
        let deployment = of_kind(&objects, "Deployment").find(|object| object["metadata"]["name"] == name).unwrap();
        let pod = &deployment["spec"]["template"];
        assert_eq!((&pod["spec"]["serviceAccountName"], texts(&pod["spec"]["containers"][0]["args"])), (&Value::from(name), vec![program]));
        for kind in ["Service", "NetworkPolicy", "PodDisruptionBudget"] {
            let object =
                of_kind(&objects, kind).find(|object| object["metadata"]["name"] == name).unwrap_or_else(|| panic!("no {kind} {name}"));
            let spec = &object["spec"];
            let selector = [&spec["selector"]["matchLabels"], &spec["podSelector"]["matchLabels"], &spec["selector"]];
            let selector = selector.into_iter().find(|selector| !selector.is_null()).unwrap();
            for (label, value) in selector.as_object().unwrap() {
                assert_eq!(&pod["metadata"]["labels"][label], value, "{kind} {name}");
            }
            assert_eq!(selector["app.kubernetes.io/component"], program);
        }
    }
    let port = |service: &str| {
        let service = of_kind(&objects, "Service").find(|object| object["metadata"]["name"] == service).unwrap();
        service["spec"]["ports"].as_array().unwrap().iter().any(|port| port["port"] == CONTROL_PORT)
    };
    assert!(port("nestling-control-api") && !port("nestling-operator"));
}

const CONTROL_PORT: u16 = 8443;
