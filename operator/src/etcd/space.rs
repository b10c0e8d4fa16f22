//! A database at its quota. etcd then raises alarm `NOSPACE` and refuses writes, until somebody has made room and ends the alarm:
//! what was overwritten or deleted is compacted, the members give the free pages back one by one, the leader last, and the alarm
//! ends if every database is well below its quota. Otherwise it would be raised again at once: the tenant must delete objects, or
//! the storage must grow.
//!
//! Nothing is remembered between attempts: each step may be repeated, and the members' own reports decide.

use super::{EtcdError, Maintenance, Member};
use std::collections::BTreeSet;

/// A database that fills more of its quota than this, in percent, is full.
const FULL: u64 = 90;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// There was no alarm.
    Enough,
    /// The alarm is over; so many bytes were given back.
    Reclaimed(u64),
    /// The largest database still has this size, of this quota, in bytes.
    Full { size: u64, quota: u64 },
}

/// Makes room if alarm `NOSPACE` is raised.
pub(crate) async fn reclaim(etcd: &dyn Maintenance) -> Result<Space, EtcdError> {
    let mut tried = Tried::default();
    let mut before = None;
    loop {
        let members = etcd.members().await?;
        let largest = members.iter().map(|member| member.size).max().unwrap_or(0);
        let before = *before.get_or_insert(largest);
        match next(&members, &tried) {
            Step::Nothing if tried.compacted => return Ok(Space::Reclaimed(before.saturating_sub(largest))),
            Step::Nothing => return Ok(Space::Enough),
            Step::Compact(revision) => {
                etcd.compact(revision).await?;
                tried.compacted = true;
            }
            Step::Defragment(member) => {
                etcd.defragment(member).await?;
                tried.defragmented.insert(member);
            }
            Step::Disarm(member) => etcd.disarm(member).await?,
            Step::GiveUp { size, quota } => return Ok(Space::Full { size, quota }),
        }
    }
}

/// What this attempt has done.
#[derive(Debug, Default)]
struct Tried {
    compacted: bool,
    defragmented: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Compact(i64),
    Defragment(u64),
    Disarm(u64),
    GiveUp { size: u64, quota: u64 },
}

fn next(members: &[Member], tried: &Tried) -> Step {
    let Some(alarmed) = members.iter().find(|member| member.no_space) else { return Step::Nothing };
    if !tried.compacted {
        let newest = members.iter().map(|member| member.revision).max().unwrap_or(0);
        // All of it: a watch that is behind begins anew.
        return Step::Compact(newest);
    }
    // The leader last: it answers nothing meanwhile.
    let rest = members.iter().filter(|member| !tried.defragmented.contains(&member.id));
    if let Some(member) = rest.min_by_key(|member| (member.is_leader, member.id)) {
        return Step::Defragment(member.id);
    }
    let is_full = |member: &&Member| member.size.saturating_mul(100) > member.quota.saturating_mul(FULL);
    match members.iter().filter(is_full).max_by_key(|member| member.size) {
        Some(Member { size, quota, .. }) => Step::GiveUp { size: *size, quota: *quota },
        None => Step::Disarm(alarmed.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::Mutex;

    const MIB: u64 = 1 << 20;

    /// Members of whose databases compaction frees `garbage`.
    struct FakeEtcd {
        members: Mutex<Vec<Member>>,
        garbage: u64,
        calls: Mutex<Vec<String>>,
    }

    impl FakeEtcd {
        fn new(members: u64, leader: u64, size: u64, garbage: u64) -> Self {
            let member =
                |id| Member { id, is_leader: id == leader, size, in_use: size, quota: 100 * MIB, revision: 5000, no_space: id == 2 };
            let members = Mutex::new((1..=members).map(member).collect());
            Self { members, garbage, calls: Mutex::default() }
        }

        fn change(&self, call: String, change: impl FnMut(&mut Member)) {
            self.calls.lock().unwrap().push(call);
            self.members.lock().unwrap().iter_mut().for_each(change);
        }
    }

    #[async_trait]
    impl Maintenance for FakeEtcd {
        async fn members(&self) -> Result<Vec<Member>, EtcdError> {
            Ok(self.members.lock().unwrap().clone())
        }

        async fn compact(&self, revision: i64) -> Result<(), EtcdError> {
            self.change(format!("compact {revision}"), |member| member.in_use -= self.garbage);
            Ok(())
        }

        async fn defragment(&self, id: u64) -> Result<(), EtcdError> {
            self.change(format!("defragment {id}"), |member| {
                if member.id == id {
                    member.size = member.in_use;
                }
            });
            Ok(())
        }

        async fn disarm(&self, id: u64) -> Result<(), EtcdError> {
            self.change(format!("disarm {id}"), |member| member.no_space &= member.id != id);
            Ok(())
        }
    }

    #[tokio::test]
    async fn room_is_made_member_by_member_with_the_leader_last() {
        let etcd = FakeEtcd::new(3, 1, 100 * MIB, 30 * MIB);
        assert_eq!(reclaim(&etcd).await.unwrap(), Space::Reclaimed(30 * MIB));
        assert_eq!(*etcd.calls.lock().unwrap(), ["compact 5000", "defragment 2", "defragment 3", "defragment 1", "disarm 2"]);
        assert_eq!(reclaim(&etcd).await.unwrap(), Space::Enough);
    }

    #[tokio::test]
    async fn a_database_full_of_objects_stays_alarmed() {
        let etcd = FakeEtcd::new(2, 2, 100 * MIB, 5 * MIB);
        assert_eq!(reclaim(&etcd).await.unwrap(), Space::Full { size: 95 * MIB, quota: 100 * MIB });
        assert_eq!(*etcd.calls.lock().unwrap(), ["compact 5000", "defragment 1", "defragment 2"]);
    }
}
