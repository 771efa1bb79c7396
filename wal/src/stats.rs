//! What a log counts.

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
    /// Bytes of records, their headers included.
    pub payload_bytes: u64,
    /// Segments put to use.
    pub segments: u64,
    /// How often a failed group was written once more elsewhere.
    pub rewrites: u64,
    /// Most durable writes that were in flight at once.
    pub depth_max: usize,
    /// Spare segments ready now.
    pub spares: usize,
    /// Segments that hold a part of the log now.
    pub segments_in_use: usize,
    /// Whether the last attempt to make room for the log failed for lack of space.
    pub is_full: bool,
}

/// Counters kept by the core.
pub(crate) type Counters = Stats;
