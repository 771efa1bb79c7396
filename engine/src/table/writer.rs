//! Writing a table: cells in order, once, from the first byte to the last.
//!
//! The writer gathers a block's cells, stores the block and forgets them. It keeps the block index
//! and a hash for each key until the end. A block is closed before the cell that would make it larger
//! than asked for, so only a single large cell makes a larger block.
//!
//! Crash: until the manifest names the table, nobody reads it, and what a crash leaves of it is an
//! unnamed file for the next opening to remove. [`TableWriter::finish`] syncs the file, not its name;
//! the caller syncs the directory before it writes the manifest. A writer that is dropped unfinished,
//! for instance by an early return on an error, removes its file as [`TableWriter::abandon`] does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use strandline_wal::disk::{Disk, File, OpenMode};

use super::block::BlockBuilder;
use super::filter::{self, FilterBuilder};
use super::footer::{FOOTER_LEN, Footer, HEADER_LEN, encode_header};
use super::index::IndexBuilder;
use super::trailer::{self, Compression, Extent};
use super::{TableId, TableMeta, TableOptions, file_name, properties};
use crate::key::{Cell, CellKind, KEYSPACE_LEN, compare};
use crate::{Index, KEY_LEN_MAX, Result, VALUE_LEN_MAX};

/// Bytes gathered before they are given to the disk: few calls, little memory.
const WRITE_LEN: usize = 256 << 10;

/// Writes one table.
#[derive(Debug)]
pub(crate) struct TableWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn File>,
    options: TableOptions,
    /// Bytes not yet given to the disk; they follow the first `written` ones.
    pending: Vec<u8>,
    written: u64,
    /// Over the bytes given to the disk.
    checksum: crc32fast::Hasher,
    /// The block being filled.
    block: BlockBuilder,
    /// Memory for a block that is encoded, and for what compression makes of it.
    encoded: Vec<u8>,
    compressed: Vec<u8>,
    compress_table: CompressScratch,
    index: IndexBuilder,
    filter: Option<FilterBuilder>,
    /// What is known so far; `size`, `checksum` and `largest` are set at the end.
    meta: TableMeta,
    /// Whether the file is complete and must stay when the writer is dropped.
    finished: bool,
}

/// The compressor's own memory, reused from block to block.
struct CompressScratch(CompressTable);

impl std::fmt::Debug for CompressScratch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("CompressScratch")
    }
}

impl TableWriter {
    /// Creates the file of table `id` in `dir`.
    ///
    /// # Errors
    ///
    /// If the disk refuses, also because there is such a file already, which then stays as it is.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        id: TableId,
        options: &TableOptions,
    ) -> Result<Self> {
        let path = dir.join(file_name(id));
        let file = disk.open(&path, OpenMode::Create)?;
        Ok(Self {
            disk: Arc::clone(disk),
            path,
            file,
            options: options.clone(),
            pending: encode_header(id).to_vec(),
            written: 0,
            checksum: crc32fast::Hasher::new(),
            block: BlockBuilder::default(),
            encoded: Vec::new(),
            compressed: Vec::new(),
            compress_table: CompressScratch(CompressTable::default()),
            index: IndexBuilder::default(),
            filter: options.filters.then(|| FilterBuilder::new(options.filter_bits_per_key)),
            meta: TableMeta {
                id,
                written_as: id,
                size: 0,
                checksum: 0,
                smallest: Vec::new(),
                largest: Vec::new(),
                index_min: Index(u64::MAX),
                index_max: Index(0),
                cells: 0,
                tombstones: 0,
            },
            finished: false,
        })
    }

    /// Adds a cell.
    ///
    /// # Errors
    ///
    /// If the disk refuses; the table cannot be finished then.
    ///
    /// # Panics
    ///
    /// If the cell does not come after the one before in the engine's order, or is over the limits
    /// for keys and values.
    pub(crate) fn add(&mut self, cell: Cell<'_>) -> Result<()> {
        assert!(cell.key.len() <= KEYSPACE_LEN + KEY_LEN_MAX, "a key within its limit");
        assert!(cell.value.len() <= VALUE_LEN_MAX, "a value within its limit");
        let is_first = self.meta.cells == 0;
        assert!(
            is_first || compare(self.block.last(), (cell.key, cell.index)).is_lt(),
            "cells come in strictly ascending order"
        );
        if !self.block.is_empty() && self.block.len_with(&cell) > self.options.block_size {
            self.write_block(Some(cell.key))?;
        }
        if let Some(filter) = &mut self.filter
            && (is_first || self.block.last().0 != cell.key)
        {
            filter.add(filter::hash(cell.key));
        }
        if is_first {
            self.meta.smallest = cell.key.to_vec();
        }
        self.block.add(&cell);
        self.meta.index_min = self.meta.index_min.min(cell.index);
        self.meta.index_max = self.meta.index_max.max(cell.index);
        self.meta.cells += 1;
        self.meta.tombstones += u64::from(cell.kind == CellKind::Delete);
        Ok(())
    }

    /// About how large the file would be if it were finished now.
    pub(crate) fn size_estimate(&self) -> u64 {
        let filter = self.filter.as_ref().map_or(0, FilterBuilder::size_estimate);
        let rest = self.block.len() + self.index.len() + filter + FOOTER_LEN;
        self.position() + u64::try_from(rest).expect("a length is a word")
    }

    /// Ends the table and makes the file durable; its name is durable when the caller has synced the
    /// directory.
    ///
    /// # Errors
    ///
    /// If the disk refuses; the file is then removed.
    ///
    /// # Panics
    ///
    /// If no cell was added: a table without cells has no place in the order of tables.
    pub(crate) fn finish(mut self) -> Result<TableMeta> {
        assert!(self.meta.cells > 0, "a table has at least one cell");
        self.write_block(None)?;
        self.meta.largest = self.block.last().0.to_vec();
        let filter = match self.filter.take() {
            Some(filter) => {
                let section = filter.encode(self.position());
                Some(self.write_section(&section, Compression::None, section.len())?)
            }
            None => None,
        };
        let block_count = u64::try_from(self.index.count()).expect("a count is a word");
        let section = std::mem::take(&mut self.index).encode();
        let index = self.write_section(&section, Compression::None, section.len())?;
        let section = properties::encode(&self.meta);
        let properties = self.write_section(&section, Compression::None, section.len())?;
        let footer = Footer { index, filter, properties, id: self.meta.id, block_count };
        self.pending.extend_from_slice(&footer.encode());
        self.meta.size = self.position();
        self.write_pending()?;
        self.meta.checksum = self.checksum.clone().finalize();
        self.file.sync()?;
        self.finished = true;
        Ok(self.meta.clone())
    }

    /// Gives the table up and removes its file.
    pub(crate) fn abandon(self) {
        drop(self);
    }

    /// Closes the block being filled, which a cell of the key `next` follows.
    fn write_block(&mut self, next: Option<&[u8]>) -> Result<()> {
        let mut encoded = std::mem::take(&mut self.encoded);
        self.block.finish(&mut encoded);
        let written = self.write_encoded_block(&encoded);
        self.encoded = encoded;
        let (extent, compression) = written?;
        self.index.add(extent, compression, self.block.last(), next);
        Ok(())
    }

    fn write_encoded_block(&mut self, encoded: &[u8]) -> Result<(Extent, Compression)> {
        if self.options.compression == Compression::Lz4 {
            let mut compressed = std::mem::take(&mut self.compressed);
            compressed.resize(get_maximum_output_size(encoded.len()), 0);
            let table = &mut self.compress_table.0;
            let len = compress_into_with_table(encoded, &mut compressed, table)
                .expect("the output has the largest size that can be needed");
            // Less than an eighth saved is not worth decompressing and keeping a copy.
            let helps = len <= encoded.len() - encoded.len() / 8;
            let written = helps
                .then(|| self.write_section(&compressed[..len], Compression::Lz4, encoded.len()));
            self.compressed = compressed;
            if let Some(written) = written {
                return Ok((written?, Compression::Lz4));
            }
        }
        let extent = self.write_section(encoded, Compression::None, encoded.len())?;
        Ok((extent, Compression::None))
    }

    fn write_section(
        &mut self,
        stored: &[u8],
        compression: Compression,
        decoded_len: usize,
    ) -> Result<Extent> {
        let offset = self.position();
        let len = u64::try_from(stored.len()).expect("a length is a word");
        let trailer = trailer::encode(self.meta.id, offset, stored, compression, decoded_len);
        self.pending.extend_from_slice(stored);
        self.pending.extend_from_slice(&trailer);
        if self.pending.len() >= WRITE_LEN {
            self.write_pending()?;
        }
        Ok(Extent { offset, len })
    }

    fn write_pending(&mut self) -> Result<()> {
        self.file.write_at(&self.pending, self.written)?;
        self.checksum.update(&self.pending);
        self.written = self.position();
        self.pending.clear();
        Ok(())
    }

    /// Where the next byte comes to stand.
    fn position(&self) -> u64 {
        self.written + u64::try_from(self.pending.len()).expect("a length is a word")
    }
}

impl Drop for TableWriter {
    fn drop(&mut self) {
        if !self.finished {
            // An error here changes nothing: the next opening removes files that nobody names.
            let _ = self.disk.remove(&self.path);
        }
    }
}

const _: () = assert!(HEADER_LEN < WRITE_LEN, "the header goes out with the first blocks");
