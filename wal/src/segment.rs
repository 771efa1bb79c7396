//! One file of the log: its name, and the header that says which part of the log it holds.
//!
//! A segment file is made once, written full with zeros, and then put to use again and again. Each
//! use has a new *incarnation*, a number that rises over the whole log. The header is written anew at
//! each use; groups name the incarnation they belong to, so old groups are never taken for new.
//! What a segment holds ends where the next use begins: the header of the segment with the next
//! incarnation names the first position *there*, and whatever stands here from that position on
//! (a torn tail, a truncated suffix) is void. That is how a tail is fenced without overwriting it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Buffer, Disk, File, OpenMode, ReadAhead};
use crate::frame::{BLOCK_LEN, FORMAT_VERSION, u32_at, u64_at};
use crate::{Error, Lsn, Result};

/// Offset of the first group.
pub(crate) const GROUPS_START: u64 = BLOCK_LEN;
/// Bytes at the end of a segment that are kept free for its [footer](crate::footer).
pub(crate) const FOOTER_LEN: u64 = BLOCK_LEN;

/// Where the room for groups ends in a segment of `len` bytes.
pub(crate) fn groups_end(len: u64) -> u64 {
    len.saturating_sub(FOOTER_LEN)
}

/// Bytes of room for groups in a segment of `len` bytes.
pub(crate) fn segment_room(len: u64) -> u64 {
    groups_end(len) - GROUPS_START
}

/// The extension of a segment's file until it is a spare.
pub(crate) const UNFINISHED: &str = "unfinished";
/// That of a file in which a segment is written anew.
pub(crate) const REPLACEMENT: &str = "replacement";

/// Whether a file is what was left of a spare that was being made, or of a segment that was being written anew, when
/// the process was killed.
pub(crate) fn is_left_over(name: &str) -> bool {
    let is_one = |extension| SegmentId::from_file_name_with(name, extension).is_some();
    [UNFINISHED, REPLACEMENT].into_iter().any(is_one)
}

/// How many bytes of the header block carry something.
pub(crate) const HEADER_LEN: usize = 64;
/// First bytes of every segment.
const MAGIC: u32 = u32::from_le_bytes(*b"SLSG");

/// Incarnations above this are never given, so that counting on cannot overflow.
const INCARNATION_MAX: u64 = u64::MAX / 2;

const STATE_SPARE: u16 = 1;
const STATE_IN_USE: u16 = 2;

/// Names a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

impl SegmentId {
    /// The file's name in the log's directory.
    pub fn file_name(self) -> String {
        format!("{:016}.segment", self.0)
    }

    /// The segment that a file name stands for, if it is one of ours.
    pub fn from_file_name(name: &str) -> Option<Self> {
        Self::from_file_name_with(name, "segment")
    }

    /// The segment of a file whose name has another extension.
    fn from_file_name_with(name: &str, extension: &str) -> Option<Self> {
        let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
        (digits.len() == 16).then(|| digits.parse().ok().map(Self)).flatten()
    }
}

/// What a segment was put to use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whether it holds a part of the log; else it is a spare.
    pub in_use: bool,
    /// The log it belongs to.
    pub log_id: u64,
    /// Which use this is, counted over the whole log from 1; 0 in a spare never used.
    pub incarnation: u64,
    /// Position of its first record.
    pub first: Lsn,
    /// The chain at its start.
    pub chain: u64,
    /// Length of the file in bytes.
    pub len: u64,
    /// Everything up to here had been trimmed when it was put to use.
    pub trimmed: Lsn,
    /// Incarnation of the segment that it continues; 0 if nothing before it was held.
    pub previous: u64,
}

impl SegmentHeader {
    /// The header's bytes: one block.
    pub(crate) fn encode(&self) -> Buffer {
        let mut bytes = [0; HEADER_LEN];
        let state = if self.in_use { STATE_IN_USE } else { STATE_SPARE };
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&state.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.chain.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.len.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.trimmed.0.to_le_bytes());
        let back = if self.previous == 0 { 0 } else { self.incarnation - self.previous };
        let back = u32::try_from(back).expect("fewer than 2^32 uses lie between two segments");
        bytes[56..60].copy_from_slice(&back.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        let mut block = Buffer::with_capacity(ALIGNED_BLOCK);
        block.extend(&bytes);
        block.pad_to(ALIGNED_BLOCK);
        block
    }

    /// Decodes the header of the segment file `path`; `None` if the block is all zeros, as in a file
    /// whose preparation was cut off.
    ///
    /// # Errors
    ///
    /// [`Error::FormatVersion`], [`Error::Corruption`] naming what is wrong, or [`Error::Unknown`] for
    /// a version or a state that no version known here writes.
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Option<Self>> {
        let corruption = |offset, expected: String, found: String| {
            Err(Error::Corruption { path: path.to_path_buf(), offset, expected, found })
        };
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else {
            let found = format!("{} bytes", bytes.len());
            return corruption(0, format!("a segment header of {HEADER_LEN} bytes"), found);
        };
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if u32_at(bytes, 0) != MAGIC {
            let found = format!("{:02x?}", &bytes[0..4]);
            return corruption(0, "the magic bytes `SLSG`".into(), found);
        }
        let (expected, found) =
            (u32_at(bytes, HEADER_LEN - 4), crc32fast::hash(&bytes[..HEADER_LEN - 4]));
        if expected != found {
            return corruption(
                0,
                format!("a segment header with checksum {expected:#010x}"),
                format!("{found:#010x}"),
            );
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version > FORMAT_VERSION {
            let path = path.to_path_buf();
            return Err(Error::FormatVersion { path, known: FORMAT_VERSION, found: version });
        }
        let unknown = |offset, expected: &str, found: String| {
            let (path, expected) = (path.to_path_buf(), expected.into());
            Err(Error::Unknown { path, offset, expected, found })
        };
        if version == 0 {
            return unknown(4, "a format version from 1 on", "0".into());
        }
        let in_use = match u16::from_le_bytes([bytes[6], bytes[7]]) {
            STATE_SPARE => false,
            STATE_IN_USE => true,
            state => return unknown(6, "the state 1 (spare) or 2 (in use)", state.to_string()),
        };
        let incarnation = u64_at(bytes, 16);
        let back = u64::from(u32_at(bytes, 56));
        let header = SegmentHeader {
            in_use,
            log_id: u64_at(bytes, 8),
            incarnation,
            first: Lsn(u64_at(bytes, 24)),
            chain: u64_at(bytes, 32),
            len: u64_at(bytes, 40),
            trimmed: Lsn(u64_at(bytes, 48)),
            previous: if back == 0 { 0 } else { incarnation.saturating_sub(back) },
        };
        // A spare has no place in the log yet, but what it says can be said of a log.
        let is_placed = header.trimmed < header.first
            && header.first <= Lsn::MAX
            && (1..=INCARNATION_MAX).contains(&header.incarnation);
        let goes_back = back == 0 || header.previous > 0;
        if !goes_back || header.in_use && !is_placed {
            let expected = "a first position after what was trimmed, and incarnations".into();
            return corruption(0, expected, format!("{header:?}"));
        }
        Ok(Some(header))
    }
}

/// A block's length in memory.
const ALIGNED_BLOCK: usize = crate::disk::ALIGNMENT_MAX;

/// An open segment file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Which file.
    pub id: SegmentId,
    /// Its path.
    pub path: PathBuf,
    /// For durable writes, and for reading while it is active.
    pub file: Arc<dyn File>,
    /// Its length in bytes; all of it has been written before use.
    pub len: u64,
}

impl Segment {
    /// Opens the file `id` in `dir`.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, id: SegmentId) -> Result<Self> {
        let path = disk.locate(dir, &id.file_name())?;
        let file = disk.open(&path, OpenMode::Log)?;
        let len = file.len()?;
        Ok(Self { id, path, file, len })
    }

    /// Where the room for groups ends.
    pub(crate) fn groups_end(&self) -> u64 {
        groups_end(self.len)
    }

    /// The same, whose groups are read ahead of who checks them by so many threads, if several gain.
    pub(crate) fn read_ahead(&self, readers: usize) -> Option<Segment> {
        let groups = GROUPS_START..self.len;
        let ahead = || ReadAhead::start(self.file.clone(), groups, readers);
        (readers > 1).then(|| Segment { file: Arc::new(ahead()), ..self.clone() })
    }

    /// Reads the segment header.
    pub(crate) fn read_header(&self) -> Result<Option<SegmentHeader>> {
        let mut bytes = [0; HEADER_LEN];
        let count = self.file.read_at(&mut bytes, 0)?;
        SegmentHeader::decode(&bytes[..count], &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment in a state without a meaning was taken for a spare, and would have been put to use.
    #[test]
    fn what_was_never_written_is_refused_behind_a_right_checksum() {
        let header = SegmentHeader {
            in_use: true,
            log_id: 7,
            incarnation: 3,
            first: Lsn(100),
            chain: 55,
            len: 65536,
            trimmed: Lsn(40),
            previous: 1,
        };
        let version_and_state = [(4, 0), (6, 0), (6, 3), (7, 1)];
        // Incarnation, first position, a trimmed one that is not before it, an incarnation before the
        // first one.
        let numbers = [(16, 0), (23, 0x80), (24, 0), (31, 0x80), (48, 100), (56, 3), (59, 1)];
        for (at, byte) in version_and_state.iter().chain(&numbers) {
            let mut bytes = header.encode().to_vec();
            bytes[*at] = *byte;
            let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
            bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            let refused = SegmentHeader::decode(&bytes, Path::new("1.segment"));
            let is_named = matches!(refused, Err(Error::Corruption { .. } | Error::Unknown { .. }));
            assert!(is_named, "{byte} at {at}");
        }
    }

    /// A spare that goes back behind the first incarnation was taken for one that does not go back.
    #[test]
    fn a_spare_that_goes_back_too_far_is_refused() {
        let spare = SegmentHeader {
            in_use: false,
            log_id: 7,
            incarnation: 3,
            first: Lsn(0),
            chain: 0,
            len: 65536,
            trimmed: Lsn(0),
            previous: 1,
        };
        let mut bytes = spare.encode().to_vec();
        bytes[56] = 3;
        let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        let refused = SegmentHeader::decode(&bytes, Path::new("1.segment"));
        assert!(matches!(refused, Err(Error::Corruption { .. })), "{refused:?}");
    }

    #[test]
    fn header_comes_back_and_every_flipped_bit_is_refused() {
        let header = SegmentHeader {
            in_use: true,
            log_id: 7,
            incarnation: 3,
            first: Lsn(100),
            chain: 55,
            len: 65536,
            trimmed: Lsn(40),
            previous: 1,
        };
        let path = Path::new("0000000000000001.segment");
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block, path).unwrap(), Some(header));
        for bit in 0..HEADER_LEN * 8 {
            let mut damaged = block.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged, path).is_err(), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096], path).unwrap(), None);
    }

    /// A right checksum says that somebody meant what stands there: it is no damage, and a segment
    /// that is not understood must be no spare either.
    #[test]
    fn unknown_states_and_versions_are_named() {
        let header = SegmentHeader {
            in_use: true,
            log_id: 7,
            incarnation: 3,
            first: Lsn(100),
            chain: 55,
            len: 65536,
            trimmed: Lsn(40),
            previous: 1,
        };
        let path = Path::new("0000000000000001.segment");
        for (at, byte, offset, found) in [(4, 0, 4, "0"), (6, 3, 6, "3"), (6, 0, 6, "0")] {
            let mut bytes = header.encode().to_vec();
            bytes[at] = byte;
            let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
            bytes[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
            match SegmentHeader::decode(&bytes, path) {
                Err(Error::Unknown { path: named, offset: place, found: what, .. }) => {
                    assert_eq!((named.as_path(), place, what.as_str()), (path, offset, found));
                }
                other => panic!("byte {at} = {byte}: {other:?}"),
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        let name = |extension| SegmentId(12).file_name().replace("segment", extension);
        assert!(is_left_over(&name("unfinished")) && is_left_over(&name("replacement")));
        for other in ["segment", "aside-1", "unfinished-1"] {
            assert!(!is_left_over(&name(other)));
        }
        assert!(!is_left_over("SPARE.replacement"));
        assert_eq!(SegmentId::from_file_name(&SegmentId(12).file_name()), Some(SegmentId(12)));
        assert_eq!(SegmentId::from_file_name("x.segment"), None);
    }
}
