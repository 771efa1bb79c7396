//! Reading a segment from front to back in large slices.

use std::ops::Range;

use crate::disk::Buffer;
use crate::frame::BLOCK_LEN;
use crate::segment::Segment;

/// How much is read at once, in bytes: so much that the time between two reads does not matter.
const WINDOW_LEN: usize = 4 << 20;
/// How much of what was passed stays at the most, in bytes, if somebody asks for it.
const KEPT_LEN: u64 = 1 << 20;

/// A slice of a segment, read ahead. Blocks that the disk cannot read look like damage (all ones).
pub(crate) struct Window {
    /// Offset of `bytes` in the segment.
    start: u64,
    /// Aligned, so that direct reads need no copy.
    bytes: Buffer,
    /// Which segment `bytes` are from.
    of: Option<crate::segment::SegmentId>,
    /// How much is read at once.
    len: usize,
    /// From where on what was passed is to stay.
    keep: u64,
    /// How much was read in all.
    pub bytes_read: u64,
    /// How many blocks could not be read.
    pub unreadable: u64,
}

impl Window {
    pub(crate) fn new() -> Self {
        Self::of_len(WINDOW_LEN)
    }

    /// One that reads so many bytes at once.
    pub(crate) fn of_len(len: usize) -> Self {
        Self {
            start: 0,
            bytes: Buffer::with_capacity(0),
            of: None,
            len,
            keep: u64::MAX,
            bytes_read: 0,
            unreadable: 0,
        }
    }

    /// `len` bytes at `offset`, a multiple of the block length; fewer at the end of the segment.
    pub(crate) fn bytes(&mut self, segment: &Segment, offset: u64, len: usize) -> &[u8] {
        let within = self.of == Some(segment.id)
            && offset >= self.start
            && usize::try_from(offset - self.start)
                .is_ok_and(|from| from + len <= self.bytes.len());
        if !within {
            self.fill(segment, offset, len.max(self.len));
        }
        let from = usize::try_from(offset - self.start).expect("it lies in the window");
        let to = (from + len).min(self.bytes.len());
        &self.bytes[from.min(to)..to]
    }

    /// From now on what lies here from `offset` on stays while it goes on, as far as that is not too much.
    pub(crate) fn keep_back_to(&mut self, offset: u64) {
        self.keep = offset;
    }

    /// A copy of a stretch of the segment, if it is all here and could all be read.
    pub(crate) fn held(&self, segment: &Segment, range: Range<u64>) -> Option<Buffer> {
        let place = |offset: u64| usize::try_from(offset.checked_sub(self.start)?).ok();
        let is_sound = self.of == Some(segment.id) && self.unreadable == 0;
        let held = self.bytes.get(place(range.start)?..place(range.end)?);
        let held = held.filter(|_| is_sound)?;
        let mut copy = Buffer::with_capacity(held.len());
        copy.extend(held);
        Some(copy)
    }

    fn fill(&mut self, segment: &Segment, offset: u64, len: usize) {
        let stays = self.of == Some(segment.id)
            && (self.start..offset).contains(&self.keep)
            && offset - self.keep <= KEPT_LEN;
        let start = if stays { self.keep } else { offset };
        let len = len + usize::try_from(offset - start).expect("little stays");
        let left = usize::try_from(segment.len.saturating_sub(start)).unwrap_or(usize::MAX);
        let kept = self.keep_from(segment, start).min(left);
        self.of = Some(segment.id);
        self.start = start;
        self.bytes.resize(len.max(kept).min(left));
        let fresh = &mut self.bytes.as_mut_slice()[kept..];
        let at = start + u64::try_from(kept).expect("it is in memory");
        let count = match segment.file.read_at(fresh, at) {
            Ok(count) => count,
            Err(_) => {
                self.unreadable += fill_block_by_block(segment, fresh, at);
                fresh.len()
            }
        };
        self.bytes.resize(kept + count);
        self.bytes_read += u64::try_from(count).expect("it is in memory");
    }

    /// Moves what is here of the segment from `offset` on to the front; how many bytes that are.
    fn keep_from(&mut self, segment: &Segment, offset: u64) -> usize {
        let from = match self.of == Some(segment.id) {
            true => offset.checked_sub(self.start).and_then(|from| usize::try_from(from).ok()),
            false => None,
        };
        let len = self.bytes.len();
        let Some(from) = from.filter(|from| *from < len) else { return 0 };
        self.bytes.as_mut_slice().copy_within(from.., 0);
        len - from
    }
}

/// One unreadable sector must not hide its neighbours. Returns how many blocks could not be read.
fn fill_block_by_block(segment: &Segment, bytes: &mut [u8], offset: u64) -> u64 {
    let block_len = usize::try_from(BLOCK_LEN).expect("a small constant");
    let mut at = offset;
    let mut unreadable = 0;
    for block in bytes.chunks_mut(block_len) {
        // Once more, because what is taken for damage here is not asked for again.
        let read = segment.file.read_at(block, at).or_else(|_| segment.file.read_at(block, at));
        block[*read.as_ref().unwrap_or(&0)..].fill(u8::MAX);
        unreadable += u64::from(read.is_err());
        at += BLOCK_LEN;
    }
    unreadable
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, OpenMode, SimulatedDisk};
    use crate::segment::SegmentId;

    const LEN: usize = 64 << 10;

    fn segment(disk: &SimulatedDisk, id: u64, salt: usize) -> Segment {
        let path = Path::new("/").join(SegmentId(id).file_name());
        let file = disk.open(&path, OpenMode::Create).unwrap();
        let content: Vec<u8> =
            (0..LEN).map(|at| u8::try_from((at / 4096 + at + salt) % 251).unwrap()).collect();
        file.write_at(&content, 0).unwrap();
        Segment { id: SegmentId(id), path, file, len: LEN as u64 }
    }

    /// Whatever was read before, the bytes are those of the segment; what is there is not read twice.
    #[test]
    fn every_stretch_is_what_the_segment_holds() {
        let disk = SimulatedDisk::new(1);
        let segments = [segment(&disk, 1, 0), segment(&disk, 2, 7)];
        let mut window = Window::of_len(3 * 4096);
        let mut random = crate::disk::simulated::Random::new(5);
        for _ in 0..300 {
            let of = random.index(2);
            let (offset, len) = (4096 * random.index(16), 1 + random.index(20_000));
            let found = window.bytes(&segments[of], offset as u64, len).to_vec();
            let mut expected = vec![0; len];
            let count = segments[of].file.read_at(&mut expected, offset as u64).unwrap();
            assert_eq!(found, expected[..count], "{len} bytes at {offset} of segment {of}");
        }
        // The same, and what was passed stays where that is asked for.
        for _ in 0..100 {
            let mut window = Window::of_len(3 * 4096);
            let (mut offset, mut keep) = (0, 0);
            while offset < LEN {
                window.keep_back_to(keep as u64);
                let len = (1 + random.index(20_000)).min(LEN - offset);
                window.bytes(&segments[0], offset as u64, len);
                let mut expected = vec![0; offset + len - keep];
                segments[0].file.read_at(&mut expected, keep as u64).unwrap();
                let range = keep as u64..(offset + len) as u64;
                let held = window.held(&segments[0], range).map(|held| held.to_vec());
                assert_eq!(held, Some(expected), "{offset}");
                assert!(window.held(&segments[1], 0..0).is_none(), "of another segment");
                offset += len.next_multiple_of(4096);
                keep = keep.max(offset.min(LEN) - random.index(offset.min(LEN) - keep + 1));
            }
            assert!(window.bytes_read <= LEN as u64, "nothing was read twice");
        }
        let mut window = Window::of_len(4096);
        for offset in (0..LEN as u64).step_by(4096) {
            window.bytes(&segments[0], offset, 3 * 4096);
        }
        assert_eq!(window.bytes_read, LEN as u64);
    }
}
