//! The parts of the table that belong to no tenant.

use super::names::LAYOUT;
use super::script::Script;

/// The table with nothing in it. Priorities: see the module.
pub fn fixed(script: &mut Script) {
    let word = script.family.word();
    let address = script.address_type();
    script.table("add");
    script.object("add", "chain", LAYOUT, "");
    script.object("add", "map", "sources", &format!(" {{ type {address} : verdict; }}"));
    script.object("add", "map", "learners", &format!(" {{ type {address} : verdict; }}"));
    script.object("add", "set", "pods", &format!(" {{ type {address}; }}"));
    script.object("add", "set", "hairpin", &format!(" {{ type {address} . {address}; }}"));
    script.object("add", "set", "bridges", " { type ifname . ifname; }");

    script.object("add", "chain", "refuse", "");
    script.rule("refuse", "meta l4proto tcp reject with tcp reset");
    script.rule("refuse", if word == "ip" { "reject with icmp type port-unreachable" } else { "reject with icmpv6 type port-unreachable" });

    script.object("add", "chain", "prerouting", " { type nat hook prerouting priority -110; policy accept; }");
    script.rule("prerouting", &format!("{word} saddr vmap @sources"));

    script.object("add", "chain", "learn", " { type filter hook prerouting priority -90; policy accept; }");
    script.rule("learn", &format!("ct state new ct status dnat {word} saddr vmap @learners"));

    // A pod that reaches itself through a Service would drop a packet from its own address, and its answer would not go
    // through the node.
    script.object("add", "chain", "leave", "");
    script.rule("leave", &format!("{word} saddr . {word} daddr @hairpin masquerade fully-random"));
    script.rule("leave", "iifname . oifname @bridges masquerade fully-random");
    script.object("add", "chain", "postrouting", " { type nat hook postrouting priority 90; policy accept; }");
    script.rule("postrouting", &format!("ct status dnat {word} saddr @pods goto leave"));
}
