//! Which function of the kubelet API a request asks for, and what it must be allowed to do. Pure.

use http::Method;

/// A pod as a path names it. `uid` is there in the long form of the path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPath {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

/// A container as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPath {
    pub pod: PodPath,
    pub container: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Pods,
    RunningPods,
    StatsSummary,
    ResourceMetrics,
    ContainerLogs(ContainerPath),
    Exec(ContainerPath),
    Attach(ContainerPath),
    Run(ContainerPath),
    PortForward(PodPath),
    /// A kubelet's view of its own machine, which is not one tenant's to see.
    Host,
    Unknown,
    /// A known path that does not take the method. Holds the methods it takes, as `Allow` lists them.
    MethodNotAllowed(&'static str),
}

impl Route {
    pub fn of(method: &Method, path: &str) -> Self {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let known = match segments.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Self::Healthz,
            ["pods"] | ["pods", ""] => Self::Pods,
            ["runningpods"] | ["runningpods", ""] => Self::RunningPods,
            ["stats", "summary"] => Self::StatsSummary,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["containerLogs", rest @ ..] => short_container(rest).map_or(Self::Unknown, Self::ContainerLogs),
            ["exec", rest @ ..] => container(rest).map_or(Self::Unknown, Self::Exec),
            ["attach", rest @ ..] => container(rest).map_or(Self::Unknown, Self::Attach),
            ["run", rest @ ..] => container(rest).map_or(Self::Unknown, Self::Run),
            ["portForward", rest @ ..] => pod(rest).map_or(Self::Unknown, Self::PortForward),
            ["logs" | "configz" | "flagz" | "statusz" | "debug" | "checkpoint" | "metrics" | "stats" | "allocatedPods", ..] => Self::Host,
            _ => Self::Unknown,
        };
        match known.methods() {
            Some(allowed) if !allowed.split(", ").any(|allowed| allowed == method.as_str()) => Self::MethodNotAllowed(allowed),
            _ => known,
        }
    }

    /// The methods that the path takes; none said for paths that are refused anyway.
    fn methods(&self) -> Option<&'static str> {
        match self {
            Self::Exec(_) | Self::Attach(_) | Self::PortForward(_) => Some("GET, POST"),
            Self::Run(_) => Some("POST"),
            Self::Host | Self::Unknown | Self::MethodNotAllowed(_) => None,
            _ => Some("GET"),
        }
    }

    /// The name of the route in logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Pods => "pods",
            Self::RunningPods => "runningpods",
            Self::StatsSummary => "stats/summary",
            Self::ResourceMetrics => "metrics/resource",
            Self::ContainerLogs(_) => "containerLogs",
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Run(_) => "run",
            Self::PortForward(_) => "portForward",
            Self::Host => "host",
            Self::Unknown | Self::MethodNotAllowed(_) => "other",
        }
    }
}

fn pod(segments: &[&str]) -> Option<PodPath> {
    let (namespace, name, uid) = match segments {
        [namespace, name] => (namespace, name, None),
        [namespace, name, uid] => (namespace, name, Some(uid)),
        _ => return None,
    };
    let filled = !namespace.is_empty() && !name.is_empty() && uid.is_none_or(|uid| !uid.is_empty());
    filled.then(|| PodPath { namespace: (*namespace).into(), name: (*name).into(), uid: uid.map(|uid| (*uid).into()) })
}

fn container(segments: &[&str]) -> Option<ContainerPath> {
    let (container, pod_segments) = segments.split_last()?;
    (!container.is_empty()).then_some(())?;
    Some(ContainerPath { pod: pod(pod_segments)?, container: (*container).into() })
}

/// Logs have no form with a UID.
fn short_container(segments: &[&str]) -> Option<ContainerPath> {
    (segments.len() == 3).then(|| container(segments)).flatten()
}

/// What a request must be allowed to do to the `nodes` object: any of the subresources suffices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub verb: &'static str,
    /// In the order that they are tried.
    pub subresources: Vec<&'static str>,
}

impl Access {
    /// The kubelet's own rules (`KubeletFineGrainedAuthz` on), but stricter in one: running something in a pod is always
    /// `create`. A WebSocket upgrade is a GET, so a kubelet lets a holder of `get nodes/proxy` run commands.
    pub fn needed(method: &Method, path: &str) -> Option<Self> {
        let under = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let runs = ["/exec", "/attach", "/run", "/portForward"].into_iter().any(under);
        let verb = match *method {
            Method::GET if runs => "create",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return None,
        };
        let subresources = if under("/stats") {
            vec!["stats"]
        } else if under("/metrics") {
            vec!["metrics"]
        } else if under("/logs") {
            vec!["log"]
        } else if under("/checkpoint") {
            vec!["checkpoint"]
        } else if under("/statusz") {
            vec!["statusz"]
        } else if under("/flagz") {
            vec!["configz"]
        } else if under("/pods") || under("/runningpods") || under("/allocatedPods") {
            vec!["pods", "proxy"]
        } else if under("/healthz") {
            vec!["healthz", "proxy"]
        } else if under("/configz") {
            vec!["configz", "proxy"]
        } else {
            vec!["proxy"]
        };
        Some(Self { verb, subresources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn container_path(uid: Option<&str>) -> ContainerPath {
        let pod = PodPath { namespace: "ns".into(), name: "p".into(), uid: uid.map(Into::into) };
        ContainerPath { pod, container: "c".into() }
    }

    #[rstest]
    #[case("GET", "/healthz", Route::Healthz)]
    #[case("GET", "/pods", Route::Pods)]
    #[case("GET", "/pods/", Route::Pods)]
    #[case("POST", "/pods", Route::MethodNotAllowed("GET"))]
    #[case("GET", "/runningpods/", Route::RunningPods)]
    #[case("GET", "/containerLogs/ns/p/c", Route::ContainerLogs(container_path(None)))]
    #[case("GET", "/containerLogs/ns/p/u/c", Route::Unknown)]
    #[case("GET", "/containerLogs/ns//c", Route::Unknown)]
    #[case("POST", "/containerLogs/ns/p/c", Route::MethodNotAllowed("GET"))]
    #[case("POST", "/exec/ns/p/c", Route::Exec(container_path(None)))]
    #[case("GET", "/exec/ns/p/u/c", Route::Exec(container_path(Some("u"))))]
    #[case("PUT", "/exec/ns/p/c", Route::MethodNotAllowed("GET, POST"))]
    #[case("POST", "/attach/ns/p/c", Route::Attach(container_path(None)))]
    #[case("POST", "/run/ns/p/u/c", Route::Run(container_path(Some("u"))))]
    #[case("GET", "/run/ns/p/c", Route::MethodNotAllowed("POST"))]
    #[case("POST", "/portForward/ns/p", Route::PortForward(container_path(None).pod))]
    #[case("POST", "/portForward/ns/p/u", Route::PortForward(container_path(Some("u")).pod))]
    #[case("POST", "/portForward/ns", Route::Unknown)]
    #[case("GET", "/stats/summary", Route::StatsSummary)]
    #[case("GET", "/stats/container", Route::Host)]
    #[case("GET", "/metrics/resource", Route::ResourceMetrics)]
    #[case("GET", "/metrics", Route::Host)]
    #[case("GET", "/metrics/cadvisor", Route::Host)]
    #[case("GET", "/logs/syslog", Route::Host)]
    #[case("GET", "/configz", Route::Host)]
    #[case("PUT", "/debug/flags/v", Route::Host)]
    #[case("POST", "/checkpoint/ns/p/c", Route::Host)]
    #[case("GET", "/", Route::Unknown)]
    #[case("GET", "/podsx", Route::Unknown)]
    fn routes(#[case] method: Method, #[case] path: &str, #[case] expected: Route) {
        assert_eq!(Route::of(&method, path), expected);
    }

    #[rstest]
    #[case("GET", "/pods", "get", &["pods", "proxy"])]
    #[case("GET", "/pods/x", "get", &["pods", "proxy"])]
    #[case("GET", "/podsx", "get", &["proxy"])]
    #[case("GET", "/runningpods/", "get", &["pods", "proxy"])]
    #[case("GET", "/healthz/ping", "get", &["healthz", "proxy"])]
    #[case("GET", "/configz", "get", &["configz", "proxy"])]
    #[case("GET", "/stats/summary", "get", &["stats"])]
    #[case("GET", "/metrics/resource", "get", &["metrics"])]
    #[case("GET", "/logs/", "get", &["log"])]
    #[case("POST", "/checkpoint/a/b/c", "create", &["checkpoint"])]
    #[case("GET", "/containerLogs/a/b/c", "get", &["proxy"])]
    #[case("GET", "/exec/a/b/c", "create", &["proxy"])]
    #[case("POST", "/exec/a/b/c", "create", &["proxy"])]
    #[case("GET", "/attach/a/b/c", "create", &["proxy"])]
    #[case("GET", "/portForward/a/b", "create", &["proxy"])]
    #[case("PUT", "/debug/flags/v", "update", &["proxy"])]
    fn access(#[case] method: Method, #[case] path: &str, #[case] verb: &str, #[case] subresources: &[&str]) {
        let access = Access::needed(&method, path).unwrap();
        assert_eq!((access.verb, access.subresources.as_slice()), (verb, subresources));
    }

    #[test]
    fn an_unusual_method_needs_what_nobody_has() {
        assert_eq!(Access::needed(&Method::OPTIONS, "/pods"), None);
    }
}
