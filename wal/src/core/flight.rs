//! Writes in flight: from when they are given out until their groups are kept for readers.

use std::sync::Arc;
use std::time::Duration;

use super::{Condition, Core};
use crate::disk::{Buffer, DurableWrite};
use crate::group::Group;
use crate::pacing::Load;
use crate::{Lsn, Moved, Result, canary};

/// Groups kept in memory for readers that follow the tail, in bytes. A few of the largest groups:
/// enough for a reader that is called after each sync.
const RECENT_SIZE_MAX: usize = 4 << 20;

/// Buffers larger than this are given back to the allocator rather than reused.
const POOLED_BUFFER_SIZE_MAX: usize = 2 << 20;
/// How many buffers wait for reuse.
const POOLED_BUFFERS_MAX: usize = 8;

#[derive(Debug)]
pub(super) enum What {
    /// The header of a segment that was put to use.
    Header,
    Group(Group),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Outstanding,
    Durable,
    Failed,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) id: u64,
    pub(super) what: What,
    pub(super) outcome: Outcome,
    /// Whether its end will be announced.
    pub(super) is_queued: bool,
    pub(super) offset: u64,
    /// When it was submitted.
    pub(super) since: Duration,
    /// Its bytes.
    len: usize,
}

impl Core {
    pub(super) fn fly(&mut self, what: What, offset: u64, bytes: Arc<Buffer>) -> DurableWrite {
        let id = self.next_id;
        self.next_id += 1;
        let (since, outcome) = (self.now, Outcome::Outstanding);
        let (is_queued, len) = (false, bytes.len());
        self.in_flight.push_back(InFlight { id, what, outcome, is_queued, offset, since, len });
        let flights = self.in_flight.len();
        self.counters.depth_max = self.counters.depth_max.max(flights);
        let in_flight: usize = self.in_flight.iter().map(|write| write.len).sum();
        let load = Load { flights, outstanding: in_flight + self.pending_size };
        self.pacing.submitted(self.now, load);
        DurableWrite { id, file: self.active.segment.file.clone(), offset, bytes }
    }

    /// Takes the outcome of a write that [`Core::next_write`] or [`Core::marker`] gave. Returns whether
    /// anybody waits for it: one that was given up counts as failed, whatever became of it.
    pub(crate) fn completed(&mut self, id: u64, result: Result<()>) -> bool {
        if self.ends_late(id) {
            return false;
        }
        self.counters.syncs += 1;
        let write = self.in_flight.iter_mut().find(|write| write.id == id);
        let write = write.expect("only writes in flight complete");
        assert_eq!(write.outcome, Outcome::Outstanding, "a write completes once");
        let took = self.now.saturating_sub(write.since);
        match result {
            Ok(()) => {
                write.outcome = Outcome::Durable;
                if canary::is_on(canary::GAP_ACKNOWLEDGED)
                    && let What::Group(group) = &write.what
                {
                    self.durable = self.durable.max(Lsn(group.header.end().0 - 1));
                }
            }
            Err(_) if canary::is_on(canary::SYNC_ERROR_IGNORED) => {
                write.outcome = Outcome::Durable;
            }
            Err(error) => {
                write.outcome = Outcome::Failed;
                if matches!(self.condition, Condition::Running) {
                    self.condition = Condition::Draining(error);
                }
            }
        }
        let mut acknowledged = 0;
        while let Some(InFlight { outcome: Outcome::Durable, .. }) = self.in_flight.front() {
            let done = self.in_flight.pop_front().expect("peeked just above");
            match done.what {
                What::Header => self.footers_fall_due(),
                What::Group(group) => {
                    acknowledged += group.records_len();
                    self.keep_recent(group);
                }
            }
        }
        self.counters.sync_micros.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.pacing.completed(self.now, took, acknowledged);
        let waits = self.in_flight.iter().any(|write| write.outcome == Outcome::Outstanding);
        if matches!(self.condition, Condition::Draining(_)) && !waits {
            self.move_away(Moved::Failed);
            self.rewrite();
        }
        true
    }

    fn keep_recent(&mut self, mut group: Group) {
        // Readers are given the records as they were.
        if let Some(encoded) = group.encoded.take() {
            self.reuse(encoded);
        }
        if !canary::is_on(canary::WATERMARK_STANDS_STILL) {
            let end = group.header.end();
            self.durable = self.durable.max(Lsn(end.0 - 1));
        }
        if group.header.count == 0 {
            return;
        }
        self.recent_size += group.bytes.len();
        self.recent.push_back(group);
        while self.recent_size > RECENT_SIZE_MAX && self.recent.len() > 1 {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(group) = self.recent.pop_front() else { return };
        self.recent_size -= group.bytes.len();
        self.reuse(group.bytes);
    }

    fn reuse(&mut self, bytes: Arc<Buffer>) {
        if let Ok(buffer) = Arc::try_unwrap(bytes)
            && buffer.capacity() <= POOLED_BUFFER_SIZE_MAX
            && self.pool.len() < POOLED_BUFFERS_MAX
        {
            self.pool.push(buffer);
        }
    }

    /// Writes that were given out and have not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
