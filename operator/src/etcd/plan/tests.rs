//! The plan against a model of etcd and of a host, in which pods, volumes and nodes fail at any moment.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashSet};

/// Longer than anything that the plan waits for.
const LONG: u8 = 13;

/// A member as etcd lists it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    id: u64,
    started: bool,
    learner: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Pod {
    template: u32,
    /// The list that it may begin with.
    ticket: Option<Vec<i32>>,
    up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Storage {
    noted: Holds,
    /// The member whose data it has.
    data: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    wanted: i32,
    in_memory: bool,
    template: u32,
    list: BTreeMap<i32, Entry>,
    /// `replicas` of the StatefulSet.
    slots: i32,
    pods: BTreeMap<i32, Pod>,
    storage: BTreeMap<i32, Storage>,
    /// Members that have not caught up.
    behind: BTreeSet<u64>,
    /// For how many ticks of ten seconds members are down, up to [`LONG`].
    down: BTreeMap<u64, u8>,
    leader: u64,
    ids: u64,
}

impl World {
    /// An etcd that has formed, of which so many founders have started.
    fn formed(members: i32, started: i32, in_memory: bool) -> Self {
        let mut world = Self::new(members, in_memory);
        for ordinal in started..members {
            world.list.get_mut(&ordinal).unwrap().started = false;
            world.storage.insert(ordinal, Storage { noted: Holds::Candidate, data: None });
            // Those of data in memory are taken when etcd forms.
            world.pods.insert(ordinal, Pod { ticket: (!in_memory).then(|| (0..members).collect()), ..Pod::default() });
        }
        world
    }

    fn new(members: i32, in_memory: bool) -> Self {
        let entry = |ordinal: i32| Entry { id: u64::try_from(ordinal).unwrap() + 1, started: true, learner: false };
        Self {
            wanted: members,
            in_memory,
            template: 0,
            list: (0..members).map(|ordinal| (ordinal, entry(ordinal))).collect(),
            slots: members,
            pods: (0..members).map(|ordinal| (ordinal, Pod { up: true, ..Pod::default() })).collect(),
            storage: (0..members).map(|ordinal| (ordinal, Storage { noted: Holds::Founder, data: Some(entry(ordinal).id) })).collect(),
            behind: BTreeSet::new(),
            down: BTreeMap::new(),
            leader: 1,
            ids: 100,
        }
    }

    /// The member of the ordinal runs with its data.
    fn is_up(&self, ordinal: i32) -> bool {
        let Some(entry) = self.list.get(&ordinal) else { return false };
        let has_data = self.storage.get(&ordinal).is_some_and(|storage| storage.data == Some(entry.id));
        has_data && self.pods.get(&ordinal).is_some_and(|pod| pod.up)
    }

    fn voters(&self) -> Vec<i32> {
        self.list.iter().filter(|(_, entry)| !entry.learner).map(|(ordinal, _)| *ordinal).collect()
    }

    fn has_quorum(&self) -> bool {
        let voters = self.voters();
        voters.iter().filter(|ordinal| self.is_up(**ordinal)).count() > voters.len() / 2
    }

    /// Votes that are not lost for good.
    fn has_data_of_a_quorum(&self) -> bool {
        let voters = self.voters();
        let has_data = |ordinal: &&i32| self.storage.get(ordinal).is_some_and(|storage| storage.data == Some(self.list[ordinal].id));
        voters.iter().filter(has_data).count() > voters.len() / 2
    }

    fn facts(&self) -> Facts {
        let fact = |ordinal: i32, entry: &Entry| {
            let applied = self.is_up(ordinal).then_some(if self.behind.contains(&entry.id) { 0 } else { 1_000_000 });
            let silent = Duration::from_secs(10) * u32::from(self.down.get(&entry.id).copied().unwrap_or(0));
            MemberFacts { id: entry.id, started: entry.started, learner: entry.learner, applied, silent }
        };
        let list: Vec<i32> = self.list.keys().copied().collect();
        let place = |ordinal: i32| {
            let storage = self.storage.get(&ordinal);
            let pod = self.pods.get(&ordinal).map(|pod| PodFacts {
                ready: self.is_up(ordinal) && !self.list[&ordinal].learner,
                outdated: pod.template != self.template,
                ticket: match &pod.ticket {
                    None => Ticket::None,
                    Some(ticket) if *ticket == list => Ticket::Valid,
                    Some(_) => Ticket::Stale,
                },
                ending: false,
            });
            Place { pod, storage: storage.map(|storage| storage.noted) }
        };
        Facts {
            wanted: self.wanted,
            in_memory: self.in_memory,
            members: self.list.iter().map(|(ordinal, entry)| (*ordinal, fact(*ordinal, entry))).collect(),
            places: (0..9).map(|ordinal| (ordinal, place(ordinal))).collect(),
            leader: self.leader,
            committed: 1_000_000,
        }
    }

    fn remove_pod(&mut self, ordinal: i32) {
        self.pods.remove(&ordinal);
        if self.in_memory {
            self.storage.remove(&ordinal);
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Done | Step::Wait(_) => {}
            Step::TakeTicket(ordinal) => {
                let storage = self.storage.get_mut(&ordinal).unwrap();
                if storage.noted == Holds::Nothing {
                    storage.noted = Holds::Member(self.list[&ordinal].id);
                }
                self.pods.get_mut(&ordinal).unwrap().ticket = None;
            }
            Step::GiveTicket(ordinal) => {
                self.storage.get_mut(&ordinal).unwrap().noted = Holds::Member(self.list[&ordinal].id);
                let list = self.list.keys().copied().collect();
                self.pods.get_mut(&ordinal).unwrap().ticket = Some(list);
            }
            Step::Add(ordinal) => {
                assert!(self.list.values().filter(|entry| entry.learner).count() < MAX_LEARNERS);
                self.ids += 1;
                let added = self.list.insert(ordinal, Entry { id: self.ids, started: false, learner: true });
                assert!(added.is_none(), "etcd refuses a second member of the same URL");
            }
            Step::Promote(ordinal) => self.list.get_mut(&ordinal).unwrap().learner = false,
            Step::MoveLeader(from, to) => {
                assert_eq!(self.list[&from].id, self.leader);
                assert!(self.is_up(to) && !self.list[&to].learner);
                self.leader = self.list[&to].id;
            }
            Step::Remove(ordinal) => {
                self.list.remove(&ordinal).unwrap();
            }
            Step::Restart(ordinal) => self.remove_pod(ordinal),
            Step::Discard(ordinal) => {
                self.remove_pod(ordinal);
                self.storage.remove(&ordinal);
            }
        }
    }

    /// One look of the operator.
    fn step(&mut self) -> Step {
        if !self.has_quorum() {
            // The list cannot be read.
            return Step::Wait(String::new());
        }
        let step = next(&self.facts());
        let before = self.voters().len();
        self.take(&step);
        if before > 1 {
            assert!(self.has_quorum(), "{step:?} broke the quorum: {self:?}");
        }
        step
    }

    /// What the reconcile and the StatefulSet controller do.
    fn apply_slots(&mut self) {
        self.slots = self.list.keys().next_back().map_or(0, |highest| highest + 1);
        for ordinal in 0..self.slots {
            self.pods.entry(ordinal).or_insert_with(|| Pod { template: self.template, ..Pod::default() });
            self.storage.entry(ordinal).or_insert(Storage { noted: Holds::Nothing, data: None });
        }
        for ordinal in self.slots..9 {
            self.remove_pod(ordinal);
        }
        if self.in_memory && self.wanted == 1 && self.slots == 1 {
            self.pods.insert(0, Pod { template: self.template, ..self.pods[&0].clone() });
        }
    }

    /// The kubelet starts etcd.
    fn start(&mut self, ordinal: i32) {
        let list: Vec<i32> = self.list.keys().copied().collect();
        let (Some(pod), Some(storage)) = (self.pods.get_mut(&ordinal), self.storage.get_mut(&ordinal)) else { return };
        if storage.data.is_some() {
            pod.up = true;
        } else if self.in_memory && self.wanted == 1 && list == [ordinal] {
            // Alone and in memory, a member begins anew.
            storage.data = Some(self.list[&ordinal].id);
            pod.up = true;
        } else if pod.ticket.as_ref() == Some(&list)
            && let Some(entry) = self.list.get_mut(&ordinal)
        {
            assert!(!entry.started || entry.learner, "member {ordinal} took its old ID with an empty directory");
            // A learner that does so does not vote, and finds that the leader knows it with a longer log: it ends.
            if entry.started {
                return;
            }
            entry.started = true;
            storage.data = Some(entry.id);
            pod.up = true;
            self.behind.insert(entry.id);
        }
    }

    fn time_passes(&mut self) {
        self.look();
        for ticks in self.down.values_mut() {
            *ticks = LONG.min(*ticks + 1);
        }
    }

    /// Everybody sees who is down, and those who are not elect a leader.
    fn look(&mut self) {
        let down: Vec<u64> = self.list.iter().filter(|(ordinal, _)| !self.is_up(**ordinal)).map(|(_, entry)| entry.id).collect();
        self.down.retain(|id, _| down.contains(id));
        for id in down {
            self.down.entry(id).or_insert(0);
        }
        let leads = self.list.iter().any(|(ordinal, entry)| entry.id == self.leader && !entry.learner && self.is_up(*ordinal));
        if !leads {
            let up = self.voters().into_iter().find(|ordinal| self.is_up(*ordinal));
            self.leader = up.filter(|_| self.has_quorum()).map_or(0, |ordinal| self.list[&ordinal].id);
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Step => drop(self.step()),
            Event::Slots => self.apply_slots(),
            Event::Start(ordinal) => self.start(ordinal),
            Event::CatchUp => self.behind.clear(),
            Event::Template => self.template += 1,
            Event::Wanted(wanted) => self.wanted = wanted,
            fault => self.fail(fault),
        }
    }

    /// Something fails, unless more has failed than etcd survives.
    fn fail(&mut self, fault: Event) {
        let before = self.clone();
        match fault {
            Event::Crash(ordinal) => drop(self.pods.get_mut(&ordinal).map(|pod| pod.up = false)),
            Event::LosePod(ordinal) => self.remove_pod(ordinal),
            Event::LoseStorage(ordinal) => {
                self.remove_pod(ordinal);
                self.storage.remove(&ordinal);
            }
            Event::Reboot(ordinal) => {
                if let Some(pod) = self.pods.get_mut(&ordinal) {
                    pod.up = false;
                    if self.in_memory {
                        self.storage.get_mut(&ordinal).unwrap().data = None;
                    }
                }
            }
            _ => unreachable!(),
        }
        if !self.has_data_of_a_quorum() {
            *self = before;
        }
    }

    /// Nothing fails any more, and everybody does his work.
    fn settle(&mut self) {
        for _ in 0..600 {
            self.apply_slots();
            for ordinal in 0..9 {
                self.start(ordinal);
            }
            self.time_passes();
            self.behind.clear();
            let step = self.step();
            if step == Step::Done && self.slots == self.wanted {
                assert_eq!(self.voters(), (0..self.wanted).collect::<Vec<_>>());
                assert_eq!(self.list.len(), self.voters().len());
                assert_eq!(self.storage.keys().copied().collect::<Vec<_>>(), self.voters());
                assert!(self.storage.values().all(|storage| storage.noted != Holds::Nothing));
                assert!(self.pods.values().all(|pod| pod.template == self.template && pod.ticket.is_none()));
                return;
            }
        }
        panic!("does not come to rest; next is {:?} in {self:?}", next(&self.facts()));
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Step,
    Slots,
    Start(i32),
    CatchUp,
    Template,
    Wanted(i32),
    Crash(i32),
    LosePod(i32),
    LoseStorage(i32),
    Reboot(i32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => Just(Event::Step),
        4 => Just(Event::Slots),
        8 => (0..6).prop_map(Event::Start),
        2 => Just(Event::CatchUp),
        1 => Just(Event::Template),
        1 => prop_oneof![Just(1), Just(3), Just(5)].prop_map(Event::Wanted),
        2 => (0..6).prop_map(Event::Crash),
        2 => (0..6).prop_map(Event::LosePod),
        1 => (0..6).prop_map(Event::LoseStorage),
        1 => (0..6).prop_map(Event::Reboot),
    ];
    proptest::collection::vec(event, 0..250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever fails, in whichever order: no step takes the quorum away, no member begins twice, and in the end the members are
    /// those that are wanted.
    #[test]
    fn members_come_and_go_and_the_quorum_stays(
        (members, started) in prop_oneof![Just((1, 1)), Just((3, 2)), Just((3, 3)), Just((5, 3)), Just((5, 4)), Just((5, 5))],
        in_memory: bool,
        events in events(),
    ) {
        let mut world = World::formed(members, started, in_memory);
        for event in events {
            world.happens(event);
            world.time_passes();
        }
        world.settle();
    }
}

/// Everything that can happen in whichever order, with at most two failures. (From three members to five there are 200,000 states, too
/// many for every run.)
fn explore(begin: World) -> usize {
    let ordinals = 0..begin.wanted.max(begin.slots);
    let mut seen = HashSet::from([(begin.clone(), 0_u8)]);
    let mut next = vec![(begin, 0)];
    while let Some((world, failures)) = next.pop() {
        let ordinals = ordinals.clone();
        let mut events = vec![Event::Step, Event::Slots, Event::CatchUp];
        events.extend(ordinals.clone().map(Event::Start));
        if failures < 2 {
            events.extend(ordinals.clone().map(Event::LosePod));
            events.extend(ordinals.clone().map(Event::LoseStorage));
            events.extend(ordinals.map(Event::Reboot));
        }
        let mut follow = |then: World, failures| {
            if seen.insert((then.clone(), failures)) {
                next.push((then, failures));
            }
        };
        for event in events {
            let is_failure = matches!(event, Event::LosePod(_) | Event::LoseStorage(_) | Event::Reboot(_));
            let mut then = world.clone();
            then.happens(event);
            then.look();
            follow(then, failures + u8::from(is_failure));
        }
        let mut later = world;
        later.down.values_mut().for_each(|ticks| *ticks = LONG);
        follow(later, failures);
    }
    for (world, _) in seen.iter().step_by(seen.len() / 500 + 1) {
        world.clone().settle();
    }
    seen.len()
}

#[test]
fn every_order_of_two_failures_keeps_the_quorum() {
    for in_memory in [false, true] {
        let mut worlds = vec![World::formed(3, 3, in_memory), World::formed(3, 2, in_memory)];
        worlds.extend([(1, 3), (3, 1), (5, 5), (5, 3)].map(|(from, to)| World { wanted: to, ..World::formed(from, from, in_memory) }));
        worlds.push(World { template: 1, ..World::formed(3, 3, in_memory) });
        for world in worlds {
            let (wanted, members) = (world.wanted, world.list.len());
            let states = explore(world);
            println!("{members} to {wanted} members, in memory {in_memory}: {states} states");
        }
    }
}

/// The steps until nothing is left to do, without those that note what has happened.
fn steps(world: &mut World) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..200 {
        world.apply_slots();
        for ordinal in 0..9 {
            world.start(ordinal);
        }
        world.time_passes();
        world.behind.clear();
        match world.step() {
            Step::Done => return steps,
            Step::TakeTicket(_) | Step::Wait(_) | Step::GiveTicket(_) => {}
            step => steps.push(step),
        }
    }
    panic!("does not come to rest: {world:?}");
}

#[test]
fn one_becomes_three_by_two_learners_that_are_promoted_together() {
    let mut world = World::new(1, false);
    world.wanted = 3;
    assert_eq!(steps(&mut world), [Step::Add(1), Step::Add(2), Step::Promote(1), Step::Promote(2)]);
}

#[test]
fn three_become_one_from_the_highest_down_and_their_storage_goes() {
    let mut world = World::new(3, false);
    (world.wanted, world.leader) = (1, 3);
    let expected = [Step::MoveLeader(2, 0), Step::Remove(2), Step::Discard(2), Step::Remove(1), Step::Discard(1)];
    assert_eq!(steps(&mut world), expected);
}

#[test]
fn pods_are_replaced_one_by_one_with_the_leader_last() {
    let mut world = World::new(3, false);
    (world.template, world.leader) = (1, 2);
    assert_eq!(steps(&mut world), [Step::Restart(2), Step::Restart(0), Step::MoveLeader(1, 2), Step::Restart(1)]);
}

#[test]
fn with_data_in_memory_a_pod_is_replaced_by_a_new_member() {
    let mut world = World::new(3, true);
    world.pods.get_mut(&1).unwrap().template = 7;
    world.template = 0;
    assert_eq!(steps(&mut world), [Step::Remove(1), Step::Discard(1), Step::Add(1), Step::Promote(1)]);
}

#[test]
fn a_member_whose_volume_was_replaced_is_replaced_too() {
    let mut world = World::new(3, false);
    world.fail(Event::LoseStorage(0));
    assert_eq!(steps(&mut world), [Step::Remove(0), Step::Add(0), Step::Promote(0)]);
}

#[test]
fn a_founder_that_never_came_may_still_come_or_is_replaced() {
    let mut world = World::formed(3, 2, false);
    assert_eq!(steps(&mut world), []);
    let mut world = World::formed(3, 2, false);
    // Its pod was evicted, and the next one has no ticket.
    world.fail(Event::LosePod(2));
    assert_eq!(steps(&mut world), [Step::Remove(2), Step::Discard(2), Step::Add(2), Step::Promote(2)]);
}

#[test]
fn a_member_that_is_down_and_has_its_data_is_waited_for() {
    let mut world = World::new(3, false);
    world.fail(Event::Crash(1));
    for _ in 0..1000 {
        world.time_passes();
    }
    assert_eq!(world.step(), Step::Wait("member 1 does not answer".into()));
    // Others are not taken away meanwhile.
    world.template = 1;
    assert_eq!(world.step(), Step::Restart(1));
}

#[test]
fn nothing_is_done_that_would_leave_no_quorum() {
    let mut world = World::new(3, true);
    world.fail(Event::LosePod(2));
    world.apply_slots();
    world.pods.get_mut(&1).unwrap().up = false;
    for _ in 0..100 {
        world.time_passes();
    }
    assert!(matches!(next(&world.facts()), Step::Wait(_)), "{:?}", next(&world.facts()));
}
