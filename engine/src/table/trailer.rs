//! The trailer behind every section of a table: what was done to its bytes, and their checksum.
//!
//! ```text
//! 0             1     4                8        12
//! +-------------+-----+----------------+--------+
//! | compression | 0   | decoded length | crc32  |
//! +-------------+-----+----------------+--------+
//! ```
//!
//! The checksum covers the table's number, the section's offset in the file, the stored bytes and the
//! first eight bytes of the trailer, in that order. Number and offset are not stored here: a reader
//! brings those it expects, so a section that was written to a wrong place, or that belongs to
//! another table, is refused even though all of its own bytes are intact.
//!
//! `decoded length` is the length after decompression and at most [`DECODED_LEN_MAX`]; for sections
//! stored as they are it equals the stored length. It is believed only after the checksum matched.

use super::TableId;
use super::damage::{Bytes, Damage};
use crate::{KEY_LEN_MAX, VALUE_LEN_MAX};

/// Bytes of a trailer.
pub(super) const TRAILER_LEN: usize = 12;

const COMPRESSION_AT: usize = 0;
const RESERVED_AT: usize = 1;
const DECODED_LEN_AT: usize = 4;
const CRC_AT: usize = 8;

const _: () = assert!(CRC_AT + size_of::<u32>() == TRAILER_LEN, "the checksum ends the trailer");

/// The longest compressed section after decoding: a block is over its target size only if it holds a
/// single cell, and no cell is this large. A damaged length can so not make a reader allocate more.
pub(super) const DECODED_LEN_MAX: usize = 64 << 20;

const _: () = assert!(VALUE_LEN_MAX + KEY_LEN_MAX + 4096 < DECODED_LEN_MAX, "every cell fits");

/// LZ4 never makes more than this many bytes out of one.
const LZ4_RATIO_MAX: usize = 255;

/// How the bytes of a data block are stored; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None = 0,
    /// As an LZ4 block, where that helps.
    Lz4 = 1,
}

impl Compression {
    /// The number in the file.
    pub(super) fn code(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
        }
    }

    /// What a number in the file means.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Compression::None),
            1 => Some(Compression::Lz4),
            _ => None,
        }
    }
}

/// Where the stored bytes of a section are; its trailer follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Of the first byte, in the file.
    pub(super) offset: u64,
    /// Count of stored bytes, without the trailer.
    pub(super) len: u64,
}

impl Extent {
    /// Where the section ends, trailer included; none if no file is that long.
    pub(super) fn end(self) -> Option<u64> {
        self.offset.checked_add(self.len)?.checked_add(u64::try_from(TRAILER_LEN).ok()?)
    }

    /// The stored bytes as a range of the file in memory.
    pub(super) fn range(self) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(self.offset).ok()?;
        Some(start..start.checked_add(usize::try_from(self.len).ok()?)?)
    }
}

/// A section whose checksum was found right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    /// The bytes as stored.
    pub(super) stored: &'a [u8],
    /// What was done to them.
    pub(super) compression: Compression,
    /// Their length after decoding.
    decoded_len: usize,
    /// Where they are in the file.
    offset: u64,
}

/// The trailer for `stored`, which is going to stand at `offset` in the file of `table`.
///
/// # Panics
///
/// If the section has 4 GiB or more, which the writer's own bounds exclude.
pub(super) fn encode(
    table: TableId,
    offset: u64,
    stored: &[u8],
    compression: Compression,
    decoded_len: usize,
) -> [u8; TRAILER_LEN] {
    let decoded_len = u32::try_from(decoded_len).expect("a section is under 4 GiB");
    let mut trailer = [0; TRAILER_LEN];
    trailer[COMPRESSION_AT] = compression.code();
    trailer[DECODED_LEN_AT..CRC_AT].copy_from_slice(&decoded_len.to_le_bytes());
    let crc = checksum(table, offset, stored, &trailer[..CRC_AT]);
    trailer[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    trailer
}

/// Checks the section at `extent` of `file` against its trailer.
///
/// # Errors
///
/// The first reason why these are not the bytes that were written there.
pub(super) fn check(file: &[u8], table: TableId, extent: Extent) -> Result<Section<'_>, Damage> {
    let outside = || Damage::new(extent.offset, format!("{} bytes", extent.len), "the file's end");
    let range = extent.range().ok_or_else(outside)?;
    let stored = file.get(range.clone()).ok_or_else(outside)?;
    let trailer = file
        .get(range.end..)
        .and_then(|rest| rest.first_chunk::<TRAILER_LEN>())
        .ok_or_else(outside)?;
    let trailer_offset = extent.offset + extent.len;
    let crc_expected = Bytes(trailer).u32(CRC_AT);
    let crc_found = checksum(table, extent.offset, stored, &trailer[..CRC_AT]);
    if crc_expected != crc_found {
        return Err(Damage::checksum(extent.offset, crc_expected, crc_found));
    }
    let Some(compression) = Compression::of_code(trailer[COMPRESSION_AT]) else {
        let found = format!("{}", trailer[COMPRESSION_AT]);
        return Err(Damage::new(trailer_offset, "compression 0 or 1", found));
    };
    if trailer[RESERVED_AT..DECODED_LEN_AT] != [0; DECODED_LEN_AT - RESERVED_AT] {
        return Err(Damage::new(trailer_offset, "reserved bytes of 0", "others"));
    }
    let decoded_len = usize::try_from(Bytes(trailer).u32(DECODED_LEN_AT)).unwrap_or(usize::MAX);
    let decoded_len_max = match compression {
        Compression::None => stored.len(),
        Compression::Lz4 => stored.len().saturating_mul(LZ4_RATIO_MAX).min(DECODED_LEN_MAX),
    };
    if decoded_len > decoded_len_max {
        let found = format!("{decoded_len}");
        let expected = format!("a decoded length of at most {decoded_len_max}");
        return Err(Damage::new(trailer_offset, expected, found));
    }
    Ok(Section { stored, compression, decoded_len, offset: extent.offset })
}

impl<'a> Section<'a> {
    /// The bytes of a section that is never compressed.
    ///
    /// # Errors
    ///
    /// If it is.
    pub(super) fn raw(self) -> Result<&'a [u8], Damage> {
        match self.compression {
            Compression::None => Ok(self.stored),
            Compression::Lz4 => Err(Damage::new(self.offset, "a section as it is", "LZ4")),
        }
    }

    /// The bytes before compression.
    ///
    /// # Errors
    ///
    /// If they cannot be had back.
    pub(super) fn decode(self) -> Result<Box<[u8]>, Damage> {
        match self.compression {
            Compression::None => Ok(self.stored.into()),
            Compression::Lz4 => {
                let mut decoded = vec![0; self.decoded_len].into_boxed_slice();
                match lz4_flex::block::decompress_into(self.stored, &mut decoded) {
                    Ok(len) if len == self.decoded_len => Ok(decoded),
                    Ok(len) => Err(Damage::new(
                        self.offset,
                        format!("{} decoded bytes", self.decoded_len),
                        format!("{len}"),
                    )),
                    Err(error) => Err(Damage::new(self.offset, "LZ4", error.to_string())),
                }
            }
        }
    }
}

fn checksum(table: TableId, offset: u64, stored: &[u8], trailer: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&table.0.to_le_bytes());
    place[8..].copy_from_slice(&offset.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place);
    hasher.update(stored);
    hasher.update(trailer);
    hasher.finalize()
}

/// Looks for the end of a section that starts at `offset`, without knowing its length: the shortest
/// one whose checksum is right. For reading what is left of a table that has lost its footer.
pub(super) fn find(file: &[u8], table: TableId, offset: u64) -> Option<Extent> {
    let body = file.get(usize::try_from(offset).ok()?..)?;
    let windows = body.windows(TRAILER_LEN).take(DECODED_LEN_MAX).enumerate();
    for (len, trailer) in windows {
        let decoded_len = usize::try_from(Bytes(trailer).u32(DECODED_LEN_AT)).ok()?;
        let plausible = trailer[RESERVED_AT..DECODED_LEN_AT] == [0; DECODED_LEN_AT - RESERVED_AT]
            && match Compression::of_code(trailer[COMPRESSION_AT]) {
                Some(Compression::None) => decoded_len == len,
                Some(Compression::Lz4) => decoded_len > len && decoded_len <= DECODED_LEN_MAX,
                None => false,
            };
        if plausible {
            let extent = Extent { offset, len: u64::try_from(len).ok()? };
            if check(file, table, extent).is_ok() {
                return Some(extent);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_valid_only_in_its_place() {
        let stored = b"strandline strandline";
        let mut file = b"before".to_vec();
        file.extend_from_slice(stored);
        file.extend(encode(TableId(7), 6, stored, Compression::None, stored.len()));
        let extent = Extent { offset: 6, len: 21 };
        assert_eq!(check(&file, TableId(7), extent).unwrap().raw().unwrap(), stored);
        assert!(check(&file, TableId(8), extent).is_err(), "of another table");
        assert!(check(&file[1..], TableId(7), Extent { offset: 5, len: 21 }).is_err(), "moved");
        assert_eq!(find(&file, TableId(7), 6), Some(extent));
        assert_eq!(find(&file, TableId(8), 6), None);
        for bit in 6 * 8..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&damaged, TableId(7), extent).is_err(), "bit {bit} was not noticed");
        }
        for end in 0..file.len() {
            assert!(check(&file[..end], TableId(7), extent).is_err(), "cut at {end}");
        }
    }
}
