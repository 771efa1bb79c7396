//! Bringing a replica up to date that the log cannot: a checkpoint is sent, file by file.
//!
//! ```text
//! leader: pins a checkpoint, offers it            follower: fetches parts of what it lacks, several
//!         ---- Offer: files, checksums ----->               at a time, into state.incoming/
//!         <--- Fetch: file, offset, length --
//!         ---- Chunk ------------------------>               ... all files complete and synced:
//!                                                           checks each, links it to the state,
//!         <--- Done --------------------------               installs them by one edit, begins the
//!         ---- entries after the checkpoint ->               log anew behind them
//! ```
//!
//! The follower drives, so loss, duplication and order do not matter: what does not come is fetched again.
//! Files go by their content. What the follower has already, in its state or of an earlier transfer, is
//! not fetched; a crash of it costs a few megabytes; a leader that was started again, or another one
//! whose files are the same, goes on where the first was. The leader keeps the files and the log behind a
//! checkpoint as long as it is fetched from, the log up to a bound, and sends no more bytes per tick than
//! its settings say.

pub(crate) mod receive;
pub(crate) mod send;
pub(crate) mod staging;

use strandline_engine::Index;
use strandline_wal::canary;

use crate::joining;
use crate::machine::Replicated;
use crate::message::{Body, Message, SnapshotBody};
use crate::read::CONTEXT_LEN;
use crate::{Doubt, Envelope, Membership, Output, Replica, ReplicaId, Result, Role, Term};

/// The most that is fetched at once.
pub(crate) const CHUNK_LEN_MAX: u32 = 256 << 10;

/// A witness notes how far it has come after so many entries.
const WITNESS_FLUSH_ENTRIES: u64 = 1024;

/// While a checkpoint is sent the log behind it is kept, so that it is of use when it has come, up to so
/// many times what is kept for a peer that lags.
const PINNED_LOGS_MAX: u64 = 4;

/// A checkpoint as the consensus knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) membership: Membership,
}

impl Point {
    /// The point at which a machine's state was taken.
    pub(crate) fn of(index: Index, machine_state: &[u8]) -> Result<Self> {
        let (replicated, _) = Replicated::decode(machine_state)?;
        let reason = || "a checkpoint does not know its own term".to_owned();
        let term = replicated.terms.get(index.0);
        let term = term.ok_or_else(|| crate::Error::Message { offset: 0, reason: reason() })?;
        Ok(Self { index, term: Term(term), membership: replicated.membership })
    }
}

impl Replica {
    /// Sends messages; what the consensus calls a snapshot is begun here.
    pub(crate) fn send(
        &mut self,
        mut messages: Vec<(ReplicaId, Message)>,
        output: &mut Output,
    ) -> Result<()> {
        let len_max = usize::try_from(self.options.message_len_max).unwrap_or(usize::MAX);
        joining::join(&mut messages, len_max);
        let doubt = self.hard.get().doubt;
        for (to, mut message) in messages {
            match &mut message.body {
                Body::Snapshot(SnapshotBody::Offer { .. }) => {
                    self.begin_sending(to, output);
                    continue;
                }
                Body::Appended { last, .. } => {
                    if !self.may_acknowledge() {
                        continue;
                    }
                    let last = *last;
                    self.acknowledged(message.term, last)?;
                }
                // Who does not know what it promised cannot confirm that a leader still leads.
                Body::HeartbeatAnswer { context, .. } if !self.may_acknowledge() => {
                    context.clear();
                }
                Body::Heartbeat { lease_ticks, .. } => *lease_ticks = self.lease.asks_ticks(),
                // The name that this leader gave the request is its own business.
                Body::ReadAnswer { context, .. } => context.truncate(CONTEXT_LEN),
                Body::VoteAnswer { in_doubt, .. } => *in_doubt = doubt != Doubt::Nothing,
                _ => {}
            }
            self.post(to, message, output);
        }
        Ok(())
    }

    pub(crate) fn post(&self, to: ReplicaId, message: Message, output: &mut Output) {
        let (from, group) = (self.options.id, self.options.group);
        output.messages.push(Envelope { from, to, group, message });
    }

    pub(crate) fn say(&self, to: ReplicaId, body: SnapshotBody, output: &mut Output) {
        let message = Message { term: self.consensus.term(), body: Body::Snapshot(body) };
        self.post(to, message, output);
    }

    /// A message about a snapshot, validated.
    pub(crate) fn snapshot_message(
        &mut self,
        from: ReplicaId,
        term: Term,
        body: SnapshotBody,
        output: &mut Output,
    ) -> Result<()> {
        if term != self.consensus.term() {
            return Ok(());
        }
        match body {
            SnapshotBody::Offer { id, index, files, .. } => {
                if self.consensus.leader() == Some(from) && !self.consensus.is_leader() {
                    self.offered(from, id, index, files, output)?;
                }
                Ok(())
            }
            SnapshotBody::Chunk { id, file, offset, bytes } => {
                self.chunk(from, id, (file, offset), bytes, output)
            }
            SnapshotBody::Wanted { index } => {
                self.state_wanted(from, index, output);
                Ok(())
            }
            SnapshotBody::Gone { id } => {
                self.receiver.forget(from, id);
                Ok(())
            }
            SnapshotBody::Fetch { id, file, offset, len } => {
                self.fetched(from, id, send::Part { file, offset, len }, output);
                Ok(())
            }
            SnapshotBody::Done { id, installed } => {
                if self.sender.finish(from, id) {
                    self.consensus.report_snapshot(from, installed);
                }
                Ok(())
            }
        }
    }

    /// A tick has passed, for snapshots and for what is kept of the log.
    pub(crate) fn snapshot_tick(&mut self, output: &mut Output) -> Result<()> {
        if self.consensus.is_leader() {
            self.refresh_point()?;
            self.sending_tick(output);
        } else {
            self.sender.clear();
        }
        self.receiving_tick(output)?;
        self.trim();
        Ok(())
    }

    /// Gives the consensus a newer checkpoint to offer, if it has asked for one.
    fn refresh_point(&mut self) -> Result<()> {
        // A damaged state helps nobody: others are going to lead.
        if self.is_damaged() {
            return Ok(());
        }
        let Some(to) = self.consensus.take_wanted() else { return Ok(()) };
        let flushed = self.db().flushed();
        if flushed > Index(0) {
            let point = Point::of(flushed, &self.db().machine_state())?;
            let is_enough = point.membership.contains(to);
            self.consensus.set_point(point);
            if is_enough {
                return Ok(());
            }
        }
        // What is flushed does not know the peer yet: what is applied does.
        self.db().request_flush();
        Ok(())
    }

    /// Whether most of the log is there only because a checkpoint is being sent.
    fn is_mostly_pinned(&self) -> bool {
        let log = self.consensus.log();
        let after = |index: Index| log.bytes_after(index.0);
        let pinned = self.sender.pinned().map_or(0, after);
        let pinned = pinned.saturating_sub(after(self.db().flushed()));
        pinned.saturating_mul(2) > log.bytes_after(log.first())
    }

    /// Lets go of the part of the log that nobody needs: what is in tables, and, as long as the log is
    /// not too large, no peer lacks. A follower keeps what fits, in case it leads one day.
    fn trim(&mut self) {
        if self.options.is_witness
            && !self.is_damaged()
            && self.db().applied().0 - self.db().flushed().0 >= WITNESS_FLUSH_ENTRIES
        {
            // Nothing but the machine's own state: so that the log before it can go.
            self.db().request_flush();
        }
        let stats = self.db().log().stats();
        let segments = u64::try_from(stats.segments_in_use).expect("a count fits 64 bits");
        let len = segments.saturating_mul(self.options.db.wal.segment_size);
        let len_max = self.options.retention_bytes_max;
        let is_large = len > len_max;
        if len > len_max.saturating_mul(PINNED_LOGS_MAX) && self.is_mostly_pinned() {
            self.give_up_sending();
        }
        let mut keep_after = self.db().flushed();
        if canary::is_on(canary::LOG_TRIMMED_TOO_FAR) {
            keep_after = self.db().applied();
            self.db().log().trim(strandline_wal::Lsn(keep_after.0));
            return;
        }
        if !is_large {
            if self.consensus.role() != Role::Leader {
                return;
            }
            let matched = self.consensus.progress().into_iter().map(|peer| peer.matched).min();
            keep_after = keep_after.min(Index(matched.unwrap_or(0)));
        }
        if let Some(pinned) = self.sender.pinned() {
            keep_after = keep_after.min(pinned);
        }
        self.db().trim(keep_after);
    }
}
