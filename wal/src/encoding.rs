//! How the records of a group stand in its body: as they are, or compressed.
//!
//! A group that says [`FLAG_LZ4`] has a body of a *preamble* and one LZ4 block:
//!
//! ```text
//! 0         4         8          12      16
//! +---------+---------+----------+-------+-----------+
//! | raw_len | raw_crc | reserved | crc32 | LZ4 block |
//! +---------+---------+----------+-------+-----------+
//! ```
//!
//! The group's own checksum covers all of it, as it stands on the disk: who only checks needs to
//! decode nothing. The preamble has a checksum of its own, so that it still says what the records
//! were where the block behind it is damaged: a repair is judged by it, whichever compressor made the
//! block. A group is compressed when it is given its place, by whoever submits it, and only if that saves
//! a block and an eighth: otherwise it is written as it is. See `docs/format/log.md`.

use std::borrow::Cow;

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use crate::disk::Buffer;
use crate::envelope::Envelope;
use crate::frame::{
    BLOCK_LEN, FLAG_LZ4, GROUP_HEADER_LEN, GroupHeader, GroupRefusal, len_on_disk, u32_at,
};

/// Bytes before the block.
pub(crate) const PREAMBLE_LEN: usize = 16;

/// No group has more bytes of records than this, and none that says so is decoded: 256 MiB, the largest
/// group that can be asked for.
pub(crate) const RAW_LEN_MAX: usize = 256 << 20;

/// One byte of an LZ4 block stands for so many at the most. A block that is shorter than this says of
/// its length cannot be one, and nothing is allocated for it.
const EXPANSION_MAX: usize = 255;

/// What the records of an encoded group were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Preamble {
    /// Their bytes.
    pub raw_len: u32,
    /// The checksum of those bytes.
    pub raw_crc: u32,
}

impl Preamble {
    fn encode(self) -> [u8; PREAMBLE_LEN] {
        let mut bytes = [0; PREAMBLE_LEN];
        bytes[0..4].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.raw_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The preamble at the start of a body, if it is whole.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let bytes = body.first_chunk::<PREAMBLE_LEN>()?;
        let is_whole = crc32fast::hash(&bytes[..12]) == u32_at(bytes, 12) && bytes[8..12] == [0; 4];
        is_whole.then(|| Self { raw_len: u32_at(bytes, 0), raw_crc: u32_at(bytes, 4) })
    }
}

/// Compresses `records` into `buffer` behind room for a group's header and `front` bytes more, if that is worth it.
pub(crate) fn compress(
    records: &[u8],
    raw_crc: u32,
    mut buffer: Buffer,
    front: usize,
) -> Option<Buffer> {
    let raw_len = u32::try_from(records.len()).ok()?;
    // A group takes a block at least.
    if len_on_disk(raw_len) <= BLOCK_LEN || records.len() > RAW_LEN_MAX {
        return None;
    }
    let from = GROUP_HEADER_LEN + front;
    let start = from + PREAMBLE_LEN;
    buffer.clear();
    buffer.resize(start + get_maximum_output_size(records.len()));
    let written = compress_into(records, &mut buffer.as_mut_slice()[start..]);
    let body_len = PREAMBLE_LEN + written.expect("the room that it asked for is there");
    let is_less = u32::try_from(body_len).is_ok_and(|len| len_on_disk(len) < len_on_disk(raw_len));
    if !is_less || body_len > records.len() - records.len() / 8 {
        return None;
    }
    buffer.resize(from + body_len);
    let preamble = Preamble { raw_len, raw_crc }.encode();
    buffer.as_mut_slice()[from..start].copy_from_slice(&preamble);
    Some(buffer)
}

impl GroupHeader {
    /// Whether its records stand compressed in its body.
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_LZ4 != 0
    }

    /// The records' bytes from a body whose checksum is right.
    ///
    /// # Errors
    ///
    /// [`GroupRefusal::Encoding`] if it is not one that this program writes; [`GroupRefusal::KeyMissing`] if
    /// it is encrypted.
    pub fn decode_body<'a>(&self, body: &'a [u8]) -> Result<Cow<'a, [u8]>, GroupRefusal> {
        if self.is_encrypted() {
            return Err(GroupRefusal::KeyMissing(Envelope::decode(body)?.key));
        }
        match self.is_compressed() {
            true => decompress(body).map(Cow::Owned),
            false => Ok(Cow::Borrowed(body)),
        }
    }
}

/// The records of a preamble and a block.
pub(crate) fn decompress(body: &[u8]) -> Result<Vec<u8>, GroupRefusal> {
    let refuse = |reason| Err(GroupRefusal::Encoding(reason));
    let Some(preamble) = Preamble::decode(body) else {
        return refuse("a preamble that does not check");
    };
    let block = &body[PREAMBLE_LEN..];
    let raw_len = usize::try_from(preamble.raw_len).unwrap_or(usize::MAX);
    if raw_len > RAW_LEN_MAX.min(block.len().saturating_mul(EXPANSION_MAX)) {
        return refuse("a length of records that never comes of such a block");
    }
    let mut records = vec![0; raw_len];
    match decompress_into(block, &mut records) {
        Ok(len) if len == raw_len => {}
        _ => return refuse("a block that does not decompress to its length"),
    }
    match crc32fast::hash(&records) == preamble.raw_crc {
        true => Ok(records),
        false => refuse("records whose checksum is not that of the preamble"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    fn records() -> Vec<u8> {
        (0..600_u32).flat_map(|number| [number.to_le_bytes(), *b"tide"].concat()).collect()
    }

    fn header(body: &[u8]) -> GroupHeader {
        GroupHeader {
            flags: FLAG_LZ4,
            incarnation: 1,
            offset: 4096,
            first: Lsn(1),
            count: 1,
            body_len: u32::try_from(body.len()).unwrap(),
            durable: Lsn(0),
            chain: 0,
            body_crc: crc32fast::hash(body),
        }
    }

    fn compressed(records: &[u8]) -> Option<Vec<u8>> {
        let buffer = compress(records, crc32fast::hash(records), Buffer::with_capacity(0), 0)?;
        Some(buffer[GROUP_HEADER_LEN..].to_vec())
    }

    #[test]
    fn what_is_compressed_is_decoded() {
        let body = compressed(&records()).unwrap();
        assert!(body.len() < records().len());
        assert_eq!(header(&body).decode_body(&body).unwrap(), records());
    }

    #[test]
    fn what_saves_little_is_left_as_it_is() {
        assert!(compressed(&[7; 4000]).is_none(), "it takes one block already");
        assert!(compressed(&[7; 4033]).is_some());
        let mut noise = vec![0; 20_000];
        crate::disk::simulated::Random::new(1).fill(&mut noise);
        assert!(compressed(&noise).is_none());
        noise[18_000..].fill(0);
        assert!(compressed(&noise).is_none(), "under an eighth");
    }

    /// Also behind a right checksum: what is damaged is told, and nothing panics.
    #[test]
    fn every_flipped_bit_and_every_cut_is_refused_or_means_the_same() {
        let body = compressed(&records()).unwrap();
        for bit in (0..body.len() * 8).step_by(3) {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(header(&body).check_body(&damaged).is_err());
            if let Ok(found) = header(&body).decode_body(&damaged) {
                assert_eq!(found, records(), "bit {bit}");
            }
        }
        for end in 0..body.len() {
            assert!(header(&body).decode_body(&body[..end]).is_err(), "cut at {end}");
        }
    }

    /// 4 GiB were asked for by a body of 40 bytes.
    #[test]
    fn lengths_are_bounded_before_memory_is_asked_for() {
        for raw_len in [u32::MAX, 256 << 20, 24 * 255 + 1] {
            let preamble = Preamble { raw_len, raw_crc: 0 }.encode();
            let body = [&preamble[..], &[0; 24]].concat();
            let refusal = header(&body).decode_body(&body).unwrap_err();
            assert!(matches!(refusal, GroupRefusal::Encoding(reason) if reason.contains("length")));
        }
    }
}
