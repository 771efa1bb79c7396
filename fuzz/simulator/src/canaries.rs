//! Canaries: deliberate bugs that the simulator must find.
//!
//! Each row says within how many seeds, in which profile, and which checker must catch it; what another
//! checker finds on the way is no catch, because an unrelated failure must not pass for a find. One
//! that is missed needs a new way of going wrong (see `docs/simulator.md`), not more seeds.

use crate::runner::{self, Failure, Plan};
use crate::violation::Checker;

/// A row of the table.
#[derive(Debug)]
pub struct Canary {
    /// Its number in `docs/canaries.md`.
    pub number: u8,
    /// What is wrong.
    pub name: &'static str,
    /// Seeds within which it must be found.
    pub seeds: u64,
    /// The profile in which it is looked for.
    pub profile: &'static str,
    /// Who must catch it.
    pub by: &'static [Checker],
}

use Checker::{Agreement, Durability, Election, Identity, Linearizability, Liveness, Opening};

/// All canaries that the simulator is to find. Those of the log and the engine alone are found by
/// their own tests.
pub const CANARIES: &[Canary] = &[
    Canary {
        number: 1,
        name: "leader counts itself before its own sync",
        seeds: 1000,
        profile: "crashes",
        by: &[Durability, Agreement, Linearizability],
    },
    Canary {
        number: 2,
        name: "follower acknowledges before its sync",
        seeds: 500,
        profile: "crashes",
        by: &[Durability, Agreement, Linearizability],
    },
    Canary {
        number: 3,
        name: "vote not persisted",
        seeds: 2000,
        profile: "votes",
        by: &[Election, Agreement],
    },
    Canary {
        number: 4,
        name: "vote answered before its sync",
        seeds: 10_000,
        profile: "votes",
        by: &[Election, Agreement],
    },
    Canary {
        number: 5,
        name: "term not persisted",
        seeds: 100,
        profile: "votes",
        by: &[Election, Agreement],
    },
    Canary {
        number: 8,
        name: "conflicting suffix not truncated",
        seeds: 10_000,
        profile: "figure8",
        by: &[Agreement],
    },
    Canary {
        number: 9,
        name: "no check of the previous entry's term",
        seeds: 50,
        profile: "figure8",
        by: &[Agreement, Durability],
    },
    Canary {
        number: 10,
        name: "old-term entry committed by counting",
        seeds: 2000,
        profile: "figure8",
        by: &[Agreement, Durability],
    },
    Canary {
        number: 11,
        name: "applied before committed",
        seeds: 50,
        profile: "figure8",
        // The consensus asserts that what is reported as applied was committed.
        by: &[Agreement, Checker::Panic],
    },
    Canary {
        number: 12,
        name: "snapshot installed without sync",
        seeds: 500,
        profile: "snapshots",
        by: &[Agreement, Durability, Opening],
    },
    Canary {
        number: 13,
        name: "snapshot's metadata newer than its data",
        seeds: 500,
        profile: "snapshots",
        by: &[Agreement, Durability],
    },
    Canary {
        number: 14,
        name: "log trimmed beyond the slowest durable checkpoint",
        seeds: 500,
        profile: "snapshots",
        by: &[Agreement, Durability, Opening, Liveness],
    },
    Canary {
        number: 15,
        name: "stale read on a deposed leader",
        seeds: 50,
        profile: "reads",
        by: &[Linearizability],
    },
    Canary {
        number: 16,
        name: "linearizable read before the leader's first commit of its term",
        seeds: 50,
        profile: "reads",
        by: &[Linearizability],
    },
    Canary {
        number: 17,
        name: "read before apply",
        seeds: 2000,
        profile: "reads",
        by: &[Linearizability],
    },
    Canary {
        number: 24,
        name: "joint quorum counted as one majority",
        seeds: 1000,
        profile: "members",
        by: &[Election, Agreement, Durability],
    },
    Canary {
        number: 25,
        name: "a node with an empty disk votes under its old identity",
        seeds: 500,
        profile: "damage",
        by: &[Agreement, Election, Durability, Identity],
    },
    Canary {
        number: 26,
        name: "a retried request is applied twice",
        seeds: 50,
        profile: "default",
        by: &[Checker::ExactlyOnce],
    },
    Canary {
        number: 27,
        name: "the table of sessions is missing from the snapshot",
        seeds: 500,
        profile: "snapshots",
        by: &[Agreement, Checker::ExactlyOnce],
    },
    Canary {
        number: 28,
        name: "election by half the votes",
        seeds: 50,
        profile: "votes",
        by: &[Election],
    },
    Canary {
        number: 29,
        name: "lease measured by the wall clock",
        seeds: 200,
        profile: "leases",
        by: &[Linearizability],
    },
];

/// What became of a canary.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The find, if it was the right one.
    pub caught: Option<Failure>,
    /// How many seeds were run.
    pub seeds: u64,
    /// What other checkers found on the way.
    pub others: Vec<Failure>,
}

/// How many seeds are run at a time: finds beyond the first are wasted.
const AT_A_TIME: u64 = 20;

/// Looks for the bug that is switched on.
///
/// # Panics
///
/// If its profile does not exist.
pub fn hunt(canary: &Canary, from: u64, threads: usize) -> Hunt {
    let profile = crate::profiles::named(canary.profile).expect("the table names profiles");
    let mut hunt = Hunt { caught: None, seeds: 0, others: Vec::new() };
    while hunt.caught.is_none() && hunt.seeds < canary.seeds {
        let plan = Plan {
            from: from.wrapping_add(hunt.seeds),
            seeds: AT_A_TIME.min(canary.seeds - hunt.seeds),
            time: None,
            twice_every: 0,
            threads,
            failures_max: usize::MAX,
        };
        let report = runner::run_many(plan, std::slice::from_ref(profile), &|_| ());
        hunt.seeds += plan.seeds;
        for failure in report.failures {
            let is_right = canary.by.contains(&failure.violation.checker);
            match is_right && hunt.caught.is_none() {
                true => hunt.caught = Some(failure),
                false => hunt.others.push(failure),
            }
        }
    }
    hunt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_profile_and_a_checker() {
        for canary in CANARIES {
            assert!(crate::profiles::named(canary.profile).is_some(), "{}", canary.name);
            assert!(!canary.by.is_empty());
        }
        assert!(CANARIES.windows(2).all(|pair| pair[0].number < pair[1].number));
    }
}
