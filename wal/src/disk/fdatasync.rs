//! The lower rungs: write, then a sync of the whole file.
//!
//! Three of them share this queue: direct write and `fdatasync`, buffered write and `fdatasync`,
//! buffered write and `fsync`. Which it is lies in how the file was opened.
//!
//! A sync reports the first error since the last sync of the same descriptor, whoever wrote the
//! bytes. Were two writes to overlap, the sync of one could swallow the error of the other, whose
//! own sync would then succeed. So write and sync are one step here, under a lock, and the disk's
//! profile allows a depth of one. A failed sync is not repeated.

use std::sync::{Mutex, PoisonError};

use super::real_file::RealFile;
use super::{Completion, DurableWrite, File, Submitted, WriteQueue};
use crate::Result;

/// How many writes of one log may be in flight: see the head of the file.
pub(super) const DEPTH_MAX: usize = 1;

/// Performs one write after the other, each in the submitting thread.
#[derive(Debug, Default)]
pub(super) struct SyncQueue {
    /// Held from before a write until after its sync.
    one_at_a_time: Mutex<()>,
}

impl SyncQueue {
    fn write_durably(&self, write: &DurableWrite) -> Result<()> {
        let file = RealFile::of(write)?;
        // The lock guards no state that a panic could leave half changed.
        let _turn = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_aligned(&write.bytes, write.offset)?;
        file.sync()
    }
}

impl WriteQueue for SyncQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        Submitted::Done(self.write_durably(&write))
    }

    fn complete(&self) -> Vec<Completion> {
        Vec::new()
    }
}
