//! What an opening goes by is written once more, before anything is built on it (D13).
//!
//! Every write of an earlier life that nothing on the disk proves may stand in the page cache only,
//! although a sync since then said `Ok`: it failed before. And the other way round, a write that failed
//! may stand on the disk while the cache still shows what was there before: a *ghost*, which comes
//! to light when the power fails. So what was read is written, in place and with the same bytes, which is
//! harmless however it tears and needs no free space:
//!
//! | what | why |
//! |---|---|
//! | the header of the newest segment, first of all | all else is read by it |
//! | its groups that no later group claims | they may be in the cache only |
//! | the headers of all other segments | one that was about to be put to use may be a ghost, newer than the newest |
//! | a marker at the end | a group that is not there may be a ghost: the marker stands in its place, and changes the chain, so that no ghost behind it fits |
//! | lengths and names of spares, by syncs | they may be in the cache only; metadata stays to be synced |
//!
//! The groups of sealed segments need none of it: a segment is put to use when the one before it is
//! durable to its end, and takes groups only when its own header is durable. Their headers do: a segment
//! that was trimmed and about to be put to use again is still a sealed one by its old header, if no
//! later header has said yet that it was trimmed. A header is read once, when the segments are looked through,
//! and what was understood of it is what is written: nothing else in its block has a meaning.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::core::InUse;
use crate::disk::{Buffer, Disk, DurableWrite, File, Submitted, WriteQueue};
use crate::frame::BLOCK_LEN;
use crate::group::{Pending, Place};
use crate::recovery::Scan;
use crate::segment::{Segment, SegmentHeader};
use crate::{Error, Lsn, Result};

/// What is rewritten at once, in bytes.
const SLICE_LEN: u64 = 1 << 20;

/// Where the log goes on.
pub(crate) struct Proof {
    /// Where the next group goes in the newest segment.
    pub next_offset: u64,
    /// Its chain.
    pub chain: u64,
    /// Everything up to here is claimed by a group on the disk.
    pub claimed: Lsn,
    /// Bytes written once more.
    pub bytes_rewritten: u64,
    /// Bytes that were read for it.
    pub bytes_read: u64,
}

impl Proof {
    /// Nothing is written.
    pub(crate) fn none(scan: &Scan) -> Self {
        Self {
            next_offset: scan.end_offset,
            chain: scan.chain,
            claimed: scan.claimed,
            bytes_rewritten: 0,
            bytes_read: 0,
        }
    }

    /// Writes to the same place, durably, what is read there now.
    fn rewrite(
        &mut self,
        queue: &dyn WriteQueue,
        segment: &Segment,
        offset: u64,
        len: u64,
    ) -> Result<()> {
        write_now(queue, &segment.file, offset, Arc::new(read(segment, offset, len)?))?;
        self.bytes_read += len;
        self.bytes_rewritten += len;
        Ok(())
    }

    /// Writes a header once more, as it was read when the segments were looked through.
    fn rewrite_header(
        &mut self,
        queue: &dyn WriteQueue,
        segment: &Segment,
        header: &SegmentHeader,
    ) -> Result<()> {
        write_now(queue, &segment.file, 0, Arc::new(header.encode()))?;
        self.bytes_rewritten += BLOCK_LEN;
        Ok(())
    }
}

/// Makes durable what was read: the newest segment `active` as far as `scan` found it sound, and the
/// headers of the others, of which `free` hold nothing.
pub(crate) fn write(
    disk: &dyn Disk,
    queue: &dyn WriteQueue,
    dir: &Path,
    (active, header): (&Segment, &SegmentHeader),
    scan: &Scan,
    sealed: &VecDeque<Arc<InUse>>,
    free: &[Segment],
) -> Result<Proof> {
    // What is written to a spare whose name or length is in the cache only would go with its name.
    for segment in free {
        segment.file.sync()?;
    }
    disk.sync_dir(dir)?;
    let mut proof = Proof::none(scan);
    proof.rewrite_header(queue, active, header)?;
    let mut offset = scan.unclaimed_offset;
    while offset < scan.end_offset {
        let len = SLICE_LEN.min(scan.end_offset - offset);
        proof.rewrite(queue, active, offset, len)?;
        offset += len;
    }
    // Only now: the header of the newest segment says which of these hold nothing.
    for in_use in sealed {
        proof.rewrite_header(queue, &in_use.segment, &in_use.header)?;
    }
    for segment in free.iter().filter(|segment| segment.len >= BLOCK_LEN) {
        proof.rewrite(queue, segment, 0, BLOCK_LEN)?;
    }
    // A suspect tail is fenced by a new incarnation, and so is a full segment: no ghost passes that.
    if !scan.residue && scan.end_offset + BLOCK_LEN <= active.groups_end() {
        let last = Lsn(scan.next.0 - 1);
        let place = Place {
            flags: 0,
            incarnation: header.incarnation,
            offset: scan.end_offset,
            durable: last,
            chain: scan.chain,
        };
        let marker = Pending::new(Buffer::with_capacity(4096), scan.next, false);
        let marker = marker.seal(header.log_id, place);
        write_now(queue, &active.file, scan.end_offset, marker.bytes.clone())?;
        proof.next_offset += marker.header.len_on_disk();
        proof.chain = marker.header.chain_after();
        proof.claimed = last;
    }
    Ok(proof)
}

fn read(segment: &Segment, offset: u64, len: u64) -> Result<Buffer> {
    let len_usize = usize::try_from(len).expect("a slice is small");
    let mut bytes = Buffer::with_capacity(len_usize);
    bytes.resize(len_usize);
    // Not from the window, where a block that could not be read looks like one full of ones: that
    // would be written over what is there. What cannot be read now fails the opening instead.
    let count = segment.file.read_at(bytes.as_mut_slice(), offset)?;
    if count < len_usize {
        return Err(Error::Corruption {
            path: segment.path.clone(),
            offset,
            expected: format!("{len} bytes, which were read a moment ago"),
            found: format!("{count} bytes"),
        });
    }
    Ok(bytes)
}

/// Performs one durable write and waits for it.
pub(crate) fn write_now(
    queue: &dyn WriteQueue,
    file: &Arc<dyn File>,
    offset: u64,
    bytes: Arc<Buffer>,
) -> Result<()> {
    match queue.submit(DurableWrite { id: 0, file: file.clone(), offset, bytes }) {
        Submitted::Done(result) => result,
        Submitted::Queued => loop {
            if let Some(completion) = queue.complete().into_iter().next() {
                return completion.result;
            }
        },
    }
}
