//! Checksums of the parts of a large payload.
//!
//! A payload of more than [`PART_LEN`] bytes is followed by a table with one checksum for each part of that
//! many bytes; the checksum in the record's header covers the table in its place. So it can be said which part is
//! damaged, a part can be checked without the others, and no checksum stands for more bytes than it is good for.
//!
//! ```text
//! +----------------------+---------+---------+-----+---------+--------------------+
//! | record header        | part 0  | part 1  | ... | part n  | n + 1 CRC-32       |
//! +----------------------+---------+---------+-----+---------+--------------------+
//! ```
//!
//! The payload stays in one piece, and shorter ones know nothing of all this. See `docs/format/log.md`.

use crate::frame::u32_at;
use crate::record::Refusal;

/// Bytes of a part; the last one may have fewer. 64 KiB: large enough that the table and joining the
/// checksums cost nothing that can be measured beside them.
pub const PART_LEN: usize = 64 << 10;

/// Bytes of a part's checksum.
const CRC_LEN: usize = 4;

/// Bytes of the table behind a payload of this many bytes; 0 if it is in one part.
pub(crate) fn table_len(payload_len: usize) -> usize {
    match payload_len > PART_LEN {
        true => payload_len.div_ceil(PART_LEN) * CRC_LEN,
        false => 0,
    }
}

/// The checksums of a payload that is seen part by part.
#[derive(Default)]
pub(crate) struct Checksums {
    /// Of what was seen so far.
    pub whole: crc32fast::Hasher,
    /// Of each part.
    pub table: Vec<u8>,
}

impl Checksums {
    /// The next part: all have [`PART_LEN`] bytes but for the last one.
    pub(crate) fn add(&mut self, part: &[u8]) {
        let mut crc = crc32fast::Hasher::new();
        crc.update(part);
        self.whole.combine(&crc);
        self.table.extend_from_slice(&crc.finalize().to_le_bytes());
    }
}

/// The checksum of a payload as a whole, and its table; empty if it is in one part.
pub(crate) fn checksum(payload: &[u8]) -> (crc32fast::Hasher, Vec<u8>) {
    let mut whole = crc32fast::Hasher::new();
    if payload.len() <= PART_LEN {
        whole.update(payload);
        return (whole, Vec::new());
    }
    let mut checksums = Checksums::default();
    payload.chunks(PART_LEN).for_each(|part| checksums.add(part));
    (checksums.whole, checksums.table)
}

/// The parts of a payload that are not what their table says: a refusal for each.
pub(crate) fn damaged<'a>(
    payload: &'a [u8],
    table: &'a [u8],
) -> impl Iterator<Item = Refusal> + 'a {
    let stored = table.chunks_exact(CRC_LEN).map(|bytes| u32_at(bytes, 0));
    let of = payload.len().div_ceil(PART_LEN);
    payload.chunks(PART_LEN).zip(stored).enumerate().filter_map(
        move |(number, (part, expected))| {
            let found = crc32fast::hash(part);
            (found != expected).then_some(Refusal::Part { number, of, expected, found })
        },
    )
}

/// The numbers of the parts that hold these bytes of a payload.
pub(crate) fn of_range(range: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / PART_LEN..range.end.div_ceil(PART_LEN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_what_its_parts_are_together() {
        for len in [0, 1, PART_LEN, PART_LEN + 1, 3 * PART_LEN, 3 * PART_LEN + 17] {
            let payload: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
            let (whole, table) = checksum(&payload);
            assert_eq!(whole.finalize(), crc32fast::hash(&payload), "{len} bytes");
            assert_eq!(table.len(), table_len(len), "{len} bytes");
            assert_eq!(damaged(&payload, &table).count(), 0, "{len} bytes");
        }
    }

    #[test]
    fn a_range_is_in_the_parts_that_it_touches() {
        assert_eq!(of_range(&(0..1)), 0..1);
        assert_eq!(of_range(&(PART_LEN - 1..PART_LEN)), 0..1);
        assert_eq!(of_range(&(PART_LEN - 1..PART_LEN + 1)), 0..2);
        assert_eq!(of_range(&(2 * PART_LEN..3 * PART_LEN)), 2..3);
        assert_eq!(of_range(&(7..7)), 0..0);
    }
}
