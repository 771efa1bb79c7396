//! The two ends of a table: the header, by which a file is known, and the footer, by which its
//! sections are found.
//!
//! ```text
//! header  0        8                10   16            24   28      32
//!         +--------+----------------+----+-------------+----+-------+
//!         | magic  | format version | 0  | table number| 0  | crc32 |
//!         +--------+----------------+----+-------------+----+-------+
//! footer  0              16      32           48           56       64                66  68      72
//!         +--------------+-------+------------+------------+--------+----------------+---+-------+-------+
//!         | block index  | filter| properties | table num. | blocks | format version | 0 | crc32 | magic |
//!         +--------------+-------+------------+------------+--------+----------------+---+-------+-------+
//! ```
//!
//! Sections are given as offset and length (u64 each, the length without the trailer). The sections
//! lie one after the other, blocks first, then filter, block index, properties and footer, without a
//! gap: every byte of the file is under some checksum. A filter of length 0 is no filter.
//!
//! The header is the same in all format versions to come, so that an older program can say "too new"
//! instead of "damaged".

use std::path::Path;

use super::TableId;
use super::damage::{Bytes, Damage};
use super::trailer::Extent;
use strandline_wal::Error;

/// The newest format version of tables known here.
pub(super) const FORMAT_VERSION: u16 = 1;

/// Bytes of the header; the first block starts here.
pub(super) const HEADER_LEN: usize = 32;

/// Bytes of the footer.
pub(super) const FOOTER_LEN: usize = 80;

const MAGIC: [u8; 8] = *b"StrTable";
const FOOTER_MAGIC: [u8; 8] = *b"StrTbEnd";

const VERSION_AT: usize = MAGIC.len();
const HEADER_RESERVED_AT: usize = VERSION_AT + size_of::<u16>();
const HEADER_ID_AT: usize = 16;
const HEADER_PAD_AT: usize = HEADER_ID_AT + size_of::<u64>();
const HEADER_CRC_AT: usize = HEADER_PAD_AT + size_of::<u32>();

const _: () = assert!(HEADER_CRC_AT + size_of::<u32>() == HEADER_LEN, "the header is full");

const INDEX_AT: usize = 0;
const FILTER_AT: usize = INDEX_AT + EXTENT_LEN;
const PROPERTIES_AT: usize = FILTER_AT + EXTENT_LEN;
const FOOTER_ID_AT: usize = PROPERTIES_AT + EXTENT_LEN;
const BLOCKS_AT: usize = FOOTER_ID_AT + size_of::<u64>();
const FOOTER_VERSION_AT: usize = BLOCKS_AT + size_of::<u64>();
const FOOTER_RESERVED_AT: usize = FOOTER_VERSION_AT + size_of::<u16>();
const FOOTER_CRC_AT: usize = FOOTER_RESERVED_AT + size_of::<u16>();
const FOOTER_MAGIC_AT: usize = FOOTER_CRC_AT + size_of::<u32>();
const EXTENT_LEN: usize = 16;

const _: () = assert!(FOOTER_MAGIC_AT + FOOTER_MAGIC.len() == FOOTER_LEN, "the footer is full");

/// The header of table `id`.
pub(super) fn encode_header(id: TableId) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..VERSION_AT].copy_from_slice(&MAGIC);
    header[VERSION_AT..HEADER_RESERVED_AT].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[HEADER_ID_AT..HEADER_PAD_AT].copy_from_slice(&id.0.to_le_bytes());
    let crc = crc32fast::hash(&header[..HEADER_CRC_AT]);
    header[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Whose table the file is that starts with these bytes.
///
/// # Errors
///
/// `Foreign` for another magic, `FormatVersion` for a newer one, else `Corruption`.
pub(super) fn decode_header(file: &[u8], path: &Path) -> Result<TableId, crate::Error> {
    let Some(header) = file.first_chunk::<HEADER_LEN>() else {
        let found = format!("{} bytes", file.len());
        return Err(
            Damage::new(0, format!("a table of at least {HEADER_LEN} bytes"), found).of(path)
        );
    };
    if header[..VERSION_AT] != MAGIC {
        return Err(crate::Error::Wal(Error::Foreign {
            path: path.to_path_buf(),
            expected: format!("a table, which begins with {}", MAGIC.escape_ascii()),
            found: format!("{}", header[..VERSION_AT].escape_ascii()),
        }));
    }
    let crc_expected = Bytes(header).u32(HEADER_CRC_AT);
    let crc_found = crc32fast::hash(&header[..HEADER_CRC_AT]);
    if crc_expected != crc_found {
        return Err(Damage::checksum(0, crc_expected, crc_found).of(path));
    }
    let version = Bytes(header).u16(VERSION_AT);
    if version > FORMAT_VERSION {
        let known = FORMAT_VERSION;
        return Err(Error::FormatVersion { path: path.to_path_buf(), known, found: version }.into());
    }
    let reserved = header[HEADER_RESERVED_AT..HEADER_ID_AT]
        .iter()
        .chain(&header[HEADER_PAD_AT..HEADER_CRC_AT]);
    if version == 0 || reserved.copied().any(|byte| byte != 0) {
        return Err(Damage::new(0, "format version 1 and reserved bytes of 0", "others").of(path));
    }
    Ok(TableId(Bytes(header).u64(HEADER_ID_AT)))
}

/// What the end of a table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Where the block index is.
    pub(super) index: Extent,
    /// Where the filter is, if there is one.
    pub(super) filter: Option<Extent>,
    /// Where the properties are.
    pub(super) properties: Extent,
    /// Which table this is.
    pub(super) id: TableId,
    /// How many data blocks it has.
    pub(super) block_count: u64,
}

impl Footer {
    /// The last bytes of the file.
    pub(super) fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut footer = [0; FOOTER_LEN];
        let filter = self.filter.unwrap_or(Extent { offset: self.index.offset, len: 0 });
        let extents =
            [(INDEX_AT, self.index), (FILTER_AT, filter), (PROPERTIES_AT, self.properties)];
        for (at, extent) in extents {
            footer[at..at + 8].copy_from_slice(&extent.offset.to_le_bytes());
            footer[at + 8..at + EXTENT_LEN].copy_from_slice(&extent.len.to_le_bytes());
        }
        footer[FOOTER_ID_AT..BLOCKS_AT].copy_from_slice(&self.id.0.to_le_bytes());
        footer[BLOCKS_AT..FOOTER_VERSION_AT].copy_from_slice(&self.block_count.to_le_bytes());
        footer[FOOTER_VERSION_AT..FOOTER_RESERVED_AT]
            .copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        footer[FOOTER_MAGIC_AT..].copy_from_slice(&FOOTER_MAGIC);
        let crc = checksum(&footer);
        footer[FOOTER_CRC_AT..FOOTER_MAGIC_AT].copy_from_slice(&crc.to_le_bytes());
        footer
    }

    /// Decodes the end of `file`, the table `id`.
    ///
    /// # Errors
    ///
    /// If it is damaged, or if the sections do not fill the file.
    pub(super) fn decode(file: &[u8], id: TableId) -> Result<Self, Damage> {
        let Some((body, footer)) = file.split_last_chunk::<FOOTER_LEN>() else {
            return Err(Damage::new(0, "a footer", format!("{} bytes", file.len())));
        };
        let offset = u64::try_from(body.len()).expect("a length is a word");
        if footer[FOOTER_MAGIC_AT..] != FOOTER_MAGIC {
            let found = format!("{}", footer[FOOTER_MAGIC_AT..].escape_ascii());
            return Err(Damage::new(offset, "the end of a table", found));
        }
        let crc_expected = Bytes(footer).u32(FOOTER_CRC_AT);
        if crc_expected != checksum(footer) {
            return Err(Damage::checksum(offset, crc_expected, checksum(footer)));
        }
        let extent_at = |at: usize| Extent {
            offset: Bytes(footer).u64(at),
            len: Bytes(footer).u64(at + size_of::<u64>()),
        };
        let filter = extent_at(FILTER_AT);
        let decoded = Footer {
            index: extent_at(INDEX_AT),
            filter: (filter.len > 0).then_some(filter),
            properties: extent_at(PROPERTIES_AT),
            id: TableId(Bytes(footer).u64(FOOTER_ID_AT)),
            block_count: Bytes(footer).u64(BLOCKS_AT),
        };
        // Encoding it again checks format version, reserved bytes and a filter's offset at once.
        if decoded.encode() != *footer {
            return Err(Damage::new(offset, "a footer of format version 1", "something else"));
        }
        if decoded.id != id {
            let expected = format!("a footer of table {}", id.0);
            return Err(Damage::new(offset, expected, format!("one of {}", decoded.id.0)));
        }
        let filter_end = decoded.filter.map_or(Some(decoded.index.offset), Extent::end);
        let contiguous = filter_end == Some(decoded.index.offset)
            && decoded.index.end() == Some(decoded.properties.offset)
            && decoded.properties.end() == Some(offset)
            && usize::try_from(decoded.blocks_end()).is_ok_and(|end| end >= HEADER_LEN);
        if !contiguous {
            return Err(Damage::new(offset, "sections one after the other", "others"));
        }
        Ok(decoded)
    }

    /// Where the data blocks end.
    pub(super) fn blocks_end(&self) -> u64 {
        self.filter.unwrap_or(self.index).offset
    }
}

fn checksum(footer: &[u8; FOOTER_LEN]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&footer[..FOOTER_CRC_AT]);
    hasher.update(&footer[FOOTER_MAGIC_AT..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_foreign_from_new_from_damaged() {
        let path = Path::new("t");
        let header = encode_header(TableId(12));
        assert_eq!(decode_header(&header, path).unwrap(), TableId(12));
        let mut foreign = header;
        foreign[0] = b'X';
        let refused = decode_header(&foreign, path);
        assert!(matches!(refused, Err(crate::Error::Wal(Error::Foreign { .. }))));
        let mut newer = header;
        newer[VERSION_AT] = 2;
        let refused = decode_header(&newer, path);
        assert!(matches!(refused, Err(crate::Error::Wal(Error::Corruption { .. }))));
        let crc = crc32fast::hash(&newer[..HEADER_CRC_AT]);
        newer[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let refused = decode_header(&newer, path);
        let version = Error::FormatVersion { path: path.into(), known: 1, found: 2 };
        assert_eq!(refused.unwrap_err().to_string(), version.to_string());
    }
}
