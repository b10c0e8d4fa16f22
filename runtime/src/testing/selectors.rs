//! Label and field selectors.

use serde_json::Value;

/// What a list or a watch is restricted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    /// JSON pointer of the value.
    pointer: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Selectors {
    /// From the query parameters `labelSelector` and `fieldSelector`.
    pub(super) fn parse(labels: &str, fields: &str) -> Self {
        let label = |name: &str| format!("/metadata/labels/{}", name.replace('~', "~0").replace('/', "~1"));
        let field = |name: &str| format!("/{}", name.replace('.', "/"));
        let labels = split(labels).map(|term| parse_term(term, label));
        Self { terms: labels.chain(split(fields).map(|term| parse_term(term, field))).collect() }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|Term { pointer, test }| {
            let value = object.pointer(pointer);
            let text = value.map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), Into::into));
            match test {
                // A field that is not there is empty; a label that is not there equals nothing.
                Test::In(values) => values.contains(&text) && (value.is_some() || !pointer.starts_with("/metadata/labels/")),
                Test::NotIn(values) => !values.contains(&text),
                Test::Exists => value.is_some(),
                Test::Missing => value.is_none(),
            }
        })
    }
}

/// Terms are separated by commas that are not in parentheses.
fn split(selector: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let terms = selector.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    terms.map(str::trim).filter(|term| !term.is_empty())
}

fn parse_term(term: &str, pointer: impl Fn(&str) -> String) -> Term {
    let set = |values: &str| values.trim_matches(['(', ')']).split(',').map(|value| value.trim().to_owned()).collect();
    let (name, test) = if let Some((name, values)) = term.split_once(" notin ") {
        (name, Test::NotIn(set(values)))
    } else if let Some((name, values)) = term.split_once(" in ") {
        (name, Test::In(set(values)))
    } else if let Some((name, value)) = term.split_once("!=") {
        (name, Test::NotIn(set(value)))
    } else if let Some((name, value)) = term.split_once('=') {
        (name, Test::In(set(value.trim_start_matches('='))))
    } else if let Some(name) = term.strip_prefix('!') {
        (name, Test::Missing)
    } else {
        (term, Test::Exists)
    };
    Term { pointer: pointer(name.trim()), test }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_of_all_forms_select() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "x", "nestling.dev/tenant": "u"}}, "spec": {"nodeName": "n"}});
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=x,nestling.dev/tenant==u", "", true),
            ("app in (w, x),nestling.dev/tenant", "spec.nodeName=n", true),
            ("app notin (x)", "", false),
            ("!app", "", false),
            ("other!=y,!other", "metadata.name=a", true),
            ("other=", "", false),
            ("", "spec.nodeName=", false),
            ("", "status.phase=", true),
        ] {
            assert_eq!(Selectors::parse(labels, fields).matches(&object), expected, "{labels:?} {fields:?}");
        }
    }
}
