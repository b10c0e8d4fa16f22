//! A request to a Kubernetes API, parsed from its path, query and body.

use super::selectors::Selectors;
use kube::client::Body;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use tokio::time::Instant;

/// A request as the API has received it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `apply`, `delete` or `deletecollection`.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    /// Plural, with the subresource if there is one: `pods`, `pods/status`. The path itself for what is no resource.
    pub resource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    pub query: BTreeMap<String, String>,
    /// `null` if there was none.
    pub body: Value,
    /// Media type of the body.
    pub content_type: String,
    /// Whether only the metadata of objects is to be answered.
    pub metadata_only: bool,
    pub at: Instant,
}

impl Request {
    pub(super) async fn parse(request: http::Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap_or_default();
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let place = Place::parse(parts.uri.path());
        let content_type = header("content-type").split(';').next().unwrap_or_default().to_owned();
        let watches = query.get("watch").is_some_and(|watch| matches!(watch.as_str(), "true" | "1"));
        let verb = match (parts.method.as_str(), place.name.is_empty() && !place.resource.starts_with('/')) {
            ("GET", true) if watches => "watch",
            ("GET", true) => "list",
            ("GET", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) if content_type.starts_with("application/apply-patch") => "apply",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "unknown",
        };
        Self {
            verb,
            group: place.group,
            resource: place.resource,
            namespace: place.namespace,
            name: place.name,
            query,
            // Apply patches may be YAML; kube sends JSON, which is YAML.
            body: serde_json::from_slice(&body).unwrap_or_default(),
            content_type,
            metadata_only: header("accept").contains("as=PartialObjectMetadata"),
            at: Instant::now(),
        }
    }

    /// Whether the request may change anything.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    pub(super) fn subresource(&self) -> &str {
        self.resource.split_once('/').map_or("", |(_, subresource)| subresource)
    }

    /// The resource without its subresource.
    pub(super) fn plural(&self) -> &str {
        self.resource.split('/').next().unwrap_or_default()
    }

    pub(super) fn selectors(&self) -> Selectors {
        Selectors::parse(self.param("labelSelector"), self.param("fieldSelector"))
    }

    pub(super) fn param(&self, name: &str) -> &str {
        self.query.get(name).map(String::as_str).unwrap_or_default()
    }
}

/// `patch pods/status shop/web-0`, for assertions and their messages.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => Ok(()),
            ("", name) => write!(f, " {name}"),
            (namespace, "") => write!(f, " {namespace}"),
            (namespace, name) => write!(f, " {namespace}/{name}"),
        }
    }
}

struct Place {
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

impl Place {
    fn parse(path: &str) -> Self {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let (group, rest) = match segments.as_slice() {
            ["api", _version, rest @ ..] => ("", rest),
            ["apis", group, _version, rest @ ..] => (*group, rest),
            _ => ("", &[][..]),
        };
        let (namespace, rest) = match rest {
            // Subresources of a Namespace itself.
            ["namespaces", _, "status" | "finalize"] => ("", rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, name) = match rest {
            [] => (path.to_owned(), ""),
            [resource] => ((*resource).to_owned(), ""),
            [resource, name] => ((*resource).to_owned(), *name),
            [resource, name, subresource @ ..] => (format!("{resource}/{}", subresource.join("/")), *name),
        };
        Self { group: group.into(), resource, namespace: namespace.into(), name: name.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        for (path, expected) in [
            ("/api/v1/namespaces/shop/pods/web-0/status", ["", "pods/status", "shop", "web-0"]),
            ("/api/v1/pods", ["", "pods", "", ""]),
            ("/api/v1/namespaces/shop", ["", "namespaces", "", "shop"]),
            ("/api/v1/namespaces/shop/finalize", ["", "namespaces/finalize", "", "shop"]),
            ("/apis/nestling.dev/v1alpha1/namespaces/a/virtualclusters/b", ["nestling.dev", "virtualclusters", "a", "b"]),
            ("/readyz", ["", "/readyz", "", ""]),
        ] {
            let Place { group, resource, namespace, name } = Place::parse(path);
            assert_eq!([group, resource, namespace, name], expected.map(str::to_owned), "{path}");
        }
    }
}
