//! The tenant's kubeconfig under a name of its own.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Name of context, cluster and user.
pub fn context_name(namespace: &str, name: &str) -> String {
    format!("nestling-{namespace}-{name}")
}

/// The kubeconfig of the Secret with everything named `name`, and with `server` where one is given. Its own context decides
/// which cluster and user are meant.
pub fn kubeconfig(text: &str, name: &str, server: Option<&str>) -> Result<Value> {
    let file: Value = serde_saphyr::from_str(text).context("not YAML")?;
    let current = file["current-context"].as_str().context("no current-context")?;
    let context = find(&file, "contexts", current, "context")?;
    let mut cluster = find(&file, "clusters", context["cluster"].as_str().unwrap_or_default(), "cluster")?.clone();
    let user = find(&file, "users", context["user"].as_str().unwrap_or_default(), "user")?;
    if let Some(server) = server {
        cluster["server"] = json!(server);
    }
    if !cluster["server"].is_string() {
        bail!("no server");
    }
    let mut context = context.clone();
    context["cluster"] = json!(name);
    context["user"] = json!(name);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }))
}

fn find<'a>(file: &'a Value, list: &str, name: &str, key: &str) -> Result<&'a Value> {
    let entries = file[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let entry = entries.iter().find(|entry| entry["name"] == name).with_context(|| format!("no {key} {name:?}"))?;
    Ok(&entry[key])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "
apiVersion: v1
kind: Config
current-context: admin@dev
contexts: [{name: admin@dev, context: {cluster: dev, user: admin, namespace: default}}]
clusters: [{name: dev, cluster: {server: 'https://dev-apiserver.team-a.svc:443', certificate-authority-data: Q0E=}}]
users: [{name: admin, user: {client-certificate-data: Qw==, client-key-data: Sw==}}]
";

    #[test]
    fn everything_gets_the_contexts_name_and_the_server_asked_for() {
        let made = kubeconfig(SECRET, "nestling-team-a-dev", Some("https://198.51.100.1:443")).unwrap();
        insta::assert_snapshot!(crate::kubeconfig::file::render(&made).unwrap(), @r#"
        apiVersion: v1
        clusters:
        - cluster:
            certificate-authority-data: Q0E=
            server: https://198.51.100.1:443
          name: nestling-team-a-dev
        contexts:
        - context:
            cluster: nestling-team-a-dev
            namespace: default
            user: nestling-team-a-dev
          name: nestling-team-a-dev
        current-context: nestling-team-a-dev
        kind: Config
        users:
        - name: nestling-team-a-dev
          user:
            client-certificate-data: Qw==
            client-key-data: Sw==
        "#);
    }

    #[test]
    fn without_an_endpoint_the_secrets_server_stays() {
        let made = kubeconfig(SECRET, "x", None).unwrap();
        assert_eq!(made["clusters"][0]["cluster"]["server"], "https://dev-apiserver.team-a.svc:443");
    }

    #[test]
    fn a_broken_secret_says_what_is_missing() {
        assert_eq!(kubeconfig("current-context: a", "x", None).unwrap_err().to_string(), "no context \"a\"");
        assert_eq!(kubeconfig("{}", "x", None).unwrap_err().to_string(), "no current-context");
    }
}
