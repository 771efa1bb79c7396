//! Reading a segment from front to back in large slices.

use crate::frame::BLOCK_LEN;
use crate::segment::Segment;

/// How much is read at once, in bytes.
const WINDOW_LEN: usize = 1 << 20;

/// A slice of a segment, read ahead. Blocks that the disk cannot read look like damage (all ones).
pub(crate) struct Window {
    /// Offset of `bytes` in the segment.
    start: u64,
    bytes: Vec<u8>,
    /// Which segment `bytes` are from.
    of: Option<crate::segment::SegmentId>,
    /// How much is read at once.
    len: usize,
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
        Self { start: 0, bytes: Vec::new(), of: None, len, bytes_read: 0, unreadable: 0 }
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

    fn fill(&mut self, segment: &Segment, offset: u64, len: usize) {
        let left = usize::try_from(segment.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.of = Some(segment.id);
        self.start = offset;
        self.bytes.clear();
        self.bytes.resize(len.min(left), u8::MAX);
        let count = match segment.file.read_at(&mut self.bytes, offset) {
            Ok(count) => count,
            Err(_) => self.fill_block_by_block(segment, offset),
        };
        self.bytes.truncate(count);
        self.bytes_read += u64::try_from(count).expect("it is in memory");
    }

    /// One unreadable sector must not hide its neighbours.
    fn fill_block_by_block(&mut self, segment: &Segment, offset: u64) -> usize {
        let block_len = usize::try_from(BLOCK_LEN).expect("a small constant");
        let mut at = offset;
        for block in self.bytes.chunks_mut(block_len) {
            // Once more, because what is taken for damage here is not asked for again.
            let read = segment.file.read_at(block, at);
            if read.or_else(|_| segment.file.read_at(block, at)).is_err() {
                block.fill(u8::MAX);
                self.unreadable += 1;
            }
            at += BLOCK_LEN;
        }
        self.bytes.len()
    }
}
