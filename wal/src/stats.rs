//! What a log counts.

use crate::disk::Rung;
use crate::pacing::Why;
use crate::{Histogram, Lsn, Moved, Space};

/// Counters since the log was opened, and its present state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Groups written, markers included.
    pub groups: u64,
    /// Durable writes completed: groups and segment headers.
    pub syncs: u64,
    /// Bytes of groups handed to the disk, padding included.
    pub device_bytes: u64,
    /// Bytes of records, their headers included, before they are compressed.
    pub payload_bytes: u64,
    /// Segments put to use.
    pub segments: u64,
    /// Footers of sealed segments written.
    pub footers: u64,
    /// How often a failed group was written once more elsewhere.
    pub rewrites: u64,
    /// Most durable writes that were in flight at once.
    pub depth_max: usize,
    /// How many durable writes may be in flight now, as found while the log runs.
    pub depth: usize,
    /// Groups submitted because nothing was in flight.
    pub submitted_idle: u64,
    /// Groups submitted because they had reached their target size.
    pub submitted_size: u64,
    /// Groups submitted because they had waited for long enough.
    pub submitted_age: u64,
    /// How long durable writes took, in microseconds.
    pub sync_micros: Histogram,
    /// Sizes of groups on disk, in bytes.
    pub group_bytes: Histogram,
    /// Bytes of records that wait to be submitted now.
    pub pending_bytes: usize,
    /// Why the log has left its own directory for the spare one; `None` while it has not.
    pub moved: Option<Moved>,
    /// Segments prepared in the spare directory, while the log has not moved there.
    pub spares_elsewhere: usize,
    /// Segments in use or trimmed whose files stand in the spare directory.
    pub segments_elsewhere: usize,
    /// Writes that were given up because they had not ended, and that have not ended yet.
    pub writes_given_up: usize,
    /// How durable writes are made; `None` before the log is open.
    pub rung: Option<Rung>,
    /// Spare segments ready now.
    pub spares: usize,
    /// Segments that hold a part of the log now.
    pub segments_in_use: usize,
    /// Whether the log has room.
    pub space: Space,
    /// The first position held: what it holds back lies from here on.
    pub first: Lsn,
    /// Everything up to here may go: whoever trims has said so, or no later.
    pub trimmed: Lsn,
    /// Segments that were trimmed and cannot be used again yet: readers hold them, or no header says
    /// yet that they were trimmed.
    pub segments_held: usize,
    /// Those of them that readers hold.
    pub segments_read: usize,
    /// Whether the last attempt to make room for the log failed for lack of space.
    pub is_full: bool,
}

/// Counters kept by the core.
pub(crate) type Counters = Stats;

impl Stats {
    /// A group was submitted.
    pub(crate) fn submitted_for(&mut self, why: Why) {
        match why {
            Why::Idle => self.submitted_idle += 1,
            Why::Size => self.submitted_size += 1,
            Why::Age => self.submitted_age += 1,
        }
    }
}
