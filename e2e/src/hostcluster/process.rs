//! Naming a process so that its number cannot be taken by another, and ending it.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process number together with when that process began (clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    pub started: u64,
}

impl Identity {
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse(&stat).map(|(_, started)| Self { pid, started })
    }

    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Zombies count as gone: they hold nothing but a number.
    pub fn alive(self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| parse(&stat))
            .is_some_and(|(state, started)| started == self.started && state != 'Z' && state != 'X')
    }

    /// Sends SIGKILL if it is still that process.
    pub fn kill(self) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// State letter and start time of a `/proc/<pid>/stat` line. The name in parentheses may itself hold spaces and parentheses.
fn parse(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Kills whatever `list` names, again and again (they may fork), until it names nothing living. False when time ran out.
pub async fn kill_all(list: impl Fn() -> Vec<i32>, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        let living: Vec<Identity> = list().into_iter().filter_map(Identity::of).filter(|process| process.alive()).collect();
        if living.is_empty() {
            return true;
        }
        living.into_iter().for_each(Identity::kill);
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        assert_eq!(parse(&format!("7 (a) b) {tail}")), Some(('S', 4242)));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let own = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.alive());
        assert!(!Identity { started: own.started + 1, ..own }.alive());
    }
}
