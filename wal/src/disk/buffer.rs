//! Memory whose start is aligned for direct I/O, without `unsafe`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ALIGNMENT_MAX;

/// A growable byte buffer that starts at a multiple of [`ALIGNMENT_MAX`] in memory.
///
/// Invariant: `start` is the offset of the first aligned byte of `bytes`, whose capacity never
/// changes while the buffer holds data that must not move.
pub struct Buffer {
    /// The allocation: padding before `start`, then the content.
    bytes: Vec<u8>,
    /// Where the content starts.
    start: usize,
    /// The number of the allocation, which no other one has or had.
    allocation: u64,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Buffer").field("len", &self.len()).finish()
    }
}

impl Buffer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT_MAX);
        let start = bytes.as_ptr().align_offset(ALIGNMENT_MAX).min(ALIGNMENT_MAX);
        bytes.resize(start, 0);
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { bytes, start, allocation: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The number of the memory that holds the content: another one after it moved, and never the
    /// one of memory that was freed.
    pub(super) fn allocation(&self) -> u64 {
        self.allocation
    }

    /// Count of content bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether there is no content.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many content bytes fit without moving.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() - self.start
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The content, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    /// Appends `more`, moving to a larger aligned allocation if it does not fit.
    pub fn extend(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes.extend_from_slice(more);
    }

    /// Appends zeros until the length is a multiple of `block`.
    pub fn pad_to(&mut self, block: usize) {
        self.resize(self.len().next_multiple_of(block));
    }

    /// Sets the length, adding zeros or dropping bytes at the end.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.bytes.resize(self.start + len, 0);
    }

    /// Drops the content, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    fn reserve(&mut self, more: usize) {
        if self.len() + more <= self.capacity() {
            return;
        }
        let mut larger = Self::with_capacity((self.len() + more).next_power_of_two());
        larger.bytes.extend_from_slice(self.as_slice());
        *self = larger;
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_and_keeps_content_when_it_grows() {
        let mut buffer = Buffer::with_capacity(10);
        for round in 0..2000_u32 {
            buffer.extend(&round.to_le_bytes());
            assert_eq!(buffer.as_ptr().align_offset(ALIGNMENT_MAX), 0);
        }
        buffer.pad_to(ALIGNMENT_MAX);
        assert_eq!(buffer.len(), 8192);
        assert_eq!(buffer[4..8], 1_u32.to_le_bytes());
        buffer.clear();
        assert!(buffer.is_empty());
    }
}
