//! Group framing: what is written and made durable together.
//!
//! A group starts at a multiple of `BLOCK_LEN` in its segment: a header of [`GROUP_HEADER_LEN`]
//! bytes, then its records, then zeros up to the next block. The header says where it stands
//! (`incarnation`, `offset`), which records it brings (`first`, `count`), what was durable when it
//! was sealed (`durable`), and which groups came before it (`chain`), so that a stale group of a
//! recycled segment, a misdirected write and a gap are all refused. See `docs/format/log.md`.

use std::path::Path;

use crate::canary;
use crate::{Error, KeyId, Lsn, disk::ALIGNMENT_MAX};

/// Groups and segment headers start at multiples of this many bytes.
pub(crate) const BLOCK_LEN: u64 = 4096;
const _: () = assert!(ALIGNMENT_MAX == 4096, "a block is what any disk writes aligned");

/// Bytes before a group's records.
pub const GROUP_HEADER_LEN: usize = 64;

/// First bytes of every group.
const MAGIC: u32 = u32::from_le_bytes(*b"SLGR");

/// The format version written here.
pub(crate) const FORMAT_VERSION: u16 = 1;

/// Set in the marker that ends a log that was closed in order.
pub(crate) const FLAG_CLOSED: u16 = 1;

/// Set in a group whose records are compressed: see [`encoding`](crate::encoding).
pub(crate) const FLAG_LZ4: u16 = 2;

/// Set in a group whose body is encrypted: see [`envelope`](crate::envelope).
pub(crate) const FLAG_ENCRYPTED: u16 = 4;

/// What stands in front of a group's records. A group without records is a *marker*: it only says
/// what was durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// 1 in the marker of an orderly close; in groups with records 2 where they are compressed, and 4 where
    /// the body is encrypted; else 0.
    pub flags: u16,
    /// The incarnation of the segment it was written to.
    pub incarnation: u64,
    /// Where it starts in the segment, in bytes.
    pub offset: u64,
    /// Its first record's position; the next one's, in a marker.
    pub first: Lsn,
    /// How many records it has.
    pub count: u32,
    /// How many bytes its body takes on disk: those of its records, unless they are compressed or encrypted.
    pub body_len: u32,
    /// All up to here was durable when the group was sealed.
    pub durable: Lsn,
    /// Hash over the groups before it.
    pub chain: u64,
    /// CRC-32 of the body as it stands on disk.
    pub body_crc: u32,
}

/// Why bytes are not the group that belongs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRefusal {
    /// No group header: wrong magic, or zeros.
    NotAGroup,
    /// The header's own checksum does not match.
    HeaderChecksum {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// Written by a newer program.
    FormatVersion(u16),
    /// A right checksum over something that this program does not know.
    Unknown {
        /// Offset in bytes within the group.
        offset: u64,
        /// What this program knows there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A field has a value that is never written.
    Impossible(&'static str),
    /// A group of another incarnation: old bytes of a recycled segment.
    Stale(u64),
    /// A valid header that was written for another place.
    Misplaced {
        /// The place it names, in bytes.
        offset: u64,
    },
    /// The body does not fit behind the header.
    Length(u32),
    /// The body's checksum does not match.
    BodyChecksum {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// Nor do those of parts of a large payload in it.
    Part {
        /// The position of the record.
        lsn: Lsn,
        /// The first of them.
        part: crate::record::Refusal,
        /// How many others of this record there are.
        others: usize,
    },
    /// The body's checksum matches, and yet its records cannot be had from it.
    Encoding(&'static str),
    /// The body is encrypted, and the key was not given.
    KeyMissing(KeyId),
    /// The body is what was written, by its checksum, and its tag is not right for this key, this log and
    /// this position.
    WrongTag(KeyId),
    /// It does not follow the group before it.
    OutOfSequence {
        /// The position that belongs here.
        expected: Lsn,
        /// The position it names.
        found: Lsn,
    },
    /// The hash chain over the groups before it does not match.
    Chain,
}

impl GroupRefusal {
    /// The error, if the group at `offset` of `path` is whole and only not understood.
    pub(crate) fn not_understood(&self, path: &Path, offset: u64) -> Option<Error> {
        let path = path.to_path_buf();
        match self {
            GroupRefusal::FormatVersion(found) => {
                Some(Error::FormatVersion { path, known: FORMAT_VERSION, found: *found })
            }
            GroupRefusal::Unknown { offset: within, expected, found } => Some(Error::Unknown {
                path,
                offset: offset.saturating_add(*within),
                expected: (*expected).into(),
                found: found.clone(),
            }),
            GroupRefusal::KeyMissing(KeyId(key)) => {
                Some(Error::KeyMissing { path, offset, key: *key })
            }
            GroupRefusal::WrongTag(KeyId(key)) => Some(Error::WrongTag { path, offset, key: *key }),
            _ => None,
        }
    }
}

impl std::fmt::Display for GroupRefusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GroupRefusal::NotAGroup => write!(out, "no group header"),
            GroupRefusal::HeaderChecksum { expected, found } => {
                write!(out, "header checksum {found:#010x}, stored is {expected:#010x}")
            }
            GroupRefusal::FormatVersion(version) => write!(out, "format version {version}"),
            GroupRefusal::Unknown { offset, expected, found } => {
                write!(out, "{found} at byte {offset}, expected {expected}")
            }
            GroupRefusal::Impossible(field) => write!(out, "{field} that is never written"),
            GroupRefusal::Stale(incarnation) => write!(out, "a group of incarnation {incarnation}"),
            GroupRefusal::Misplaced { offset } => {
                write!(out, "a group that belongs at offset {offset}")
            }
            GroupRefusal::Length(len) => write!(out, "a body of {len} bytes"),
            GroupRefusal::BodyChecksum { expected, found } => {
                write!(out, "body checksum {found:#010x}, stored is {expected:#010x}")
            }
            GroupRefusal::Part { lsn, part, others: 0 } => write!(out, "in position {lsn}, {part}"),
            GroupRefusal::Part { lsn, part, others } => {
                write!(out, "in position {lsn}, {part}, and {others} others of its parts damaged")
            }
            GroupRefusal::Encoding(reason) => write!(out, "a body with {reason}"),
            GroupRefusal::KeyMissing(key) => write!(out, "a body encrypted with key {key}"),
            GroupRefusal::WrongTag(key) => write!(out, "a tag that is wrong for key {key}"),
            GroupRefusal::OutOfSequence { expected, found } => {
                write!(out, "first position {found} where {expected} belongs")
            }
            GroupRefusal::Chain => write!(out, "a hash chain that does not match"),
        }
    }
}

impl GroupHeader {
    /// The header's bytes.
    pub fn encode(&self, log_id: u64) -> [u8; GROUP_HEADER_LEN] {
        let mut bytes = [0; GROUP_HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.count.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.0.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.chain.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(&bytes, log_id);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes a header that should stand at `offset` of a segment with this incarnation.
    ///
    /// # Errors
    ///
    /// The first reason why it does not.
    pub fn decode(
        bytes: &[u8],
        log_id: u64,
        incarnation: u64,
        offset: u64,
    ) -> Result<Self, GroupRefusal> {
        let Some(bytes) = bytes.first_chunk::<GROUP_HEADER_LEN>() else {
            return Err(GroupRefusal::NotAGroup);
        };
        if u32_at(bytes, 0) != MAGIC {
            return Err(GroupRefusal::NotAGroup);
        }
        let (expected, found) = (u32_at(bytes, 60), header_crc(bytes, log_id));
        if expected != found && !canary::is_on(canary::CHECKSUM_NOT_VERIFIED) {
            return Err(GroupRefusal::HeaderChecksum { expected, found });
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version > FORMAT_VERSION {
            return Err(GroupRefusal::FormatVersion(version));
        }
        let header = GroupHeader {
            flags: u16::from_le_bytes([bytes[6], bytes[7]]),
            incarnation: u64_at(bytes, 8),
            offset: u64_at(bytes, 16),
            first: Lsn(u64_at(bytes, 24)),
            count: u32_at(bytes, 32),
            body_len: u32_at(bytes, 36),
            durable: Lsn(u64_at(bytes, 40)),
            chain: u64_at(bytes, 48),
            body_crc: u32_at(bytes, 56),
        };
        if header.incarnation != incarnation && !canary::is_on(canary::RECYCLED_GROUPS_VALID_AGAIN)
        {
            return Err(GroupRefusal::Stale(header.incarnation));
        }
        if header.offset != offset && !canary::is_on(canary::POSITION_NOT_COVERED) {
            return Err(GroupRefusal::Misplaced { offset: header.offset });
        }
        header.check_known(version)?;
        let impossible = [
            (header.first == Lsn(0) || header.first > Lsn::MAX, "a first position"),
            (header.durable >= header.first, "a claim of what is not before it"),
        ];
        match impossible.iter().find(|(is_so, _)| *is_so) {
            Some((_, field)) => Err(GroupRefusal::Impossible(field)),
            None => Ok(header),
        }
    }

    /// Checks that the fields hold what this version writes. Only for a header whose checksum is right:
    /// then other values are no damage.
    fn check_known(&self, version: u16) -> Result<(), GroupRefusal> {
        let unknown = |offset, expected, found: u16| {
            Err(GroupRefusal::Unknown { offset, expected, found: found.to_string() })
        };
        if version == 0 {
            return unknown(4, "a format version from 1 on", version);
        }
        const LZ4_ENCRYPTED: u16 = FLAG_LZ4 | FLAG_ENCRYPTED;
        match (self.flags, self.count) {
            (0, _) | (FLAG_CLOSED, 0) => Ok(()),
            (FLAG_LZ4 | FLAG_ENCRYPTED | LZ4_ENCRYPTED, 1..) => Ok(()),
            (FLAG_LZ4, 0) => unknown(6, "the flag of compression on a group with records only", 2),
            (FLAG_ENCRYPTED | LZ4_ENCRYPTED, 0) => {
                unknown(6, "the flag of encryption on a group with records only", self.flags)
            }
            (FLAG_CLOSED, _) => unknown(6, "the flag of an orderly close on a marker only", 1),
            (flags, _) => {
                let known =
                    "the flags 0, 1 (closed in order), 2 (compressed), 4 (encrypted) or 6 (both)";
                unknown(6, known, flags)
            }
        }
    }

    /// Checks the body, as it stands on disk, against the header.
    ///
    /// # Errors
    ///
    /// [`GroupRefusal::BodyChecksum`] if they are not those that were written.
    pub fn check_body(&self, body: &[u8]) -> Result<(), GroupRefusal> {
        let found = crc32fast::hash(body);
        if found != self.body_crc && !canary::is_on(canary::CHECKSUM_NOT_VERIFIED) {
            return Err(GroupRefusal::BodyChecksum { expected: self.body_crc, found });
        }
        Ok(())
    }

    /// Checks that the group follows one that ended before `next` with this chain.
    ///
    /// # Errors
    ///
    /// [`GroupRefusal::OutOfSequence`] or [`GroupRefusal::Chain`].
    pub fn check_sequence(&self, next: Lsn, chain: u64) -> Result<(), GroupRefusal> {
        if canary::is_on(canary::RECYCLED_GROUPS_VALID_AGAIN)
            || canary::is_on(canary::POSITION_NOT_COVERED)
        {
            return Ok(());
        }
        if self.first != next {
            return Err(GroupRefusal::OutOfSequence { expected: next, found: self.first });
        }
        if self.chain != chain {
            return Err(GroupRefusal::Chain);
        }
        Ok(())
    }

    /// Decodes a header that stands anywhere, which a group that went astray does; none if it is not one
    /// of this log.
    pub(crate) fn decode_astray(bytes: &[u8], log_id: u64) -> Option<Self> {
        let bytes: &[u8; GROUP_HEADER_LEN] = bytes.first_chunk()?;
        Self::decode(bytes, log_id, u64_at(bytes, 8), u64_at(bytes, 16)).ok()
    }

    /// Whether bytes look like the group at `offset`, if perhaps a damaged one: for the case that
    /// nothing else tells what a file was.
    pub(crate) fn is_likely(bytes: &[u8; GROUP_HEADER_LEN], offset: u64) -> bool {
        u32_at(bytes, 0) == MAGIC || (u64_at(bytes, 16) == offset && u64_at(bytes, 24) > 0)
    }

    /// The position after the group's last record.
    pub fn end(&self) -> Lsn {
        Lsn(self.first.0.saturating_add(u64::from(self.count)))
    }

    /// How many bytes the group takes in the segment: whole blocks.
    pub fn len_on_disk(&self) -> u64 {
        len_on_disk(self.body_len)
    }

    /// The chain for the group after this one.
    pub fn chain_after(&self) -> u64 {
        let mixed = self.chain.rotate_left(23)
            ^ (u64::from(self.body_crc) << 32)
            ^ self.first.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ u64::from(self.count);
        // The finalizer of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
        let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}

/// How many bytes a group with such a body takes in the segment.
pub(crate) fn len_on_disk(body_len: u32) -> u64 {
    let header_len = u64::try_from(GROUP_HEADER_LEN).expect("a small constant");
    (header_len + u64::from(body_len)).next_multiple_of(BLOCK_LEN)
}

fn header_crc(bytes: &[u8; GROUP_HEADER_LEN], log_id: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log_id.to_le_bytes());
    hasher.update(&bytes[..60]);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> GroupHeader {
        GroupHeader {
            flags: 0,
            incarnation: 3,
            offset: 8192,
            first: Lsn(17),
            count: 2,
            body_len: 600,
            durable: Lsn(16),
            chain: 0xabcd,
            body_crc: 99,
        }
    }

    #[test]
    fn decodes_only_at_its_own_place() {
        let bytes = header().encode(5);
        assert_eq!(GroupHeader::decode(&bytes, 5, 3, 8192), Ok(header()));
        assert_eq!(GroupHeader::decode(&bytes, 5, 4, 8192), Err(GroupRefusal::Stale(3)));
        assert_eq!(
            GroupHeader::decode(&bytes, 5, 3, 4096),
            Err(GroupRefusal::Misplaced { offset: 8192 })
        );
        assert!(GroupHeader::decode(&bytes, 6, 3, 8192).is_err(), "a group of another log");
    }

    /// Positions that cannot be were taken as they came.
    #[test]
    fn what_was_never_written_is_refused_behind_a_right_checksum() {
        // First position and claim.
        for (at, byte) in [(24, 0), (31, 0x80), (40, 17)] {
            let mut bytes = header().encode(5);
            bytes[at] = byte;
            let crc = header_crc(&bytes, 5);
            bytes[60..64].copy_from_slice(&crc.to_le_bytes());
            let refused = GroupHeader::decode(&bytes, 5, 3, 8192);
            assert!(matches!(refused, Err(GroupRefusal::Impossible(_))), "{byte} at {at}");
        }
    }

    #[test]
    fn unknown_flags_behind_a_right_checksum_are_named() {
        let refused = |header: GroupHeader| match GroupHeader::decode(&header.encode(5), 5, 3, 8192)
        {
            Err(GroupRefusal::Unknown { offset, found, .. }) => (offset, found),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(GroupHeader { flags: 8, ..header() }), (6, "8".into()));
        assert_eq!(refused(GroupHeader { flags: 5, ..header() }), (6, "5".into()));
        for flags in [FLAG_LZ4, FLAG_ENCRYPTED, FLAG_LZ4 | FLAG_ENCRYPTED] {
            let marker = GroupHeader { flags, count: 0, ..header() };
            assert_eq!(refused(marker), (6, flags.to_string()));
        }
        assert_eq!(refused(GroupHeader { flags: FLAG_CLOSED, ..header() }), (6, "1".into()));
        let mut bytes = header().encode(5);
        bytes[4] = 0;
        let crc = header_crc(&bytes, 5);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        let refusal = GroupHeader::decode(&bytes, 5, 3, 8192).unwrap_err();
        assert!(matches!(refusal, GroupRefusal::Unknown { offset: 4, .. }), "{refusal}");
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = header().encode(5);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(GroupHeader::decode(&damaged, 5, 3, 8192).is_err(), "bit {bit}");
        }
    }
}
