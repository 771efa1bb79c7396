//! Going on in the spare directory: when a write has failed, or does not end.

use std::time::Duration;

use super::flight::Outcome;
use super::{Condition, Core};
use crate::disk::DurableWrite;
use crate::segment::Segment;
use crate::{Error, Moved};

/// What a log knows of its spare directory.
pub(super) struct Moving {
    /// Segments ready for use there, while the log has not moved.
    elsewhere: Vec<Segment>,
    /// Why it has.
    why: Option<Moved>,
    /// Files of this incarnation and older ones are never put to use again: a write may yet land in them.
    left_behind: u64,
    /// Writes that were given up because they did not end.
    given_up: Vec<u64>,
    /// How many of them have ended since.
    ended_late: usize,
}

impl Moving {
    pub(super) fn new(left_behind: u64) -> Self {
        Self { elsewhere: Vec::new(), why: None, left_behind, given_up: Vec::new(), ended_late: 0 }
    }
}

impl Core {
    /// Why the log has moved to its spare directory, if it has.
    pub(crate) fn moved(&self) -> Option<Moved> {
        self.moving.why
    }

    /// Segments ready for use there, while it has not.
    pub(crate) fn spares_elsewhere(&self) -> usize {
        self.moving.elsewhere.len()
    }

    /// Goes on in the spare directory, if there is one that the log has not moved to and what waits fits into
    /// what is prepared there. What stands in its own directory is not touched any more.
    pub(super) fn move_away(&mut self, why: Moved) -> bool {
        let planned = self.ready.iter().chain(&self.filling).filter(|group| group.new_segment);
        if self.moving.why.is_some() || self.moving.elsewhere.len() <= planned.count() {
            return false;
        }
        // Spares of its own directory are left alone like the rest, until the log is opened again.
        self.spares = std::mem::take(&mut self.moving.elsewhere);
        self.moving.left_behind = self.incarnation;
        self.moving.why = Some(why);
        true
    }

    /// Whether the file of this use is put to use once more when it is trimmed.
    pub(crate) fn may_reuse(&self, incarnation: u64) -> bool {
        incarnation > self.moving.left_behind
    }

    /// Whether files of this use are left alone for as long as this log is open.
    pub(crate) fn is_left_alone(&self, incarnation: u64) -> bool {
        self.moving.why.is_some() && !self.may_reuse(incarnation)
    }

    /// If a write has not ended for this long, and there is a spare directory to go on in: gives up what is in
    /// flight and lays it out anew there. Returns the writes to be performed now, and how many were given up
    /// that [`queued`](Core::queued) has counted.
    pub(crate) fn give_up(&mut self, bound: Duration) -> Option<(Vec<DurableWrite>, i64)> {
        let is_over = |since: Duration| self.now.saturating_sub(since) > bound;
        let hung = self
            .in_flight
            .iter()
            .find(|write| write.outcome == Outcome::Outstanding && is_over(write.since))?;
        let error = Error::Io {
            operation: "durable write",
            path: self.active.segment.path.clone(),
            offset: hung.offset,
            source: std::io::ErrorKind::TimedOut.into(),
        };
        if !matches!(self.condition, Condition::Running | Condition::Draining(_))
            || !self.move_away(Moved::Stalled)
        {
            return None;
        }
        let outstanding =
            self.in_flight.iter().filter(|write| write.outcome == Outcome::Outstanding);
        let queued = outstanding.clone().filter(|write| write.is_queued).count();
        self.moving.given_up.extend(outstanding.map(|write| write.id));
        if matches!(self.condition, Condition::Running) {
            self.condition = Condition::Draining(error);
        }
        self.rewrite();
        let mut writes: Vec<_> = std::iter::from_fn(|| self.next_write()).collect();
        if writes.is_empty() && matches!(self.condition, Condition::Running) {
            // Who waits for what was given up is told by the end of another write.
            writes.push(self.open_segment());
            self.plan.begin_segment();
        }
        Some((writes, i64::try_from(queued).expect("few writes are in flight")))
    }

    /// A write will be announced when it ends. Whether anybody waits for that.
    pub(crate) fn queued(&mut self, id: u64) -> bool {
        if let Some(write) = self.in_flight.iter_mut().find(|write| write.id == id) {
            write.is_queued = true;
        }
        !self.moving.given_up.contains(&id)
    }

    /// Takes note of the end of a write, if it was given up.
    pub(super) fn ends_late(&mut self, id: u64) -> bool {
        let is_late = self.moving.given_up.contains(&id);
        self.moving.ended_late += usize::from(is_late);
        is_late
    }

    /// Writes that were given up and have not ended.
    pub(crate) fn hanging(&self) -> usize {
        self.moving.given_up.len() - self.moving.ended_late
    }

    /// How many segments the preparer should add in the spare directory.
    pub(crate) fn missing_elsewhere(&self) -> usize {
        match self.moving.why {
            None => (self.options.spares + 1).saturating_sub(self.moving.elsewhere.len()),
            Some(_) => 0,
        }
    }

    /// A segment was prepared.
    pub(crate) fn add_spare(&mut self, segment: Segment, is_elsewhere: bool) {
        match (self.moving.why, is_elsewhere) {
            (None, true) => self.moving.elsewhere.push(segment),
            (None, false) | (Some(_), true) => self.spares.push(segment),
            // It was prepared while the log moved.
            (Some(_), false) => {}
        }
    }
}
