//! What proves that the end of a log was durable: something behind it that says so.

use super::{Condition, Core};
use crate::disk::{Buffer, DurableWrite};
use crate::frame::{BLOCK_LEN, FLAG_CLOSED};
use crate::group::Pending;

impl Core {
    /// An empty group that claims what is durable, if that is not claimed yet and nothing else is
    /// under way. It proves to recovery that the group before it was durable. If the segment has no
    /// room for it the header of the next one does the same; a log that is closing asks once more then.
    pub(crate) fn marker(&mut self, closing: bool) -> Option<DurableWrite> {
        let idle = self.in_flight() == 0 && !self.has_pending();
        let is_due = closing || self.claimed < self.durable;
        let running = matches!(self.condition, Condition::Running);
        if !idle || !is_due || !running {
            return None;
        }
        if !self.plan.place_marker() {
            if !self.may_open() {
                return None;
            }
            let write = self.open_segment();
            self.plan.begin_segment();
            return Some(write);
        }
        let next = self.last.next();
        let marker = Pending::new(Buffer::with_capacity(4096), next, false);
        Some(self.submit_group(marker, if closing { FLAG_CLOSED } else { 0 }))
    }

    /// Ends the active segment, so that what it holds can be mended, and begins the next one. Nothing may
    /// be in flight or pending. None if there is no spare for it.
    pub(crate) fn seal_active(&mut self) -> Option<DurableWrite> {
        assert!(
            self.in_flight() == 0 && !self.has_pending(),
            "sealing waits for what is under way"
        );
        if !matches!(self.condition, Condition::Running) || !self.may_open() {
            return None;
        }
        let write = self.open_segment();
        self.plan.begin_segment();
        Some(write)
    }

    /// Whether a marker is due once the log is idle.
    pub(crate) fn is_unproven(&self) -> bool {
        self.claimed < self.durable && (self.plan.has_room(BLOCK_LEN) || self.may_open())
    }

    /// Whether a marker has to wait for a spare.
    pub(crate) fn marker_lacks_spare(&self) -> bool {
        !self.plan.has_room(BLOCK_LEN) && !self.may_open()
    }

    /// Whether there is a spare beside the one that is kept for a failing write.
    fn may_open(&self) -> bool {
        self.spares() > 1
    }
}
