//! Commands for `nft -f`, as text. nft 1.0.6 (Debian 12) sets the limits: no `destroy`, no nested tables without a
//! newline before each brace, numbers instead of some priority names, and no object named by one of its keywords.

use super::Family;
use super::names::TABLE;
use std::fmt::Write;
use std::net::SocketAddr;

pub struct Script {
    pub family: Family,
    text: String,
}

impl Script {
    pub fn new(family: Family) -> Self {
        Self { family, text: String::new() }
    }

    pub fn into_text(self) -> String {
        self.text
    }

    /// `add table ip nestling`.
    pub fn table(&mut self, verb: &str) {
        let family = self.family.word();
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{verb} table {family} {TABLE}");
    }

    /// `add chain ip nestling <name><rest>`; `rest` brings its own leading space.
    pub fn object(&mut self, verb: &str, kind: &str, name: &str, rest: &str) {
        let family = self.family.word();
        let _ = writeln!(self.text, "{verb} {kind} {family} {TABLE} {name}{rest}");
    }

    pub fn rule(&mut self, chain: &str, rule: &str) {
        self.object("add", "rule", chain, &format!(" {rule}"));
    }

    /// Nothing for no elements.
    pub fn elements(&mut self, verb: &str, map: &str, elements: &[String]) {
        if !elements.is_empty() {
            self.object(verb, "element", map, &format!(" {{ {} }}", elements.join(", ")));
        }
    }

    /// The type of an address of this family.
    pub fn address_type(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }
}

/// An endpoint as the value of a map.
pub fn endpoint(address: SocketAddr) -> String {
    format!("{} . {}", address.ip(), address.port())
}
