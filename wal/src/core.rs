//! The log's core: what is filled, in flight and durable. No I/O, no clock, no threads.
//!
//! A driver takes writes from [`Core::next_write`], performs them in any order, several at once, and
//! reports each with [`Core::completed`]. The core decides when a group is sealed and where it goes:
//!
//! ```text
//! append -> filling -> ready (full groups) -> in flight -> durable prefix -> recent (for readers)
//! ```
//!
//! Invariant: `trimmed < first <= last + 1`, `durable <= last`, and `durable` only covers groups all of
//! whose predecessors are durable too.
//!
//! **A failed write is final** (D13). When one fails, nothing new is submitted, the others in flight
//! are awaited, and every group from the failed one on is laid out once more in a fresh segment, from
//! the log's own memory. The new segment's header names the first of them, which voids whatever the
//! failed writes left in the old one. If a rewritten group fails too, the log is poisoned.

mod append;
mod ending;
mod flight;
mod marker;
mod moving;
mod rewrite;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use crate::core::append::{Append, Bounds, Refused};
use crate::core::flight::{InFlight, What};
use crate::core::moving::Moving;
use crate::disk::{Buffer, DurableWrite};
use crate::envelope::Encryptor;
use crate::frame::BLOCK_LEN;
use crate::group::{Group, Pending, Place};
use crate::pacing::{Pacing, Why};
use crate::plan::Plan;
use crate::segment::{GROUPS_START, Segment, SegmentHeader, segment_room};
use crate::stats::Counters;
use crate::{Error, Lsn, Options, canary};

/// A segment that holds a part of the log.
#[derive(Debug)]
pub(crate) struct InUse {
    pub segment: Segment,
    pub header: SegmentHeader,
    /// First position and offset of some groups, ascending, at most [`INDEX_STEP_MAX`] and a group apart:
    /// readers walk from one of them. In segments sealed before the log was opened, those that the footer names.
    pub offsets: Vec<(Lsn, u64)>,
    /// Position after the last record that counts; later ones are void. `None` while active.
    pub end: Option<Lsn>,
    /// Shared by all that describe this use of the file: see [`is_read`](Self::is_read).
    readers: Arc<()>,
}

/// How far apart the groups are whose places are kept, in bytes, at the most: 16 KiB of memory for a
/// segment of 64 MiB, however small its groups.
const INDEX_STEP_MAX: u64 = 64 << 10;
/// Groups of a segment whose places are kept, up to that size.
const INDEX_LEN: u64 = 1024;

impl InUse {
    pub(crate) fn new(
        segment: Segment,
        header: SegmentHeader,
        offsets: Vec<(Lsn, u64)>,
        end: Option<Lsn>,
    ) -> Self {
        Self { segment, header, offsets, end, readers: Arc::new(()) }
    }

    /// The same use of the same file, which ends elsewhere.
    pub(crate) fn ending_at(&self, end: Lsn) -> Self {
        let (segment, offsets, readers) =
            (self.segment.clone(), self.offsets.clone(), self.readers.clone());
        Self { segment, header: self.header, offsets, end: Some(end), readers }
    }

    /// Whether anybody but the log itself holds this, or an earlier description of the same use of the file: a
    /// reader, or whoever keeps the records that it gave. They have it mapped, so it must not be written.
    pub(crate) fn is_read(this: &Arc<Self>) -> bool {
        Arc::strong_count(this) > 1 || Arc::strong_count(&this.readers) > 1
    }

    /// Where the groups end: what lies behind that is the footer's, and may be written.
    pub(crate) fn groups_end(&self) -> u64 {
        self.segment.groups_end()
    }

    /// Where to walk from to get to `lsn`.
    pub(crate) fn offset_of(&self, lsn: Lsn) -> u64 {
        let after = self.offsets.partition_point(|(first, _)| *first <= lsn);
        after.checked_sub(1).map_or(GROUPS_START, |at| self.offsets[at].1)
    }

    /// A group was written; notes its place if the last one noted is far enough away.
    pub(crate) fn note_group(&mut self, first: Lsn, offset: u64) {
        let step = (self.segment.len / INDEX_LEN).clamp(BLOCK_LEN, INDEX_STEP_MAX);
        let last = self.offsets.last().map(|(_, offset)| *offset);
        if last.is_none_or(|last| offset >= last + step) {
            self.offsets.push((first, offset));
        }
    }
}

#[derive(Debug)]
enum Condition {
    Running,
    /// A write failed; those in flight are awaited.
    Draining(Error),
    Poisoned(Error),
    Closed,
}

/// See the module's documentation.
pub(crate) struct Core {
    pub options: Options,
    pub log_id: u64,
    /// How many writes are in flight, and how large groups grow.
    pacing: Pacing,
    /// The driver's clock when it last looked.
    now: Duration,
    /// Sealed segments that are still needed, oldest first.
    pub sealed: VecDeque<Arc<InUse>>,
    /// The segment being written.
    pub active: InUse,
    /// Where the next group goes in the active segment, in bytes.
    pub(crate) next_offset: u64,
    /// Chain for the next group.
    chain: u64,
    /// The incarnation last given.
    incarnation: u64,
    /// Segments ready for use.
    pub(crate) spares: Vec<Segment>,
    /// The spare directory.
    moving: Moving,
    /// How many spares an append needed that was refused: a batch may fill many segments.
    pub(crate) spares_wanted: usize,
    /// Incarnations of sealed segments that have no footer yet, in the order in which they lack it.
    footless: VecDeque<u64>,
    /// How many of them may get it: behind them there is a durable header.
    footers_due: usize,
    /// Trimmed segments that a reader may still hold.
    pub(crate) held: Vec<Arc<InUse>>,
    /// All up to here has been trimmed.
    pub(crate) trimmed: Lsn,
    pub(crate) filling: Option<Pending>,
    /// Full groups, oldest first.
    pub(crate) ready: VecDeque<Pending>,
    /// Bytes in `filling` and `ready`.
    pending_size: usize,
    /// Where the next record will be laid out.
    pub(crate) plan: Plan,
    /// Room in the active segment that the plan does not know of: see [`room`].
    unplanned_room: u64,
    in_flight: VecDeque<InFlight>,
    next_id: u64,
    pub(crate) last: Lsn,
    pub(crate) durable: Lsn,
    /// The highest position that somebody waits for.
    pub(crate) wanted: Lsn,
    /// All up to here is claimed as durable by a group that is itself durable or in flight.
    pub(crate) claimed: Lsn,
    /// Groups up to here are being written for the second time.
    rewriting: Lsn,
    condition: Condition,
    pub recent: VecDeque<Group>,
    pub(crate) recent_size: usize,
    pool: Vec<Buffer>,
    /// Gives groups their nonces, if the log has keys.
    pub(crate) encryptor: Option<Encryptor>,
    pub counters: Counters,
}

/// What recovery found, or what a new log starts with.
pub(crate) struct Start {
    pub log_id: u64,
    pub sealed: VecDeque<Arc<InUse>>,
    pub active: InUse,
    pub next_offset: u64,
    pub chain: u64,
    pub incarnation: u64,
    pub spares: Vec<Segment>,
    pub trimmed: Lsn,
    pub last: Lsn,
    pub claimed: Lsn,
    /// Whether the tail must be fenced by a fresh segment.
    pub fence: bool,
    /// Files of this incarnation and older ones are never put to use again.
    pub left_behind: u64,
    /// Gives groups their nonces, if the log has keys.
    pub encryptor: Option<Encryptor>,
}

impl Core {
    pub(crate) fn new(options: Options, depth_max: usize, start: Start) -> Self {
        let room = match start.fence {
            true => 0,
            false => start.active.groups_end().saturating_sub(start.next_offset),
        };
        let segment_room = segment_room(options.segment_size);
        Self {
            pacing: Pacing::new(depth_max, options.depth, options.iops_max),
            now: Duration::ZERO,
            plan: Plan::new(room, &options, segment_room),
            options,
            log_id: start.log_id,
            sealed: start.sealed,
            active: start.active,
            next_offset: start.next_offset,
            chain: start.chain,
            incarnation: start.incarnation,
            spares: start.spares,
            moving: Moving::new(start.left_behind),
            spares_wanted: 0,
            footless: VecDeque::new(),
            footers_due: 0,
            held: Vec::new(),
            trimmed: start.trimmed,
            filling: None,
            ready: VecDeque::new(),
            pending_size: 0,
            unplanned_room: 0,
            in_flight: VecDeque::new(),
            next_id: 0,
            last: start.last,
            durable: start.last,
            wanted: Lsn(0),
            claimed: start.claimed,
            rewriting: Lsn(0),
            condition: Condition::Running,
            recent: VecDeque::new(),
            recent_size: 0,
            pool: Vec::new(),
            encryptor: start.encryptor,
            counters: Counters::default(),
        }
    }

    pub(crate) fn last(&self) -> Lsn {
        self.last
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether the header of the active segment is still on its way to the disk.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self.in_flight.front(), Some(InFlight { what: What::Header, .. }))
    }

    /// The first position held: the one after `trimmed` at the granularity of segments.
    pub(crate) fn first(&self) -> Lsn {
        self.sealed.front().map_or(self.active.header.first, |oldest| oldest.header.first)
    }

    /// Why the log takes nothing any more.
    pub(crate) fn failure(&self) -> Option<Error> {
        match &self.condition {
            Condition::Running | Condition::Draining(_) => None,
            Condition::Poisoned(error) => Some(Error::Poisoned { reason: error.to_string() }),
            Condition::Closed => Some(Error::Closed),
        }
    }

    /// The driver's clock shows this much; it never goes back.
    pub(crate) fn tick(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// Somebody waits for `lsn`.
    pub(crate) fn want(&mut self, lsn: Lsn) {
        self.wanted = self.wanted.max(lsn.min(self.last));
        if let Some(filling) = self.filling.as_mut().filter(|group| group.first <= self.wanted) {
            filling.wanted_at.get_or_insert(self.now);
        }
    }

    /// Whether [`Core::next_write`] would return a write.
    pub(crate) fn can_write(&self) -> bool {
        self.why_write().is_some()
    }

    /// Why the next group is to be submitted, if it is.
    fn why_write(&self) -> Option<Why> {
        let flights = self.in_flight.len();
        if !matches!(self.condition, Condition::Running) || !self.pacing.has_room(self.now, flights)
        {
            return None;
        }
        let (next, why) = match self.ready.front() {
            Some(full) => (full, if flights == 0 { Why::Idle } else { Why::Size }),
            None => {
                let filling = self.filling.as_ref().filter(|group| group.first <= self.wanted)?;
                (filling, self.why_due(filling)?)
            }
        };
        // A segment begins only when the one before it is durable to its end, and takes groups only when
        // its header is durable: recovery relies on both.
        let may_begin = !self.is_opening()
            && (!next.new_segment
                || self.in_flight.is_empty()
                || canary::is_on(canary::SEGMENT_BEGINS_EARLY));
        may_begin.then_some(why)
    }

    /// Why the group being filled goes now rather than growing further, if it does.
    fn why_due(&self, filling: &Pending) -> Option<Why> {
        let flights = self.in_flight.len();
        if self.is_opening() {
            return None;
        }
        if self.options.group_size_max / 2 < filling.len() && flights > 0 {
            return Some(Why::Size);
        }
        let wanted_at = filling.wanted_at.unwrap_or(self.now);
        self.pacing.is_due(self.now, flights, filling.len(), wanted_at)
    }

    /// The next durable write to perform, if one is due.
    pub(crate) fn next_write(&mut self) -> Option<DurableWrite> {
        let Some(why) = self.why_write() else {
            if self.has_pending() && self.in_flight.len() >= self.pacing.depth() {
                self.pacing.is_bound();
            }
            return None;
        };
        if self.ready.is_empty() {
            self.plan.close_group();
            self.ready.extend(self.filling.take());
        }
        let opens_segment = &mut self.ready.front_mut()?.new_segment;
        if std::mem::take(opens_segment) {
            return Some(self.open_segment());
        }
        let group = self.ready.pop_front()?;
        self.pending_size -= group.records_len();
        self.counters.submitted_for(why);
        let write = self.submit_group(group, 0);
        self.use_unplanned_room();
        Some(write)
    }

    fn submit_group(&mut self, group: Pending, flags: u16) -> DurableWrite {
        let place = Place {
            flags,
            incarnation: self.active.header.incarnation,
            offset: self.next_offset,
            durable: self.durable,
            chain: self.chain,
        };
        let offset = self.next_offset;
        let group = self.seal(group, place);
        self.chain = group.header.chain_after();
        self.next_offset += group.header.len_on_disk();
        assert!(self.next_offset <= self.active.groups_end(), "the plan keeps groups in segments");
        self.claimed = self.claimed.max(self.durable);
        if group.header.count > 0 {
            self.active.note_group(group.header.first, offset);
        }
        self.counters.groups += 1;
        self.counters.group_bytes.record(group.header.len_on_disk());
        self.counters.device_bytes += group.header.len_on_disk();
        self.counters.payload_bytes += group.records_len();
        let bytes = group.on_disk().clone();
        self.fly(What::Group(group), offset, bytes)
    }

    /// Puts a spare to use: the active segment ends, and the write of the new header begins.
    pub(crate) fn open_segment(&mut self) -> DurableWrite {
        let first = self.ready.front().map_or(self.last.next(), |group| group.first);
        let segment = self.spares.pop().expect("the plan reserved a spare");
        self.incarnation += 1;
        // A segment in which nothing counts is not part of the log; its file is left alone until the
        // log is opened again, because its header write may have failed.
        let counts = self.active.header.first < first;
        let sealed = self.sealed.back().map(|newest| newest.header.incarnation);
        let active = counts.then_some(self.active.header.incarnation);
        let header = SegmentHeader {
            in_use: true,
            log_id: self.log_id,
            incarnation: self.incarnation,
            first,
            chain: self.chain,
            len: segment.len,
            trimmed: self.trimmed,
            previous: active.or(sealed).unwrap_or(0),
        };
        let next = InUse::new(segment, header, Vec::new(), None);
        let mut ended = std::mem::replace(&mut self.active, next);
        ended.end = Some(first);
        if counts {
            self.lacks_footer(&ended);
            self.sealed.push_back(Arc::new(ended));
        }
        self.next_offset = GROUPS_START;
        self.unplanned_room = 0;
        // Its header says that all before it was durable.
        self.claimed = self.claimed.max(self.durable);
        self.counters.segments += 1;
        let bytes = Arc::new(header.encode());
        self.fly(What::Header, 0, bytes)
    }

    /// How many writes may be in flight now.
    pub(crate) fn depth(&self) -> usize {
        self.pacing.depth()
    }

    /// Bytes of records that wait to be submitted.
    pub(crate) fn pending_size(&self) -> usize {
        self.pending_size
    }

    /// Whether a group waits that will not grow any more.
    pub(crate) fn is_full_group_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether records wait to be submitted.
    pub(crate) fn has_pending(&self) -> bool {
        !self.ready.is_empty() || self.filling.is_some()
    }

    /// For good: a closed log does nothing more in its directory, which may be another's by now.
    pub(crate) fn close(&mut self) {
        self.condition = Condition::Closed;
    }
}
