//! Reading a table: opening it, finding a key, getting hold of a block.
//!
//! A lookup goes: within the table's keys? in the filter? which block (an array in memory, then the
//! mapped index)? the block (mapped, or from the cache), where in it. Blocks stored as they are
//! serve reads in place; compressed ones are decompressed into the cache. Before the mapped bytes of a
//! block are checked they are touched, so that a sector that cannot be read is an error and not a signal.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strandline_wal::disk::{Disk, Map};

use super::block::{Block, Malformed, common_prefix_len};
use super::cache::DecodedBlock;
use super::cursor::TableCursor;
use super::damage::Damage;
use super::filter::Filter;
use super::footer::{FOOTER_LEN, Footer, HEADER_LEN, decode_header};
use super::index::BlockIndex;
use super::trailer::{self, Compression, Extent};
use super::{BlockCache, TableId, TableMeta, file_name, properties};
use crate::key::CellKind;
use crate::second_try::twice;
use crate::{Index, Result, Value};

/// What a lookup found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Of the entry that wrote the cell.
    pub index: Index,
    /// Whether this is a value, a tombstone or a pointer.
    pub kind: CellKind,
    /// The value; empty for a tombstone.
    pub value: Value,
}

/// The mapped file, as an owner of values.
#[derive(Debug)]
pub(super) struct MappedFile(Map);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The decoded bytes of a block, wherever they are.
#[derive(Clone, Debug)]
pub(super) enum BlockBytes {
    /// In the mapped file.
    Mapped(Arc<MappedFile>, Range<usize>),
    /// Decompressed.
    Decoded(Arc<DecodedBlock>),
}

impl BlockBytes {
    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            // The range was checked when the block was; a map does not get shorter.
            BlockBytes::Mapped(file, range) => (**file).as_ref().get(range.clone()).unwrap_or(&[]),
            BlockBytes::Decoded(block) => &block.0,
        }
    }

    /// The bytes `range` as a value that keeps them alive.
    pub(super) fn into_value(self, range: Range<usize>) -> Value {
        match self {
            BlockBytes::Mapped(file, block) => {
                Value::new(file, block.start + range.start..block.start + range.end)
            }
            BlockBytes::Decoded(block) => Value::new(block, range),
        }
    }
}

/// An open table.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    meta: TableMeta,
    file: Arc<MappedFile>,
    filter: Option<Filter>,
    index: BlockIndex,
    /// A bit per block: whether the checksum of its mapped bytes was found right.
    checked: Box<[AtomicU64]>,
    cache: Arc<BlockCache>,
    /// Our number in the cache.
    owner: u64,
}

impl Table {
    /// Opens the table that `meta` speaks of.
    ///
    /// # Errors
    ///
    /// If the disk refuses; `Foreign` if the file is no table or another one; `FormatVersion` if it
    /// is too new; `Corruption` if it is damaged outside its blocks, or not what `meta` says.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        meta: TableMeta,
        cache: Arc<BlockCache>,
    ) -> Result<Arc<Table>> {
        let path = dir.join(file_name(meta.id));
        let map = twice(|| disk.map(&path))?;
        touch(&map, 0..HEADER_LEN)?;
        let id = decode_header(&map, &path)?;
        if id != meta.written_as {
            return Err(crate::Error::Wal(strandline_wal::Error::Foreign {
                path,
                expected: format!("table {}", meta.written_as),
                found: format!("table {id}"),
            }));
        }
        let size = u64::try_from(map.len()).expect("a length is a word");
        if size != meta.size {
            let expected = format!("a table of {} bytes", meta.size);
            return Err(Damage::new(size, expected, format!("{size} bytes")).of(&path));
        }
        touch_end(&map, id)?;
        let parts = Parts::decode(&map, id).map_err(|damage| damage.of(&path))?;
        if !parts.says(&meta) {
            let offset = parts.footer.properties.offset;
            let damage = Damage::new(
                offset,
                format!("as in the manifest: {meta:?}"),
                format!("{:?}", parts.meta),
            );
            return Err(damage.of(&path));
        }
        let words = parts.index.count().div_ceil(64);
        Ok(Arc::new(Table {
            path,
            meta,
            file: Arc::new(MappedFile(map)),
            filter: parts.filter,
            index: parts.index,
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
            owner: cache.owner(),
            cache,
        }))
    }

    /// What the manifest keeps of the table.
    pub(crate) fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// The newest cell of `full_key` with an index of at most `at`.
    ///
    /// # Errors
    ///
    /// If the block that would hold it is damaged.
    #[cfg(test)]
    pub(crate) fn get(&self, full_key: &[u8], at: Index) -> Result<Option<Found>> {
        self.get_hashed(full_key, super::filter::hash(full_key), at)
    }

    /// As [`get`](Table::get), with the key's [`hash`](super::hash), which serves all tables.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub(crate) fn get_hashed(
        &self,
        full_key: &[u8],
        hash: u64,
        at: Index,
    ) -> Result<Option<Found>> {
        if full_key < self.meta.smallest.as_slice() || full_key > self.meta.largest.as_slice() {
            return Ok(None);
        }
        if self.filter.is_some_and(|filter| !filter.may_contain(self.bytes(), hash)) {
            return Ok(None);
        }
        // If the place lies behind the block's last cell, its key has no older version at all: the
        // separator would then be that last cell, see `index::separator`.
        let Some(number) = self.find_block(full_key, at)? else { return Ok(None) };
        let bytes = self.block(number, true)?;
        let malformed = |malformed| self.malformed(number, malformed);
        let block = Block::new(bytes.as_slice()).map_err(malformed)?;
        let (index, kind, value) = match block.seek(full_key, at).map_err(malformed)? {
            Some((_, cell)) if cell.is_of(full_key) => (cell.index, cell.kind, cell.value),
            _ => return Ok(None),
        };
        Ok(Some(Found { index, kind, value: bytes.into_value(value) }))
    }

    /// A cursor over all cells. Blocks that it decompresses stay in the cache.
    pub(crate) fn cursor(self: &Arc<Self>) -> TableCursor {
        TableCursor::new(Arc::clone(self), true)
    }

    /// A cursor that leaves the cache to others: for reading a table from end to end, as compaction
    /// does.
    pub(crate) fn cursor_past_cache(self: &Arc<Self>) -> TableCursor {
        TableCursor::new(Arc::clone(self), false)
    }

    /// How many data blocks there are.
    pub(super) fn block_count(&self) -> usize {
        self.index.count()
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings bytes of the file into memory, so that they can be looked at. Header, filter, block index,
    /// properties and footer have been since the table was opened.
    ///
    /// # Errors
    ///
    /// If they cannot be read, which is remembered as damage is.
    pub(crate) fn touch(&self, range: Range<usize>) -> Result<()> {
        touch(&self.file.0, range).map_err(|error| self.refused(error))
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        (*self.file).as_ref()
    }

    /// The first block that can hold a cell at or after the place; none if all cells are before it.
    pub(super) fn find_block(&self, key: &[u8], index: Index) -> Result<Option<usize>> {
        // The index compares only what follows the bytes that all keys share, so it must not be
        // asked for a key that does not begin with them.
        if key < self.meta.smallest.as_slice() {
            return Ok(Some(0));
        }
        if key > self.meta.largest.as_slice() {
            return Ok(None);
        }
        self.index.find(self.bytes(), key, index).map_err(|damage| self.damaged(damage))
    }

    /// The bytes of block `number`, checked; `keep` says whether to leave them in the cache.
    pub(super) fn block(&self, number: usize, keep: bool) -> Result<BlockBytes> {
        let (extent, compression) = self.block_entry(number)?;
        let key = (self.owner, extent.offset);
        match compression {
            Compression::None => {
                let (word, bit) = (&self.checked[number / 64], 1 << (number % 64));
                if word.load(Ordering::Relaxed) & bit == 0 {
                    self.check_block(extent, compression)?;
                    word.fetch_or(bit, Ordering::Relaxed);
                }
                let range = extent.range().ok_or_else(|| self.index_changed())?;
                Ok(BlockBytes::Mapped(Arc::clone(&self.file), range))
            }
            Compression::Lz4 => {
                if let Some(block) = self.cache.get(key) {
                    return Ok(BlockBytes::Decoded(block));
                }
                let section = self.check_block(extent, compression)?;
                let decoded = section.decode().map_err(|damage| self.damaged(damage))?;
                let block = Arc::new(DecodedBlock(decoded));
                if keep {
                    self.cache.insert(key, &block);
                }
                Ok(BlockBytes::Decoded(block))
            }
        }
    }

    /// Where block `number` is and how it is stored.
    pub(super) fn block_entry(&self, number: usize) -> Result<(Extent, Compression)> {
        let entry = self.index.entry(self.bytes(), number).ok_or_else(|| self.index_changed())?;
        Ok((entry.extent, entry.compression))
    }

    /// Checks the stored bytes of a block, whatever was found before.
    pub(super) fn check_block(
        &self,
        extent: Extent,
        compression: Compression,
    ) -> Result<trailer::Section<'_>> {
        if let Some(range) = extent.range() {
            self.touch(range)?;
        }
        let section = trailer::check(self.bytes(), self.meta.written_as, extent);
        let section = section.map_err(|damage| self.damaged(damage))?;
        if section.compression != compression {
            let found = format!("{:?}", section.compression);
            let expected = format!("a block stored as {compression:?}, as the block index says");
            return Err(self.damaged(Damage::new(extent.offset, expected, found)));
        }
        Ok(section)
    }

    /// Takes note if the whole file has another checksum than this one.
    pub(crate) fn check_file(&self, found: u32) {
        if found != self.meta.checksum {
            let expected = format!("a file with the checksum {:#010x}", self.meta.checksum);
            let _ = self.damaged(Damage::new(0, expected, format!("{found:#010x}")));
        }
    }

    /// The error for what a reader has found, which is also remembered.
    #[cold]
    pub(super) fn damaged(&self, damage: Damage) -> crate::Error {
        let error = damage.of(&self.path);
        self.cache.findings.note(self.meta.id, &error);
        error
    }

    /// The error for what the disk has said, which is remembered too if something is lost that was stored.
    #[cold]
    pub(crate) fn refused(&self, error: strandline_wal::Error) -> crate::Error {
        let is_lost =
            error.is_unreadable() || matches!(error, strandline_wal::Error::Corruption { .. });
        let error = error.into();
        if is_lost {
            self.cache.findings.note(self.meta.id, &error);
        }
        error
    }

    /// The error for a block whose checksum is right and whose content is not.
    #[cold]
    pub(super) fn malformed(&self, number: usize, malformed: Malformed) -> crate::Error {
        let offset = self.block_entry(number).map_or(0, |(extent, _)| extent.offset);
        let found = format!("other bytes at {} of the decoded block", malformed.offset);
        self.damaged(Damage::new(offset, malformed.expected, found))
    }

    /// The error for a block index that is not any more what it was when the table was opened.
    #[cold]
    fn index_changed(&self) -> crate::Error {
        let offset = self.index.extent().offset;
        self.damaged(Damage::new(offset, "the block index as it was opened", "other bytes"))
    }
}

fn touch(map: &Map, range: Range<usize>) -> strandline_wal::Result<()> {
    twice(|| map.touch(range.clone()))
}

/// Touches all that stands behind the blocks of a table written as `id`.
fn touch_end(map: &Map, id: TableId) -> strandline_wal::Result<()> {
    touch(map, map.len().saturating_sub(FOOTER_LEN)..map.len())?;
    // What is wrong with the footer is told by who decodes all of it.
    let Ok(footer) = Footer::decode(map, id) else { return Ok(()) };
    touch(map, usize::try_from(footer.blocks_end()).unwrap_or(map.len())..map.len())
}

/// What the table at `path` says of itself, for fuzz targets: they have no manifest.
#[cfg(feature = "fuzzing")]
pub(crate) fn meta_of(disk: &Arc<dyn Disk>, path: &Path) -> Result<TableMeta> {
    let map = disk.map(path)?;
    let id = decode_header(&map, path)?;
    let meta = Parts::decode(&map, id).map_err(|damage| damage.of(path))?.meta;
    Ok(TableMeta { checksum: crc32fast::hash(&map), ..meta })
}

/// All of a table but its blocks, decoded and checked.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) footer: Footer,
    pub(super) filter: Option<Filter>,
    pub(super) index: BlockIndex,
    pub(super) meta: TableMeta,
}

impl Parts {
    /// Whether the table says of itself what the manifest says. It knows neither its present name nor
    /// the checksum of its file.
    pub(super) fn says(&self, meta: &TableMeta) -> bool {
        let TableMeta { id, checksum, .. } = *meta;
        TableMeta { id, checksum, ..self.meta.clone() } == *meta
    }

    /// Decodes them from the whole file of a table written as `id`.
    pub(super) fn decode(file: &[u8], id: TableId) -> std::result::Result<Self, Damage> {
        let footer = Footer::decode(file, id)?;
        let section = |extent| trailer::check(file, id, extent)?.raw();
        let size = u64::try_from(file.len()).expect("a length is a word");
        let filter = match footer.filter {
            Some(extent) => Some(Filter::decode(section(extent)?, extent)?),
            None => None,
        };
        let offset = footer.properties.offset;
        let meta = properties::decode(section(footer.properties)?, offset, id, size)?;
        let lead = common_prefix_len(&meta.smallest, &meta.largest);
        let header_len = u64::try_from(HEADER_LEN).expect("a small constant");
        let blocks = header_len..footer.blocks_end();
        let index_section = section(footer.index)?;
        let index =
            BlockIndex::decode(index_section, footer.index, footer.block_count, lead, blocks)?;
        Ok(Self { footer, filter, index, meta })
    }
}
