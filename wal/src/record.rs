//! Record framing: the unit that the log and the manifest share.
//!
//! ```text
//! 0        4        8      9     10      12
//! +--------+--------+------+-----+-------+---------------+
//! | length | crc32  | kind | 0   | 0     | payload       |
//! +--------+--------+------+-----+-------+---------------+
//! ```
//!
//! `length` counts payload bytes. The checksum (CRC-32, IEEE) covers length, kind, the reserved
//! bytes and the payload, in that order. See `docs/format/log.md`.

/// Bytes before the payload.
pub const RECORD_HEADER_LEN: usize = 12;

/// Where three bytes of zero stand.
pub(crate) const RESERVED_AT: usize = 9;

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
    /// A reserved byte is not zero.
    Reserved,
    /// The checksum does not match.
    Checksum {
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
            Refusal::Reserved => write!(out, "a reserved byte that is not zero"),
            Refusal::Checksum { expected, found } => {
                write!(out, "checksum {found:#010x} where {expected:#010x} is stored")
            }
        }
    }
}

/// The twelve bytes that precede `payload`.
///
/// # Panics
///
/// If `payload` is longer than [`PAYLOAD_LEN_MAX`].
pub fn encode_header(kind: Kind, payload: &[u8]) -> [u8; RECORD_HEADER_LEN] {
    let mut crc = crc32fast::Hasher::new();
    let header = start_header(kind, payload.len(), &mut crc);
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
    let header = start_header(kind, payload_len, &mut crc);
    crc.combine(payload_crc);
    finish_header(header, crc)
}

fn start_header(
    kind: Kind,
    payload_len: usize,
    crc: &mut crc32fast::Hasher,
) -> [u8; RECORD_HEADER_LEN] {
    assert!(payload_len <= PAYLOAD_LEN_MAX, "a record's payload is bounded");
    let length = u32::try_from(payload_len).expect("bounded just above");
    let mut header = [0; RECORD_HEADER_LEN];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[8] = kind.0;
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
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_LEN>() else {
        return Err(Refusal::Short { needed: RECORD_HEADER_LEN, found: bytes.len() });
    };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let length_usize = usize::try_from(length).unwrap_or(usize::MAX);
    if length_usize > PAYLOAD_LEN_MAX {
        return Err(Refusal::Length(length));
    }
    let Some(payload) = rest.get(..length_usize) else {
        return Err(Refusal::Short {
            needed: RECORD_HEADER_LEN + length_usize,
            found: bytes.len(),
        });
    };
    if header[RESERVED_AT..] != [0; 3] {
        return Err(Refusal::Reserved);
    }
    let expected = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    let found = checksum(header, payload);
    if expected != found && !crate::canary::is_on(crate::canary::CHECKSUM_NOT_VERIFIED) {
        return Err(Refusal::Checksum { expected, found });
    }
    Ok((Record { kind: Kind(header[8]), payload }, RECORD_HEADER_LEN + length_usize))
}

fn checksum(header: &[u8; RECORD_HEADER_LEN], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    update_with_header(&mut hasher, header);
    hasher.update(payload);
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
}
