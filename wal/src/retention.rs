//! What the log keeps: dropping its end, dropping its beginning, and the spares that come of it.

use std::sync::Arc;

use crate::core::{Core, InUse};
use crate::disk::DurableWrite;
use crate::segment::Segment;
use crate::wal::Shared;
use crate::{Error, Lsn, Result};

impl Core {
    /// Drops the records after `last`. Nothing may be in flight or pending.
    ///
    /// The next group opens a fresh segment whose header voids what was dropped; until it is durable
    /// a restart may bring the dropped records back.
    pub(crate) fn truncate(&mut self, last: Lsn) -> Result<()> {
        assert!(self.in_flight() == 0, "truncate waits for writes in flight");
        assert!(self.ready.is_empty() && self.filling.is_none(), "and for pending groups");
        if last >= self.last {
            return Ok(());
        }
        if last.next() < self.first() || last < self.trimmed {
            return Err(Error::OutOfRange {
                lsn: last.0,
                first: self.first().0,
                last: self.last.0,
            });
        }
        while let Some(newest) = self.sealed.back() {
            if newest.header.first <= last {
                break;
            }
            // Superseded: the file is not reused before the fence is durable, hence not here.
            self.sealed.pop_back();
        }
        if let Some(newest) = self.sealed.back()
            && self.active.header.first > last
        {
            let bounded = newest.ending_at(last.next());
            self.sealed.pop_back();
            self.sealed.push_back(Arc::new(bounded));
        }
        while self.recent.back().is_some_and(|group| group.header.end() > last.next()) {
            let dropped = self.recent.pop_back().expect("peeked just above");
            self.recent_size -= dropped.bytes.len();
        }
        self.active.offsets.retain(|(first, _)| *first <= last);
        // If nothing in it counts any more, the log goes on where it ends, not where that began.
        self.active.header.first = self.active.header.first.min(last.next());
        self.last = last;
        self.durable = self.durable.min(last);
        self.claimed = self.claimed.min(last);
        self.wanted = self.wanted.min(last);
        self.plan.end_segment();
        Ok(())
    }

    /// Drops everything and begins anew at `first`. Nothing may be in flight or pending. Returns the
    /// write that makes it so, and what the log consisted of: its files must not be used for anything
    /// before that write is durable.
    pub(crate) fn reset(&mut self, first: Lsn) -> Option<(DurableWrite, Vec<Arc<InUse>>)> {
        assert!(self.in_flight() == 0 && !self.has_pending(), "reset waits for what is under way");
        if self.spares() == 0 {
            return None;
        }
        self.last = Lsn(first.0 - 1);
        self.durable = self.last;
        self.claimed = self.last;
        self.trimmed = self.last;
        self.wanted = Lsn(0);
        self.recent.clear();
        self.recent_size = 0;
        // What is sealed last ends where the new log begins: recovery frees what lies before that.
        let write = self.open_segment();
        self.plan.begin_segment();
        Some((write, self.sealed.drain(..).collect()))
    }

    /// The reset is durable: the files of the old log may become spares.
    pub(crate) fn finish_reset(&mut self, old: Vec<Arc<InUse>>) {
        let first = self.active.header.first;
        self.held.extend(old.into_iter().map(|in_use| Arc::new(in_use.ending_at(first))));
    }

    /// Drops sealed segments all of whose records are at or before `lsn`.
    pub(crate) fn trim(&mut self, lsn: Lsn) {
        let lsn = lsn.min(self.durable);
        while let Some(oldest) = self.sealed.front() {
            let end = oldest.end.expect("a sealed segment has an end");
            if end > lsn.next() {
                break;
            }
            self.trimmed = self.trimmed.max(Lsn(end.0 - 1));
            self.held.extend(self.sealed.pop_front());
        }
    }

    /// Turns trimmed segments that nobody reads any more into spares, and returns those whose files
    /// may be removed because there are spares enough.
    ///
    /// A file goes only when the active segment's durable header says that it was trimmed: else the
    /// log would be found with a hole after a crash.
    pub(crate) fn take_released(&mut self) -> Vec<Segment> {
        // Twice the wanted number absorbs a burst without making and removing files in turn.
        let spares_max = 2 * self.options.spares + 2;
        let opening = self.is_opening();
        let mut removable = Vec::new();
        let mut held = Vec::new();
        for in_use in std::mem::take(&mut self.held) {
            let end = in_use.end.expect("a trimmed segment was sealed");
            if InUse::is_read(&in_use) {
                held.push(in_use);
            } else if self.is_left_alone(in_use.header.incarnation) {
                // Removed when the log is opened again.
            } else if self.may_reuse(in_use.header.incarnation)
                && in_use.segment.len == self.options.segment_size
                && self.spares.len() < spares_max
            {
                self.spares.push(in_use.segment.clone());
            } else if !opening && end.0 <= self.active.header.trimmed.0 + 1 {
                removable.push(in_use.segment.clone());
            } else {
                held.push(in_use);
            }
        }
        self.held = held;
        removable
    }

    /// How many spares the preparer should add.
    pub(crate) fn spares_missing(&self) -> usize {
        (self.options.spares + 1).max(self.spares_wanted).saturating_sub(self.spares.len())
    }

    pub(crate) fn spares(&self) -> usize {
        self.spares.len()
    }
}

/// How many segments a reset tries to begin anew in: as many as a failed write is written to.
const RESET_ATTEMPTS: usize = 2;

impl Shared {
    /// See [`Wal::reset`](crate::Wal::reset).
    pub(crate) fn reset(&self, first: Lsn) -> Result<()> {
        assert!(first > Lsn(0), "positions are counted from 1");
        let _layout = self.layout.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut old = Vec::new();
        for _ in 0..RESET_ATTEMPTS {
            let (write, rewrites) = loop {
                let last = self.lock().core.last();
                self.wait(last)?;
                self.settle_in_flight()?;
                let mut state = self.lock();
                if state.core.in_flight() > 0 || state.core.has_pending() {
                    continue;
                }
                let rewrites = state.core.counters.rewrites;
                if let Some((write, sealed)) = state.core.reset(first) {
                    state.waiters.settle_at(Lsn(first.0 - 1));
                    old.extend(sealed);
                    state.tell_watcher();
                    break (write, rewrites);
                }
                drop(state);
                self.prepare().map_err(|error| match error.is_full() {
                    true => Error::Full { path: self.dir.clone() },
                    false => error,
                })?;
            };
            // A failure is seen below.
            let _ = self.perform(write);
            self.settle_in_flight()?;
            let mut state = self.lock();
            if state.core.counters.rewrites == rewrites {
                state.core.finish_reset(old);
                state.tell_housekeeper();
                return Ok(());
            }
        }
        let reason = "a log could not be begun anew".to_owned();
        Err(self.lock().core.failure().unwrap_or(Error::Poisoned { reason }))
    }
}
