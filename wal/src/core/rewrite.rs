//! After a failed write: everything from it on is laid out once more, from the log's own memory.

use super::flight::What;
use super::{Condition, Core};
use crate::Lsn;
use crate::group::Group;

impl Core {
    /// Lays out everything from the failed write on once more, in a fresh segment.
    pub(super) fn rewrite(&mut self) {
        let Condition::Draining(error) = std::mem::replace(&mut self.condition, Condition::Running)
        else {
            return;
        };
        let failed: Vec<Group> = self
            .in_flight
            .drain(..)
            .filter_map(|write| match write.what {
                What::Group(group) if group.header.count > 0 => Some(group),
                What::Group(_) | What::Header => None,
            })
            .collect();
        let first = failed.first().map(|group| group.header.first);
        if first.is_some_and(|first| first <= self.rewriting) || self.spares.is_empty() {
            self.condition = Condition::Poisoned(error);
            return;
        }
        self.counters.rewrites += 1;
        // What claimed it may be among what failed.
        self.claimed = Lsn(0);
        self.rewriting = self
            .rewriting
            .max(failed.last().map_or(self.durable.next(), |group| Lsn(group.header.end().0 - 1)));
        for group in failed.into_iter().rev() {
            self.active.offsets.retain(|(first, _)| *first < group.header.first);
            self.pending_size += group.body().len();
            self.ready.push_front(group.unseal(false));
        }
        self.plan_anew();
        let planned = self.pending().filter(|group| group.new_segment).count();
        if planned > self.spares.len() {
            self.condition = Condition::Poisoned(error);
        }
    }

    /// Plans the groups that wait, and what follows them, from a fresh segment on.
    fn plan_anew(&mut self) {
        self.plan.end_segment();
        self.unplanned_room = 0;
        self.plan_pending();
    }
}
