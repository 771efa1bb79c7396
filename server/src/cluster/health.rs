//! Whether this node is fit to lead: its disk answers, its disk has room, its system has memory.
//!
//! The driver looks at every tick while it leads. What it finds makes it hand over to a peer that is fit
//! as far as can be seen: of a disk that stalls that is one whose disk has more than ours, so that a
//! machine on which all stall keeps its leader. If the other is not fit either it hands on; so there is
//! a pause between attempts.
//!
//! A leader that cannot run at all (a stopped process, a cut cable) is found by the others.

use std::time::{Duration, Instant};

use strandline_replication::{Refusal, Replica, Role, Status};

use super::driver::Driver;
use crate::config::Config;

/// How long to wait before handing over again.
const PAUSE: Duration = Duration::from_secs(5);
/// How often to look at the system's memory.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// When a node is not fit to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a write to its disk may take; zero: for ever.
    pub stall_max: Duration,
    /// How many bytes of memory the system, or the group of processes, must have left.
    pub memory_left_min: u64,
}

impl Limits {
    /// Those of the settings.
    pub fn of(config: &Config) -> Limits {
        let ms = u64::try_from(config.number("stall-max-ms")).unwrap_or(0);
        let left = u64::try_from(config.size("memory-left-min")).unwrap_or(u64::MAX);
        Limits { stall_max: Duration::from_millis(ms), memory_left_min: left }
    }
}

/// Why a node is not fit to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A write to its disk takes too long.
    Stalled,
    /// Its disk is full.
    Full,
    /// There is little memory left.
    Memory,
}

/// What was seen of this node.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    /// The durable index, and since when it is that while more waits.
    durable: (u64, Instant),
    /// Whether the disk was found full since the last look: a write was refused, or soon would be.
    is_full: bool,
    /// When memory was looked at.
    looked: Option<Instant>,
    has_memory: bool,
    /// When it handed over last.
    handed_over: Option<Instant>,
    /// Whether damage of the state has been reported.
    is_damage_known: bool,
}

impl Health {
    /// Of a node of which nothing is known.
    pub fn new(limits: Limits) -> Health {
        Health {
            limits,
            durable: (0, Instant::now()),
            is_full: false,
            looked: None,
            has_memory: true,
            handed_over: None,
            is_damage_known: false,
        }
    }

    /// A proposal was refused.
    pub(super) fn refused(&mut self, reason: &Refusal) {
        self.is_full |= *reason == Refusal::Full;
    }

    /// Says what is damaged of the state, and when it has been replaced.
    pub(super) fn note_state(&mut self, status: &Status) {
        match &status.state_damage {
            Some(damage) if !self.is_damage_known => tracing::error!(
                damage,
                "the state is damaged: this node answers no reads, does not lead, and asks the leader for \
                 another one; its log is sound, so it goes on acknowledging and voting; what is damaged is \
                 kept as *.aside-1"
            ),
            None if self.is_damage_known => tracing::warn!(
                applied = status.applied.0,
                "the damaged state has been replaced by the leader's; check the disk"
            ),
            _ => {}
        }
        self.is_damage_known = status.state_damage.is_some();
    }

    /// Takes a look; what is wrong, if anything is.
    fn look(
        &mut self,
        now: Instant,
        status: &Status,
        memory_left: impl FnOnce() -> Option<u64>,
    ) -> Option<Unfit> {
        let durable = status.durable.0;
        if durable != self.durable.0 || status.last.0 <= durable {
            self.durable = (durable, now);
        }
        let limit = self.limits.memory_left_min;
        if limit > 0 && self.looked.is_none_or(|at| now.duration_since(at) >= MEMORY_EVERY) {
            self.looked = Some(now);
            self.has_memory = memory_left().is_none_or(|left| left >= limit);
        }
        let is_full = std::mem::take(&mut self.is_full);
        let stall_max = self.limits.stall_max;
        let waited = now.duration_since(self.durable.1);
        if !stall_max.is_zero() && waited > stall_max {
            // Only where another disk is known to have gone on.
            return status
                .successor()
                .is_some_and(|peer| peer.matched.0 > durable)
                .then_some(Unfit::Stalled);
        }
        match (is_full, self.has_memory) {
            (true, _) => Some(Unfit::Full),
            (false, false) => Some(Unfit::Memory),
            (false, true) => None,
        }
    }

    /// Whether it is time to hand over; then it has been.
    fn may_hand_over(&mut self, now: Instant) -> bool {
        if self.handed_over.is_some_and(|at| now.duration_since(at) < PAUSE) {
            return false;
        }
        self.handed_over = Some(now);
        true
    }
}

/// Says what opening has found and needs nobody else for.
pub(super) fn note_opening(replica: &Replica) {
    if let Some(damage) = replica.db().rebuilt() {
        tracing::error!(
            %damage,
            "the state is damaged; the log has everything, and it is applied again from the beginning"
        );
    }
}

impl Driver {
    /// A leader looks whether it is fit to lead.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.role != Role::Leader {
            return;
        }
        let status = self.replica.status();
        // The log says so as soon as it cannot prepare room, mostly before a write has to be refused.
        self.health.is_full |= self.replica.db().log().stats().is_full;
        let Some(unfit) = self.health.look(now, &status, memory_left) else { return };
        if status.successor().is_none() || !self.health.may_hand_over(now) {
            return;
        }
        let reason = match unfit {
            Unfit::Stalled => "a write to its disk takes too long",
            Unfit::Full => "its disk is full",
            Unfit::Memory => "the system has little memory left",
        };
        tracing::warn!(reason, "this node hands the lead over");
        self.transfer_to_successor();
    }
}

/// How many bytes of memory are left: of the system's, and of the group of processes that this one
/// belongs to, if that is limited. None where nobody says.
fn memory_left() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    let system = kilobytes.saturating_mul(1024);
    let number = |name: &str| -> Option<u64> {
        let path = format!("/sys/fs/cgroup/{name}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    // What the page cache holds is counted as used, and is given back when it is needed.
    let group = number("memory.max").zip(number("memory.current")).map(|(limit, used)| {
        let cache = group_cache().unwrap_or(0);
        limit.saturating_sub(used.saturating_sub(cache))
    });
    Some(group.map_or(system, |group| group.min(system)))
}

/// Bytes of files that the group has in memory and can do without.
fn group_cache() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").ok()?;
    let field = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    Some(field("inactive_file ")?.saturating_add(field("active_file ").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use strandline_engine::Index;

    use super::*;
    use crate::cluster::members::tests::status;

    const SECOND: Duration = Duration::from_secs(1);
    const PLENTY: Option<u64> = Some(1 << 40);

    fn health() -> (Health, Instant) {
        let limits = Limits { stall_max: SECOND, memory_left_min: 100 };
        (Health::new(limits), Instant::now())
    }

    fn at(durable: u64, last: u64, matched: u64) -> Status {
        let mut status = status(&[1, 2, 3], &[2, 3]);
        (status.durable, status.last) = (Index(durable), Index(last));
        status.peers[0].matched = Index(matched);
        status
    }

    #[test]
    fn a_disk_that_stalls_is_found_where_another_goes_on() {
        let (mut health, now) = health();
        let mut look =
            |after: u32, status: &Status| health.look(now + SECOND / 10 * after, status, || PLENTY);
        assert_eq!(look(0, &at(5, 9, 5)), None);
        assert_eq!(look(9, &at(5, 20, 9)), None, "not long enough");
        assert_eq!(look(11, &at(5, 30, 9)), Some(Unfit::Stalled));
        assert_eq!(look(12, &at(5, 30, 5)), None, "all of them stall");
        assert_eq!(look(13, &at(6, 30, 9)), None, "it goes on");
        assert_eq!(look(30, &at(6, 6, 6)), None, "there is nothing to write");
        assert_eq!(look(31, &at(6, 7, 7)), None, "it has only just begun");
    }

    #[test]
    fn a_full_disk_and_little_memory_are_found_and_there_is_a_pause() {
        let (mut health, now) = health();
        health.refused(&Refusal::Overloaded);
        assert_eq!(health.look(now, &at(5, 5, 5), || PLENTY), None);
        health.refused(&Refusal::Full);
        assert_eq!(health.look(now, &at(5, 5, 5), || PLENTY), Some(Unfit::Full));
        assert_eq!(health.look(now, &at(5, 5, 5), || PLENTY), None, "it was not refused again");
        let later = now + SECOND;
        assert_eq!(health.look(later, &at(5, 5, 5), || Some(99)), Some(Unfit::Memory));
        assert_eq!(health.look(later + SECOND, &at(5, 5, 5), || None), None, "nobody says");
        assert!(health.may_hand_over(now) && !health.may_hand_over(now + SECOND));
        assert!(health.may_hand_over(now + PAUSE));
    }

    #[test]
    fn this_system_has_memory_left() {
        assert!(memory_left().is_some_and(|left| left > 1 << 20));
    }
}
