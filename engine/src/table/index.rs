//! The block index: which block of a table holds a place.
//!
//! ```text
//! section: | entry | entry | ... | separator keys, one after the other |
//! entry:   0              8                 16        24           28            29   32
//!          +--------------+-----------------+---------+------------+-------------+----+
//!          | block offset | separator index | key end | stored len | compression | 0  |
//!          +--------------+-----------------+---------+------------+-------------+----+
//! ```
//!
//! The separator of a block is a place at or after its last cell and before the first cell of the
//! next block. Its key is kept as short as that allows. It has an index too because the versions of
//! one key may fill several blocks. `key end` counts from the first separator key.
//!
//! The section stays in the mapped file. In memory there are eight bytes per block: what follows the
//! beginning that all keys of the table share, as a number. Most searches end in that array.

use std::cmp::Ordering;

use super::block::common_prefix_len;
use super::damage::{Bytes, Damage};
use super::trailer::{Compression, Extent};
use crate::Index;
use crate::key::compare;

/// Bytes of an entry.
pub(super) const ENTRY_LEN: usize = 32;

const OFFSET_AT: usize = 0;
const SEPARATOR_INDEX_AT: usize = 8;
const KEY_END_AT: usize = 16;
const STORED_LEN_AT: usize = 24;
const COMPRESSION_AT: usize = 28;
const RESERVED_AT: usize = 29;

/// What the index says of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockEntry<'a> {
    /// Where the block is.
    pub(super) extent: Extent,
    /// How it is stored.
    pub(super) compression: Compression,
    /// At or after its last cell, before the next block's first.
    pub(super) separator: (&'a [u8], Index),
}

/// The index of a table that is being written.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    entries: Vec<u8>,
    keys: Vec<u8>,
}

impl IndexBuilder {
    /// Adds the next block, whose last cell is at `last` and which `next` follows.
    pub(super) fn add(
        &mut self,
        extent: Extent,
        compression: Compression,
        last: (&[u8], Index),
        next: Option<&[u8]>,
    ) {
        let separator = match next {
            Some(next) => separator(last, next),
            None => last,
        };
        self.keys.extend_from_slice(separator.0);
        let key_end = u64::try_from(self.keys.len()).expect("a length is a word");
        let stored_len = u32::try_from(extent.len).expect("a block is under 4 GiB");
        self.entries.extend_from_slice(&extent.offset.to_le_bytes());
        self.entries.extend_from_slice(&separator.1.0.to_le_bytes());
        self.entries.extend_from_slice(&key_end.to_le_bytes());
        self.entries.extend_from_slice(&stored_len.to_le_bytes());
        self.entries.push(compression.code());
        self.entries.extend_from_slice(&[0; ENTRY_LEN - RESERVED_AT]);
    }

    /// How many blocks.
    pub(super) fn count(&self) -> usize {
        self.entries.len() / ENTRY_LEN
    }

    /// How many bytes the section has.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.keys.len()
    }

    /// The section.
    pub(super) fn encode(mut self) -> Vec<u8> {
        self.entries.append(&mut self.keys);
        self.entries
    }
}

/// The shortest place at or after `last` and before every version of `next`.
fn separator<'a>(last: (&'a [u8], Index), next: &'a [u8]) -> (&'a [u8], Index) {
    if last.0 == next {
        return last;
    }
    let shared = common_prefix_len(last.0, next);
    // One byte more than they share is a key after the last and, unless it is all of the next,
    // before it. Index 0 is behind all versions.
    match next.get(..=shared) {
        Some(short) if short.len() < next.len() && short.len() < last.0.len() => (short, Index(0)),
        _ => (last.0, Index(0)),
    }
}

/// The index of a table that is being read.
#[derive(Debug)]
pub(super) struct BlockIndex {
    /// Where the section is.
    extent: Extent,
    /// How many bytes all keys of the table share at their beginning.
    lead: usize,
    /// For each block, the eight bytes of its separator behind those, as an ordered number.
    heads: Box<[u64]>,
}

impl BlockIndex {
    /// Checks a section of `count` entries whose checksum was checked, and takes what stays in
    /// memory. `lead` bytes are shared by all keys; the blocks lie one after the other in `blocks`.
    ///
    /// # Errors
    ///
    /// If the section is not such an index.
    pub(super) fn decode(
        section: &[u8],
        extent: Extent,
        count: u64,
        lead: usize,
        blocks: std::ops::Range<u64>,
    ) -> Result<Self, Damage> {
        let damage = |at: usize, expected: &'static str| {
            let at = u64::try_from(at).expect("a length is a word");
            Damage::new(extent.offset + at, expected, "something else")
        };
        let keys_start = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(ENTRY_LEN))
            .filter(|&start| start <= section.len() && start > 0)
            .ok_or_else(|| damage(0, "as many entries as blocks"))?;
        let mut heads = Vec::with_capacity(keys_start / ENTRY_LEN);
        let mut block_offset = blocks.start;
        for number in 0..keys_start / ENTRY_LEN {
            let at = number * ENTRY_LEN;
            let entry = entry(section, keys_start, number)
                .filter(|_| section[at + RESERVED_AT..at + ENTRY_LEN] == [0; 3])
                .ok_or_else(|| damage(at, "an entry of the block index"))?;
            let end = entry.extent.end().filter(|_| entry.extent.offset == block_offset);
            block_offset = end.ok_or_else(|| damage(at, "a block behind the one before"))?;
            heads.push(head(entry.separator.0, lead));
        }
        if block_offset != blocks.end {
            return Err(damage(keys_start - ENTRY_LEN, "a last block that ends with the blocks"));
        }
        let keys_end = Bytes(section).u64(keys_start - ENTRY_LEN + KEY_END_AT);
        if usize::try_from(keys_end).ok() != Some(section.len() - keys_start) {
            return Err(damage(keys_start, "separator keys to the section's end"));
        }
        Ok(Self { extent, lead, heads: heads.into() })
    }

    /// How many blocks the table has.
    pub(super) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Where the section is.
    pub(super) fn extent(&self) -> Extent {
        self.extent
    }

    /// What the index in `file` says of block `number`; none if there is none, or if the mapped
    /// bytes have changed since they were checked.
    pub(super) fn entry<'a>(&self, file: &'a [u8], number: usize) -> Option<BlockEntry<'a>> {
        entry(file.get(self.extent.range()?)?, self.heads.len() * ENTRY_LEN, number)
    }

    /// The first block whose separator is at or after the place: the only one that can hold it. None
    /// if the place is behind all blocks. `key` must begin with the bytes that all keys share.
    pub(super) fn find(
        &self,
        file: &[u8],
        key: &[u8],
        index: Index,
    ) -> Result<Option<usize>, Damage> {
        let wanted = head(key, self.lead);
        let mut low = self.heads.partition_point(|&head| head < wanted);
        // Mostly the heads decide. Only blocks whose head is that of the key need a look at keys.
        let mut high = match self.heads.get(low) {
            Some(&head) if head == wanted => {
                low + self.heads[low..].partition_point(|&head| head == wanted)
            }
            _ => low,
        };
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(entry) = self.entry(file, middle) else {
                return Err(Damage::new(self.extent.offset, "a block index", "other bytes now"));
            };
            match compare(entry.separator, (key, index)) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        Ok((low < self.heads.len()).then_some(low))
    }
}

/// Eight bytes of a key from `lead` on, as a number: it orders as the bytes do.
fn head(key: &[u8], lead: usize) -> u64 {
    let rest = key.get(lead..).unwrap_or(&[]);
    let mut bytes = [0; 8];
    let len = rest.len().min(bytes.len());
    bytes[..len].copy_from_slice(&rest[..len]);
    u64::from_le_bytes(bytes).swap_bytes()
}

fn entry(section: &[u8], keys_start: usize, number: usize) -> Option<BlockEntry<'_>> {
    let at = number.checked_mul(ENTRY_LEN).filter(|&at| at < keys_start)?;
    let bytes = Bytes(section.get(at..at + ENTRY_LEN)?);
    let keys = section.get(keys_start..)?;
    let key_end = usize::try_from(bytes.u64(KEY_END_AT)).ok()?;
    let key_start = match at.checked_sub(ENTRY_LEN) {
        Some(before) => usize::try_from(Bytes(section).u64(before + KEY_END_AT)).ok()?,
        None => 0,
    };
    Some(BlockEntry {
        extent: Extent { offset: bytes.u64(OFFSET_AT), len: u64::from(bytes.u32(STORED_LEN_AT)) },
        compression: Compression::of_code(bytes.0[COMPRESSION_AT])?,
        separator: (keys.get(key_start..key_end)?, Index(bytes.u64(SEPARATOR_INDEX_AT))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_separator_stands_between() {
        let keys: [&[u8]; 8] = [b"", b"a", b"ab", b"abc", b"abcdef", b"abd", b"abdx", b"c"];
        for (at, &last) in keys.iter().enumerate() {
            for &next in &keys[at..] {
                let found = separator((last, Index(4)), next);
                assert!(compare(found, (last, Index(4))).is_ge());
                if next == last {
                    assert!(compare(found, (next, Index(3))).is_lt());
                } else {
                    assert!(compare(found, (next, Index(u64::MAX))).is_lt());
                }
                assert!(found.0.len() <= last.len());
            }
        }
        assert_eq!(separator((b"abcdef", Index(4)), b"abdx"), (&b"abd"[..], Index(0)));
    }

    #[test]
    fn heads_order_as_keys_do() {
        let keys: [&[u8]; 6] = [b"x", b"x\0\x01", b"xa", b"xabcdefgh", b"xabcdefgz", b"x\xff"];
        for pair in keys.windows(2) {
            assert!(head(pair[0], 1) <= head(pair[1], 1), "{pair:?}");
        }
    }
}
