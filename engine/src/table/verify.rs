//! Checking a table: every checksum, and that what the checksums cover makes sense together.
//!
//! Opening a table has checked all but its blocks; what may have decayed since is checked again. The
//! blocks are read past the cache, whether they were checked before or not. One corrupt block ends
//! the check: its error names the place, and the table has to be replaced as a whole anyway.

use super::block::{Block, EncodedCell};
use super::damage::Damage;
use super::filter;
use super::footer::decode_header;
use super::reader::{Parts, Table};
use crate::key::{CellKind, compare};
use crate::{Index, Result};

/// What has been seen of a table's cells.
#[derive(Debug, Default)]
struct Seen {
    cells: u64,
    tombstones: u64,
    index_min: Option<Index>,
    index_max: Option<Index>,
    smallest: Vec<u8>,
    /// Of the last cell.
    key: Vec<u8>,
    index: Index,
}

impl Table {
    /// Reads everything and checks every checksum, the order of the cells, what block index and
    /// properties say of them, and that the filter has every key. Returns the count of cells.
    ///
    /// # Errors
    ///
    /// The first damage.
    pub(crate) fn verify(&self) -> Result<u64> {
        self.touch(0..self.bytes().len())?;
        let id = decode_header(self.bytes(), self.path())?;
        let parts = Parts::decode(self.bytes(), id).map_err(|damage| self.damaged(damage))?;
        let mut seen = Seen::default();
        for number in 0..parts.index.count() {
            self.verify_block(&parts, number, &mut seen)?;
        }
        let meta = self.meta();
        let as_said = seen.cells == meta.cells
            && seen.tombstones == meta.tombstones
            && seen.smallest == meta.smallest
            && seen.key == meta.largest
            && seen.index_min == Some(meta.index_min)
            && seen.index_max == Some(meta.index_max)
            && crc32fast::hash(self.bytes()) == meta.checksum
            && parts.says(meta);
        if !as_said {
            let offset = parts.footer.properties.offset;
            let found = format!("{:?} and {seen:?}", parts.meta);
            return Err(self.damaged(Damage::new(offset, format!("{meta:?}"), found)));
        }
        Ok(seen.cells)
    }

    fn verify_block(&self, parts: &Parts, number: usize, seen: &mut Seen) -> Result<()> {
        let (extent, compression) = self.block_entry(number)?;
        let section = self.check_block(extent, compression)?;
        let decoded = section.decode().map_err(|damage| self.damaged(damage))?;
        let malformed = |malformed| self.malformed(number, malformed);
        let block = Block::new(&decoded).map_err(malformed)?;
        let damage = |expected: String| {
            let found = format!("block {number} otherwise");
            Err(self.damaged(Damage::new(extent.offset, expected, found)))
        };
        let entry = parts.index.entry(self.bytes(), number);
        let separator_before = match number.checked_sub(1) {
            Some(before) => parts.index.entry(self.bytes(), before).map(|entry| entry.separator),
            None => None,
        };
        let mut offset = 0;
        let mut key = Vec::new();
        while offset < block.cells_len() {
            let cell = block.cell_at(offset).map_err(malformed)?;
            cell.extend_key(&mut key).map_err(malformed)?;
            if seen.cells > 0 && compare((&seen.key, seen.index), (&key, cell.index)).is_ge() {
                return damage("cells in ascending order".into());
            }
            if offset == 0
                && separator_before
                    .is_some_and(|before| compare(before, (&key, cell.index)).is_ge())
            {
                return damage("a first cell after the separator before".into());
            }
            // A walk from a restart and a search from the top must agree about every cell.
            let found = block.seek(&key, cell.index).map_err(malformed)?;
            if found.map(|(at, _)| at) != Some(offset) {
                return damage("cells that a search finds".into());
            }
            let hash = filter::hash(&key);
            if parts.filter.is_some_and(|filter| !filter.may_contain(self.bytes(), hash)) {
                return damage(format!("the filter to have the key {}", key.escape_ascii()));
            }
            seen.add(&key, &cell);
            offset = cell.value.end;
        }
        match entry {
            Some(entry) if compare((&seen.key, seen.index), entry.separator).is_le() => Ok(()),
            _ => damage("a last cell at or before the separator".into()),
        }
    }
}

impl Seen {
    fn add(&mut self, key: &[u8], cell: &EncodedCell<'_>) {
        if self.cells == 0 {
            self.smallest = key.to_vec();
        }
        self.cells += 1;
        self.tombstones += u64::from(cell.kind == CellKind::Delete);
        self.index_min = Some(self.index_min.map_or(cell.index, |min| min.min(cell.index)));
        self.index_max = Some(self.index_max.map_or(cell.index, |max| max.max(cell.index)));
        self.key.clear();
        self.key.extend_from_slice(key);
        self.index = cell.index;
    }
}
