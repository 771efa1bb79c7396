//! Taking records: all of an append, or none of it.

use super::Core;
use crate::disk::Buffer;
use crate::frame::GROUP_HEADER_LEN;
use crate::group::{Framed, Pending};
use crate::plan::{Placement, Plan};
use crate::segment::segment_room;
use crate::{Error, Lsn, Options, canary};

/// What became of an append.
pub(crate) enum Refused {
    /// No spare segment: prepare one and try again, or report a full disk.
    NoSpare,
    /// Too much waits for the disk: drive, then try again.
    Pending,
    /// For good.
    Error(Error),
}

/// What is to be appended.
pub(crate) enum Append<'a> {
    /// Records that share groups with others: they are copied while the log is locked.
    Shared(Vec<Framed<'a>>),
    /// So many bytes that nothing would share a group with them: it is made before the log is locked, and
    /// `None` once the log has it.
    Whole(Option<Pending>),
}

/// What bounds an append, known without a lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes of a payload.
    pub payload_len_max: usize,
    /// Bytes at which a group is sealed.
    group_size_max: usize,
    /// Bytes of a group of several records.
    group_len_max: usize,
    /// Bytes of a group before its records.
    head_len: usize,
}

impl Bounds {
    pub(crate) fn new(options: &Options) -> Self {
        let room = usize::try_from(segment_room(options.segment_size)).unwrap_or(usize::MAX);
        Self {
            payload_len_max: options.payload_len_max(),
            group_size_max: options.group_size_max,
            group_len_max: options.group_size_max.min(room),
            head_len: GROUP_HEADER_LEN + options.envelope_len(),
        }
    }

    /// Whether `count` records of `len` bytes together are a group of their own: two such would not share one.
    pub(crate) fn is_whole(&self, count: usize, len: usize) -> bool {
        len > self.group_size_max / 2 && (count == 1 || self.head_len + len <= self.group_len_max)
    }
}

impl Append<'_> {
    /// Bytes of the records.
    fn len(&self) -> usize {
        match self {
            Append::Shared(records) => records.iter().map(Framed::len).sum(),
            Append::Whole(group) => group.as_ref().map_or(0, Pending::records_len),
        }
    }

    /// How many new segments it needs, if everything before it is laid out as planned.
    fn segments(&self, plan: &Plan) -> usize {
        let mut trial = plan.clone();
        match self {
            Append::Shared(records) => {
                let placed = records.iter().map(|record| trial.place(record.len()));
                placed.filter(|placement| *placement == Placement::NewSegment).count()
            }
            Append::Whole(_) => {
                trial.close_group();
                usize::from(trial.place(self.len()) == Placement::NewSegment)
            }
        }
    }
}

impl Core {
    /// Takes records, all or none. Returns the position of the last one.
    pub(crate) fn append(&mut self, what: &mut Append<'_>) -> Result<Lsn, Refused> {
        if let Some(error) = self.failure() {
            return Err(Refused::Error(error));
        }
        let size = what.len();
        if self.pending_size > 0 && self.pending_size + size > self.options.pending_size_max {
            return Err(Refused::Pending);
        }
        // A group that is made already is never half visible.
        if !canary::is_on(canary::HALF_BATCH_VISIBLE) || matches!(what, Append::Whole(_)) {
            let segments = what.segments(&self.plan);
            if segments > self.spares_free() {
                return Err(self.no_spare(segments));
            }
        }
        match what {
            Append::Shared(records) => {
                for record in records {
                    if canary::is_on(canary::HALF_BATCH_VISIBLE)
                        && self.spares_free() == 0
                        && self.plan.clone().place(record.len()) == Placement::NewSegment
                    {
                        return Err(Refused::NoSpare);
                    }
                    self.place(record);
                }
            }
            Append::Whole(group) => self.place_whole(group.take()),
        }
        Ok(self.last)
    }

    /// Why an append that needs so many new segments must wait. Spares are promised to what is
    /// pending: that has to go before there can be more of them than usual.
    fn no_spare(&mut self, segments: usize) -> Refused {
        if self.has_pending() && self.spares_missing() == 0 {
            return Refused::Pending;
        }
        self.spares_wanted = segments + 1;
        Refused::NoSpare
    }

    fn place(&mut self, record: &Framed<'_>) {
        let placement = self.plan.place(record.len());
        if placement != Placement::Extend {
            self.ready.extend(self.filling.take());
        }
        let next = self.last.next();
        let filling = match &mut self.filling {
            Some(filling) => filling,
            empty => {
                let new_segment = placement == Placement::NewSegment;
                let buffer = self.pool.pop().unwrap_or_else(|| Buffer::with_capacity(32 * 1024));
                empty.insert(Pending::new(buffer, next, new_segment))
            }
        };
        filling.push(record);
        self.pending_size += record.len();
        self.last = next;
    }

    /// A group that was made elsewhere becomes the one being filled.
    fn place_whole(&mut self, group: Option<Pending>) {
        let Some(mut group) = group else { return };
        self.plan.close_group();
        group.first = self.last.next();
        group.new_segment = self.plan.place(group.records_len()) == Placement::NewSegment;
        self.pending_size += group.records_len();
        self.last = Lsn(self.last.0 + u64::from(group.count));
        self.ready.extend(self.filling.replace(group));
    }

    /// Memory for a group of `len` bytes, if there is some that nobody uses.
    pub(crate) fn spare_buffer(&mut self, len: usize) -> Option<Buffer> {
        let at = self.pool.iter().position(|buffer| buffer.capacity() >= len)?;
        Some(self.pool.swap_remove(at))
    }

    /// How many new segments may still be planned. One is always left for a failing write.
    fn spares_free(&self) -> usize {
        let planned = self.pending().filter(|group| group.new_segment).count();
        self.spares.len().saturating_sub(planned + 1)
    }
}
