//! Record framing: the unit that the log and the manifest share.
//!
//! ```text
//! 0        4        8      9      10      12
//! +--------+--------+------+------+-------+---------------+ - - - - - - - +
//! | length | crc32  | kind | form | 0     | payload       | table
//! +--------+--------+------+------+-------+---------------+ - - - - - - - +
//! ```
//!
//! `length` counts payload bytes. The checksum (CRC-32, IEEE) covers length, kind, form, the reserved
//! bytes and the payload, in that order. In the form that large payloads have in the log it covers a table of
//! checksums in place of the payload: see `parts`, and `docs/format/log.md`.

use std::ops::Range;

use crate::parts::{self, PART_LEN};

/// Bytes before the payload.
pub const RECORD_HEADER_LEN: usize = 12;

/// Where the form stands, and then two bytes of zero.
pub(crate) const FORM_AT: usize = 9;

/// The payload is covered by the record's checksum.
const WHOLE: u8 = 0;
/// It is covered by a table of checksums behind it.
const IN_PARTS: u8 = 1;

/// The largest payload of one record, in bytes. 64 MiB: larger than any value the server takes, and
/// small enough that a damaged length cannot make a reader allocate without bound.
pub const PAYLOAD_LEN_MAX: usize = 64 << 20;

/// What a record is; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// An entry of the replicated or standalone log.
    pub const ENTRY: Kind = Kind(1);
    /// An edit of the manifest.
    pub const EDIT: Kind = Kind(2);
}

/// One decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub payload: &'a [u8],
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Fewer bytes than the header, or than it announces.
    Short {
        /// How many bytes are needed.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The length is over [`PAYLOAD_LEN_MAX`].
    Length(u32),
    /// A form that is not known, or that such a payload never has, or a reserved byte that is not zero.
    Reserved,
    /// The checksum does not match.
    Checksum {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The checksum of a part of the payload does not match.
    Part {
        /// Which one, counted from 0. It holds the [`PART_LEN`] bytes from that many times its number on.
        number: usize,
        /// How many there are.
        of: usize,
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Short { needed, found } => write!(out, "{found} bytes where {needed} belong"),
            Refusal::Length(length) => write!(out, "a length of {length} bytes"),
            Refusal::Reserved => write!(out, "a form or a reserved byte that is never written"),
            Refusal::Part { number, of, expected, found } => write!(
                out,
                "part {number} of {of} ({PART_LEN} bytes from {} on) with checksum {found:#010x} where \
                 {expected:#010x} is stored",
                number * PART_LEN
            ),
            Refusal::Checksum { expected, found } => {
                write!(out, "checksum {found:#010x} where {expected:#010x} is stored")
            }
        }
    }
}

/// Bytes of the record of a payload of this many bytes, in the log.
pub(crate) fn len(payload_len: usize) -> usize {
    RECORD_HEADER_LEN + payload_len + parts::table_len(payload_len)
}

/// The twelve bytes that precede `payload`, whatever its length, if it is not in parts.
///
/// # Panics
///
/// If `payload` is longer than [`PAYLOAD_LEN_MAX`].
pub fn encode_header(kind: Kind, payload: &[u8]) -> [u8; RECORD_HEADER_LEN] {
    let mut crc = crc32fast::Hasher::new();
    let header = start_header(kind, WHOLE, payload.len(), &mut crc);
    crc.update(payload);
    finish_header(header, crc)
}

/// The same before a payload of which the length and the checksum are known.
pub(crate) fn encode_header_before(
    kind: Kind,
    payload_len: usize,
    payload_crc: &crc32fast::Hasher,
) -> [u8; RECORD_HEADER_LEN] {
    let mut crc = crc32fast::Hasher::new();
    let header = start_header(kind, WHOLE, payload_len, &mut crc);
    crc.combine(payload_crc);
    finish_header(header, crc)
}

/// The twelve bytes that precede a payload of more than [`PART_LEN`] bytes, and the table that follows it.
///
/// # Panics
///
/// If `payload` is shorter, or longer than [`PAYLOAD_LEN_MAX`].
pub fn encode_in_parts(kind: Kind, payload: &[u8]) -> ([u8; RECORD_HEADER_LEN], Vec<u8>) {
    let (_, table) = parts::checksum(payload);
    (encode_header_with(kind, payload.len(), &table), table)
}

/// The same if the table is known.
pub(crate) fn encode_header_with(
    kind: Kind,
    payload_len: usize,
    table: &[u8],
) -> [u8; RECORD_HEADER_LEN] {
    assert!(payload_len > PART_LEN, "shorter payloads have no table");
    let mut crc = crc32fast::Hasher::new();
    let header = start_header(kind, IN_PARTS, payload_len, &mut crc);
    crc.update(table);
    finish_header(header, crc)
}

fn start_header(
    kind: Kind,
    form: u8,
    payload_len: usize,
    crc: &mut crc32fast::Hasher,
) -> [u8; RECORD_HEADER_LEN] {
    assert!(payload_len <= PAYLOAD_LEN_MAX, "a record's payload is bounded");
    let length = u32::try_from(payload_len).expect("bounded just above");
    let mut header = [0; RECORD_HEADER_LEN];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[8] = kind.0;
    header[FORM_AT] = form;
    update_with_header(crc, &header);
    header
}

fn finish_header(
    mut header: [u8; RECORD_HEADER_LEN],
    crc: crc32fast::Hasher,
) -> [u8; RECORD_HEADER_LEN] {
    header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    header
}

/// Decodes the record at the start of `bytes`; returns it and the count of bytes it takes.
///
/// # Errors
///
/// The first reason why there is no valid record.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), Refusal> {
    let framed = Framing::decode(bytes)?;
    match framed.damaged_parts().next() {
        Some(part) if !crate::canary::is_on(crate::canary::CHECKSUM_NOT_VERIFIED) => Err(part),
        _ => Ok((Record { kind: framed.kind, payload: framed.payload }, framed.len)),
    }
}

/// The bytes `range` of the payload of the record at the start of `bytes`. Of a payload in parts only those are
/// checked that hold some of them: the bytes from `range.start` rounded down to `range.end` rounded up to a
/// multiple of [`PART_LEN`]; nothing is said of the others. Any other payload is checked as a whole. The
/// record must be there as a whole.
///
/// # Errors
///
/// As for [`decode`], and [`Refusal::Short`] if the payload ends before the range does.
pub fn decode_range(bytes: &[u8], range: Range<usize>) -> Result<&[u8], Refusal> {
    let framed = Framing::decode(bytes)?;
    let short = Refusal::Short { needed: range.end, found: framed.payload.len() };
    let wanted = framed.payload.get(range.clone()).ok_or(short)?;
    if framed.table.is_empty() {
        return Ok(wanted);
    }
    let parts = parts::of_range(&range);
    let end = (parts.end * PART_LEN).min(framed.payload.len());
    let payload = &framed.payload[parts.start * PART_LEN..end];
    let table = &framed.table[4 * parts.start..4 * parts.end];
    match parts::damaged(payload, table).next() {
        Some(Refusal::Part { number, expected, found, .. }) => {
            let (number, of) = (parts.start + number, framed.table.len() / 4);
            Err(Refusal::Part { number, of, expected, found })
        }
        _ => Ok(wanted),
    }
}

/// A record whose own checksum is right. If its payload is in parts, that says nothing of the payload yet.
pub(crate) struct Framing<'a> {
    kind: Kind,
    payload: &'a [u8],
    /// One checksum for each part; empty if it is not in parts.
    table: &'a [u8],
    /// Bytes of all of it.
    pub len: usize,
}

impl<'a> Framing<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_LEN>() else {
            return Err(Refusal::Short { needed: RECORD_HEADER_LEN, found: bytes.len() });
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let payload_len = usize::try_from(length).unwrap_or(usize::MAX);
        if payload_len > PAYLOAD_LEN_MAX {
            return Err(Refusal::Length(length));
        }
        let is_in_parts = header[FORM_AT] == IN_PARTS;
        let table_len = if is_in_parts { parts::table_len(payload_len) } else { 0 };
        let body_len = payload_len + table_len;
        let Some(body) = rest.get(..body_len) else {
            let needed = RECORD_HEADER_LEN + body_len;
            return Err(Refusal::Short { needed, found: bytes.len() });
        };
        let is_known = header[FORM_AT] == WHOLE || table_len > 0;
        if !is_known || header[FORM_AT + 1..] != [0; 2] {
            return Err(Refusal::Reserved);
        }
        let (payload, table) = body.split_at(payload_len);
        let expected = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let found = checksum(header, if is_in_parts { table } else { payload });
        if expected != found && !crate::canary::is_on(crate::canary::CHECKSUM_NOT_VERIFIED) {
            return Err(Refusal::Checksum { expected, found });
        }
        Ok(Self { kind: Kind(header[8]), payload, table, len: RECORD_HEADER_LEN + body_len })
    }

    /// A refusal for each part of the payload that is not what its checksum says.
    pub(crate) fn damaged_parts(&self) -> impl Iterator<Item = Refusal> + 'a {
        parts::damaged(self.payload, self.table)
    }
}

fn checksum(header: &[u8; RECORD_HEADER_LEN], covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    update_with_header(&mut hasher, header);
    hasher.update(covered);
    hasher.finalize()
}

/// All of a header but the checksum itself.
fn update_with_header(hasher: &mut crc32fast::Hasher, header: &[u8; RECORD_HEADER_LEN]) {
    hasher.update(&header[0..4]);
    hasher.update(&header[8..12]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode_header(Kind::ENTRY, payload).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for payload in [&b""[..], b"a", &[7; 300]] {
            let bytes = encoded(payload);
            let (record, taken) = decode(&bytes).unwrap();
            assert_eq!((record.kind, record.payload, taken), (Kind::ENTRY, payload, bytes.len()));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let bytes = encoded(b"strandline");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit} was not noticed");
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end} was not noticed");
        }
    }

    fn in_parts(payload: &[u8]) -> Vec<u8> {
        let (header, table) = encode_in_parts(Kind::ENTRY, payload);
        [&header, payload, &table].concat()
    }

    #[test]
    #[cfg_attr(miri, ignore = "hours: checksums over hundreds of kilobytes, many times")]
    fn payloads_in_parts_are_decoded_and_name_the_part_that_is_damaged() {
        let payload: Vec<u8> = (0..3 * PART_LEN + 100).map(|at| at.to_le_bytes()[1]).collect();
        let bytes = in_parts(&payload);
        assert_eq!(bytes.len(), RECORD_HEADER_LEN + payload.len() + 4 * 4);
        let (record, taken) = decode(&bytes).unwrap();
        assert_eq!((record.payload, taken), (&payload[..], bytes.len()));
        for at in (0..bytes.len()).step_by(4099).chain(0..RECORD_HEADER_LEN) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let in_payload = at.checked_sub(RECORD_HEADER_LEN).filter(|at| *at < payload.len());
            match (decode(&damaged), in_payload) {
                (Err(Refusal::Part { number, of: 4, .. }), Some(at)) => {
                    assert_eq!(number, at / PART_LEN);
                }
                (Err(Refusal::Part { .. }) | Ok(_), _) | (Err(_), Some(_)) => panic!("byte {at}"),
                (Err(_), None) => {}
            }
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    /// What is beside the parts that hold the range may be damaged.
    #[test]
    #[cfg_attr(miri, ignore = "hours: checksums over hundreds of kilobytes, many times")]
    fn a_range_is_checked_without_the_rest() {
        let payload = vec![5; 3 * PART_LEN];
        let mut bytes = in_parts(&payload);
        bytes[RECORD_HEADER_LEN + 2 * PART_LEN] ^= 1;
        assert_eq!(decode_range(&bytes, 0..2 * PART_LEN), Ok(&payload[..2 * PART_LEN]));
        assert_eq!(decode_range(&bytes, 9..9), Ok(&[][..]));
        let refused = decode_range(&bytes, PART_LEN..2 * PART_LEN + 1);
        assert!(matches!(refused, Err(Refusal::Part { number: 2, of: 3, .. })), "{refused:?}");
        let refused = decode_range(&bytes, 0..3 * PART_LEN + 1);
        assert!(matches!(refused, Err(Refusal::Short { .. })), "{refused:?}");
        assert_eq!(decode_range(&encoded(b"strandline"), 2..5), Ok(&b"ran"[..]));
    }

    /// One payload has one form in the log: nothing else is taken for it.
    #[test]
    fn a_table_behind_a_short_payload_is_never_written() {
        for (at, byte) in [(FORM_AT, IN_PARTS), (FORM_AT, 2), (FORM_AT + 1, 1), (FORM_AT + 2, 1)] {
            let mut bytes = encoded(b"strandline");
            bytes[at] = byte;
            assert_eq!(decode(&bytes), Err(Refusal::Reserved), "{byte} at {at}");
        }
    }
}
