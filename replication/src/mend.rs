//! Damage in the log, mended with what peers have.
//!
//! The log is verified a little at every tick, and faster after a read has failed. What is damaged in a
//! sealed segment is asked of the peers, one after the other, and put back by
//! [`Wal::repair`](strandline_wal::Wal::repair), which holds it against the checksums and chains that are
//! left.
//!
//! A peer's entries are those that were there by the log matching property: whoever has the entry *after*
//! the damage with the same term has the same entries before it, committed or not. Whoever has another there gives
//! nothing: what it has committed does not lead up to that. Where nothing stands after the damage, a peer gives
//! only what is committed, and only if it has the entry *before* the damage with the same term: else what stands
//! there was never committed, and what is committed does not follow it. It gives as much as it can read
//! itself, so that replicas that are damaged each elsewhere mend each other.
//!
//! Damage in what is applied stops nothing: the state has it. If no peer has it any more, that part of the
//! log is let go. Damage beyond, found when the replica is opened, makes it *wounded*: it does not know
//! all that it has promised, so it neither votes nor acknowledges nor applies, and hears nothing but
//! questions and answers about damage until it is whole. Then it has lost nothing, and is in no doubt.
//! If a leader has let go of what is missing, or a leader was asked and nobody has it, because it was never
//! committed, say, the log is dropped instead, in doubt of its tail (see `rejoin.rs`), and the leader
//! brings the replica up to date. Where a quorum is damaged in the same place nobody
//! leads: they stay wounded, and say so.

use std::collections::BTreeSet;

use bytes::Bytes;
use strandline_engine::{Entry, Index};
use strandline_wal::record::{Kind, Record};
use strandline_wal::{Damage, Lsn, canary};

use crate::consensus::Consensus;
use crate::hard_state::HardState;
use crate::log::Log;
use crate::message::{Body, Message};
use crate::{Doubt, Output, Replica, ReplicaId, Result, Term};

/// The log is verified in steps of so many bytes.
const STEP_LEN: u64 = 64 << 10;
/// Bytes of the log verified in a tick after a read has failed: damage is looked for then.
const HURRY_LEN: u64 = 1 << 20;
/// Bytes of entries in one answer.
const ANSWER_LEN_MAX: u64 = 8 << 20;

/// What is being mended.
#[derive(Debug, Default)]
pub(crate) struct Mend {
    /// Bytes that may be verified.
    credit: u64,
    /// Whether the replica is wounded.
    is_wounded: bool,
    current: Option<Mending>,
    /// Records that were put back.
    mended: u64,
    /// Where damage begins that what was given did not cover: there is more in its segment, which nobody has found
    /// yet, or that is written to and cannot be ended. It waits until the log has been looked through; 0 if none.
    waiting: u64,
}

/// A damaged range.
#[derive(Debug)]
struct Mending {
    first: u64,
    end: u64,
    /// Entries from `first` on that have come.
    entries: Vec<Bytes>,
    /// Who was asked, and since how many ticks.
    asked: Option<(ReplicaId, u64)>,
    /// Who could not help.
    refused: BTreeSet<ReplicaId>,
    /// A leader that has answered, and in which term.
    leader: Option<(ReplicaId, Term)>,
    /// Whether nothing is damaged, and the log ends before the first.
    is_tail: bool,
}

impl Mending {
    fn new((first, end): (u64, u64), is_tail: bool) -> Self {
        let (asked, refused, leader) = (None, BTreeSet::new(), None);
        Self { first, end, entries: Vec::new(), asked, refused, leader, is_tail }
    }

    fn next(&self) -> u64 {
        self.first + u64::try_from(self.entries.len()).expect("they are in memory")
    }
}

impl Mend {
    pub(crate) fn new(is_wounded: bool) -> Self {
        Self { is_wounded, ..Self::default() }
    }

    pub(crate) fn is_wounded(&self) -> bool {
        self.is_wounded
    }

    /// Records that were put back since the replica was opened.
    pub(crate) fn mended(&self) -> u64 {
        self.mended
    }
}

impl Replica {
    /// Looks for damage, and asks for what belongs there.
    pub(crate) fn mend_tick(&mut self, output: &mut Output) -> Result<()> {
        let hurries = self.consensus.log().take_failed_read();
        self.mend.credit += u64::from(self.options.scrub_bytes_per_tick);
        if hurries {
            self.mend.credit += HURRY_LEN;
        }
        let wal = self.consensus.log().db().log();
        if self.mend.credit >= STEP_LEN {
            let scrub = wal.scrub(self.mend.credit)?;
            self.mend.credit = 0;
            if scrub.finished {
                self.mend.waiting = 0;
            }
            if hurries && scrub.damages.is_empty() && !scrub.finished {
                self.consensus.log().note_failed_read();
            }
        }
        if self.mend.current.is_none() {
            let waiting = self.mend.waiting;
            // Behind damage nothing of a segment is read, until it is mended.
            let segment_end = |first| wal.segment_end(first).map_or(0, |end| end.0);
            let log = self.consensus.log();
            let range = |damage: Damage| {
                let mut end = segment_end(damage.first).max(damage.end.0);
                // What stands after it decides who may give: damage there is part of this.
                while end <= log.last() && log.read_term(end).is_none() {
                    end = segment_end(Lsn(end)).max(end + 1);
                }
                (damage.first.0, end)
            };
            let counts = |(first, end): &(u64, u64)| first < end && *first != waiting;
            let found = wal.damages().into_iter().map(range).find(counts);
            let damaged = found.map(|range| Mending::new(range, false));
            let missing = || self.missing_tail().map(|range| Mending::new(range, true));
            self.mend.current = damaged.or_else(missing);
        }
        self.ask(output)
    }

    /// Asks the next peer, if none is being asked.
    fn ask(&mut self, output: &mut Output) -> Result<()> {
        let patience = 4 * u64::from(self.options.heartbeat_ticks) + 2;
        let members = self.shared.lock().membership.members.clone();
        let Some(mending) = &mut self.mend.current else { return Ok(()) };
        if let Some((peer, ticks)) = &mut mending.asked {
            *ticks += 1;
            if *ticks <= patience {
                return Ok(());
            }
            mending.refused.insert(*peer);
            mending.asked = None;
        }
        let others = members.iter().map(|member| member.id).filter(|id| *id != self.options.id);
        let Some(peer) = others.into_iter().find(|id| !mending.refused.contains(id)) else {
            // Nobody has it now. What the tables have may go; for the rest all are asked again.
            let (end, leader) = (mending.end, mending.leader);
            if let Some((leader, term)) = leader.filter(|_| self.mend.is_wounded) {
                return self.give_up_log(leader, term);
            }
            self.mend.current = None;
            if end <= self.db().flushed().0 + 1 && end <= self.consensus.log().last() {
                self.db().trim(Index(end - 1));
            }
            return Ok(());
        };
        mending.asked = Some((peer, 0));
        let (first, end) = (mending.next(), mending.end);
        let log = self.consensus.log();
        let got = mending.entries.last().map(|entry| Entry::decode(Index(first - 1), entry));
        let before_term = match got {
            Some(entry) => Some(entry?.header.term),
            None => log.term(first - 1),
        };
        let before_term = Term(before_term.unwrap_or(0));
        let end_term = Term(log.read_term(end).unwrap_or(0));
        let (first, end) = (Index(first), Index(end));
        let is_tail = mending.is_tail;
        let body = Body::RepairRequest { first, end, before_term, end_term, is_tail };
        self.post(peer, Message { term: self.consensus.term(), body }, output);
        Ok(())
    }

    /// A peer asks for entries.
    pub(crate) fn repair_asked(&self, from: ReplicaId, request: &Body, output: &mut Output) {
        let Body::RepairRequest { first, end, before_term, end_term, is_tail } = *request else {
            return;
        };
        let log = self.consensus.log();
        let agrees = end_term.0 > 0 && log.read_term(end.0) == Some(end_term.0);
        let follows = log.term(first.0.saturating_sub(1)) == Some(before_term.0)
            || canary::is_on(canary::MENDED_BEHIND_ANOTHER_TERM);
        let end = match end_term {
            _ if agrees => end,
            Term(0) if follows && is_tail => end,
            Term(0) if follows => end.min(Index(self.db().applied().0 + 1)),
            _ => first,
        };
        let mut entries = Vec::new();
        let mut next = first.0;
        let mut len = 0;
        while first.0 >= log.first() && next < end.0 && len < ANSWER_LEN_MAX {
            // What cannot be read here another peer may have.
            let Ok(more) = log.entries(next, end.0, ANSWER_LEN_MAX - len) else { break };
            if more.is_empty() {
                break;
            }
            next += u64::try_from(more.len()).expect("they are in memory");
            len += more.iter().map(|entry| u64::try_from(entry.len()).unwrap_or(0)).sum::<u64>();
            entries.extend(more);
        }
        let (is_leader, is_trimmed) = (self.consensus.is_leader(), first.0 < log.first());
        let body = Body::Repair { first, entries, is_leader, is_trimmed };
        self.post(from, Message { term: self.consensus.term(), body }, output);
    }

    /// A peer has answered.
    pub(crate) fn repair_answered(
        &mut self,
        from: ReplicaId,
        leads: Option<Term>,
        (first, entries): (Index, Vec<Bytes>),
        output: &mut Output,
    ) -> Result<()> {
        let Some(mending) = &mut self.mend.current else { return Ok(()) };
        let is_asked = mending.asked.is_some_and(|(peer, _)| peer == from);
        if !is_asked || first.0 != mending.next() {
            return Ok(());
        }
        mending.leader = leads.map(|term| (from, term)).or(mending.leader);
        mending.asked = None;
        let room = usize::try_from(mending.end - first.0).unwrap_or(usize::MAX);
        let is_sound = entries.len() <= room
            && (first.0..).zip(&entries).all(|(at, entry)| Entry::decode(Index(at), entry).is_ok());
        match is_sound && !entries.is_empty() {
            true => mending.entries.extend(entries),
            false => drop(mending.refused.insert(from)),
        }
        if mending.next() < mending.end {
            return self.ask(output);
        }
        let mending = self.mend.current.take().expect("it was there just above");
        if mending.is_tail {
            return self.refill(mending.first, mending.entries);
        }
        let record = |payload| Record { kind: Kind::ENTRY, payload };
        let records: Vec<Record<'_>> = mending.entries.iter().map(|entry| record(entry)).collect();
        match self.db().log().repair(Lsn(mending.first), &records) {
            Ok(repaired) => {
                self.mend.mended += repaired.records;
                self.mend.waiting = 0;
            }
            // Not what was there: somebody else is asked, from the beginning.
            Err(strandline_wal::Error::Mismatch { .. }) => {
                let mut refused = mending.refused;
                refused.insert(from);
                let asked = None;
                self.mend.current =
                    Some(Mending { entries: Vec::new(), asked, refused, ..mending });
                return self.ask(output);
            }
            Err(strandline_wal::Error::OutOfRange { .. }) => {
                self.mend.waiting = mending.first;
                self.consensus.log().note_failed_read();
            }
            Err(error) if error.is_full() => {}
            Err(error) => return Err(error.into()),
        }
        self.consensus.log_mut().forget_places();
        self.heal_if_whole()
    }

    /// A leader has let go of what is missing here, or it and all others lack it: it cannot be put back. A
    /// leader has everything that was committed, so this replica, which does not know what it has
    /// acknowledged, may drop its log, in doubt from then on, and be brought up to date like one that has
    /// lost its end.
    pub(crate) fn give_up_log(&mut self, from: ReplicaId, term: Term) -> Result<()> {
        let is_asked = |mending: &Mending| {
            mending.asked.is_some_and(|(peer, _)| peer == from)
                || mending.leader == Some((from, term))
        };
        if !self.mend.current.as_ref().is_some_and(is_asked) {
            return Ok(());
        }
        if term < self.consensus.term() {
            // An old one: all are asked again.
            self.mend.current = None;
            return Ok(());
        }
        let state = self.hard.get();
        if state.doubt == Doubt::Nothing {
            self.hard.save(HardState { doubt: Doubt::Tail, ..state })?;
        }
        self.mend.current = None;
        self.db().reset_log(Index(self.db().flushed().0 + 1))?;
        self.take_up()
    }

    /// Takes up the log anew when nothing is missing from it any more.
    fn heal_if_whole(&mut self) -> Result<()> {
        match self.mend.is_wounded && self.db().log().damages().is_empty() {
            true => self.take_up(),
            false => Ok(()),
        }
    }

    /// Takes the consensus up anew, with the log as it stands and the same promises, as when the replica is opened:
    /// if damage is found it is wounded.
    pub(crate) fn take_up(&mut self) -> Result<()> {
        let (terms, membership) = {
            let shared = self.shared.lock();
            (shared.terms.clone(), shared.membership.clone())
        };
        let log = Log::open(self.db().clone(), terms, self.options.db.background)?;
        self.mend.is_wounded = log.has_holes();
        let state = self.hard.get();
        self.consensus =
            Consensus::open(&self.options, log, (state.term, state.vote), &membership)?;
        (self.stalled, self.committed) = (None, self.consensus.committed());
        self.unpersisted.clear();
        self.lease.members_changed(self.now_us);
        Ok(())
    }
}
