//! Coups: leaders that fall at the worst moment, in the order of figure 8 of the Raft paper.
//!
//! | stage | who hears whom | what comes of it |
//! |---|---|---|
//! | 1 | the first leader nobody | it takes entries that nobody else has |
//! | 2 | a second one is elected, and from then on nobody hears it | so does the second, in a later term |
//! | 3 | the first hears all but the second, and is elected again | it brings its old entries to a majority |
//! | 4 | a moment later nobody hears the first, and all hear the second | which may be elected, and overwrite them |
//!
//! Cuts at random meet this once in thousands of seeds. Elections are the replicas' own: a stage begins
//! when somebody is elected, before the first message of the new leader has left.

use strandline_replication::{Event, ReplicaId};

use crate::simulation::{Happening, Phase, Simulation};
use crate::swarm::Class;
use crate::time::MILLISECOND;
use crate::violation::Verdict;

/// How far a coup is, and who fell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Coup {
    /// None is under way.
    #[default]
    None,
    /// The first leader is alone.
    Abandoned { first: ReplicaId },
    /// The second one is alone too.
    Deposed { first: ReplicaId, second: ReplicaId },
    /// The first one is back, and not yet elected.
    Returned { first: ReplicaId, second: ReplicaId },
    /// The first one has been elected again.
    Restored { first: ReplicaId, second: ReplicaId },
}

/// How long each stage may take: an election that fails twice, at long ticks.
const STAGE_MAX: u64 = 1500 * MILLISECOND;

impl Simulation {
    /// A coup begins, if there is a leader and none is under way.
    pub(crate) fn begin_coup(&mut self) {
        let Some(first) = self.leader().filter(|_| self.coup == Coup::None) else { return };
        self.coup = Coup::Abandoned { first };
        self.network.join();
        self.cut_off(first);
        self.coup_ends_by(STAGE_MAX);
    }

    fn cut_off(&mut self, id: ReplicaId) {
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        self.network.cut_off(id, &ids);
    }

    /// Gives the coup up if it is still at this stage then.
    fn coup_ends_by(&mut self, span: u64) {
        let coup = self.coup;
        self.agenda.after(span, Happening::CoupFails(coup));
    }

    pub(crate) fn coup_fails(&mut self, coup: Coup) {
        if self.coup == coup && coup != Coup::None {
            self.coup = Coup::None;
            self.network.join();
        }
    }

    /// Somebody has been elected; its first messages have not left yet.
    pub(crate) fn coup_elected(&mut self, leader: ReplicaId) {
        match self.coup {
            Coup::Abandoned { first } if leader != first => {
                self.coup = Coup::Deposed { first, second: leader };
                self.cut_off(leader);
                let span = self.random.below(60 * MILLISECOND);
                self.agenda.after(span, Happening::CoupGoesOn);
                self.coup_ends_by(STAGE_MAX);
            }
            Coup::Returned { first, second } if leader == first => {
                self.coup = Coup::Restored { first, second };
                let span = self.random.below(12 * MILLISECOND);
                self.agenda.after(span, Happening::CoupGoesOn);
            }
            _ => {}
        }
    }

    /// The next stage, when it does not begin with an election.
    pub(crate) fn coup_goes_on(&mut self) -> Verdict {
        if self.phase != Phase::Trouble {
            return Ok(());
        }
        match self.coup {
            Coup::Deposed { first, second } => {
                self.coup = Coup::Returned { first, second };
                self.network.join();
                self.cut_off(second);
                self.coup_ends_by(STAGE_MAX);
                self.agenda.after(MILLISECOND, Happening::CoupGoesOn);
            }
            Coup::Returned { first, .. } => {
                // It stands for election before the others do, again and again until it is elected.
                let span = 5 * MILLISECOND + self.random.below(20 * MILLISECOND);
                self.agenda.after(span, Happening::CoupGoesOn);
                if self.nodes[&first].ready_at <= self.agenda.now() {
                    return self.process(first, Event::Campaign);
                }
            }
            Coup::Restored { first, .. } => {
                self.network.join();
                self.cut_off(first);
                self.coup_ends_by(STAGE_MAX / 3);
            }
            Coup::None | Coup::Abandoned { .. } => {}
        }
        Ok(())
    }

    /// Whether the network belongs to a coup just now.
    pub(crate) fn is_coup(&self) -> bool {
        self.coup != Coup::None && self.swarm.strength(Class::Coups).is_some()
    }
}
