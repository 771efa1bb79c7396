//! Coming back with less than was promised: a torn log, a replaced disk, a damaged hard state.
//!
//! A replica that may have lost something has a [`Doubt`], which is kept in its hard state until it is
//! dispelled. The very first opening of an empty directory is such a case too: nobody can tell a new
//! replica from one whose disk was replaced.
//!
//! | doubt | may be lost | so it |
//! |---|---|---|
//! | tail | entries that it acknowledged | gives votes that count only if all voters agree |
//! | everything | also terms that it knew and votes that it gave | also acknowledges nothing |
//!
//! **Everything becomes tail** when it knows a term that is not below any that it can have promised. That
//! is the highest of the terms of all other voters, if those among them that are sure have a member in
//! every quorum that it was in: a candidate that still waits for a vote which it gave before it fell is
//! a voter and knows its own term, and what was decided in any other is known to the quorum. Or all have been
//! heard, and the highest term is that of a leader whom all voters elected: none of them knows a later one. To hear
//! that leader alone is not enough: all may have elected it, and two of them another one since. Or it is that of a
//! leader for whom it does not vote, if a majority of those who do was heard and none of them knows a later term: so
//! no later leader has made it a voter.
//!
//! **Tail becomes nothing** when its log agrees, durably, with that of a leader up to where the leader's
//! log ended after this replica had come back. A leader has everything that was committed, and
//! everything that it can still commit by acknowledgements that this replica sent before it fell.
//!
//! **All voters.** Where many are in doubt at once, after a power cut of all, say, no majority of sure
//! votes exists. Then a candidate wins if *every* voter has voted for it: its log is not behind any of
//! theirs, so what is committed and not damaged on a quorum is in it.
//!
//! In doubt a replica asks: [`Body::Probe`]. A leader that is asked also forgets what it believed of the
//! replica's log beyond its end.
//!
//! **A leader in vain.** If so many are in doubt of everything that the others are no quorum, nobody can tell what
//! they have promised, and nothing is acknowledged. The leader, whom they hear all the same, gives the lead up when
//! that has lasted and it hears all voters: then one is elected by all. That one leads on.

use std::collections::{BTreeMap, BTreeSet};

use strandline_engine::Index;
use strandline_wal::canary;

use crate::consensus::Progress;
use crate::hard_state::HardState;
use crate::message::{Body, Message, VoteKind};
use crate::{Doubt, Membership, Output, Replica, ReplicaId, Result, Role, Term};

/// What was heard of others since this replica came back.
#[derive(Debug, Default)]
pub(crate) struct Rejoin {
    /// Names this life in questions and answers.
    nonce: u64,
    /// The latest answer of each replica.
    answers: BTreeMap<ReplicaId, ProbeAnswer>,
    /// Where a leader's log ended, and in which term it leads.
    leader_end: Option<(Term, Index)>,
    /// Up to where this log agrees with a leader's, and in which term that leads.
    agreed: Option<(Term, Index)>,
    /// Votes that count only if all voters agree: the election, and who gave them.
    held: Option<((VoteKind, Term), BTreeMap<ReplicaId, Message>)>,
    /// Who has voted for this candidate, surely or not.
    granted: BTreeSet<ReplicaId>,
    /// The term in which all voters elected this leader.
    unanimous: Option<Term>,
    ticks: u64,
    vain: Vain,
}

/// How long a leader has made no headway, and who has asked it since.
#[derive(Debug, Default)]
struct Vain {
    committed: Index,
    ticks: u64,
    in_doubt: BTreeSet<ReplicaId>,
}

/// After so many election times in vain a leader gives up.
const VAIN_ELECTIONS: u64 = 5;

/// What a probe's answer says.
#[derive(Clone, Debug)]
pub(crate) struct ProbeAnswer {
    pub(crate) term: Term,
    pub(crate) last: Index,
    pub(crate) membership: Membership,
    pub(crate) is_leader: bool,
    pub(crate) is_unanimous: bool,
    pub(crate) is_sure: bool,
}

impl Rejoin {
    pub(crate) fn new(seed: u64, openings: u64) -> Self {
        let nonce = seed.rotate_left(17) ^ openings.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { nonce, ..Self::default() }
    }
}

impl Replica {
    fn doubt(&self) -> Doubt {
        self.hard.get().doubt
    }

    fn set_doubt(&mut self, doubt: Doubt) -> Result<()> {
        let state = self.hard.get();
        if state.doubt == doubt {
            return Ok(());
        }
        self.hard.save(HardState { doubt, ..state })
    }

    /// Asks everybody, now and then, as long as there is doubt.
    pub(crate) fn rejoin_tick(&mut self, output: &mut Output) {
        if self.leads_in_vain() {
            self.lease.give_up(self.consensus.term());
            self.consensus.step_down();
        }
        if self.doubt() == Doubt::Nothing {
            return;
        }
        let again = 2 * u64::from(self.options.heartbeat_ticks);
        if self.rejoin.ticks.is_multiple_of(again) {
            let mut peers: BTreeSet<ReplicaId> =
                self.consensus.progress().into_iter().map(|peer| peer.id).collect();
            peers.extend(self.consensus.leader());
            // Who has just joined knows nobody, but whom its leader names.
            for answer in self.rejoin.answers.values() {
                peers.extend(answer.membership.members.iter().map(|member| member.id));
                peers.extend(&answer.membership.outgoing);
            }
            peers.remove(&self.options.id);
            for peer in peers {
                self.probe(peer, output);
            }
        }
        self.rejoin.ticks += 1;
    }

    /// Whether this leader, whom not all have elected, has long been in vain, and all could elect one.
    fn leads_in_vain(&mut self) -> bool {
        let committed = self.consensus.committed();
        let waits = self.consensus.is_leader()
            && self.rejoin.unanimous != Some(self.consensus.term())
            && committed.0 < self.consensus.log().last();
        if !waits || committed != self.rejoin.vain.committed {
            self.rejoin.vain = Vain { committed, ..Vain::default() };
            return false;
        }
        self.rejoin.vain.ticks += 1;
        let patience = VAIN_ELECTIONS * u64::from(self.options.election_ticks);
        if self.rejoin.vain.ticks <= patience || self.stalled.is_some() {
            return false;
        }
        let in_doubt = &self.rejoin.vain.in_doubt;
        let voters = self.consensus.progress().into_iter().filter(|peer| peer.votes);
        let (sure, unsure): (Vec<Progress>, Vec<Progress>) =
            voters.partition(|peer| !in_doubt.contains(&peer.id));
        let is_heard = |peer: &Progress| peer.id == self.options.id || peer.is_active;
        !self.consensus.is_quorum(sure.iter().map(|peer| peer.id))
            && sure.iter().chain(&unsure).all(is_heard)
    }

    /// Asks one replica.
    pub(crate) fn probe(&self, peer: ReplicaId, output: &mut Output) {
        let last = Index(self.consensus.log().last());
        let body = Body::Probe { nonce: self.rejoin.nonce, last };
        self.post(peer, Message { term: self.consensus.term(), body }, output);
    }

    /// Another replica asks.
    pub(crate) fn probed(&mut self, from: ReplicaId, nonce: u64, last: Index, output: &mut Output) {
        let is_leader = self.consensus.is_leader();
        if is_leader {
            self.consensus.forget_beyond(from, last.0);
            self.rejoin.vain.in_doubt.insert(from);
        }
        let term = self.consensus.term();
        let body = Body::ProbeAnswer {
            nonce,
            last: Index(self.consensus.log().last()),
            membership: self.shared.lock().membership.clone(),
            is_leader,
            is_unanimous: is_leader && self.rejoin.unanimous == Some(term),
            is_sure: self.doubt() != Doubt::Everything,
        };
        self.post(from, Message { term, body }, output);
    }

    /// Another replica answers.
    pub(crate) fn probe_answered(
        &mut self,
        from: ReplicaId,
        nonce: u64,
        answer: ProbeAnswer,
    ) -> Result<()> {
        if nonce != self.rejoin.nonce || self.doubt() == Doubt::Nothing {
            return Ok(());
        }
        let ProbeAnswer { term, is_leader, .. } = answer;
        self.refill.heard(answer.last);
        if is_leader && term >= self.consensus.term() {
            // The first answer of this leader: later ones would move the end on for ever.
            let known = self.rejoin.leader_end.is_some_and(|(known, _)| known == term);
            if !known {
                self.rejoin.leader_end = Some((term, answer.last));
            }
        }
        if self.doubt() == Doubt::Everything {
            self.rejoin.answers.insert(from, answer);
            if let Some(term) = self.promised_at_most() {
                self.consensus.adopt(term);
                self.set_doubt(Doubt::Tail)?;
            }
        }
        self.dispel_if_caught_up()
    }

    /// A term that is not below any that this replica can have promised, if enough have answered.
    fn promised_at_most(&self) -> Option<Term> {
        let answers = &self.rejoin.answers;
        let newest = answers.values().max_by_key(|answer| (answer.term, answer.is_leader))?;
        let is_sure = |id: &&ReplicaId| answers.get(id).is_some_and(|answer| answer.is_sure);
        let count_sure = |voters: &[ReplicaId]| voters.iter().filter(is_sure).count();
        let believes = newest.is_leader && canary::is_on(canary::LEADER_BELIEVED_ALONE);
        if newest.is_leader && !newest.membership.votes(self.options.id) {
            let is_majority = |voters: &[ReplicaId]| count_sure(voters) > voters.len() / 2;
            let membership = &newest.membership;
            let is_current = is_majority(&membership.voters())
                && (!membership.is_joint() || is_majority(&membership.outgoing));
            return (is_current || believes).then_some(newest.term);
        }
        let is_elected_by_all = newest.is_leader && newest.is_unanimous;
        let is_enough = |membership: &Membership| {
            let voters = membership.voters();
            let mut others = voters.iter().chain(&membership.outgoing);
            let have_all = others.all(|id| *id == self.options.id || answers.contains_key(id));
            // A quorum has a majority of each of them: to meet one of the two is enough.
            let is_met = |voters: &[ReplicaId]| count_sure(voters) >= voters.len().div_ceil(2);
            let meets_all =
                is_met(&voters) || membership.is_joint() && is_met(&membership.outgoing);
            have_all && (is_elected_by_all || meets_all) || is_elected_by_all && believes
        };
        // Who lags goes by older members. Who is no member any more may do so for ever.
        let mut counted = answers.iter().filter(|(id, _)| newest.membership.votes(**id));
        let has_enough = is_enough(&newest.membership)
            && counted.all(|(_, answer)| is_enough(&answer.membership));
        has_enough.then_some(newest.term)
    }

    /// An acknowledgement is about to go: whether it may.
    pub(crate) fn may_acknowledge(&self) -> bool {
        self.doubt() != Doubt::Everything
    }

    /// This replica's log agrees with its leader's up to here, durably.
    pub(crate) fn acknowledged(&mut self, term: Term, last: Index) -> Result<()> {
        self.rejoin.agreed = Some((term, last));
        self.dispel_if_caught_up()
    }

    fn dispel_if_caught_up(&mut self) -> Result<()> {
        let (Some((leads, end)), Some((term, last))) = (self.rejoin.leader_end, self.rejoin.agreed)
        else {
            return Ok(());
        };
        if self.doubt() == Doubt::Tail && leads == term && last >= end {
            self.set_doubt(Doubt::Nothing)?;
            let nonce = self.rejoin.nonce;
            self.rejoin = Rejoin { nonce, ..Rejoin::default() };
        }
        Ok(())
    }

    /// A vote for this candidate. Returns those that count now: one that is in doubt counts when all
    /// voters have voted for it.
    pub(crate) fn count_vote(
        &mut self,
        from: ReplicaId,
        kind: VoteKind,
        message: Message,
        in_doubt: bool,
    ) -> Vec<(ReplicaId, Message)> {
        let is_sure = !in_doubt && self.doubt() == Doubt::Nothing;
        let election = (kind, message.term);
        if self.rejoin.held.as_ref().is_none_or(|(held, _)| *held != election) {
            self.rejoin.held = Some((election, BTreeMap::new()));
            self.rejoin.granted.clear();
        }
        self.rejoin.granted.insert(from);
        let (_, held) = self.rejoin.held.as_mut().expect("it was set just above");
        let mut counts = Vec::new();
        if is_sure || canary::is_on(canary::EMPTY_DISK_VOTES) {
            counts.push((from, message));
        } else {
            held.insert(from, message);
        }
        let voters = self.consensus.progress().into_iter().filter(|peer| peer.votes);
        let mut others = voters.filter(|peer| peer.id != self.options.id);
        if others.all(|peer| self.rejoin.granted.contains(&peer.id)) {
            if kind == VoteKind::Real {
                self.rejoin.unanimous = Some(election.1);
            }
            counts.extend(std::mem::take(held));
        }
        counts
    }

    /// A leader was elected by sure votes, or by all: either way its log is not behind.
    pub(crate) fn dispel_as_leader(&mut self) -> Result<()> {
        if self.consensus.role() != Role::Leader {
            return Ok(());
        }
        if self.consensus.is_alone() {
            self.rejoin.unanimous = Some(self.consensus.term());
        }
        self.set_doubt(Doubt::Nothing)
    }
}
