//! Rules about `extraArgs`, one for each owner of managed flags so that the refusal names the field to use.

use super::{forbidden, rule};
use crate::managed_flags::{self, ManagedFlags};
use kube::core::{Message, Rule};

/// Flags that kube-apiserver may not be given.
pub fn api_server_args() -> Vec<Rule> {
    args(managed_flags::API_SERVER)
}

/// Flags that kube-controller-manager may not be given.
pub fn controller_manager_args() -> Vec<Rule> {
    args(managed_flags::CONTROLLER_MANAGER)
}

/// Flags that kube-scheduler may not be given.
pub fn scheduler_args() -> Vec<Rule> {
    args(managed_flags::SCHEDULER)
}

fn args(managed: &[ManagedFlags]) -> Vec<Rule> {
    let form = rule("!self.exists(flag, flag.startsWith('-'))", "write flags without leading dashes");
    std::iter::once(form).chain(managed.iter().map(owned)).collect()
}

/// The list stands on the left of the look-up, so its cost is the length of a literal and not of what a user sends.
fn owned(group: &ManagedFlags) -> Rule {
    let flags = format!("[{}]", group.flags.iter().map(|flag| format!("'{flag}'")).collect::<Vec<_>>().join(", "));
    let expression = format!("!{flags}.exists(flag, flag in self)");
    let message = format!(r#"'flag --' + {flags}.filter(flag, flag in self)[0] + " is managed: {}""#, group.instead);
    Rule { message: Some(Message::Expression(message)), ..forbidden(&expression, "") }
}
