//! An ordered, durable, checksummed sequence of records on one disk.

mod ahead;
pub mod canary;
mod core;
pub mod disk;
mod drive;
mod dump;
mod error;
pub mod frame;
mod group;
mod histogram;
mod housekeeping;
mod options;
mod pacing;
mod plan;
mod preparer;
mod proof;
mod reader;
pub mod record;
mod recovery;
mod repair;
mod retention;
mod scrub;
mod segment;
mod stats;
mod stepped;
mod survey;
mod verify;
mod waiters;
mod wal;
mod walk;
mod window;

pub use dump::inspect_segment;
pub use error::{Error, Result};
pub use histogram::Histogram;
pub use options::Options;
pub use reader::{Reader, Records};
pub use recovery::{Recovery, Tail};
pub use repair::Repaired;
pub use scrub::{Damage, Scrub};
pub use segment::{SegmentHeader, SegmentId};
pub use stats::Stats;
pub use verify::{Verification, verify};
pub use wal::{DurableHook, Wal};

/// A place in the local log: the number of a record, dense, counted from 1. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Positions after this one are never given, and are refused where they are read: so that
    /// counting on from one that was read cannot overflow.
    pub(crate) const MAX: Lsn = Lsn(u64::MAX / 2);

    /// The position after this one.
    ///
    /// # Panics
    ///
    /// At the end of all numbers, which a log does not reach in any lifetime.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0.checked_add(1).expect("2^64 records are never written"))
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}
