//! One replica: events in, effects out, in the one legal order.
//!
//! ```text
//! event -> consensus -> Ready: save term and vote (synced), append entries (not waited for),
//!                              send what may go before they are durable
//!          the log has moved:  report what is durable, send what waited for it
//!          committed:          apply, then answer
//! ```
//!
//! A `Ready` whose entries the log cannot take at once (a conflicting end must be dropped and writes
//! are in flight, too much waits, the disk is full) stalls: it is tried again after each event, and
//! until then the consensus is told of nothing but time that passes without it.

use std::collections::VecDeque;

use bytes::Bytes;
use strandline_engine::{Db, Index};
use strandline_wal::canary;

use crate::consensus::{Consensus, Ready};
use crate::hard_state::{HardState, HardStateFile};
use crate::lag::Lag;
use crate::lease::Lease;
use crate::log::Appended;
use crate::machine::Shared;
use crate::mend::Mend;
use crate::message::{Body, Message};
use crate::read::Reads;
use crate::refill::Refill;
use crate::rejoin::{ProbeAnswer, Rejoin};
use crate::replace::Replacement;
use crate::snapshot::receive::Receiver;
use crate::snapshot::send::Sender;
use crate::validate::{Facts, Refusals, validate};
use crate::watermark::Watermarks;
use crate::{Envelope, Error, Event, Options, Outcome, Output, ReplicaId, Result, Term};

/// A replica of a store, stepped by its driver.
pub struct Replica {
    pub(crate) consensus: Consensus,
    pub(crate) hard: HardStateFile,
    pub(crate) shared: Shared,
    pub(crate) options: Options,
    pub(crate) reads: Reads,
    pub(crate) watermarks: Watermarks,
    pub(crate) lag: Lag,
    pub(crate) lease: Lease,
    pub(crate) mend: Mend,
    pub(crate) refusals: Refusals,
    pub(crate) rejoin: Rejoin,
    pub(crate) refill: Refill,
    pub(crate) replacement: Replacement,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// A `Ready` that the log could not take yet.
    pub(crate) stalled: Option<Ready>,
    /// Those that were taken and are not durable, oldest first.
    pub(crate) unpersisted: VecDeque<Unpersisted>,
    /// Everything up to here may be applied.
    pub(crate) committed: Index,
    /// In which term this leader has proposed the first members.
    pub(crate) founded_in: Term,
    /// What a canary saves too late.
    pub(crate) unsaved: Option<HardState>,
    /// The driver's clock, as it was told last.
    pub(crate) now_us: u64,
    /// The first error; the replica takes no more events then.
    pub(crate) failure: Option<String>,
}

/// What waits for the log.
pub(crate) struct Unpersisted {
    number: u64,
    /// The last entry that has to be durable.
    last: u64,
    messages: Vec<(ReplicaId, Message)>,
}

impl Replica {
    /// Takes one event, and adds to `output` what follows from it.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if a peer's message was refused: nothing has changed. All other errors stop
    /// the replica.
    pub fn step(&mut self, event: Event, output: &mut Output) -> Result<()> {
        if let Some(reason) = &self.failure {
            self.refuse_stopped(&event, output);
            return Err(Error::Stopped { reason: reason.clone() });
        }
        if let Some(state) = self.unsaved.take() {
            self.hard.save(state)?;
        }
        let taken = self.take(event, output).and_then(|refused| {
            self.advance(output)?;
            refused.map_or(Ok(()), Err)
        });
        if let Err(error) = &taken
            && !matches!(error, Error::Message { .. })
        {
            self.failure = Some(error.to_string());
        }
        taken
    }

    /// Takes an event; an error in the answer is a peer's fault, and does not stop the replica.
    fn take(&mut self, event: Event, output: &mut Output) -> Result<Option<Error>> {
        match event {
            // Who is wounded asks for what it lacks, and does nothing else.
            Event::Tick if self.mend.is_wounded() => self.mend_tick(output)?,
            Event::Tick => {
                self.tick();
                self.rejoin_tick(output);
                self.refill_tick()?;
                self.snapshot_tick(output)?;
                self.replacement_tick(output)?;
                self.mend_tick(output)?;
            }
            Event::Received(envelope) => return self.receive(envelope, output),
            Event::Propose { token, entries, session } => {
                self.propose(token, entries, session, output)?;
            }
            Event::Read { token } => self.read(token, output),
            Event::KeepFresh { age_us_max } => self.reads.keep_fresh(age_us_max),
            Event::LogMoved => {}
            Event::Unreachable(id) => {
                if self.stalled.is_none() {
                    self.consensus.unreachable(id);
                }
            }
            Event::Lost(id) => {
                if self.stalled.is_none() && self.consensus.leader() == Some(id) {
                    self.consensus.suspect();
                }
            }
            Event::Transfer { to } => self.transfer(to),
            Event::ChangeMembership { token, changes } => {
                self.change_membership(token, &changes, output)?;
            }
            Event::Campaign => {
                if self.may_campaign() {
                    self.consensus.campaign();
                }
            }
        }
        Ok(None)
    }

    fn tick(&mut self) {
        self.lease.tick();
        let patience = 2 * u64::from(self.options.heartbeat_ticks);
        let again = self.reads.tick(patience);
        self.watermarks.tick(&self.consensus);
        self.lag.tick(&self.consensus, self.options.lag_bytes_max);
        // A replica whose disk does not keep up lets others lead, and must not decide alone.
        let waits = self.consensus.is_alone() && !self.consensus.log().is_idle();
        let is_busy = self.stalled.is_some() || self.refill.is_refilled();
        if is_busy || waits && !self.consensus.is_leader() {
            return;
        }
        let may_stand =
            self.consensus.is_leader() || !self.lease.is_quiet() && self.may_stand_damaged();
        self.consensus.tick(may_stand);
        if let Some(context) = again
            && self.consensus.leader().is_some()
        {
            self.consensus.read(context);
        }
    }

    fn may_campaign(&self) -> bool {
        if self.mend.is_wounded() || self.is_damaged() {
            return false;
        }
        let waits = self.consensus.is_alone() && !self.consensus.log().is_idle();
        // The crate stands for election without looking whether it is a voter.
        let may_win = self.consensus.is_voter();
        let is_free = !self.options.is_witness && !self.lease.is_quiet();
        self.stalled.is_none() && !waits && is_free && may_win
    }

    fn receive(&mut self, envelope: Envelope, output: &mut Output) -> Result<Option<Error>> {
        let facts = Facts {
            id: self.options.id,
            group: self.options.group,
            term: self.consensus.term(),
            leader: self.consensus.leader(),
            is_leader: self.consensus.is_leader(),
            last: Index(self.consensus.log().last()),
        };
        let may_not_lead = self.options.is_witness || self.is_damaged();
        if may_not_lead && matches!(envelope.message.body, Body::TimeoutNow) {
            return Ok(None);
        }
        if let Err(error) = validate(&envelope, &facts) {
            self.refusals.count(envelope.from);
            if matches!(envelope.message.body, Body::Heartbeat { .. }) {
                // A leader that believes too much of this log is told where it ends.
                self.probe(envelope.from, output);
            }
            return Ok(Some(error));
        }
        match envelope.message.body {
            body @ Body::RepairRequest { .. } => {
                self.repair_asked(envelope.from, &body, output);
                return Ok(None);
            }
            Body::Repair { is_leader: true, is_trimmed: true, .. } if self.mend.is_wounded() => {
                self.give_up_log(envelope.from, envelope.message.term)?;
                return Ok(None);
            }
            Body::Repair { first, entries, is_leader, .. } => {
                let leads = is_leader.then_some(envelope.message.term);
                self.repair_answered(envelope.from, leads, (first, entries), output)?;
                return Ok(None);
            }
            _ if self.mend.is_wounded() => return Ok(None),
            _ => {}
        }
        // While the log takes nothing, a message is as good as lost.
        if self.stalled.is_some() || self.receiver.waits_for_log() || self.refill.is_refilled() {
            return Ok(None);
        }
        if self.lease_takes(envelope.from, &envelope.message, output) {
            return Ok(None);
        }
        let Message { term, body } = envelope.message;
        let taken = match body {
            Body::Snapshot(body) => self.snapshot_message(envelope.from, term, body, output),
            Body::ReadRequest { context } if self.consensus.is_leader() => {
                let body = Body::ReadRequest { context: self.reads.name(&context) };
                self.consensus.receive(envelope.from, Message { term, body })
            }
            Body::Probe { nonce, last } => {
                self.probed(envelope.from, nonce, last, output);
                Ok(())
            }
            Body::ProbeAnswer { nonce, last, membership, is_leader, is_unanimous, is_sure } => {
                let answer =
                    ProbeAnswer { term, last, membership, is_leader, is_unanimous, is_sure };
                self.probe_answered(envelope.from, nonce, answer)
            }
            Body::VoteAnswer { kind, granted: true, in_doubt, .. } => {
                let message = Message { term, body };
                let votes = self.count_vote(envelope.from, kind, message, in_doubt);
                votes.into_iter().try_for_each(|(from, vote)| self.consensus.receive(from, vote))
            }
            body => self.consensus.receive(envelope.from, Message { term, body }),
        };
        match taken {
            Err(error @ Error::Message { .. }) => {
                self.refusals.count(envelope.from);
                Ok(Some(error))
            }
            other => other.map(|()| None),
        }
    }

    /// Does what follows, until nothing does.
    fn advance(&mut self, output: &mut Output) -> Result<()> {
        if self.mend.is_wounded() {
            return Ok(());
        }
        loop {
            self.consensus.log().drive()?;
            self.settle(output)?;
            let ready = self.stalled.take().or_else(|| self.consensus.next());
            if let Some(ready) = ready {
                self.stalled = self.handle(ready, output)?;
                if self.stalled.is_none() {
                    continue;
                }
            }
            if self.apply(output)? || self.follow_up()? {
                continue;
            }
            break;
        }
        self.announce(output);
        Ok(())
    }

    /// Reports what has become durable, and sends what waited for it.
    fn settle(&mut self, output: &mut Output) -> Result<()> {
        let durable = self.consensus.log().durable();
        let mut number = None;
        let mut messages = Vec::new();
        while let Some(oldest) = self.unpersisted.front()
            && oldest.last <= durable
        {
            let settled = self.unpersisted.pop_front().expect("it was there just above");
            number = Some(settled.number);
            messages.extend(settled.messages);
        }
        self.send(messages, output)?;
        if let Some(number) = number {
            self.consensus.persisted(number);
            // A snapshot was applied before it was reported.
            let applied = self.db().applied();
            if self.consensus.applied_index() < applied {
                self.consensus.applied(applied);
            }
        }
        Ok(())
    }

    /// Handles one `Ready`; gives it back if the log cannot take it yet.
    fn handle(&mut self, mut ready: Ready, output: &mut Output) -> Result<Option<Ready>> {
        if let Some((term, vote)) = ready.hard {
            self.save(term, vote)?;
        }
        if !self.append(&mut ready)? {
            return Ok(Some(ready));
        }
        if let Some(index) = ready.snapshot {
            self.install_snapshot(index, output)?;
            // The log ends there now: nothing of what was in flight is waited for, or said to be here.
            for waiting in &mut self.unpersisted {
                waiting.last = index.0;
                waiting.messages.clear();
            }
            self.committed = self.committed.max(index);
            self.watermarks.restored(index, self.consensus.log(), output);
        }
        self.committed = self.committed.max(ready.committed.unwrap_or_default());
        if canary::is_on(canary::APPLIED_BEFORE_COMMITTED) {
            self.committed = Index(self.consensus.log().last());
        }
        for (index, context) in std::mem::take(&mut ready.reads) {
            let began = self.reads.confirm(index, &context);
            self.take_lease(began);
        }
        let (number, sends_now) = (ready.number, ready.sends_now);
        let mut messages = self.consensus.taken(ready);
        let mut last = self.consensus.log().last();
        if canary::is_on(canary::LEADER_COUNTS_UNSYNCED) && self.consensus.is_leader()
            || canary::is_on(canary::FOLLOWER_ACKNOWLEDGES_UNSYNCED) && !self.consensus.is_leader()
        {
            last = 0;
        }
        if sends_now {
            self.send(std::mem::take(&mut messages), output)?;
        } else {
            // That a leader was heard is true before its entries are durable.
            let is_answer =
                |(_, message): &(_, Message)| matches!(message.body, Body::HeartbeatAnswer { .. });
            let (now, later) = messages.into_iter().partition(is_answer);
            self.send(now, output)?;
            messages = later;
        }
        self.unpersisted.push_back(Unpersisted { number, last, messages });
        Ok(None)
    }

    /// Makes term and vote durable, before anything that rests on them is said.
    fn save(&mut self, term: Term, vote: ReplicaId) -> Result<()> {
        let saved = self.hard.get();
        let mut state = HardState { term, vote, ..saved };
        if canary::is_on(canary::VOTE_NOT_PERSISTED) {
            state.vote = ReplicaId(0);
        }
        if canary::is_on(canary::TERM_NOT_PERSISTED) {
            return Ok(());
        }
        if canary::is_on(canary::VOTE_ANSWERED_BEFORE_SYNC) {
            self.unsaved = Some(state);
            return Ok(());
        }
        if state == saved { Ok(()) } else { self.hard.save(state) }
    }

    /// Appends the entries of a `Ready`; `false` if the log cannot take them all now.
    fn append(&mut self, ready: &mut Ready) -> Result<bool> {
        if ready.entries.is_empty() {
            return Ok(true);
        }
        let log = self.consensus.log_mut();
        if ready.first <= log.last() && canary::is_on(canary::CONFLICT_NOT_TRUNCATED) {
            let kept = usize::try_from(log.last() + 1 - ready.first).expect("it is in memory");
            ready.entries.drain(..kept.min(ready.entries.len()));
        } else if ready.first <= log.last() {
            if !log.is_idle() {
                return Ok(false);
            }
            log.truncate(ready.first - 1)?;
        }
        while !ready.entries.is_empty() {
            let count = first_piece(&ready.entries, self.options.db.wal.segment_size / 4);
            match log.append(&ready.entries[..count])? {
                Appended::Done => {
                    ready.entries.drain(..count);
                    ready.first = log.last() + 1;
                }
                Appended::Wait | Appended::Full => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Says what has changed, after everything has been done.
    fn announce(&mut self, output: &mut Output) {
        self.watermarks.announce(&self.consensus, output);
        if self.consensus.leader() != self.watermarks.read_from() {
            let leader = self.consensus.leader();
            self.watermarks.set_read_from(leader);
            self.refuse_reads(leader, output);
        }
        let applied = self.db().applied();
        let enough = match canary::is_on(canary::READ_BEFORE_APPLY) {
            true => Index(u64::MAX),
            false => applied,
        };
        for token in self.reads.take_readable(enough) {
            output.outcomes.push(Outcome::Readable { token, index: applied });
        }
    }

    /// What a leader does by itself; `true` if that was something.
    fn follow_up(&mut self) -> Result<bool> {
        if self.stalled.is_some() {
            return Ok(false);
        }
        self.dispel_as_leader()?;
        self.begin_reads();
        let is_founded = self.shared.lock().is_founded;
        let term = self.consensus.term();
        if is_founded || self.is_damaged() || !self.consensus.is_leader() || self.founded_in == term
        {
            return Ok(false);
        }
        let founded = self.found()?;
        if founded {
            self.founded_in = term;
        }
        Ok(founded)
    }

    /// Whether an error has stopped the replica.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The store, for reading.
    pub fn db(&self) -> &Db {
        self.consensus.log().db()
    }

    /// Has `hook` called, on whatever thread writes the log, when its durable position has moved: the
    /// driver then steps the replica with [`Event::LogMoved`]. For drivers whose threads lead the log,
    /// which also step it when [`Wal::lead`](strandline_wal::Wal::lead) returns. At most once.
    ///
    /// # Panics
    ///
    /// If there is a hook already.
    pub fn set_log_hook(&self, hook: Box<dyn Fn() + Send + Sync>) {
        self.db().log().set_hook(Box::new(move |_| hook()));
    }

    /// Who the replica is, and what it has promised.
    pub fn hard_state(&self) -> HardState {
        self.hard.get()
    }

    /// How many messages of peers were refused.
    pub fn refused_messages(&self) -> u64 {
        self.refusals.total()
    }

    /// Makes everything durable and gives the directory free.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable.
    pub fn close(self) -> Result<()> {
        Ok(self.db().close()?)
    }
}

/// How many entries from the front go together: about `len_max` bytes, at least one.
pub(crate) fn first_piece(entries: &[Bytes], len_max: u64) -> usize {
    let len_max = usize::try_from(len_max).unwrap_or(usize::MAX);
    let mut len = 0;
    let fits = |entry: &&Bytes| {
        len += entry.len();
        len <= len_max
    };
    entries.iter().take_while(fits).count().max(1)
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Replica").field("status", &self.status()).finish_non_exhaustive()
    }
}
