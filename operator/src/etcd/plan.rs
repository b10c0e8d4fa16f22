//! What to do next about the members of an etcd that has formed: out of what etcd lists, what its members report and what the host
//! has, at most one step. Pure.
//!
//! | to | steps |
//! | --- | --- |
//! | add a member | add a learner; let its pod begin; promote it when it has caught up |
//! | remove one | move the leader; remove the member; discard its storage |
//! | replace one whose data is lost | remove the member; discard its storage; add a member |
//! | bring pods up to date | delete one pod at a time, the leader's last; with data in memory, replace the member |
//!
//! Nothing is remembered of the steps before: each may be repeated, and what is seen decides. A member with an empty directory would
//! take its old ID and forget its votes, so a pod begins in an empty directory only as a member that never started. Of the voters
//! more than half stay healthy by every step; a step that needs all of them waits for them.

use std::collections::BTreeMap;
use std::time::Duration;

/// Entries that a learner may be behind when it is promoted. etcd itself asks for nine tenths of the log only.
const CAUGHT_UP: u64 = 1000;
/// `--max-learners`
const MAX_LEARNERS: usize = 2;
/// How long a member has not answered when its data counts as lost. Its storage is another one than it began in:
const REPLACED: Duration = Duration::from_secs(1);
/// There is no storage, or not yet again:
const GONE: Duration = Duration::from_secs(30);
/// Its storage is there, but in memory, which a restart of the node empties although the pod stays; or it is a learner, which is soon
/// replaced:
const EMPTIED: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Members that there should be: those with an ordinal below this.
    pub(crate) wanted: i32,
    pub(crate) in_memory: bool,
    pub(crate) members: BTreeMap<i32, MemberFacts>,
    pub(crate) places: BTreeMap<i32, Place>,
    /// ID of the leader; zero without one.
    pub(crate) leader: u64,
    /// The newest entry of the log.
    pub(crate) committed: u64,
}

/// A member in etcd's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberFacts {
    pub(crate) id: u64,
    pub(crate) started: bool,
    pub(crate) learner: bool,
    /// The newest entry that it has applied, if it answers.
    pub(crate) applied: Option<u64>,
    /// How long it has not answered.
    pub(crate) silent: Duration,
}

/// What the host has of an ordinal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pod: Option<PodFacts>,
    /// A volume claim; of data in memory, a pod.
    pub(crate) storage: Option<Holds>,
}

/// Whose data is in storage, by its annotation. It is written before a member may begin there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holds {
    Nothing,
    /// One that etcd is to form with, if it has begun.
    Candidate,
    /// One that etcd formed with.
    Founder,
    Member(u64),
}

impl Place {
    fn has(self, ticket: Ticket) -> bool {
        self.pod.is_some_and(|pod| pod.ticket == ticket)
    }
}

impl Holds {
    fn is_of(self, member: u64) -> bool {
        matches!(self, Self::Candidate | Self::Founder) || self == Self::Member(member)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) ready: bool,
    /// It was made from another template.
    pub(crate) outdated: bool,
    pub(crate) ticket: Ticket,
    pub(crate) ending: bool,
}

/// Whether a pod may begin in an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    None,
    /// As a member of a list that has changed since, which etcd refuses.
    Stale,
    Valid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Done,
    Wait(String),
    /// Take the ticket of the ordinal's pod back: its member has begun.
    TakeTicket(i32),
    /// Note that the ordinal's storage is of its member, and let the pod begin in an empty directory.
    GiveTicket(i32),
    Add(i32),
    Promote(i32),
    /// Away from this member, to that one.
    MoveLeader(i32, i32),
    Remove(i32),
    /// Delete the ordinal's pod, which comes back with its data.
    Restart(i32),
    /// Delete the ordinal's storage, and the pod that has it.
    Discard(i32),
}

impl Facts {
    fn voters(&self) -> impl Iterator<Item = (i32, &MemberFacts)> {
        self.members.iter().filter(|(_, member)| !member.learner).map(|(ordinal, member)| (*ordinal, member))
    }

    fn learners(&self) -> impl Iterator<Item = (i32, &MemberFacts)> {
        self.members.iter().filter(|(_, member)| member.learner).map(|(ordinal, member)| (*ordinal, member))
    }

    fn place(&self, ordinal: i32) -> Place {
        self.places.get(&ordinal).copied().unwrap_or_default()
    }

    /// Whether the voters without `without` would have a quorum, by those that answer, of `voters`.
    fn has_quorum_without(&self, without: i32, voters: usize) -> bool {
        self.voters().filter(|(ordinal, member)| *ordinal != without && member.is_healthy()).count() > voters / 2
    }

    /// The voter that leads best instead of `ordinal`.
    fn other_leader(&self, ordinal: i32) -> Option<i32> {
        let others = self.voters().filter(|(other, member)| *other != ordinal && *other < self.wanted && member.is_healthy());
        others
            .max_by_key(|(other, member)| (!self.place(*other).pod.is_some_and(|pod| pod.outdated), member.applied))
            .map(|(other, _)| other)
    }

    /// Removes a voter that leads only after another does.
    fn remove(&self, ordinal: i32) -> Step {
        let leads = self.members.get(&ordinal).is_some_and(|member| member.id == self.leader);
        match self.other_leader(ordinal).filter(|_| leads) {
            Some(other) => Step::MoveLeader(ordinal, other),
            None => Step::Remove(ordinal),
        }
    }
}

impl MemberFacts {
    fn is_healthy(&self) -> bool {
        self.started && self.applied.is_some()
    }
}

/// The next step.
pub(crate) fn next(facts: &Facts) -> Step {
    take_ticket(facts)
        .or_else(|| discard(facts))
        .or_else(|| remove_lost(facts))
        .or_else(|| remove_surplus(facts))
        .or_else(|| add(facts))
        .or_else(|| learners(facts))
        .or_else(|| roll(facts))
        .or_else(|| silent(facts))
        .unwrap_or(Step::Done)
}

fn take_ticket(facts: &Facts) -> Option<Step> {
    let has_begun = |(ordinal, member): &(&i32, &MemberFacts)| {
        let place = facts.place(**ordinal);
        let is_noted = place.storage.is_some_and(|storage| storage.is_of(member.id));
        member.is_healthy() && (!is_noted || place.pod.is_some_and(|pod| pod.ticket != Ticket::None))
    };
    facts.members.iter().find(has_begun).map(|(ordinal, _)| Step::TakeTicket(*ordinal))
}

/// Storage of members that etcd no longer has. A claim that was never used serves the next member of its ordinal.
fn discard(facts: &Facts) -> Option<Step> {
    let is_of_no_use = |(ordinal, place): &(&i32, &Place)| match (facts.members.get(ordinal), place.storage) {
        (_, None) => false,
        (None, Some(Holds::Nothing)) => **ordinal >= facts.wanted && place.pod.is_none(),
        (None, Some(_)) => true,
        (Some(member), Some(storage)) => !member.started && storage != Holds::Nothing && !storage.is_of(member.id),
    };
    facts.places.iter().find(is_of_no_use).map(|(ordinal, _)| Step::Discard(*ordinal))
}

/// A member whose storage is not the one that it began in, and a learner that does not come back.
fn remove_lost(facts: &Facts) -> Option<Step> {
    let is_lost = |ordinal: i32, member: &MemberFacts| {
        let place = facts.place(ordinal);
        if !member.started {
            // It may still begin, but for a founder whose pod has come back without a ticket.
            return !member.learner && !place.has(Ticket::Valid) && member.silent >= GONE;
        }
        let after = match place.storage {
            None => GONE,
            Some(storage) if !storage.is_of(member.id) => REPLACED,
            Some(_) if facts.in_memory || member.learner => EMPTIED,
            Some(_) => return false,
        };
        member.silent >= after
    };
    let (ordinal, member) = facts.members.iter().find(|(ordinal, member)| is_lost(**ordinal, member))?;
    if !member.learner && !facts.has_quorum_without(*ordinal, facts.voters().count()) {
        return Some(Step::Wait(format!("member {ordinal} has lost its data, and too few of the others answer to replace it")));
    }
    Some(Step::Remove(*ordinal))
}

/// From the highest ordinal down, as a `StatefulSet` does.
fn remove_surplus(facts: &Facts) -> Option<Step> {
    let (ordinal, member) = facts.members.iter().next_back().filter(|(ordinal, _)| **ordinal >= facts.wanted)?;
    if member.learner {
        return Some(Step::Remove(*ordinal));
    }
    let voters = facts.voters().count();
    if voters == 1 {
        // The data is in a member that is to go: first another one must have it.
        return add(facts).or_else(|| learners(facts));
    }
    if !facts.has_quorum_without(*ordinal, voters - 1) {
        return Some(Step::Wait(format!("member {ordinal} can be removed when more of the others answer")));
    }
    Some(facts.remove(*ordinal))
}

/// Two learners at most. None more while one of them begins: the list that it is told would change.
fn add(facts: &Facts) -> Option<Step> {
    let missing = (0..facts.wanted).find(|ordinal| !facts.members.contains_key(ordinal))?;
    let begins = facts.learners().any(|(ordinal, member)| !member.started && facts.place(ordinal).has(Ticket::Valid));
    if facts.learners().count() >= MAX_LEARNERS || begins {
        return None;
    }
    if !facts.has_quorum_without(-1, facts.voters().count()) {
        return Some(Step::Wait(format!("member {missing} can be added when more of the others answer")));
    }
    Some(Step::Add(missing))
}

fn learners(facts: &Facts) -> Option<Step> {
    let mut begins = facts.learners().filter(|(_, member)| !member.started);
    let ready = |(ordinal, _): &(i32, &MemberFacts)| {
        let place = facts.place(*ordinal);
        place.storage.is_some() && place.pod.is_some_and(|pod| pod.ticket != Ticket::Valid && !pod.ending)
    };
    if let Some((ordinal, _)) = begins.find(ready) {
        return Some(Step::GiveTicket(ordinal));
    }
    let has_caught_up = |member: &MemberFacts| member.applied.is_some_and(|applied| applied.saturating_add(CAUGHT_UP) > facts.committed);
    let voters = facts.voters().count();
    let mut caught_up = facts.learners().filter(|(_, member)| member.started && has_caught_up(member));
    let first = caught_up.next();
    // An even number of voters survives less than the odd one below, so two are promoted together.
    let to_come = usize::try_from(facts.wanted).unwrap_or(0).saturating_sub(voters);
    let together = voters % 2 == 1 && to_come >= 2;
    let has_quorum = facts.voters().filter(|(_, member)| member.is_healthy()).count() + 1 > voters.div_ceil(2);
    match first {
        Some((ordinal, _)) if has_quorum && (!together || caught_up.next().is_some()) => Some(Step::Promote(ordinal)),
        _ => facts.learners().next().map(|(ordinal, _)| Step::Wait(format!("member {ordinal} is catching up"))),
    }
}

/// A member that is down and has its data comes back.
fn silent(facts: &Facts) -> Option<Step> {
    let (ordinal, _) = facts.voters().find(|(_, member)| !member.is_healthy())?;
    Some(Step::Wait(format!("member {ordinal} does not answer")))
}

/// One pod after the other. A pod whose member is down is replaced at once: nobody loses by it.
fn roll(facts: &Facts) -> Option<Step> {
    let outdated = |(ordinal, member): (i32, &MemberFacts)| {
        let pod = facts.place(ordinal).pod?;
        (pod.outdated && !pod.ending).then_some((ordinal, member.is_healthy() && pod.ready, member.id == facts.leader))
    };
    let outdated: Vec<_> = facts.voters().filter_map(outdated).collect();
    if let Some((ordinal, ..)) = outdated.iter().find(|(_, healthy, _)| !healthy).filter(|_| !facts.in_memory) {
        return Some(Step::Restart(*ordinal));
    }
    let (ordinal, _, leads) = outdated.into_iter().max_by_key(|(ordinal, _, leads)| (!leads, *ordinal))?;
    let is_up = |(ordinal, member): (i32, &MemberFacts)| {
        member.is_healthy() && facts.place(ordinal).pod.is_some_and(|pod| pod.ready && !pod.ending)
    };
    if let Some((waited_for, _)) = facts.voters().find(|(ordinal, member)| !is_up((*ordinal, member))) {
        return Some(Step::Wait(format!("member {waited_for} is to be ready before the next pod is replaced")));
    }
    if facts.in_memory {
        // Alone, it would take the data with it; see `keep::settle`.
        return (facts.voters().count() > 1).then(|| facts.remove(ordinal));
    }
    match facts.other_leader(ordinal).filter(|_| leads) {
        Some(other) => Some(Step::MoveLeader(ordinal, other)),
        None => Some(Step::Restart(ordinal)),
    }
}

#[cfg(test)]
mod tests;
