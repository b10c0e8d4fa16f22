//! A kernel to try transactions on: as strict as the real one about what exists and what is pointed at.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub has_table: bool,
    pub chains: BTreeMap<String, Vec<String>>,
    /// Elements by map, key and value; a set's values are empty.
    pub maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl Kernel {
    /// Panics where the kernel would refuse.
    pub fn apply(&mut self, transaction: &str) {
        for line in transaction.lines() {
            let mut words = line.splitn(5, ' ');
            let (verb, kind) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!((words.next().unwrap(), words.next().unwrap()), ("ip", "nestling"), "{line}");
            let rest = words.next().unwrap_or_default();
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            self.command(verb, kind, name, rest, line);
        }
        self.check();
    }

    fn command(&mut self, verb: &str, kind: &str, name: &str, rest: &str, line: &str) {
        match (verb, kind) {
            ("add", "table") => self.has_table = true,
            ("delete", "table") => {
                assert!(self.has_table);
                *self = Self::default();
            }
            _ => assert!(self.has_table, "{line}"),
        }
        match (verb, kind) {
            (_, "table") => {}
            ("add", "chain") => drop(self.chains.entry(name.into()).or_default()),
            ("flush", "chain") => self.chain(name, line).clear(),
            ("delete", "chain") => assert_eq!(self.chains.remove(name), Some(vec![]), "{line}"),
            ("add", "rule") => self.chain(name, line).push(rest.into()),
            ("add", "map" | "set") => drop(self.maps.entry(name.into()).or_default()),
            ("flush", "map" | "set") => self.map(name, line).clear(),
            ("delete", "map" | "set") => assert!(self.maps.remove(name).is_some(), "{line}"),
            ("add", "element") => {
                for element in elements(rest) {
                    let (key, value) = element.split_once(" : ").unwrap_or((element, ""));
                    let before = self.map(name, line).insert(key.into(), value.into());
                    assert!(before.is_none(), "there already: {element} in {line}");
                }
            }
            ("delete", "element") => {
                for element in elements(rest) {
                    assert!(self.map(name, line).remove(element).is_some(), "not there: {element} in {line}");
                }
            }
            _ => panic!("unknown: {line}"),
        }
    }

    fn chain(&mut self, name: &str, line: &str) -> &mut Vec<String> {
        self.chains.get_mut(name).unwrap_or_else(|| panic!("no chain: {line}"))
    }

    fn map(&mut self, name: &str, line: &str) -> &mut BTreeMap<String, String> {
        self.maps.get_mut(name).unwrap_or_else(|| panic!("no map: {line}"))
    }

    /// Everything that is pointed at exists.
    fn check(&self) {
        for rule in self.chains.values().flatten() {
            for name in pointed(rule, '@').chain(after_goto(rule)) {
                assert!(self.maps.contains_key(name) || self.chains.contains_key(name), "{name} of {rule}");
            }
        }
        for target in self.maps.values().flat_map(BTreeMap::values).flat_map(|value| after_goto(value)) {
            assert!(self.chains.contains_key(target), "{target}");
        }
    }

    /// Without what nothing leads to: chains and maps for numbers of endpoints that no Service has now.
    pub fn reachable(&self) -> Self {
        let mut reached = self.clone();
        loop {
            let pointed: Vec<String> = reached
                .chains
                .values()
                .flatten()
                .chain(reached.maps.values().flat_map(BTreeMap::values))
                .flat_map(|text| after_goto(text))
                .map(str::to_owned)
                .collect();
            let before = reached.chains.len();
            let is_counted = |name: &str| ["pick-", "stay-", "keep-"].iter().any(|kind| name.starts_with(kind));
            reached.chains.retain(|name, _| !is_counted(name) || pointed.contains(name));
            let picks: Vec<String> = reached.chains.keys().map(|name| name.replacen("pick-", "endpoints-", 1)).collect();
            reached.maps.retain(|name, elements| !name.starts_with("endpoints-") || picks.contains(name) || !elements.is_empty());
            if reached.chains.len() == before {
                return reached;
            }
        }
    }

    /// What becomes of a connection: the endpoints, or the word for none.
    pub fn outcome(&self, client: &str, frontend: &str) -> String {
        let Some(tenant) = self.maps["sources"].get(client).and_then(|verdict| verdict.strip_prefix("goto tenant-")) else {
            return "not ours".into();
        };
        let address = frontend.split(' ').next().unwrap();
        let Some(verdict) = self.maps[&format!("services-{tenant}")].get(frontend) else {
            let is_known = self.maps[&format!("addresses-{tenant}")].contains_key(address);
            return if is_known { "goto refuse".into() } else { "not a service".into() };
        };
        let Some(chain) = verdict.strip_prefix("goto ").filter(|chain| *chain != "refuse") else { return verdict.clone() };
        let count: usize = chain.split('-').nth(1).unwrap().parse().unwrap();
        let endpoints = &self.maps[&format!("endpoints-{count}-{tenant}")];
        if count == 1 {
            return endpoints[frontend].clone();
        }
        (0..count).map(|index| endpoints[&format!("{frontend} . {index}")].clone()).collect::<Vec<_>>().join(", ")
    }
}

fn elements(rest: &str) -> impl Iterator<Item = &str> {
    rest.trim_start_matches("{ ").trim_end_matches(" }").split(", ")
}

fn pointed(text: &str, mark: char) -> impl Iterator<Item = &str> {
    text.split(' ').filter_map(move |word| word.strip_prefix(mark))
}

fn after_goto(text: &str) -> impl Iterator<Item = &str> {
    text.split("goto ").skip(1).filter_map(|rest| rest.split(' ').next())
}
