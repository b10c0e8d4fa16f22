//! The documentation's links are not broken, and versions that are written in several places agree.

#![allow(clippy::unwrap_used, clippy::panic)] // the whole file is a test

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Markdown files of the project: those at its root, below docs/, and the READMEs of crates.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !name.starts_with('.') && name != "target" {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// Text outside code blocks and code spans.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.map(|line| line.split('`').step_by(2).collect::<String>() + "\n").collect()
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    prose(text).split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// Anchors of headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced && line.starts_with('#')
    });
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    headings
        .map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    let documents = documents();
    assert!(documents.iter().any(|path| path.ends_with("docs/guide/install.md")), "{documents:?}");
    let mut broken = Vec::new();
    for document in documents {
        for link in links(&read(&document)).iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            if !target.exists() || !(anchor.is_empty() || anchors(&read(&target)).contains(anchor)) {
                broken.push(format!("{}: {link}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let docs = root().join("docs");
    let listed: BTreeSet<PathBuf> = links(&read(&docs.join("SUMMARY.md"))).iter().map(|link| docs.join(link)).collect();
    let pages = documents().into_iter().filter(|path| path.starts_with(&docs) && !path.ends_with("SUMMARY.md"));
    let missing: Vec<PathBuf> = pages.filter(|page| !listed.contains(page)).collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# A `b` C\nsee [x](y.md#z), `[no](no)`\n```\n[no](no)\n# no\n```\n## Two words\n";
    assert_eq!(links(text), ["y.md#z"]);
    assert_eq!(anchors(text), ["a-b-c", "two-words"].map(str::to_owned).into());
}

/// The Dockerfile builds with `rust-version`, and clippy's `incompatible_msrv` reports newer APIs on newer toolchains.
#[test]
fn rust_version_is_what_the_images_are_built_with() {
    let minimum = env!("CARGO_PKG_RUST_VERSION");
    let dockerfile = read(&root().join("Dockerfile"));
    assert!(dockerfile.contains(&format!("/rust:{minimum}-")), "the Dockerfile builds with another Rust than {minimum}");

    let parse = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap()).take(2).collect::<Vec<_>>();
    let output = Command::new("rustc").arg("--version").output().unwrap();
    let toolchain = String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned();
    assert!(parse(&toolchain) >= parse(minimum), "toolchain {toolchain} is older than rust-version {minimum}");
}

#[test]
fn chart_and_crates_have_one_version() {
    let chart = read(&root().join("charts/nestling/Chart.yaml"));
    let version = env!("CARGO_PKG_VERSION");
    for key in ["version", "appVersion"] {
        let value = chart.lines().find_map(|line| line.strip_prefix(&format!("{key}:"))).unwrap_or_default().trim().trim_matches('"');
        assert_eq!(value, version, "{key} in Chart.yaml");
    }
}
