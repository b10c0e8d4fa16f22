//! The tenant's kube-scheduler.

use super::cluster::SchedulerSettings;
use super::problems::Problems;
use super::{flags, sections};
use nestling_crds::managed_flags;
use nestling_crds::v1alpha1::{Raw, Scheduler};
use serde_json::Value;
use std::collections::BTreeSet;

const FIELD: &str = "spec.controlPlane.scheduler";
/// Of `KubeSchedulerProfile`. kube-scheduler reads its configuration strictly: a key it does not know ends it.
const PROFILE_KEYS: &[&str] = &["schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"];

pub(super) fn settings(scheduler: &Scheduler, problems: &mut Problems) -> SchedulerSettings {
    let Scheduler { profiles, extra_args, resources } = scheduler;
    flags::check(&format!("{FIELD}.extraArgs"), extra_args, managed_flags::SCHEDULER, problems);
    check_profiles(profiles, problems);
    SchedulerSettings {
        profiles: profiles.iter().map(|profile| Value::Object(profile.0.clone())).collect(),
        extra_args: extra_args.clone(),
        resources: sections::resources(&format!("{FIELD}.resources"), resources.as_ref(), problems),
    }
}

fn check_profiles(profiles: &[Raw], problems: &mut Problems) {
    let mut names = BTreeSet::new();
    for (index, Raw(profile)) in profiles.iter().enumerate() {
        let field = format!("{FIELD}.profiles[{index}]");
        if let Some(key) = profile.keys().find(|key| !PROFILE_KEYS.contains(&key.as_str())) {
            problems.add(&field, format!("has an unknown key {key}; known are {}", PROFILE_KEYS.join(", ")));
        }
        // Upstream's default: a profile without a name is the default scheduler.
        let name = profile.get("schedulerName").map_or(Some("default-scheduler"), Value::as_str);
        match name {
            Some(name) if !name.is_empty() => {
                if !names.insert(name) {
                    problems.add(&field, format!("has the same schedulerName as another profile: {name}"));
                }
            }
            _ => problems.add(&field, "schedulerName must be a name"),
        }
    }
}
