//! Which faults a run has, and how strong they are: drawn from its seed.
//!
//! Each class of faults is on with a chance of its own, between .3 and .7 unless the profile says
//! otherwise, and then has a strength from 1 to 1000. So runs differ in kind: one has nothing but slow
//! disks and elections, another one everything at once. Each class draws from a sequence of its own, so
//! that switching one off leaves the others as they were; that is what the minimiser does.

use std::collections::{BTreeMap, BTreeSet};

use strandline_wal::disk::simulated::Random;

use crate::hash::Hash;
use crate::profiles::{Bias, Profile};

macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident $name:literal,)*) => {
        /// A class of faults, or another way in which runs differ.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Class {
            $($(#[$doc])* $class,)*
        }

        impl Class {
            /// All of them.
            pub const ALL: &'static [Class] = &[$(Class::$class,)*];

            /// As it is called on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Class::$class => $name,)*
                }
            }
        }
    };
}

classes! {
    /// Messages are lost: up to 30 %.
    Loss "loss",
    /// Messages arrive twice.
    Duplicates "duplicates",
    /// A bit of a message is inverted.
    Garbling "garbling",
    /// Messages take long, now and then very long.
    Delay "delay",
    /// Messages overtake each other.
    Reordering "reordering",
    /// The network is cut: in two, between a pair, one way, around a bridge.
    Partitions "partitions",
    /// kill -9.
    Kills "kills",
    /// A node loses power.
    PowerCuts "power-cuts",
    /// All nodes lose power at once.
    Blackouts "blackouts",
    /// A node is closed and opened again.
    Restarts "restarts",
    /// A node is killed or loses power in the midst of an operation of its disk.
    BrokenOperations "broken-operations",
    /// A write, a sync or another operation of a disk fails; often a power cut follows.
    FailedOperations "failed-operations",
    /// A disk is full for a while.
    FullDisks "full-disks",
    /// A disk is slow for a while: up to seconds.
    SlowDisks "slow-disks",
    /// A durable write hangs for seconds.
    HangingWrites "hanging-writes",
    /// Syncs outside the log take time, in which the process does nothing else.
    SlowSyncs "slow-syncs",
    /// Bits of files flip.
    Rot "rot",
    /// A durable write lands in a wrong place.
    MisdirectedWrites "misdirected-writes",
    /// A disk is replaced by an empty one.
    Wipes "wipes",
    /// Clocks run at different rates.
    ClockRates "clock-rates",
    /// Wall clocks jump by up to an hour.
    ClockJumps "clock-jumps",
    /// A process stands still, longer than an election.
    Pauses "pauses",
    /// A node is slow but alive.
    SlowNodes "slow-nodes",
    /// Clients do not hear the answer.
    LostReplies "lost-replies",
    /// Flushes and compactions come late.
    LateWork "late-work",
    /// Messages carry few entries, and few are under way.
    SmallMessages "small-messages",
    /// Little of the log is kept for members that lag.
    SmallLogs "small-logs",
    /// Values have padding.
    BigValues "big-values",
    /// The leadership is handed over.
    Transfers "transfers",
    /// Replicas stand for election without a reason.
    Campaigns "campaigns",
    /// Leaders fall at the worst moment, one after the other.
    Coups "coups",
    /// Members are added and removed.
    Membership "membership",
    /// Some reads may be answered by any replica alone, within a bound.
    StaleReads "stale-reads",
    /// Leaders have leases, shorter by what the clocks differ.
    Leases "leases",
    /// A replica is told that the leader is gone, and it is not.
    LostLinks "lost-links",
    /// Logs are compressed: of all nodes, or of those with an odd number.
    CompressedLogs "compressed-logs",
    /// Tables and manifests are damaged, lost, or cannot be read.
    StateRot "state-rot",
}

impl Class {
    /// The class of this name.
    pub fn named(name: &str) -> Option<Class> {
        Class::ALL.iter().copied().find(|class| class.name() == name)
    }
}

/// The classes that are on in a run, with their strengths, and the shape of its cluster.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// What everything is drawn from.
    pub seed: u64,
    /// The profile's name.
    pub profile: &'static str,
    /// Strength of each class that is on, 1 to 1000.
    strengths: BTreeMap<Class, u32>,
    /// What the cluster and its clients are like.
    pub shape: Shape,
}

/// What a cluster and its clients are like. Spans are in microseconds.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many replicas.
    pub replicas: u64,
    /// How long a tick is.
    pub tick: u64,
    /// See [`strandline_replication::Options`].
    pub election_ticks: u32,
    /// See [`strandline_replication::Options`].
    pub heartbeat_ticks: u32,
    /// How many clients.
    pub clients: usize,
    /// How many registers.
    pub keys: u16,
    /// How long a client thinks between two operations, at the most.
    pub think: u64,
    /// Reads, in parts of a thousand operations.
    pub reads: u32,
    /// Exchanges, in parts of a thousand writes.
    pub exchanges: u32,
    /// Clients that open a session and retry, in parts of a thousand.
    pub sessions: u32,
    /// How long faults go on.
    pub trouble: u64,
    /// Size of a memtable in bytes.
    pub memtable_size: usize,
}

impl Swarm {
    /// What the seed draws in this profile.
    pub fn draw(seed: u64, profile: &Profile) -> Swarm {
        let mut strengths = BTreeMap::new();
        for (number, class) in (0_u64..).zip(Class::ALL) {
            let mut random = stream(seed, number);
            let chance = match profile.bias(*class) {
                Bias::Free => 300 + u32::try_from(random.below(401)).unwrap_or(400),
                Bias::Off => 0,
                Bias::On | Bias::Strong => 1000,
            };
            let is_on = random.chance(chance);
            let mut strength = 1 + u32::try_from(random.below(1000)).unwrap_or(999);
            if profile.bias(*class) == Bias::Strong {
                strength = 700 + strength * 3 / 10;
            }
            if is_on {
                strengths.insert(*class, strength);
            }
        }
        let mut shape = Shape::draw(&mut stream(seed, 1000));
        profile.shape(&mut shape);
        Swarm { seed, profile: profile.name, strengths, shape }
    }

    /// The same run without some classes.
    #[must_use]
    pub fn without(&self, classes: &BTreeSet<Class>) -> Swarm {
        let mut fewer = self.clone();
        fewer.strengths.retain(|class, _| !classes.contains(class));
        fewer
    }

    /// The strength of a class, 1 to 1000, if it is on.
    pub fn strength(&self, class: Class) -> Option<u64> {
        self.strengths.get(&class).map(|strength| u64::from(*strength))
    }

    /// From `least` to `most` by the strength of a class; 0 if it is off.
    pub fn scaled(&self, class: Class, least: u64, most: u64) -> u64 {
        assert!(least <= most, "a range");
        self.strength(class).map_or(0, |strength| least + (most - least) * strength / 1000)
    }

    /// A chance in parts of a thousand, up to `most` by the strength of a class; 0 if it is off.
    pub fn chance(&self, class: Class, most: u32) -> u32 {
        u32::try_from(self.scaled(class, 1, u64::from(most))).unwrap_or(most)
    }

    /// By how many parts of a thousand the rates of clocks are spread.
    pub fn clock_spread(&self) -> u64 {
        self.scaled(Class::ClockRates, 10, 300)
    }

    /// The bound on what two clocks differ, in parts of a thousand: it just holds.
    pub fn drift_per_mille(&self) -> u32 {
        let spread = self.clock_spread();
        let fastest = 1000 - spread / 2 + spread;
        // One more, because moments are whole microseconds.
        u32::try_from((1000 * spread).div_ceil(fastest) + 1).unwrap_or(u32::MAX)
    }

    /// How old a state may be that a replica answers from alone, by its own clock, in microseconds.
    pub fn age_max(&self) -> u64 {
        let bounds = [20_000, 100_000, 400_000, 2_000_000];
        bounds[self.stream("age").index(bounds.len())]
    }

    /// The classes that are on.
    pub fn classes(&self) -> impl Iterator<Item = Class> + '_ {
        self.strengths.keys().copied()
    }

    /// The random numbers of a part of the run: nobody else draws from them.
    pub fn stream(&self, part: &str) -> Random {
        Random::new(Hash::default().word(self.seed).bytes(part.as_bytes()).get())
    }
}

impl Shape {
    fn draw(random: &mut Random) -> Shape {
        let sizes = [1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 4];
        let ticks = [5_000, 10_000, 10_000, 20_000];
        let thinks = [1_000, 10_000, 30_000, 100_000];
        let memtables = [8 << 10, 32 << 10, 128 << 10, 1 << 20];
        Shape {
            replicas: sizes[random.index(sizes.len())],
            tick: ticks[random.index(ticks.len())],
            election_ticks: 10 + 10 * u32::try_from(random.below(2)).unwrap_or(0),
            heartbeat_ticks: 1 + u32::try_from(random.below(3)).unwrap_or(0),
            clients: 2 + random.index(5),
            keys: 1 + u16::try_from(random.below(6)).unwrap_or(0),
            think: thinks[random.index(thinks.len())],
            reads: 100 + 100 * u32::try_from(random.below(6)).unwrap_or(0),
            exchanges: 100 * u32::try_from(random.below(5)).unwrap_or(0),
            sessions: 250 * u32::try_from(random.below(5)).unwrap_or(0),
            trouble: 4_000_000 + random.below(12_000_000),
            memtable_size: memtables[random.index(memtables.len())],
        }
    }
}

fn stream(seed: u64, number: u64) -> Random {
    Random::new(Hash::default().word(seed).word(number).get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles;

    #[test]
    fn each_class_is_on_in_about_half_of_the_runs() {
        let profile = profiles::named("default").unwrap();
        let mut counts: BTreeMap<Class, u32> = BTreeMap::new();
        for seed in 0..1000 {
            let swarm = Swarm::draw(seed, profile);
            for class in swarm.classes() {
                *counts.entry(class).or_default() += 1;
                assert!((1..=1000).contains(&swarm.strength(class).unwrap()));
            }
        }
        for class in Class::ALL {
            if profile.bias(*class) == Bias::Free {
                assert!((400..600).contains(&counts[class]), "{class:?}: {}", counts[class]);
            }
        }
    }

    #[test]
    fn switching_a_class_off_leaves_the_others() {
        let all = Swarm::draw(7, profiles::named("storm").unwrap());
        let fewer = all.without(&BTreeSet::from([Class::Loss, Class::Kills]));
        assert_eq!(fewer.strength(Class::Loss), None);
        assert_eq!(fewer.scaled(Class::Loss, 5, 10), 0);
        for class in fewer.classes() {
            assert_eq!(all.strength(class), fewer.strength(class));
        }
        assert_eq!(all.classes().count(), fewer.classes().count() + 2);
        assert_eq!(Class::named("power-cuts"), Some(Class::PowerCuts));
    }
}
