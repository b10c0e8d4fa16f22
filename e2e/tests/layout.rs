//! Imports go one way: in every crate of the workspace the folders form a graph without a circle, and so do the files of each
//! folder; and the top-level modules keep to the order that `lib.rs` (or `main.rs`) writes down.
//!
//! What counts as an import of file A from file B: a `use` declaration or a path in A that leads to an item of B, re-exports
//! followed to where the item is defined. Code under `cfg(test)` and macro bodies do not count. At the folder in which two
//! files part, their import counts between the two children, so a circle through several folders shows at the lowest folder
//! that holds all of it.

#![allow(clippy::unwrap_used, clippy::panic)] // the whole file is a test

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree, Visibility};

/// A module path from the crate's root; the root is empty.
type Module = Vec<String>;

#[test]
fn imports_of_every_crate_go_one_way() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().find(|dir| dir.join("Cargo.lock").exists()).unwrap();
    let mut problems = Vec::new();
    let roots = roots(workspace);
    assert!(roots.len() >= 8, "{roots:?}");
    for root in roots {
        let name = root.strip_prefix(workspace).unwrap().display().to_string();
        problems.extend(Crate::read(&root).problems().into_iter().map(|problem| format!("{name}: {problem}")));
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn circles_and_breaches_of_the_order_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let problems = || Crate::read(&dir.path().join("lib.rs")).problems();
    write("lib.rs", "//! Order: ground ← house ← roof\npub mod ground; pub mod house; pub mod roof;");
    write("ground.rs", "pub struct Stone;");
    write("roof.rs", "use crate::house::{Door, wall::Wall}; pub struct Roof(Door, Wall);");
    write("house/mod.rs", "mod door; pub mod wall; pub use door::Door;");
    write("house/door.rs", "use crate::ground::Stone; pub struct Door(Stone);\n#[cfg(test)] mod tests { use crate::roof::Roof; }");
    write("house/wall.rs", "pub struct Wall(super::Door);");
    assert_eq!(problems(), Vec::<String>::new());
    write("house/door.rs", "pub struct Door(super::wall::Wall);");
    assert_eq!(problems(), ["circle in house/: door.rs → wall.rs → door.rs (house/door.rs, house/wall.rs)"]);
    write("house/door.rs", "use crate::roof; pub struct Door;");
    let found = problems();
    assert!(found.iter().any(|problem| problem.starts_with("circle in ./: house → roof.rs → house")), "{found:?}");
    assert!(found.contains(&"house imports roof, which stands right of it in the order: house/door.rs".into()), "{found:?}");
    write("house/door.rs", "pub struct Door;");
    write("lib.rs", "pub mod ground; pub mod house; pub mod roof;");
    assert_eq!(problems(), ["lib.rs writes down no order (`//! Order: a ← b ← c`)"]);
}

/// The root files of all crates of the workspace.
fn roots(workspace: &Path) -> Vec<PathBuf> {
    let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(workspace.join("Cargo.toml")).unwrap()).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().iter();
    let sources = members.map(|member| workspace.join(member.as_str().unwrap()).join("src"));
    sources.filter_map(|src| ["lib.rs", "main.rs"].iter().map(|file| src.join(file)).find(|file| file.exists())).collect()
}

struct Source {
    /// Relative to the folder of the root file.
    file: PathBuf,
    children: BTreeSet<String>,
    /// What `pub use` gives away: name to full path.
    exports: BTreeMap<String, Module>,
    /// Full paths, from the root, that the file names.
    paths: BTreeSet<Module>,
}

struct Crate {
    root: String,
    order: Option<Vec<String>>,
    modules: BTreeMap<Module, Source>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut this = Self { root: root.file_name().unwrap().to_string_lossy().into(), order: None, modules: BTreeMap::new() };
        let dir = root.parent().unwrap();
        this.order = order(&std::fs::read_to_string(root).unwrap());
        this.read_module(dir, root, Vec::new(), dir);
        this
    }

    /// `children`: the folder in which the files of child modules lie.
    fn read_module(&mut self, base: &Path, file: &Path, module: Module, children: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut names = BTreeSet::new();
        for item in &syntax.items {
            let Item::Mod(child) = item else { continue };
            if child.content.is_some() || under_test(&child.attrs) {
                continue;
            }
            let name = child.ident.to_string();
            let folder = children.join(&name);
            let candidates = [children.join(format!("{name}.rs")), folder.join("mod.rs")];
            let file = candidates.into_iter().find(|file| file.exists()).unwrap_or_else(|| panic!("{}: no file of {name}", file.display()));
            self.read_module(base, &file, [module.as_slice(), std::slice::from_ref(&name)].concat(), &folder);
            names.insert(name);
        }
        let mut reader = Reader { module: &module, children: &names, exports: BTreeMap::new(), paths: BTreeSet::new() };
        reader.visit_file(&syntax);
        let Reader { exports, paths, .. } = reader;
        let file = file.strip_prefix(base).unwrap().to_path_buf();
        self.modules.insert(module, Source { file, children: names, exports, paths });
    }

    /// The file that defines what `path` names.
    fn definition(&self, path: &[String], depth: usize) -> Option<&Path> {
        let mut module = Vec::new();
        let mut rest = path;
        while let [next, others @ ..] = rest
            && self.modules[&module].children.contains(next)
        {
            module.push(next.clone());
            rest = others;
        }
        let source = &self.modules[&module];
        let [item, others @ ..] = rest else { return Some(&source.file) };
        if depth > 0
            && let Some(target) = source.exports.get(item)
        {
            return self.definition(&[target.as_slice(), others].concat(), depth - 1);
        }
        Some(&source.file)
    }

    fn imports(&self) -> BTreeSet<(&Path, &Path)> {
        let mut imports = BTreeSet::new();
        for source in self.modules.values() {
            for path in &source.paths {
                if let Some(target) = self.definition(path, 8).filter(|target| *target != source.file) {
                    imports.insert((source.file.as_path(), target));
                }
            }
        }
        imports
    }

    fn problems(&self) -> Vec<String> {
        // For each folder, which child imports which, and through which files.
        let mut graphs: BTreeMap<PathBuf, BTreeMap<String, BTreeMap<String, BTreeSet<&Path>>>> = BTreeMap::new();
        for (from, to) in self.imports() {
            let (from_parts, to_parts) = (self.parts(from), self.parts(to));
            let common = from_parts.iter().zip(&to_parts).take_while(|(one, other)| one == other).count();
            let (Some(one), Some(other)) = (from_parts.get(common), to_parts.get(common)) else { continue };
            let folder = from_parts[..common].iter().collect();
            let edges = graphs.entry(folder).or_default().entry(one.clone()).or_default();
            edges.entry(other.clone()).or_default().insert(from);
        }
        let mut problems = Vec::new();
        for (folder, graph) in &graphs {
            let folder = if folder.as_os_str().is_empty() { ".".into() } else { folder.display().to_string() };
            if let Some(circle) = circle(graph) {
                let culprits: BTreeSet<String> =
                    circle.windows(2).flat_map(|step| &graph[&step[0]][&step[1]]).map(|file| file.display().to_string()).collect();
                let culprits: Vec<String> = culprits.into_iter().collect();
                problems.push(format!("circle in {folder}/: {} ({})", circle.join(" → "), culprits.join(", ")));
            }
        }
        problems.extend(self.breaches(graphs.get(Path::new(""))));
        problems
    }

    fn breaches(&self, top: Option<&BTreeMap<String, BTreeMap<String, BTreeSet<&Path>>>>) -> Vec<String> {
        if self.modules[&Vec::new()].children.len() < 2 {
            return Vec::new();
        }
        let Some(order) = &self.order else { return vec![format!("{} writes down no order (`//! Order: a ← b ← c`)", self.root)] };
        let place = |child: &str| order.iter().position(|module| module == child.trim_end_matches(".rs"));
        let mut breaches: Vec<String> = self.modules[&Vec::new()]
            .children
            .iter()
            .filter(|child| place(child).is_none())
            .map(|child| format!("{child} is not in the order"))
            .collect();
        for (from, targets) in top.into_iter().flatten() {
            for (to, files) in targets {
                if let (Some(one), Some(other)) = (place(from), place(to))
                    && other > one
                {
                    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                    breaches.push(format!(
                        "{from} imports {}, which stands right of it in the order: {}",
                        to.trim_end_matches(".rs"),
                        files.join(", ")
                    ));
                }
            }
        }
        breaches
    }

    /// The way to a file, folder by folder. A `name.rs` beside a folder `name` belongs to that folder.
    fn parts(&self, file: &Path) -> Vec<String> {
        let mut parts: Vec<String> = file.components().map(|part| part.as_os_str().to_string_lossy().into()).collect();
        let folder = file.with_extension("");
        if self.modules.values().any(|source| source.file.starts_with(&folder)) {
            let name = parts.pop().unwrap_or_default();
            parts.push(name.trim_end_matches(".rs").to_owned());
            parts.push(name);
        }
        parts
    }
}

/// A circle, first node repeated at the end.
fn circle(graph: &BTreeMap<String, BTreeMap<String, BTreeSet<&Path>>>) -> Option<Vec<String>> {
    fn go<'a>(
        graph: &'a BTreeMap<String, BTreeMap<String, BTreeSet<&Path>>>,
        node: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|seen| *seen == node) {
            return Some(way[start..].iter().chain(std::iter::once(&node)).map(ToString::to_string).collect());
        }
        if !done.insert(node) {
            return None;
        }
        way.push(node);
        let found = graph.get(node).into_iter().flat_map(BTreeMap::keys).find_map(|next| go(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| go(graph, node, &mut Vec::new(), &mut done))
}

/// Reads `//! Order: a ← b ← c`, which may go on over several lines.
fn order(text: &str) -> Option<Vec<String>> {
    let docs: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let start = docs.iter().position(|line| line.starts_with("Order:"))?;
    let paragraph: Vec<&str> = docs[start..].iter().copied().take_while(|line| !line.is_empty()).collect();
    let words = paragraph.join(" ").trim_start_matches("Order:").replace(['`', '[', ']', '.'], "");
    Some(words.split('←').map(|module| module.trim().to_owned()).collect())
}

fn under_test(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attr| {
        attr.path().is_ident("cfg")
            && attr
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == "test"))
    })
}

/// Collects the paths of one file.
struct Reader<'a> {
    module: &'a Module,
    children: &'a BTreeSet<String>,
    exports: BTreeMap<String, Module>,
    paths: BTreeSet<Module>,
}

impl Reader<'_> {
    /// A path as written, made absolute; none if it leads out of the crate.
    fn absolute(&self, written: &[String]) -> Option<Module> {
        let [first, rest @ ..] = written else { return None };
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([self.module.as_slice(), rest].concat()),
            "super" => {
                let ups = written.iter().take_while(|part| *part == "super").count();
                let kept = self.module.len().checked_sub(ups)?;
                Some([&self.module[..kept], &written[ups..]].concat())
            }
            child if self.children.contains(child) => Some([self.module.as_slice(), written].concat()),
            // A re-export that the file uses itself.
            name => self.exports.get(name).map(|target| [target.as_slice(), rest].concat()),
        }
    }

    fn collect(&mut self, tree: &UseTree, written: &mut Vec<String>, public: bool) {
        match tree {
            UseTree::Path(path) => {
                written.push(path.ident.to_string());
                self.collect(&path.tree, written, public);
                written.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.collect(tree, written, public)),
            UseTree::Glob(_) => {
                self.paths.extend(self.absolute(written).filter(|_| !public));
            }
            UseTree::Name(_) | UseTree::Rename(_) => {
                let (name, alias) = match tree {
                    UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
                    UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
                    _ => return,
                };
                let leaf: &[String] = if name == "self" { &[] } else { std::slice::from_ref(&name) };
                if let Some(path) = self.absolute(&[written.as_slice(), leaf].concat()) {
                    if public {
                        self.exports.insert(alias, path);
                    } else {
                        self.paths.insert(path);
                    }
                }
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_file(&mut self, file: &'ast syn::File) {
        // Re-exports first, so that their uses in the same file are seen.
        for item in &file.items {
            if let Item::Use(item) = item
                && !matches!(item.vis, Visibility::Inherited)
            {
                self.collect(&item.tree, &mut Vec::new(), true);
            }
        }
        syn::visit::visit_file(self, file);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if matches!(item.vis, Visibility::Inherited) && !under_test(&item.attrs) {
            self.collect(&item.tree, &mut Vec::new(), false);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !under_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !under_test(&item.attrs) {
            syn::visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if !under_test(&item.attrs) {
            syn::visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !under_test(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    /// `pub(in crate::folder)` imports nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // One segment is a name of the file itself or an import, unless it is a re-export.
        let known = written.len() > 1 || self.exports.contains_key(&written[0]);
        if path.leading_colon.is_none() && known && written[0] != "Self" {
            self.paths.extend(self.absolute(&written));
        }
        syn::visit::visit_path(self, path);
    }
}
