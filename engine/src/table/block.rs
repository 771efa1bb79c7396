//! A data block: cells in the engine's order, keys shortened by what they share with the key before.
//!
//! ```text
//! cell:   | kind | shared | suffix length | value length | index | suffix | value |
//!           u8     varint   varint          varint         varint
//! block:  | cell | cell | ... | heads | restart offsets | lead | count of restarts |
//!                                u32     u32               u32    u32
//! ```
//!
//! A varint has seven bits per byte, the lowest first; the top bit says that more follow. The key of
//! a cell is the first `shared` bytes of the key before it, then `suffix`. A cell at a restart offset
//! shares nothing, so a reader can start there: it finds the restart by binary search and the cell by
//! walking. `shared` is all that two neighbours have in common. The walk relies on that: it compares
//! without putting keys together (see [`Block::seek`]).
//!
//! All keys of the block begin with the same `lead` bytes. A restart's head is the four bytes of its
//! key behind those, as a number. The binary search reads the heads, which lie side by side, and not
//! the cells, which do not: each cell would be another wait for memory, and that is what a lookup in
//! a block that is not in the processor's cache consists of.
//!
//! Every length is checked against the bytes there are before it is used. The bytes come behind a
//! checksum, so a refusal here means a writer's bug or memory that decays; it is an error all the
//! same and never a panic.

use std::cmp::Ordering;
use std::ops::Range;

use crate::Index;
use crate::key::{Cell, CellKind, compare};

/// Cells from one restart to the next. Fewer cells walked per read, for a few more bytes per block:
/// eight for each restart, and the beginning of its key. Readers do not depend on the number.
const RESTART_INTERVAL: usize = 4;

/// Bytes of a number in the arrays and behind them.
const NUMBER_LEN: usize = size_of::<u32>();

/// Bytes that a restart takes besides its cell.
const RESTART_LEN: usize = 2 * NUMBER_LEN;

/// Lead and count.
const TAIL_LEN: usize = 2 * NUMBER_LEN;

/// The longest encoding of a number of 64 bits.
const VARINT_LEN_MAX: usize = 10;

/// The most that a cell has in front of its suffix.
const CELL_HEADER_LEN_MAX: usize = 1 + 4 * VARINT_LEN_MAX;

/// Why bytes are not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Where, from the block's beginning, after decompression.
    pub(super) offset: usize,
    /// What should stand there.
    pub(super) expected: &'static str,
}

/// A block that is being filled.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    /// Cells since the last restart.
    since_restart: usize,
    /// Of the first cell of the block.
    first_key: Vec<u8>,
    /// Of the last cell added, in this block or the one before.
    last_key: Vec<u8>,
    last_index: Index,
}

impl BlockBuilder {
    /// Whether no cell was added since the last [`finish`](BlockBuilder::finish).
    pub(super) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    /// The place of the last cell added, in this block or the one before.
    pub(super) fn last(&self) -> (&[u8], Index) {
        (&self.last_key, self.last_index)
    }

    /// The length of the block as it is.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.restarts.len() * RESTART_LEN + TAIL_LEN
    }

    /// The most that the block's length would be with `cell`.
    pub(super) fn len_with(&self, cell: &Cell<'_>) -> usize {
        self.len() + RESTART_LEN + CELL_HEADER_LEN_MAX + cell.key.len() + cell.value.len()
    }

    /// Adds a cell, whose place the caller has found to be after the last one's.
    pub(super) fn add(&mut self, cell: &Cell<'_>) {
        if self.is_empty() {
            self.first_key.clear();
            self.first_key.extend_from_slice(cell.key);
        }
        let shared = if self.is_empty() || self.since_restart == RESTART_INTERVAL {
            let offset = u32::try_from(self.bytes.len()).expect("a block is under 4 GiB");
            self.restarts.push(offset);
            self.since_restart = 0;
            0
        } else {
            common_prefix_len(&self.last_key, cell.key)
        };
        self.since_restart += 1;
        let suffix = &cell.key[shared..];
        self.bytes.push(match cell.kind {
            CellKind::Put => 1,
            CellKind::Delete => 2,
            CellKind::Pointer => 3,
        });
        for len in [shared, suffix.len(), cell.value.len()] {
            push_varint(&mut self.bytes, u64::try_from(len).expect("a length is a word"));
        }
        push_varint(&mut self.bytes, cell.index.0);
        self.bytes.extend_from_slice(suffix);
        self.bytes.extend_from_slice(cell.value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(suffix);
        self.last_index = cell.index;
    }

    /// Ends the block: swaps its bytes into `into`, whose memory the next block takes.
    pub(super) fn finish(&mut self, into: &mut Vec<u8>) {
        let lead = common_prefix_len(&self.first_key, &self.last_key);
        for restart in &self.restarts {
            let offset = usize::try_from(*restart).expect("an offset in memory");
            let cell = decode_cell(&self.bytes, offset).expect("a cell that was just encoded");
            let head = head(cell.suffix, lead);
            self.bytes.extend_from_slice(&head.to_le_bytes());
        }
        for restart in &self.restarts {
            self.bytes.extend_from_slice(&restart.to_le_bytes());
        }
        for number in [lead, self.restarts.len()] {
            let number = u32::try_from(number).expect("less than a block's length");
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        into.clear();
        std::mem::swap(into, &mut self.bytes);
        self.restarts.clear();
    }
}

/// A cell as it stands in a block.
#[derive(Clone, Debug)]
pub(super) struct EncodedCell<'a> {
    /// How much of the key before it belongs to its key.
    pub(super) shared: usize,
    /// The rest of its key.
    pub(super) suffix: &'a [u8],
    pub(super) index: Index,
    pub(super) kind: CellKind,
    /// Where its value is in the block; the next cell starts at the end.
    pub(super) value: Range<usize>,
}

impl EncodedCell<'_> {
    /// Whether the key of this cell, which [`Block::seek`] found for `key`, is that key.
    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        key.get(self.shared..) == Some(self.suffix)
    }

    /// Turns the key before into the key of this cell.
    pub(super) fn extend_key(&self, key: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.shared > key.len() {
            let offset = self.value.start;
            return Err(Malformed { offset, expected: "a key that shares what there is" });
        }
        key.truncate(self.shared);
        key.extend_from_slice(self.suffix);
        Ok(())
    }
}

/// A block that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    cells: &'a [u8],
    heads: &'a [[u8; NUMBER_LEN]],
    /// Invariant: as many as heads, and at least one.
    restarts: &'a [[u8; NUMBER_LEN]],
    /// How many bytes all keys share.
    lead: usize,
}

impl<'a> Block<'a> {
    /// Takes decoded bytes for a block.
    ///
    /// # Errors
    ///
    /// If their end is not that of a block.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::split(bytes)
            .ok_or(Malformed { offset: bytes.len(), expected: "an array of restarts" })
    }

    fn split(bytes: &'a [u8]) -> Option<Self> {
        let (rest, count) = bytes.split_last_chunk()?;
        let (rest, lead) = rest.split_last_chunk()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let lead = usize::try_from(u32::from_le_bytes(*lead)).ok()?;
        let cells_len = rest.len().checked_sub(count.checked_mul(RESTART_LEN)?)?;
        let (cells, numbers) = rest.split_at(cells_len);
        let (heads, restarts) = numbers.as_chunks().0.split_at(count);
        (count > 0 && !cells.is_empty()).then_some(Self { cells, heads, restarts, lead })
    }

    /// Where the cells end.
    pub(super) fn cells_len(&self) -> usize {
        self.cells.len()
    }

    /// The cell at `offset`.
    pub(super) fn cell_at(&self, offset: usize) -> Result<EncodedCell<'a>, Malformed> {
        decode_cell(self.cells, offset).ok_or(Malformed { offset, expected: "a cell" })
    }

    fn restart_offset(&self, restart: usize) -> usize {
        // An offset too large for this machine is refused like any other that lies outside.
        usize::try_from(u32::from_le_bytes(self.restarts[restart])).unwrap_or(usize::MAX)
    }

    fn restart_cell(&self, restart: usize) -> Result<EncodedCell<'a>, Malformed> {
        let offset = self.restart_offset(restart);
        match decode_cell(self.cells, offset) {
            Some(cell) if cell.shared == 0 => Ok(cell),
            _ => Err(Malformed { offset, expected: "a cell with its whole key" }),
        }
    }

    /// The offset from which a walk reaches every cell before `offset`, going back no further than
    /// needed: the last restart strictly before it.
    pub(super) fn restart_before(&self, offset: usize) -> usize {
        let after = self.restarts.partition_point(|restart| {
            usize::try_from(u32::from_le_bytes(*restart)).is_ok_and(|start| start < offset)
        });
        after.checked_sub(1).map_or(0, |restart| self.restart_offset(restart))
    }

    /// Finds the first cell at or after the place (`key`, `index`): its offset, and the cell. Its key
    /// is the first `shared` bytes of `key`, then its suffix. None if all cells are before.
    ///
    /// The walk knows how many bytes `matched` the key before and the wanted key have in common. As
    /// the key before is smaller, a cell that shares more with it than that is smaller for the same
    /// reason; one that shares less is larger; only where both are equal are bytes compared.
    pub(super) fn seek(
        &self,
        key: &[u8],
        index: Index,
    ) -> Result<Option<(usize, EncodedCell<'a>)>, Malformed> {
        let Some((restart, first)) = self.last_restart_before(key, index)? else {
            return Ok(Some((0, self.restart_cell(0)?)));
        };
        let mut matched = common_prefix_len(first.suffix, key);
        let mut offset = first.value.end;
        let end = match self.restarts.get(restart + 1) {
            Some(_) => self.restart_offset(restart + 1),
            None => self.cells.len(),
        };
        while offset < end {
            let cell = self.cell_at(offset)?;
            match cell.shared.cmp(&matched) {
                Ordering::Greater => {}
                Ordering::Less => return Ok(Some((offset, cell))),
                Ordering::Equal => {
                    let rest = &key[matched..];
                    if compare((cell.suffix, cell.index), (rest, index)) != Ordering::Less {
                        return Ok(Some((offset, cell)));
                    }
                    matched += common_prefix_len(cell.suffix, rest);
                }
            }
            offset = cell.value.end;
        }
        if end < self.cells.len() {
            return Ok(Some((end, self.restart_cell(restart + 1)?)));
        }
        Ok(None)
    }

    /// The last restart whose cell is strictly before the place, and that cell.
    fn last_restart_before(
        &self,
        key: &[u8],
        index: Index,
    ) -> Result<Option<(usize, EncodedCell<'a>)>, Malformed> {
        let wanted = head(key, self.lead);
        let number = |head: &[u8; NUMBER_LEN]| u32::from_le_bytes(*head);
        let mut low = self.heads.partition_point(|head| number(head) < wanted);
        // Mostly the heads decide. Only restarts whose head is that of the key need a look at keys.
        let equal = self.heads[low..].iter().take_while(|head| number(head) == wanted).count();
        let mut high = low + equal;
        while low < high {
            let middle = low + (high - low) / 2;
            let cell = self.restart_cell(middle)?;
            match compare((cell.suffix, cell.index), (key, index)) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        let restart = low.saturating_sub(1);
        let cell = self.restart_cell(restart)?;
        // All of that holds only for a key that begins as all keys here. The cell found, which the
        // walk needs next anyway, tells whether it does.
        let lead = cell.suffix.get(..self.lead).ok_or(Malformed {
            offset: cell.value.start,
            expected: "a key with the beginning of all",
        })?;
        match key[..key.len().min(lead.len())].cmp(lead) {
            Ordering::Less => Ok(None),
            Ordering::Equal => Ok((low > 0).then_some((restart, cell))),
            Ordering::Greater => {
                let last = self.restarts.len() - 1;
                Ok(Some((last, self.restart_cell(last)?)))
            }
        }
    }
}

/// Decodes the cell at `offset`; none if the bytes are not a cell, or not all of one.
fn decode_cell(bytes: &[u8], offset: usize) -> Option<EncodedCell<'_>> {
    let kind = match bytes.get(offset)? {
        1 => CellKind::Put,
        2 => CellKind::Delete,
        3 => CellKind::Pointer,
        _ => return None,
    };
    let mut at = offset + 1;
    let shared = usize::try_from(read_varint(bytes, &mut at)?).ok()?;
    let suffix_len = usize::try_from(read_varint(bytes, &mut at)?).ok()?;
    let value_len = usize::try_from(read_varint(bytes, &mut at)?).ok()?;
    let index = Index(read_varint(bytes, &mut at)?);
    let value_start = at.checked_add(suffix_len)?;
    let value_end = value_start.checked_add(value_len)?;
    if value_end > bytes.len() {
        return None;
    }
    let suffix = bytes.get(at..value_start)?;
    Some(EncodedCell { shared, suffix, index, kind, value: value_start..value_end })
}

/// Four bytes of a key from `lead` on, as a number: it orders as the bytes do.
fn head(key: &[u8], lead: usize) -> u32 {
    let rest = key.get(lead..).unwrap_or(&[]);
    let mut bytes = [0; NUMBER_LEN];
    let len = rest.len().min(NUMBER_LEN);
    bytes[..len].copy_from_slice(&rest[..len]);
    u32::from_le_bytes(bytes).swap_bytes()
}

/// How many bytes two keys have in common at their beginning.
pub(super) fn common_prefix_len(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let equal = 8 * a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count();
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

#[inline]
fn read_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut number = u64::from(first & 0x7f);
    for shift in (7..u64::BITS).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let low = u64::from(byte & 0x7f);
        number |= low << shift;
        if byte < 0x80 {
            // The tenth byte has room for one bit only; the others would be lost.
            return (number >> shift == low).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, number);
            let mut at = 0;
            assert_eq!(read_varint(&bytes, &mut at), Some(number));
            assert_eq!(at, bytes.len());
            assert_eq!(read_varint(&bytes[..bytes.len() - 1], &mut 0), None);
        }
        assert_eq!(read_varint(&[0xff; 11], &mut 0), None, "a number without an end");
        let mut too_large = [0xff; 10];
        too_large[9] = 2;
        assert_eq!(read_varint(&too_large, &mut 0), None, "a number of 65 bits");
    }

    #[test]
    fn seek_agrees_with_a_plain_search() {
        let keys: [&[u8]; 9] =
            [b"", b"a", b"aa", b"aab", b"aabbbbbbbbbb", b"aabbbbbbbbbc", b"ab", b"b", b"ba"];
        let mut places = Vec::new();
        for key in keys {
            places.extend([9, 5, 2].map(|index| (key, Index(index))));
        }
        let mut builder = BlockBuilder::default();
        for &(key, index) in &places {
            builder.add(&Cell { key, index, kind: CellKind::Put, value: key });
        }
        let mut bytes = Vec::new();
        builder.finish(&mut bytes);
        let block = Block::new(&bytes).unwrap();
        let probes: [&[u8]; 8] = [b"aaa", b"aabbbbbbbb", b"aac", b"b\0", b"c", b"0", b"a\0", b"bb"];
        for wanted in keys.iter().chain(&probes) {
            for index in (0..11).map(Index) {
                let expected =
                    places.iter().find(|place| compare(**place, (wanted, index)).is_ge());
                let found = block.seek(wanted, index).unwrap().map(|(_, cell)| {
                    let mut key = wanted[..cell.shared].to_vec();
                    key.extend_from_slice(cell.suffix);
                    assert_eq!(cell.is_of(wanted), key == *wanted);
                    (key, cell.index)
                });
                assert_eq!(found, expected.map(|(key, index)| (key.to_vec(), *index)));
            }
        }
    }
}
