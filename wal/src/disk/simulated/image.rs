//! The bytes of a file as one observer sees them, with sectors that cannot be read.

use std::collections::BTreeSet;
use std::ops::Range;

/// What a disk writes wholly or not at all.
pub(super) const SECTOR: usize = 512;

/// The bytes of a file, once as reads see them and once as they are on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// The content; its length is the file's.
    bytes: Vec<u8>,
    /// Numbers of sectors that return an error until they are written wholly.
    unreadable: BTreeSet<usize>,
}

impl Image {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Cuts the content, or grows it by zeros.
    pub(super) fn resize(&mut self, len: usize) {
        let growth = len.saturating_sub(self.len());
        self.bytes.truncate(len);
        // Copied zeros instead of `Vec::resize`, which sets byte by byte in a build for tests and
        // would be most of what a simulated crash costs there.
        const ZEROS: [u8; 4096] = [0; 4096];
        self.bytes.reserve_exact(growth);
        while self.bytes.len() < len {
            let piece = ZEROS.len().min(len - self.bytes.len());
            self.bytes.extend_from_slice(&ZEROS[..piece]);
        }
        let sectors = len.div_ceil(SECTOR);
        self.unreadable.retain(|sector| *sector < sectors);
    }

    /// Writes, growing if need be. Sectors that are written wholly can be read again.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.len() {
            self.resize(end);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        let len = self.len();
        if self.unreadable.is_empty() {
            return;
        }
        self.unreadable.retain(|sector| {
            let start = sector * SECTOR;
            start < offset || (start + SECTOR).min(len) > end
        });
    }

    /// Writes what falls within the length.
    pub(super) fn write_within(&mut self, offset: usize, bytes: &[u8]) {
        let room = self.len().saturating_sub(offset).min(bytes.len());
        if room > 0 {
            self.write(offset, &bytes[..room]);
        }
    }

    /// Copies this range of `other` over ours, as far as both reach; beyond `other` come zeros.
    pub(super) fn write_from(&mut self, other: &Image, range: Range<usize>) {
        for piece in sectors_of(range) {
            let end = piece.end.min(other.len()).max(piece.start);
            let mut bytes = other.bytes.get(piece.start..end).unwrap_or(&[]).to_vec();
            bytes.resize(piece.len(), 0);
            self.write_within(piece.start, &bytes);
        }
    }

    /// Reads up to the end of the content; the error is the offset of a sector that cannot be read.
    pub(super) fn read(&self, into: &mut [u8], offset: usize) -> Result<usize, usize> {
        let count = self.len().saturating_sub(offset).min(into.len());
        if count == 0 {
            return Ok(0);
        }
        let range = offset..offset + count;
        if let Some(bad) = self.unreadable_in(range.clone()) {
            return Err(bad);
        }
        into[..count].copy_from_slice(&self.bytes[range]);
        Ok(count)
    }

    /// The offset of the first sector that touches this range and cannot be read.
    pub(super) fn unreadable_in(&self, range: Range<usize>) -> Option<usize> {
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        self.unreadable.range(sectors).next().map(|sector| sector * SECTOR)
    }

    /// Makes the sector at `offset` return errors.
    pub(super) fn make_unreadable(&mut self, offset: usize) {
        self.unreadable.insert(offset / SECTOR);
    }

    /// Inverts one bit; bits outside the content do not exist.
    pub(super) fn flip(&mut self, bit: usize) {
        if let Some(byte) = self.bytes.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }
}

/// A range of a file, cut where sectors begin.
pub(super) fn sectors_of(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let end = ((start / SECTOR + 1) * SECTOR).min(range.end);
        let piece = start..end;
        start = end;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_where_sectors_begin() {
        let pieces: Vec<_> = sectors_of(500..1100).collect();
        assert_eq!(pieces, [500..512, 512..1024, 1024..1100]);
        assert_eq!(sectors_of(7..7).count(), 0);
    }

    #[test]
    fn unreadable_sectors_heal_only_when_written_wholly() {
        let mut image = Image::default();
        image.resize(1100);
        image.make_unreadable(600);
        image.make_unreadable(1099);
        let mut into = [0; 1100];
        assert_eq!(image.read(&mut into, 0), Err(512));
        assert_eq!(image.read(&mut into[..512], 0), Ok(512));
        image.write(600, &[1; 100]);
        assert_eq!(image.read(&mut into, 0), Err(512));
        image.write(512, &[1; 512]);
        assert_eq!(image.read(&mut into, 0), Err(1024));
        image.write(1024, &[1; 76]);
        assert_eq!(image.read(&mut into, 0), Ok(1100), "the last sector ends with the file");
    }
}
