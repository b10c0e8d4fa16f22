//! Kubeconfig files: which one to write, merging one into another, replacing a file atomically. Entries and fields that are
//! not the tenant's stay as they are.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
};

/// The file to merge into: the one given, else of those in KUBECONFIG the one that has the context already, else the first that
/// exists, else the last; without KUBECONFIG `~/.kube/config`. This is kubectl's own order.
pub(crate) fn target(given: Option<&Path>, context: &str) -> Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let value = env::var_os("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> = env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()).collect();
    choose(&listed, context, env::home_dir())
}

fn choose(listed: &[PathBuf], context: &str, home: Option<PathBuf>) -> Result<PathBuf> {
    let has_context = |path: &&PathBuf| {
        let file = read(path).unwrap_or_default();
        file["contexts"].as_array().into_iter().flatten().any(|entry| entry["name"] == context)
    };
    let chosen = listed.iter().find(has_context).or_else(|| listed.iter().find(|path| path.exists())).or(listed.last());
    match chosen {
        Some(path) => Ok(path.clone()),
        None => Ok(home.context("neither KUBECONFIG nor HOME is set")?.join(".kube/config")),
    }
}

/// The file's content, null if there is none.
pub(crate) fn read(path: &Path) -> Result<Value> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(Value::Null),
        Ok(text) => serde_saphyr::from_str(&text).with_context(|| format!("{} is not YAML", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// As YAML.
pub(crate) fn render(kubeconfig: &Value) -> Result<String> {
    serde_saphyr::to_string(kubeconfig).context("cannot write the kubeconfig as YAML")
}

/// Replaces the file at once, readable by its owner only: it holds keys. A link stays a link.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let name = path.file_name().with_context(|| format!("{} is not a file", path.display()))?;
    let scratch = folder.join(format!(".{}.{}", name.to_string_lossy(), process::id()));
    let written = write_new(&scratch, text).and_then(|()| fs::rename(&scratch, &path));
    if written.is_err() {
        // The first error is reported; a scratch file left behind does less harm.
        drop(fs::remove_file(&scratch));
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// `into` with the entries of `tenant` added, or replaced where the names are equal. The current context stays: commands for
/// the host keep working. A file that names none gets the tenant's.
pub(crate) fn merge(mut into: Value, tenant: &Value) -> Result<Value> {
    if into.is_null() {
        into = json!({"apiVersion": "v1", "kind": "Config"});
    }
    let Some(file) = into.as_object_mut() else { bail!("it is not a kubeconfig") };
    for list in ["clusters", "users", "contexts"] {
        let entries = file.entry(list).or_insert_with(|| json!([]));
        if entries.is_null() {
            *entries = json!([]);
        }
        let Some(entries) = entries.as_array_mut() else { bail!("{list} is not a list") };
        for new in tenant[list].as_array().into_iter().flatten() {
            match entries.iter_mut().find(|entry| entry["name"] == new["name"]) {
                Some(entry) => entry.clone_from(new),
                None => entries.push(new.clone()),
            }
        }
    }
    if file.get("current-context").and_then(Value::as_str).unwrap_or_default().is_empty() {
        file.insert("current-context".to_owned(), tenant["current-context"].clone());
    }
    Ok(into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_replaced_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config");
        replace(&path, "a: 1\n").unwrap();
        replace(&path, "a: 2\n").unwrap();
        assert_eq!(read(&path).unwrap(), json!({"a": 2}));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "a: 1\n").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "a: 1\n");
    }

    #[test]
    fn the_target_is_chosen_as_kubectl_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("two"), "contexts: []\n").unwrap();
        fs::write(path("three"), "contexts: [{name: ours, context: {}}]\n").unwrap();
        let listed = || vec![path("one"), path("two"), path("three")];
        assert_eq!(choose(&listed(), "ours", None).unwrap(), path("three"));
        assert_eq!(choose(&listed(), "new", None).unwrap(), path("two"));
        assert_eq!(choose(&[path("x"), path("y")], "new", None).unwrap(), path("y"));
        assert_eq!(choose(&[], "new", Some(path("home"))).unwrap(), path("home/.kube/config"));
        assert!(choose(&[], "new", None).is_err());
    }

    #[test]
    fn strings_that_look_like_other_types_survive() {
        let odd = json!({"a": "yes", "b": "1.0", "c": "null", "d": "0x1", "e": "a: b", "f": "- x", "g": "~", "h": "2026-11-23", "i": "line\nline\n", "j": ""});
        let text = render(&odd).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), odd, "{text}");
    }

    fn tenant(server: &str) -> Value {
        json!({
            "clusters": [{"name": "nestling-a-b", "cluster": {"server": server}}],
            "users": [{"name": "nestling-a-b", "user": {}}],
            "contexts": [{"name": "nestling-a-b", "context": {"cluster": "nestling-a-b", "user": "nestling-a-b"}}],
            "current-context": "nestling-a-b",
        })
    }

    #[test]
    fn others_stay_and_the_current_context_too() {
        let mine = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {"colors": true}, "current-context": "prod",
            "clusters": [{"name": "prod", "cluster": {"server": "https://prod", "unknown-field": 1}}],
            "users": null,
        });
        let merged = merge(mine.clone(), &tenant("https://one")).unwrap();
        assert_eq!(merged["clusters"][0], mine["clusters"][0]);
        assert_eq!(merged["preferences"], mine["preferences"]);
        assert_eq!(merged["current-context"], "prod");
        assert_eq!(merged["users"][0]["name"], "nestling-a-b");
    }

    #[test]
    fn merging_again_replaces() {
        let once = merge(Value::Null, &tenant("https://one")).unwrap();
        let twice = merge(once.clone(), &tenant("https://two")).unwrap();
        assert_eq!(once["current-context"], "nestling-a-b");
        assert_eq!(twice["clusters"].as_array().unwrap().len(), 1);
        assert_eq!(twice["clusters"][0]["cluster"]["server"], "https://two");
        assert_eq!(merge(twice.clone(), &tenant("https://two")).unwrap(), twice);
    }

    #[test]
    fn what_is_no_kubeconfig_is_refused() {
        assert!(merge(json!("text"), &tenant("https://one")).is_err());
        assert!(merge(json!({"clusters": "text"}), &tenant("https://one")).is_err());
    }
}
