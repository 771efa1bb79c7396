//! The bytes of a manifest file: its header, and what its records add up to. No I/O.
//!
//! ```text
//! 0       8         10     12             16       24               32    36
//! +-------+---------+------+--------------+--------+----------------+-----+-------+---------
//! | magic | version | 0    | base records | number | first sequence | 0   | crc32 | records
//! +-------+---------+------+--------------+--------+----------------+-----+-------+---------
//! ```
//!
//! The records are framed like the log's, see [`record`]. The first `base records` of them were
//! written and synced before the file was put to use, so damage among them is always corruption.
//! After them, the first invalid record is a torn tail, an edit that was never acknowledged, unless a
//! valid record behind it tells that the damaged one had been durable: that is corruption. A valid
//! record alone tells nothing, for of two unsynced writes the later one may survive a power cut
//! without the earlier. A marker follows every edit as soon as the edit is synced and tells so, which
//! makes damage to the last edit of a quiet manifest visible.

use std::path::Path;

use strandline_wal::canary;
use strandline_wal::record::{self, Kind, RECORD_HEADER_LEN};

use super::contents::Contents;
use super::edit::{Place, Said, Told, decode};

/// The first bytes of a manifest.
const MAGIC: [u8; 8] = *b"STRNDMNF";
/// The newest format version known here.
pub(crate) const FORMAT_VERSION: u16 = 1;
/// Bytes before the first record.
pub(crate) const HEADER_LEN: usize = 40;
/// Numbers of manifests, records and tables above this are never given: counting on from one that was
/// read cannot overflow.
pub(super) const NUMBER_MAX: u64 = u64::MAX / 2;
/// Bytes of the header that its checksum covers.
const HEADER_COVERED: usize = HEADER_LEN - 4;

/// What stands at the start of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// How many records were there before the file was put to use.
    pub base_records: u32,
    /// The number in the file's name.
    pub number: u64,
    /// The sequence number of the first record.
    pub first_sequence: u64,
}

impl Header {
    /// The first bytes of the file.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.base_records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER_COVERED]);
        bytes[HEADER_COVERED..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header of a file. The layout of the header is the same in all format versions, so the
    /// checksum is looked at first: a flipped bit is not taken for a newer version.
    ///
    /// # Errors
    ///
    /// `Corruption`, `Foreign` or `FormatVersion`.
    pub(crate) fn decode(path: &Path, bytes: &[u8]) -> strandline_wal::Result<Header> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            let found = format!("{} bytes", bytes.len());
            return Err(corruption(path, 0, format!("a header of {HEADER_LEN} bytes"), found));
        };
        if header[0..8] != MAGIC {
            return Err(strandline_wal::Error::Foreign {
                path: path.to_path_buf(),
                expected: format!("a manifest, which starts with \"{}\"", MAGIC.escape_ascii()),
                found: format!("\"{}\"", header[0..8].escape_ascii()),
            });
        }
        let u32_at = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (expected, found) =
            (u32_at(HEADER_COVERED), crc32fast::hash(&header[..HEADER_COVERED]));
        if expected != found && !canary::is_on(canary::CHECKSUM_NOT_VERIFIED) {
            let found = format!("{found:#010x}");
            return Err(corruption(path, 0, format!("header checksum {expected:#010x}"), found));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version > FORMAT_VERSION {
            let (path, known) = (path.to_path_buf(), FORMAT_VERSION);
            return Err(strandline_wal::Error::FormatVersion { path, known, found: version });
        }
        if version == 0 || header[10..12] != [0; 2] || header[32..36] != [0; 4] {
            let found = format!("version {version}, or a reserved byte that is not zero");
            return Err(corruption(path, 8, "a known header".into(), found));
        }
        let header =
            Header { base_records: u32_at(12), number: u64_at(16), first_sequence: u64_at(24) };
        if header.number.max(header.first_sequence) > NUMBER_MAX || header.first_sequence == 0 {
            return Err(corruption(
                path,
                16,
                "numbers that are given".into(),
                format!("{header:?}"),
            ));
        }
        Ok(header)
    }
}

/// An error of damage.
pub(crate) fn corruption(
    path: &Path,
    offset: usize,
    expected: String,
    found: String,
) -> strandline_wal::Error {
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    strandline_wal::Error::Corruption { path: path.to_path_buf(), offset, expected, found }
}

/// What the records of a manifest add up to.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// The sum.
    pub contents: Contents,
    /// The number of the file.
    pub number: u64,
    /// The sequence number of the next record.
    pub next_sequence: u64,
    /// Whether records were added after the file was put to use.
    pub was_appended_to: bool,
    /// Where a torn tail begins, if there is one.
    pub torn_at: Option<usize>,
}

/// Reads all records of a manifest file.
///
/// # Errors
///
/// `Corruption`, `Foreign` or `FormatVersion`.
pub(crate) fn replay(path: &Path, bytes: &[u8]) -> strandline_wal::Result<Replayed> {
    let header = Header::decode(path, bytes)?;
    let mut contents = Contents::new();
    let mut place = Place { number: header.number, sequence: header.first_sequence };
    let mut offset = HEADER_LEN;
    let mut records = 0_u32;
    let mut torn_at = None;
    while offset < bytes.len() {
        match said_at(bytes, offset).and_then(|said| in_place(said, place)) {
            Ok((told, taken)) => {
                if let Said::Edit(edit) = told.said {
                    contents.apply(&edit).map_err(|reason| {
                        corruption(path, offset, "an edit that fits".into(), reason)
                    })?;
                }
                place.sequence += 1;
                records = records.saturating_add(1);
                offset += taken;
            }
            Err(reason) => {
                let proof = proof_of_durability(bytes, offset + 1, place);
                if (records < header.base_records || proof.is_some())
                    && !canary::is_on(canary::CORRUPTION_TAKEN_FOR_TORN_TAIL)
                {
                    return Err(corruption(path, offset, "a durable record".into(), reason));
                }
                torn_at = Some(offset);
                break;
            }
        }
    }
    if records < header.base_records && !canary::is_on(canary::CORRUPTION_TAKEN_FOR_TORN_TAIL) {
        let expected = format!("{} records or more", header.base_records);
        return Err(corruption(path, offset, expected, format!("{records}")));
    }
    contents.check_levels().map_err(|reason| {
        let expected = "sorted levels whose tables lie side by side".into();
        corruption(path, offset, expected, reason)
    })?;
    Ok(Replayed {
        contents,
        number: header.number,
        next_sequence: place.sequence,
        was_appended_to: records > header.base_records,
        torn_at,
    })
}

/// The same record, if it belongs here. One that does not is no better than a damaged one: a file
/// whose length survived a power cut without its data may show a piece of a manifest that was deleted.
fn in_place(said: (Told, usize), place: Place) -> Result<(Told, usize), String> {
    let found = said.0.place;
    if found != place && !canary::is_on(canary::POSITION_NOT_COVERED) {
        return Err(format!(
            "record {} of manifest {} where record {} of {} belongs",
            found.sequence, found.number, place.sequence, place.number
        ));
    }
    Ok(said)
}

/// The record at `offset`, and how many bytes it takes.
pub(crate) fn said_at(bytes: &[u8], offset: usize) -> Result<(Told, usize), String> {
    let (record, taken) =
        record::decode(&bytes[offset..]).map_err(|refusal| refusal.to_string())?;
    if record.kind != Kind::EDIT {
        return Err(format!("a record of kind {}", record.kind.0));
    }
    Ok((decode(record.payload)?, taken))
}

/// The offset, at or after `start`, of a record of this manifest that tells that the record at
/// `place` had been durable. Looks at every offset; all but a few are refused by the bytes of the header that are
/// known, without a checksum being computed.
pub(crate) fn proof_of_durability(bytes: &[u8], start: usize, place: Place) -> Option<usize> {
    let last = bytes.len().checked_sub(RECORD_HEADER_LEN)?;
    (start..=last).find(|offset| {
        bytes[offset + 8..offset + RECORD_HEADER_LEN] == [Kind::EDIT.0, 0, 0, 0]
            && said_at(bytes, *offset).is_ok_and(|(told, _)| {
                told.place.number == place.number && told.durable >= place.sequence
            })
    })
}
