//! How groups are encoded, and the room that compression gives back.
//!
//! Where records go is planned when they are appended, by their lengths; how long a group is when it is
//! compressed is known when it is submitted. What it saves goes back to the plan if that is still in the
//! same segment. If groups that wait are planned for further segments, they are laid out once more
//! when the first of them is about to open one: more room in front never asks for more segments.

use super::Core;
use crate::disk::Buffer;
use crate::group::{Group, Pending, Place};
use crate::plan::Placement;

impl Core {
    /// Gives a group its place, compressed and encrypted if the log is. What is saved is given back.
    pub(super) fn seal(&mut self, group: Pending, place: Place) -> Group {
        let planned = group.len_on_disk(self.options.envelope_len());
        // Markers have nothing to hide.
        let is_encrypted = group.count > 0 && self.encryptor.is_some();
        let encryption = is_encrypted.then(|| self.encryptor.as_mut()?.next()).flatten();
        let compress = self.options.compress;
        let group = match encryption {
            None if !compress => group.seal(self.log_id, place),
            None => group.seal_compressed(self.log_id, place, self.pooled()),
            Some(by) => group.seal_encrypted(self.log_id, place, self.pooled(), compress, &by),
        };
        self.give_back(planned - group.header.len_on_disk());
        group
    }

    fn pooled(&mut self) -> Buffer {
        self.pool.pop().unwrap_or_else(|| Buffer::with_capacity(0))
    }

    /// A group that was submitted takes `len` bytes less of the active segment than was planned.
    fn give_back(&mut self, len: u64) {
        let is_ahead = self.pending().any(|group| group.new_segment);
        match is_ahead {
            true => self.unplanned_room += len,
            false => self.plan.give_back(len),
        }
    }

    /// Lays out what waits once more, if it would open a segment and there is room that it was not
    /// planned for.
    pub(super) fn use_unplanned_room(&mut self) {
        let opens_segment = self.pending().next().is_some_and(|group| group.new_segment);
        if !opens_segment || std::mem::take(&mut self.unplanned_room) == 0 {
            return;
        }
        let planned = self.pending().filter(|group| group.new_segment).count();
        self.plan.begin_at(self.active.groups_end() - self.next_offset);
        self.plan_pending();
        let needed = self.pending().filter(|group| group.new_segment).count();
        assert!(needed <= planned, "no spare is needed that was not reserved");
    }

    /// Plans the groups that wait, and what follows them, from where the plan stands on.
    pub(super) fn plan_pending(&mut self) {
        for group in self.ready.iter_mut().chain(&mut self.filling) {
            self.plan.close_group();
            let body_len = group.records_len();
            group.new_segment = self.plan.place(body_len) == Placement::NewSegment;
        }
        if self.filling.is_none() {
            self.plan.close_group();
        }
    }

    /// The groups that wait, oldest first.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.ready.iter().chain(&self.filling)
    }
}
