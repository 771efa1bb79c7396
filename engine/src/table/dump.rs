//! A table as annotated text, for `inspect table` and for the golden files.
//!
//! Shows what stands in the file, section by section, and what is wrong where. It reads as much of a
//! damaged table as it can: a bad block is named and stepped over; if the footer or the block index
//! is lost, the blocks are found one after the other by their checksums, up to the first that is bad.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;

use super::TableId;
use super::block::Block;
use super::damage::Damage;
use super::footer::{FOOTER_LEN, Footer, HEADER_LEN, decode_header};
use super::reader::Parts;
use super::trailer::{self, Extent, TRAILER_LEN};
use crate::Result;

/// Cells shown at most; the text is meant for a person. All blocks are checked in any case.
const CELLS_SHOWN_MAX: u64 = 10_000;

/// Bytes of a key or value shown at most.
const BYTES_SHOWN_MAX: usize = 48;

/// The table at `path`, annotated. Damage is part of the text.
///
/// # Errors
///
/// If the disk refuses, or if the header does not say which table this is: `Foreign`,
/// `FormatVersion` or `Corruption`.
pub fn inspect(disk: &Arc<dyn Disk>, path: &Path) -> Result<String> {
    let map = disk.map(path)?;
    map.touch(0..map.len())?;
    let id = decode_header(&map, path)?;
    let mut dump = Dump { file: &map, id, text: String::new(), cells: 0, damages: 0 };
    dump.all();
    Ok(dump.text)
}

struct Dump<'a> {
    file: &'a [u8],
    id: TableId,
    text: String,
    /// How many cells were read.
    cells: u64,
    /// How many damages were met.
    damages: u64,
}

impl Dump<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a string takes all that is written");
        self.text.push('\n');
    }

    fn damage(&mut self, damage: &Damage) {
        self.damages += 1;
        self.line(format_args!("  {damage}"));
    }

    fn all(&mut self) {
        let (id, len) = (self.id, self.file.len());
        self.line(format_args!("table {id}, {len} bytes"));
        self.line(format_args!(
            "0 header ({HEADER_LEN} bytes): magic, format version 1, table {id}"
        ));
        match Parts::decode(self.file, id) {
            Ok(parts) => {
                for number in 0..parts.index.count() {
                    match parts.index.entry(self.file, number) {
                        Some(entry) => {
                            self.block(entry.extent);
                            let (key, index) = entry.separator;
                            let key = shown(key);
                            self.line(format_args!("  separator {key} @{index}"));
                        }
                        None => self.line(format_args!("  block {number} is not in the index")),
                    }
                }
                self.sections(&parts);
            }
            Err(damage) => {
                self.damage(&damage);
                self.found_by_checksum();
                match Footer::decode(self.file, id) {
                    Ok(footer) => self.footer(&footer),
                    Err(damage) => self.damage(&damage),
                }
            }
        }
        let (cells, damages) = (self.cells, self.damages);
        if cells > CELLS_SHOWN_MAX {
            self.line(format_args!("the first {CELLS_SHOWN_MAX} cells are shown"));
        }
        self.line(format_args!("{cells} cells read, {damages} damages"));
    }

    /// Shows the blocks of a table that has lost what names them.
    fn found_by_checksum(&mut self) {
        let mut offset = u64::try_from(HEADER_LEN).expect("a small constant");
        while let Some(extent) = trailer::find(self.file, self.id, offset) {
            let is_block = trailer::check(self.file, self.id, extent)
                .and_then(|section| section.decode())
                .is_ok_and(|decoded| Block::new(&decoded).is_ok_and(|b| b.cell_at(0).is_ok()));
            if is_block {
                self.block(extent);
            } else {
                let len = extent.len;
                self.line(format_args!("{offset} section ({len} bytes): not a block"));
            }
            match extent.end() {
                Some(end) => offset = end,
                None => break,
            }
        }
        self.line(format_args!("{offset} no further section is found by its checksum"));
    }

    fn block(&mut self, extent: Extent) {
        let Extent { offset, len } = extent;
        let decoded = trailer::check(self.file, self.id, extent).and_then(|section| {
            let how = format!("{:?}", section.compression);
            Ok((how, section.decode()?))
        });
        let (how, decoded) = match decoded {
            Ok(decoded) => decoded,
            Err(damage) => {
                self.line(format_args!("{offset} block ({len} + {TRAILER_LEN} bytes):"));
                return self.damage(&damage);
            }
        };
        let decoded_len = decoded.len();
        self.line(format_args!(
            "{offset} block ({len} + {TRAILER_LEN} bytes): {how}, {decoded_len} decoded, checksum ok"
        ));
        if let Err(malformed) = self.block_cells(&decoded) {
            let found = format!("other bytes at {} of the decoded block", malformed.offset);
            self.damage(&Damage::new(offset, malformed.expected, found));
        }
    }

    fn block_cells(&mut self, decoded: &[u8]) -> std::result::Result<(), super::block::Malformed> {
        let block = Block::new(decoded)?;
        let (mut offset, mut key) = (0, Vec::new());
        while offset < block.cells_len() {
            let cell = block.cell_at(offset)?;
            cell.extend_key(&mut key)?;
            self.cells += 1;
            if self.cells <= CELLS_SHOWN_MAX {
                let (shared, index, kind) = (cell.shared, cell.index, cell.kind);
                let value = &decoded[cell.value.clone()];
                let (key, value) = (shown(&key), shown(value));
                self.line(format_args!(
                    "  +{offset:<4} {key} @{index} {kind:?} {value} (shares {shared})"
                ));
            }
            offset = cell.value.end;
        }
        Ok(())
    }

    fn sections(&mut self, parts: &Parts) {
        if let (Some(filter), Some(extent)) = (parts.filter, parts.footer.filter) {
            let (Extent { offset, len }, shape) = (extent, filter.describe());
            self.line(format_args!("{offset} filter ({len} + {TRAILER_LEN} bytes): {shape}"));
        }
        let Extent { offset, len } = parts.footer.index;
        let count = parts.index.count();
        self.line(format_args!(
            "{offset} block index ({len} + {TRAILER_LEN} bytes): {count} blocks"
        ));
        let Extent { offset, len } = parts.footer.properties;
        let meta = &parts.meta;
        self.line(format_args!("{offset} properties ({len} + {TRAILER_LEN} bytes):"));
        self.line(format_args!("  {} cells, {} of them tombstones", meta.cells, meta.tombstones));
        self.line(format_args!("  indexes {} to {}", meta.index_min, meta.index_max));
        let (smallest, largest) = (shown(&meta.smallest), shown(&meta.largest));
        self.line(format_args!("  keys {smallest} to {largest}"));
        self.footer(&parts.footer);
    }

    fn footer(&mut self, footer: &Footer) {
        let offset = self.file.len() - FOOTER_LEN;
        let (index, properties) = (footer.index.offset, footer.properties.offset);
        let filter = match footer.filter {
            Some(filter) => format!("filter at {}", filter.offset),
            None => "no filter".into(),
        };
        let (id, count) = (footer.id, footer.block_count);
        self.line(format_args!(
            "{offset} footer ({FOOTER_LEN} bytes): {filter}, block index at {index}, properties at \
             {properties}, table {id}, {count} blocks, format version 1, checksum ok, magic"
        ));
    }
}

/// The beginning of some bytes, quoted, and how many there are if that is not all.
fn shown(bytes: &[u8]) -> String {
    match bytes.get(..BYTES_SHOWN_MAX) {
        Some(first) if bytes.len() > BYTES_SHOWN_MAX => {
            format!("\"{}\".. ({} bytes)", first.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}
