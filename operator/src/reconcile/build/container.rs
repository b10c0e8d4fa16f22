//! What all containers share: hardening, command lines, environment, probes, resources.

use crate::model::Flag;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Probe, ResourceRequirements,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nestling_crds::quantity::whole;
use std::collections::BTreeMap;

/// A hardened container. Its program is named, not left to the image: images differ in their entry points.
pub(super) fn container(name: &str, image: &str, command: &[&str], args: Vec<String>) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        args: Some(args),
        security_context: Some(hardened()),
        // The last words of a program that died are what a person needs to see.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// How far the heap of a Go program may grow beyond what is live before it is collected, percent. Go's own value is 100: half of
/// an idle tenant's memory would be garbage. docs/benchmarks.md has the memory and CPU of an idle tenant with it.
const GOGC: &str = "50";

/// Settings of the Go runtime for a program with these resources. Near its limit, if it has one, it collects more often, before
/// the kernel ends it.
pub(super) fn go_env(resources: &ResourceRequirements) -> Vec<EnvVar> {
    let variable = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() };
    let limit = resources.limits.as_ref().and_then(|limits| limits.get("memory")).and_then(whole);
    let mut env = vec![variable("GOGC", GOGC.to_owned())];
    env.extend(limit.map(|bytes| variable("GOMEMLIMIT", (bytes / 10 * 9).to_string())));
    env
}

/// `$(NAME)` in arguments, from a field of the pod.
pub(super) fn field_env(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, protocol: Some("TCP".to_owned()), ..ContainerPort::default() }
}

/// An HTTP probe; seconds.
pub struct Http<'a> {
    pub scheme: &'a str,
    pub port: i32,
    pub path: &'a str,
    pub period: i32,
    pub timeout: i32,
    pub failures: i32,
    pub initial_delay: i32,
}

impl From<Http<'_>> for Probe {
    fn from(http: Http<'_>) -> Self {
        Self {
            http_get: Some(HTTPGetAction {
                scheme: Some(http.scheme.to_owned()),
                port: IntOrString::Int(http.port),
                path: Some(http.path.to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(http.period),
            timeout_seconds: Some(http.timeout),
            failure_threshold: Some(http.failures),
            initial_delay_seconds: (http.initial_delay > 0).then_some(http.initial_delay),
            ..Self::default()
        }
    }
}

/// What the user asked for, else modest requests and no limits: a CPU limit would slow every start, a memory limit would
/// end an apiserver in the middle of its tenant's growth.
pub(super) fn resources(asked: Option<&ResourceRequirements>, cpu: &str, memory: &str) -> ResourceRequirements {
    asked.cloned().unwrap_or_else(|| ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned())), ("memory".to_owned(), Quantity(memory.to_owned()))])),
        ..ResourceRequirements::default()
    })
}

/// Flags of a program in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags {
    /// Each once, in the order of their names.
    own: BTreeMap<String, String>,
    /// As the user gives them: a program may take one several times, and their order may matter.
    extra: Vec<Flag>,
}

impl Flags {
    pub(super) fn new<const N: usize>(flags: [(&str, String); N]) -> Self {
        Self { own: flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), extra: Vec::new() }
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.own.insert(name.to_owned(), value.into());
    }

    /// `--feature-gates`, if the user sets any.
    pub(super) fn gates(mut self, gates: &BTreeMap<String, bool>) -> Self {
        if !gates.is_empty() {
            self.set("feature-gates", gates.iter().map(|(gate, on)| format!("{gate}={on}")).collect::<Vec<_>>().join(","));
        }
        self
    }

    /// With the user's own flags. They replace presets of ours and nothing else: validation has refused those that we manage.
    pub(super) fn with(mut self, extra: &[Flag]) -> Self {
        self.own.retain(|name, _| extra.iter().all(|flag| flag.name != *name));
        self.extra.extend_from_slice(extra);
        self
    }

    pub(super) fn into_args(self) -> Vec<String> {
        let extra = self.extra.into_iter().map(|Flag { name, value }| (name, value));
        self.own.into_iter().chain(extra).map(|(name, value)| format!("--{name}={value}")).collect()
    }
}

/// A file in a directory of the container.
pub(super) fn file(directory: &str, name: impl AsRef<str>) -> String {
    format!("{directory}/{}", name.as_ref())
}

/// Pod Security Standard `restricted`.
fn hardened() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Upstream's kube-apiserver binary carries the file capability `cap_net_bind_service=+ep`. The kernel refuses to execute
/// it (EPERM) when that capability is not in the bounding set, so it is left there; `restricted` allows it, and without
/// privilege escalation the program does not gain it.
pub(super) fn hardened_with_bind_service() -> SecurityContext {
    SecurityContext {
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: Some(vec!["NET_BIND_SERVICE".to_owned()]) }),
        ..hardened()
    }
}
