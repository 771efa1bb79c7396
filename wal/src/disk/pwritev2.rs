//! The second rung: `pwritev2` with `RWF_DSYNC` on an `O_DIRECT` file.
//!
//! One system call writes the bytes and returns when they are durable. It happens in the thread
//! that submits; several writes are in flight when several threads submit. Each call answers for
//! its own bytes only, so an error never reaches the wrong writer, and the block layer merges the
//! cache flushes of calls that overlap.
//!
//! After a short write the rest goes out in a further call: each part was durable when its call
//! returned, so the whole is when the last one has. A call interrupted by a signal is repeated with
//! the same bytes; this writes and syncs them anew and so believes nothing of the first attempt.

use std::io::IoSlice;

use rustix::io::{ReadWriteFlags, pwritev2};

use super::real_file::RealFile;
use super::transfer::write_fully;
use super::{Completion, DurableWrite, Submitted, WriteQueue};
use crate::Result;

/// How many writes of one log may be in flight: the gain was measured up to eight.
pub(super) const DEPTH_MAX: usize = 8;

/// Performs each write in the submitting thread.
#[derive(Debug)]
pub(super) struct Pwritev2Queue;

impl WriteQueue for Pwritev2Queue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        Submitted::Done(write_durably(&write))
    }

    fn complete(&self) -> Vec<Completion> {
        Vec::new()
    }
}

/// Writes and waits until the bytes are durable.
///
/// # Errors
///
/// Those of [`RealFile::of`], and [`Error::Io`](crate::Error::Io) of the failed call.
pub(super) fn write_durably(write: &DurableWrite) -> Result<()> {
    let file = RealFile::of(write)?;
    write_fully(file.path(), &write.bytes, write.offset, file.alignment(), |rest, offset| {
        Ok(pwritev2(file, &[IoSlice::new(rest)], offset, ReadWriteFlags::DSYNC)?)
    })
}
