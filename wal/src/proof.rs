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
//!
//! Three steps, each when the one before is durable: the newest header, which all else is read by; everything else;
//! the marker, which claims the groups. What is written [together](write_all) in the middle step needs no order.
//! Nothing claims those groups, so whichever of them a crash leaves, what is missing is a torn tail, as it would have
//! been before. Each header stands for its own file: it is what was read, or again what the disk held before, and
//! both were found together with any state of the others when the opening began.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::core::InUse;
use crate::disk::{Buffer, Disk, DurableWrite, WriteQueue, write_all, write_now};
use crate::frame::BLOCK_LEN;
use crate::group::{Pending, Place};
use crate::scan::Scan;
use crate::segment::{Segment, SegmentHeader};
use crate::{Error, Lsn, Result};

/// What is rewritten with one write, in bytes.
const SLICE_LEN: u64 = 1 << 20;
/// What is sent together, in bytes, at the most: it is held in memory meanwhile.
const BATCH_LEN: u64 = 8 << 20;

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
}

/// Writes that are sent together.
struct Batch<'a> {
    queue: &'a dyn WriteQueue,
    /// How many the queue bears at once.
    depth: usize,
    /// Those that were not sent yet.
    writes: Vec<DurableWrite>,
    /// Their bytes, and those of all that were added.
    len: u64,
    len_all: u64,
}

impl Batch<'_> {
    fn add(&mut self, segment: &Segment, offset: u64, bytes: Buffer) -> Result<()> {
        let len = u64::try_from(bytes.len()).expect("it is in memory");
        if self.len + len > BATCH_LEN {
            self.send()?;
        }
        let (file, bytes) = (segment.file.clone(), Arc::new(bytes));
        self.writes.push(DurableWrite { id: 0, file, offset, bytes });
        self.len += len;
        self.len_all += len;
        Ok(())
    }

    /// All that was added is durable when it returns.
    fn send(&mut self) -> Result<()> {
        self.len = 0;
        write_all(self.queue, std::mem::take(&mut self.writes), self.depth)
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
    let depth = disk.profile().depth_max;
    let mut batch = Batch { queue, depth, writes: Vec::new(), len: 0, len_all: 0 };
    batch.add(active, 0, header.encode())?;
    batch.send()?;
    let mut offset = scan.unclaimed_offset;
    while offset < scan.end_offset {
        let len = SLICE_LEN.min(scan.end_offset - offset);
        let bytes = match &scan.unclaimed {
            Some(unclaimed) => slice(unclaimed, offset - scan.unclaimed_offset, len),
            None => {
                proof.bytes_read += len;
                read(active, offset, len)?
            }
        };
        batch.add(active, offset, bytes)?;
        offset += len;
    }
    // Not before the header of the newest segment is durable: it says which of these hold nothing.
    for in_use in sealed {
        batch.add(&in_use.segment, 0, in_use.header.encode())?;
    }
    for segment in free.iter().filter(|segment| segment.len >= BLOCK_LEN) {
        batch.add(segment, 0, read(segment, 0, BLOCK_LEN)?)?;
        proof.bytes_read += BLOCK_LEN;
    }
    batch.send()?;
    proof.bytes_rewritten = batch.len_all;
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
        let (file, bytes) = (active.file.clone(), marker.bytes.clone());
        write_now(queue, DurableWrite { id: 0, file, offset: scan.end_offset, bytes })?;
        proof.next_offset += marker.header.len_on_disk();
        proof.chain = marker.header.chain_after();
        proof.claimed = last;
    }
    Ok(proof)
}

/// What was read when the segment was scanned, and found sound.
fn slice(bytes: &Buffer, from: u64, len: u64) -> Buffer {
    let place = |offset: u64| usize::try_from(offset).expect("it is in memory");
    let mut slice = Buffer::with_capacity(place(len));
    slice.extend(&bytes[place(from)..place(from + len)]);
    slice
}

fn read(segment: &Segment, offset: u64, len: u64) -> Result<Buffer> {
    let len_usize = usize::try_from(len).expect("a slice is small");
    let mut bytes = Buffer::with_capacity(len_usize);
    bytes.resize(len_usize);
    // Not from a window, where a block that could not be read looks like one full of ones: that
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
