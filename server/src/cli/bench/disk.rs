//! The bare disk: what a log could reach at the most if it wrote each record by itself.
//!
//! Each thread writes whole blocks, each made durable by one call, round and round through a part of one file that was
//! written before. The call is `pwritev2` with `RWF_DSYNC` and direct I/O, or else a write and `fdatasync`.

use std::sync::Arc;
use std::time::Duration;

use strandline_wal::disk::{Buffer, Disk, DurableWrite, OpenMode, RealDisk, Rung, Submitted};

use super::measure::{self, Plan, Times};
use crate::cli::error::Result;
use crate::cli::scratch::Scratch;

/// What writes are rounded up to.
const BLOCK: usize = 4096;
/// Bytes that a thread goes round in, at the least.
const PART: usize = 1 << 20;

/// Lets the threads of the plan write blocks that hold `value_len` bytes; says how long each write took, and how long all.
///
/// # Errors
///
/// If the file cannot be made or written.
pub(crate) fn run(scratch: &Scratch, plan: &Plan, value_len: usize) -> Result<(Times, Duration)> {
    let disk = RealDisk::open(scratch.path(), Some(Rung::Pwritev2))
        .or_else(|_| RealDisk::open(scratch.path(), Some(Rung::BufferedFdatasync)))?;
    let len = value_len.next_multiple_of(BLOCK);
    let writes = (PART / len).max(4);
    let path = scratch.path().join("blocks");
    let file = disk.open(&path, OpenMode::CreateLog)?;
    let part = vec![1; len * writes];
    for thread in 0..plan.threads {
        file.write_at(&part, offset(len, thread * writes))?;
    }
    file.sync()?;
    let result = measure::run(plan, 1, &|thread, pace, times| {
        let queue = disk.write_queue()?;
        let mut bytes = Buffer::with_capacity(len);
        bytes.resize(len);
        let bytes = Arc::new(bytes);
        let mut turn = 0;
        while let Some(due) = pace.wait() {
            let offset = offset(len, thread * writes + turn % writes);
            let (id, file, bytes) = (0, file.clone(), bytes.clone());
            match queue.submit(DurableWrite { id, file, offset, bytes }) {
                Submitted::Done(result) => result?,
                // Nothing else is in flight in this queue.
                Submitted::Queued => {
                    queue.complete().into_iter().try_for_each(|done| done.result)?
                }
            }
            times.note(due);
            turn += 1;
        }
        Ok(())
    });
    drop(file);
    disk.remove(&path)?;
    result
}

/// Where the write with this number goes.
fn offset(len: usize, number: usize) -> u64 {
    u64::try_from(len * number).expect("a file of a few mebibytes for each thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_answers_every_thread() {
        let scratch = Scratch::create(None, "bench-disk").expect("there is a temporary directory");
        let plan = Plan { threads: 3, time: Duration::from_millis(50), rate: None };
        let (times, took) = run(&scratch, &plan, 5000).expect("it can be written");
        assert!(times.count() >= 3 && took >= plan.time, "{} in {took:?}", times.count());
    }
}
