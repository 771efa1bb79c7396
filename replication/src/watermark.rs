//! What has been announced of a replica's pointers and role, and how far its peers lag.

use std::collections::{BTreeMap, VecDeque};

use strandline_engine::Index;

use crate::consensus::Consensus;
use crate::log::Log;
use crate::{Outcome, Output, ReplicaId, Role, Term};

/// Entries that this replica accepted as a leader.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    first: u64,
    end: u64,
    term: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Watermarks {
    role: Option<(Role, Term, Option<ReplicaId>)>,
    everywhere: Index,
    /// The leader that was asked for reads.
    read_from: Option<ReplicaId>,
    /// What it accepted and is not committed, oldest first.
    accepted: VecDeque<Accepted>,
    /// For how many ticks each peer has lacked entries.
    lag_ticks: BTreeMap<ReplicaId, u64>,
    applied: Index,
}

impl Watermarks {
    pub(crate) fn new(applied: Index) -> Self {
        Self {
            role: None,
            everywhere: Index(0),
            read_from: None,
            accepted: VecDeque::new(),
            lag_ticks: BTreeMap::new(),
            applied,
        }
    }

    pub(crate) fn everywhere(&self) -> Index {
        self.everywhere
    }

    pub(crate) fn read_from(&self) -> Option<ReplicaId> {
        self.read_from
    }

    pub(crate) fn set_read_from(&mut self, leader: Option<ReplicaId>) {
        self.read_from = leader;
    }

    pub(crate) fn lag_ticks(&self, id: ReplicaId) -> u64 {
        self.lag_ticks.get(&id).copied().unwrap_or(0)
    }

    /// This leader took entries into its log.
    pub(crate) fn accepted(&mut self, first: u64, count: u64, term: Term) {
        let (end, term) = (first + count, term.0);
        match self.accepted.back_mut() {
            Some(newest) if newest.end == first && newest.term == term => newest.end = end,
            _ => self.accepted.push_back(Accepted { first, end, term }),
        }
    }

    /// Everything up to here is applied: what was accepted at such an index stands there, or never
    /// will. Only now: an entry that was dropped here may still come back from another replica, until
    /// another one is committed in its place.
    pub(crate) fn applied(&mut self, applied: Index, log: &Log, output: &mut Output) {
        self.settle(applied, log, false, output);
    }

    /// A snapshot has taken the place of the state. What was accepted up to its index is not going to be
    /// applied here, and whether it was executed is said only where its terms tell that it was not.
    pub(crate) fn restored(&mut self, index: Index, log: &Log, output: &mut Output) {
        self.settle(index, log, true, output);
    }

    fn settle(&mut self, applied: Index, log: &Log, is_restored: bool, output: &mut Output) {
        // Ranges of different terms overlap: what was lost in one may have been proposed anew in another.
        for range in &mut self.accepted {
            let known = range.end.min(applied.0 + 1);
            let mut lost: Option<(u64, u64)> = None;
            for index in range.first..known {
                // A term that is not known any more was not compared: the outcome stays unknown.
                let is_lost = log.term(index).is_some_and(|term| term != range.term);
                lost = match (is_lost, lost) {
                    (true, Some((first, _))) => Some((first, index + 1)),
                    (true, None) => Some((index, index + 1)),
                    // Within a term what follows a lost entry is lost, and what precedes it is not.
                    (false, lost) => lost,
                };
            }
            let term = Term(range.term);
            let kept = lost.map_or(known, |(first, _)| first);
            if is_restored && range.first < kept {
                let (first, end) = (Index(range.first), Index(kept));
                output.outcomes.push(Outcome::Unknown { first, end, term });
            }
            if let Some((first, end)) = lost {
                let (first, end) = (Index(first), Index(end));
                output.outcomes.push(Outcome::Overwritten { first, end, term });
            }
            range.first = range.first.max(known);
        }
        self.accepted.retain(|range| range.first < range.end);
        self.applied = applied;
        output.outcomes.push(Outcome::Committed(applied));
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self, consensus: &Consensus) {
        if !consensus.is_leader() {
            self.lag_ticks.clear();
            return;
        }
        let last = consensus.log().last();
        let progress = consensus.progress();
        self.lag_ticks.retain(|id, _| progress.iter().any(|peer| peer.id == *id));
        for peer in progress {
            let ticks = self.lag_ticks.entry(peer.id).or_default();
            *ticks = if peer.matched < last { *ticks + 1 } else { 0 };
        }
    }

    /// Says what has changed since the last time.
    pub(crate) fn announce(&mut self, consensus: &Consensus, output: &mut Output) {
        let now = (consensus.role(), consensus.term(), consensus.leader());
        if self.role != Some(now) {
            let (role, term, leader) = now;
            output.outcomes.push(Outcome::RoleChanged { role, term, leader });
            if self.role.is_none_or(|(_, before, _)| before != term) {
                self.everywhere = Index(0);
            }
            self.role = Some(now);
        }
        if consensus.is_leader() {
            let voters = consensus.progress().into_iter().filter(|peer| peer.votes);
            let least = voters.map(|peer| peer.matched).min().unwrap_or(0);
            let everywhere = Index(least).min(self.applied);
            if everywhere > self.everywhere {
                self.everywhere = everywhere;
                output.outcomes.push(Outcome::Everywhere(everywhere));
            }
        }
    }
}
