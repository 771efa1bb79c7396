//! What a replica's users ask of it: entries, reads, another leader, other members.
//!
//! Whatever can be refused is refused before anything is proposed, so that a refusal may be tried
//! again anywhere. A proposal goes to the log first, where a full disk is met, and then to the
//! consensus, which cannot refuse it any more.

use bytes::Bytes;
use strandline_engine::{ENTRY_HEADER_LEN, Entry, EntryHeader, EntryKind, Index};
use strandline_wal::canary;

use crate::log::Appended;
use crate::membership::{MembershipEntry, encode_changes, encode_founders};
use crate::read::{Began, READS_MAX};
use crate::session::{self, SessionEntry};
use crate::{
    Event, MemberRole, MembershipChange, Outcome, Output, Refusal, Replica, ReplicaId, Request,
    Result,
};

impl Replica {
    /// As [`Event::Propose`], without anything that follows from it: for a driver that has several
    /// proposals at once. It steps the replica after the last of them. The entry after the last one
    /// in [`Db::log`](strandline_engine::Db::log) is the first one's index, if they are accepted.
    ///
    /// # Errors
    ///
    /// Those that stop the replica.
    pub fn offer(
        &mut self,
        token: u64,
        entries: Vec<Vec<u8>>,
        session: Option<Request>,
        output: &mut Output,
    ) -> Result<()> {
        if self.has_failed() {
            output.outcomes.push(Outcome::Refused { token, reason: Refusal::Stopped });
            return Ok(());
        }
        self.propose(token, entries, session, output)
    }

    /// Proposes entries, or refuses them.
    pub(crate) fn propose(
        &mut self,
        token: u64,
        mut entries: Vec<Vec<u8>>,
        session: Option<Request>,
        output: &mut Output,
    ) -> Result<()> {
        let refusal = self.refuses_proposals().or_else(|| self.refuses_entries(&entries, session));
        if let Some(reason) = refusal {
            output.outcomes.push(Outcome::Refused { token, reason });
            return Ok(());
        }
        let term = self.consensus.term();
        for (entry, after) in entries.iter_mut().zip(0..) {
            if let Some(Request { session, number }) = session {
                let number = number + after;
                let decoded = Entry::decode(Index(0), entry)?;
                *entry = session::wrap(&decoded, Request { session, number });
            }
            EntryHeader::stamp_term(entry, term.0)?;
        }
        let payloads: Vec<Bytes> = entries.into_iter().map(Bytes::from).collect();
        self.propose_payloads(token, &payloads, None, output)
    }

    /// Appends payloads that have their term, and proposes them.
    fn propose_payloads(
        &mut self,
        token: u64,
        payloads: &[Bytes],
        changes: Option<&[MembershipChange]>,
        output: &mut Output,
    ) -> Result<()> {
        let first = self.consensus.log().last() + 1;
        let reason = match self.consensus.log_mut().append(payloads)? {
            Appended::Done => {
                self.consensus.propose(payloads, changes)?;
                let count = u64::try_from(payloads.len()).expect("a length fits 64 bits");
                let term = self.consensus.term();
                self.watermarks.accepted(first, count, term);
                let first = Index(first);
                output.outcomes.push(Outcome::Accepted { token, first, count, term });
                return Ok(());
            }
            Appended::Wait => Refusal::Overloaded,
            Appended::Full => Refusal::Full,
        };
        output.outcomes.push(Outcome::Refused { token, reason });
        Ok(())
    }

    /// Why this replica proposes nothing now, if it does not.
    fn refuses_proposals(&self) -> Option<Refusal> {
        if !self.consensus.is_leader() {
            return Some(Refusal::NotLeader { leader: self.consensus.leader() });
        }
        if self.consensus.is_transferring() || self.is_damaged() {
            return Some(Refusal::NotLeader { leader: None });
        }
        let uncommitted = self.consensus.log().bytes_after(self.consensus.committed().0);
        let is_overloaded = self.stalled.is_some()
            || self.db().stalled()
            || uncommitted >= self.options.uncommitted_len_max
            || self.lag.is_over(&self.consensus, self.options.lag_bytes_max);
        is_overloaded.then_some(Refusal::Overloaded)
    }

    /// What is wrong with entries, if anything is.
    fn refuses_entries(&self, entries: &[Vec<u8>], session: Option<Request>) -> Option<Refusal> {
        let invalid = |reason: String| Some(Refusal::Invalid { reason });
        if entries.is_empty() {
            return invalid("a proposal has at least one entry".into());
        }
        if session.is_some_and(|request| request.number == 0 || request.number > u64::MAX / 2) {
            return invalid("requests are counted from 1".into());
        }
        let overhead = if session.is_some() { session::REQUEST_LEN } else { 0 };
        let len_max = self.options.db.wal.payload_len_max() - overhead;
        for payload in entries {
            if payload.len() < ENTRY_HEADER_LEN || payload.len() > len_max {
                let reason = format!("an entry of {} bytes, of at most {len_max}", payload.len());
                return invalid(reason);
            }
            let checked = Entry::decode(Index(0), payload).and_then(|entry| {
                entry.check()?;
                Ok(entry)
            });
            let kind = match checked {
                Ok(entry) if entry.header.kind == EntryKind::SESSION => {
                    match session::decode_entry(entry.command) {
                        Ok(SessionEntry::Open) => EntryKind::SESSION,
                        _ => return invalid("a session is opened, requests name theirs".into()),
                    }
                }
                Ok(entry) => entry.header.kind,
                Err(error) => return invalid(error.to_string()),
            };
            let may = match session {
                Some(_) => kind == EntryKind::BATCH || kind >= EntryKind::COMMAND,
                None => {
                    kind <= EntryKind::SESSION && kind != EntryKind::MEMBERSHIP
                        || kind >= EntryKind::COMMAND
                }
            };
            if !may {
                return invalid(format!("an entry of kind {} is not proposed like this", kind.0));
            }
        }
        None
    }

    /// A linearizable read.
    pub(crate) fn read(&mut self, token: u64, output: &mut Output) {
        let reason = match self.consensus.leader() {
            _ if self.options.is_witness => {
                Refusal::Invalid { reason: "a witness has no state to read".into() }
            }
            _ if self.is_damaged() => Refusal::Damaged,
            None => Refusal::NotLeader { leader: None },
            Some(_) if self.reads.count() >= READS_MAX => Refusal::Overloaded,
            Some(_) => {
                self.reads.push(token);
                return;
            }
        };
        output.outcomes.push(Outcome::Refused { token, reason });
    }

    /// Asks for all reads that wait, if it makes sense to ask now.
    pub(crate) fn begin_reads(&mut self) {
        let is_leader = self.consensus.is_leader();
        let is_early = is_leader && !self.consensus.has_committed_in_term();
        let is_ageing = !is_leader && self.reads.is_ageing(self.now_us);
        if !self.reads.is_wanted() && !is_ageing {
            return;
        }
        let began = Began { at_us: self.now_us, led_in: is_leader.then(|| self.consensus.term()) };
        if is_leader && canary::is_on(canary::STALE_READ_ON_DEPOSED_LEADER)
            || is_early && canary::is_on(canary::READ_BEFORE_FIRST_COMMIT)
        {
            if let Some(context) = self.reads.begin(began) {
                self.reads.confirm(self.consensus.committed(), &context);
            }
            return;
        }
        if self.consensus.leader().is_none() || is_early || !self.read_by_lease() {
            return;
        }
        if let Some(context) = self.reads.begin(began) {
            self.consensus.read(context);
        }
    }

    /// Refuses the reads that nobody will confirm.
    pub(crate) fn refuse_reads(&mut self, leader: Option<ReplicaId>, output: &mut Output) {
        for token in self.reads.take_unconfirmed() {
            let reason = match leader {
                Some(_) => Refusal::NotLeader { leader },
                None => Refusal::NoQuorum,
            };
            output.outcomes.push(Outcome::Refused { token, reason });
        }
    }

    /// Hands the leadership over, if this replica has it and the other may.
    pub(crate) fn transfer(&mut self, to: ReplicaId) {
        let member = self.shared.lock().membership.get(to);
        let may_lead = member.is_some_and(|member| member.role == MemberRole::Voter);
        if self.stalled.is_none() && self.consensus.is_leader() && may_lead {
            // Before anybody can learn that others may be voted for.
            self.lease.give_up(self.consensus.term());
            self.consensus.transfer(to);
        }
    }

    /// Proposes a change of membership, or refuses it.
    pub(crate) fn change_membership(
        &mut self,
        token: u64,
        changes: &[MembershipChange],
        output: &mut Output,
    ) -> Result<()> {
        // Each change rests on the one before it, and the first one on the first members: see `membership`.
        let is_founded = self.shared.lock().is_founded;
        let is_pending = !is_founded || self.consensus.has_pending_change();
        let under_way = || is_pending.then_some(Refusal::Overloaded);
        let invalid = || {
            let reason = self.shared.lock().membership.refuses(changes);
            reason.map(|reason| Refusal::Invalid { reason })
        };
        if let Some(reason) = self.refuses_proposals().or_else(under_way).or_else(invalid) {
            output.outcomes.push(Outcome::Refused { token, reason });
            return Ok(());
        }
        let payload = self.membership_entry(&encode_changes(changes));
        self.propose_payloads(token, &[payload], Some(changes), output)
    }

    fn membership_entry(&self, command: &[u8]) -> Bytes {
        let term = self.consensus.term().0;
        let header = EntryHeader { term, ..EntryHeader::of_kind(EntryKind::MEMBERSHIP) };
        let mut payload = header.encode().to_vec();
        payload.extend_from_slice(command);
        Bytes::from(payload)
    }

    /// Writes into a new log who its first members are. `false` if the log takes nothing now.
    pub(crate) fn found(&mut self) -> Result<bool> {
        let members = self.shared.lock().membership.members.clone();
        let payload = self.membership_entry(&encode_founders(&members));
        if self.consensus.is_transferring()
            || self.consensus.log_mut().append(std::slice::from_ref(&payload))? != Appended::Done
        {
            return Ok(false);
        }
        self.consensus.propose(&[payload], None)?;
        Ok(true)
    }

    /// Tells the consensus which changes of membership were applied.
    pub(crate) fn tell_changes(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.shared.lock().applied_changes);
        if !changes.is_empty() {
            self.lease.members_changed(self.now_us);
        }
        for change in changes {
            match change {
                MembershipEntry::Change(changes) => self.consensus.change(&changes)?,
                // Founders have known each other from the beginning; who joins learns of them here.
                MembershipEntry::Found(members) if self.consensus.progress().is_empty() => {
                    for member in members {
                        self.consensus.change(&[MembershipChange::Set(member)])?;
                    }
                }
                MembershipEntry::Found(_) => {}
            }
        }
        let is_member = self.shared.lock().membership.contains(self.options.id);
        if !is_member && self.consensus.is_leader() {
            self.consensus.step_down();
        }
        Ok(())
    }

    /// Answers what is asked of a replica that has stopped.
    pub(crate) fn refuse_stopped(&self, event: &Event, output: &mut Output) {
        if let Event::Propose { token, .. }
        | Event::Read { token }
        | Event::ChangeMembership { token, .. } = event
        {
            let (token, reason) = (*token, Refusal::Stopped);
            output.outcomes.push(Outcome::Refused { token, reason });
        }
    }
}
