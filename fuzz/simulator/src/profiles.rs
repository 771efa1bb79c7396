//! Profiles: what runs are biased to.
//!
//! `default` leaves everything to the seed. The others make sure of some classes of faults and leave
//! out others, because some bugs need a combination that is seldom drawn.

use crate::swarm::{Class, Shape};

/// How a profile treats a class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// The seed draws.
    Free,
    /// Never.
    Off,
    /// Always, at any strength.
    On,
    /// Always, at 700 of 1000 or more.
    Strong,
}

/// What runs are biased to.
#[derive(Debug)]
pub struct Profile {
    /// As it is called on the command line.
    pub name: &'static str,
    /// For whom.
    pub about: &'static str,
    /// What is not in `biases`.
    others: Bias,
    biases: &'static [(Class, Bias)],
    shape: fn(&mut Shape),
}

impl Profile {
    /// How it treats a class.
    pub fn bias(&self, class: Class) -> Bias {
        let found = self.biases.iter().find(|(other, _)| *other == class);
        found.map_or(self.others, |(_, bias)| *bias)
    }

    /// Changes what the seed drew.
    pub fn shape(&self, shape: &mut Shape) {
        (self.shape)(shape);
    }
}

/// Leaves the shape to the seed.
fn as_drawn(_: &mut Shape) {}

/// Makes stale reads likely to be noticed: few keys, read often.
fn many_reads(shape: &mut Shape) {
    shape.replicas = shape.replicas.max(3);
    shape.reads = 600;
    shape.keys = shape.keys.min(2);
    shape.think = shape.think.min(10_000);
}

/// All profiles.
pub const ALL: &[Profile] = &[
    Profile {
        name: "default",
        about: "everything by chance",
        others: Bias::Free,
        biases: &[],
        shape: as_drawn,
    },
    Profile {
        name: "calm",
        about: "no faults: whether it works at all",
        others: Bias::Off,
        biases: &[],
        shape: as_drawn,
    },
    Profile {
        name: "storm",
        about: "everything at once",
        others: Bias::On,
        biases: &[(Class::Membership, Bias::Free)],
        shape: as_drawn,
    },
    Profile {
        name: "network",
        about: "only the network and the processes fail",
        others: Bias::Off,
        biases: &[
            (Class::Loss, Bias::Free),
            (Class::Duplicates, Bias::Free),
            (Class::Garbling, Bias::Free),
            (Class::Delay, Bias::Free),
            (Class::Reordering, Bias::Free),
            (Class::Partitions, Bias::On),
            (Class::Pauses, Bias::Free),
            (Class::SlowNodes, Bias::Free),
            (Class::ClockRates, Bias::Free),
            (Class::LostReplies, Bias::Free),
            (Class::SmallMessages, Bias::Free),
            (Class::StaleReads, Bias::Free),
        ],
        shape: as_drawn,
    },
    Profile {
        name: "crashes",
        about: "nodes lose power, alone and all at once",
        others: Bias::Free,
        biases: &[
            (Class::PowerCuts, Bias::Strong),
            (Class::Blackouts, Bias::Strong),
            (Class::Kills, Bias::On),
            (Class::BrokenOperations, Bias::On),
            (Class::Rot, Bias::Off),
            (Class::StateRot, Bias::Off),
            (Class::MisdirectedWrites, Bias::Off),
            (Class::Wipes, Bias::Off),
        ],
        shape: |shape| shape.replicas = shape.replicas.max(3),
    },
    Profile {
        name: "votes",
        about: "many elections, slow syncs, and power cuts soon after a vote",
        others: Bias::Off,
        biases: &[
            (Class::PowerCuts, Bias::Strong),
            (Class::BrokenOperations, Bias::Strong),
            (Class::Campaigns, Bias::Strong),
            (Class::Partitions, Bias::On),
            (Class::SlowSyncs, Bias::Free),
            (Class::SlowDisks, Bias::Free),
            (Class::Delay, Bias::Free),
            (Class::Reordering, Bias::Free),
            (Class::Loss, Bias::Free),
        ],
        shape: |shape| {
            shape.replicas = 3;
            shape.think = 100_000;
            shape.election_ticks = 10;
        },
    },
    Profile {
        name: "figure8",
        about: "short reigns that leave entries behind on some replicas",
        others: Bias::Off,
        biases: &[
            (Class::Coups, Bias::Strong),
            (Class::Partitions, Bias::Free),
            (Class::Campaigns, Bias::Free),
            (Class::Kills, Bias::Free),
            (Class::Delay, Bias::Free),
            (Class::SlowDisks, Bias::Free),
            (Class::Loss, Bias::Free),
            (Class::SmallMessages, Bias::Strong),
        ],
        shape: |shape| {
            shape.replicas = if shape.replicas < 5 { 3 } else { 5 };
            shape.think = shape.think.min(10_000);
            shape.reads = 100;
        },
    },
    Profile {
        name: "reads",
        about: "many reads while leaders are cut off, paused and slow",
        others: Bias::Off,
        biases: &[
            (Class::Partitions, Bias::Strong),
            (Class::Pauses, Bias::Strong),
            (Class::Transfers, Bias::Free),
            (Class::Campaigns, Bias::Free),
            (Class::SlowDisks, Bias::Free),
            (Class::SlowNodes, Bias::Free),
            (Class::Delay, Bias::Free),
            (Class::ClockRates, Bias::Free),
            (Class::ClockJumps, Bias::Free),
            (Class::StaleReads, Bias::Free),
        ],
        shape: many_reads,
    },
    Profile {
        name: "leases",
        about: "leaders read alone, while they are cut off, paused, restarted and badly timed",
        others: Bias::Off,
        biases: &[
            (Class::Leases, Bias::On),
            (Class::ClockRates, Bias::On),
            (Class::ClockJumps, Bias::Strong),
            (Class::Partitions, Bias::Free),
            (Class::Pauses, Bias::Strong),
            (Class::LostLinks, Bias::Free),
            (Class::Campaigns, Bias::Free),
            (Class::Transfers, Bias::Free),
            (Class::Kills, Bias::Free),
            (Class::Restarts, Bias::Free),
            (Class::PowerCuts, Bias::Free),
            (Class::SlowNodes, Bias::Free),
            (Class::Delay, Bias::Free),
            (Class::Loss, Bias::Free),
            (Class::StaleReads, Bias::Free),
        ],
        shape: many_reads,
    },
    Profile {
        name: "snapshots",
        about: "little log is kept, and replicas are away for long",
        others: Bias::Free,
        biases: &[
            (Class::SmallLogs, Bias::Strong),
            (Class::BigValues, Bias::Strong),
            (Class::Partitions, Bias::On),
            (Class::PowerCuts, Bias::On),
            (Class::LateWork, Bias::Off),
            (Class::Rot, Bias::Off),
            (Class::StateRot, Bias::Off),
            (Class::MisdirectedWrites, Bias::Off),
            (Class::Wipes, Bias::Off),
        ],
        shape: |shape| {
            shape.replicas = shape.replicas.max(3);
            shape.think = shape.think.min(10_000);
            shape.reads = 100;
            shape.memtable_size = 8 << 10;
        },
    },
    Profile {
        name: "damage",
        about: "disks rot, lose writes, or come back empty",
        others: Bias::Free,
        biases: &[
            (Class::Rot, Bias::Strong),
            (Class::MisdirectedWrites, Bias::On),
            (Class::Wipes, Bias::Free),
            (Class::PowerCuts, Bias::On),
            (Class::Blackouts, Bias::Off),
            // Where members come and go, disks are spared.
            (Class::Membership, Bias::Off),
        ],
        shape: |shape| shape.replicas = shape.replicas.max(3),
    },
    Profile {
        name: "state",
        about: "tables and manifests are damaged, lost or unreadable, in the midst of everything",
        others: Bias::Free,
        biases: &[
            (Class::StateRot, Bias::Strong),
            (Class::PowerCuts, Bias::On),
            (Class::Rot, Bias::Off),
            (Class::MisdirectedWrites, Bias::Off),
            (Class::Wipes, Bias::Off),
            (Class::Membership, Bias::Off),
        ],
        shape: |shape| {
            shape.replicas = shape.replicas.max(3);
            shape.memtable_size = 8 << 10;
        },
    },
    Profile {
        name: "members",
        about: "members come and go",
        others: Bias::Free,
        biases: &[(Class::Membership, Bias::Strong), (Class::Partitions, Bias::Strong)],
        shape: |shape| shape.replicas = shape.replicas.max(3),
    },
];

/// How often a profile without faults has its turn.
const CALM_EVERY: u64 = 8;

/// The profile of a run by its number: one of `profiles` after the other. A run without faults shows little, and
/// costs most, because nothing holds its clients up: of several profiles the first takes most of its turns.
///
/// # Panics
///
/// If there is no profile.
pub fn in_turn(profiles: &'static [Profile], number: u64) -> &'static Profile {
    let count = u64::try_from(profiles.len()).unwrap_or(u64::MAX);
    let turn = number / count;
    let profile = &profiles[usize::try_from(number % count).unwrap_or(0)];
    let is_calm = profile.others == Bias::Off && profile.biases.is_empty();
    if is_calm && !turn.is_multiple_of(CALM_EVERY) { &profiles[0] } else { profile }
}

/// The profile of this name.
pub fn named(name: &str) -> Option<&'static Profile> {
    ALL.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_have_their_turns_and_the_calm_one_seldom() {
        let turns: Vec<_> = (0..16 * 13).map(|number| in_turn(ALL, number).name).collect();
        let of = |name| turns.iter().filter(|turn| **turn == name).count();
        assert_eq!(ALL.len(), 13);
        assert_eq!((of("calm"), of("default"), of("storm")), (2, 30, 16));
        let calm = std::slice::from_ref(named("calm").unwrap());
        assert!((0..20).all(|number| in_turn(calm, number).name == "calm"));
    }

    #[test]
    fn names_are_unique_and_each_class_is_named_once() {
        let names: BTreeSet<_> = ALL.iter().map(|profile| profile.name).collect();
        assert_eq!(names.len(), ALL.len());
        for profile in ALL {
            let classes: BTreeSet<_> = profile.biases.iter().map(|(class, _)| class).collect();
            assert_eq!(classes.len(), profile.biases.len(), "{}", profile.name);
        }
    }
}
