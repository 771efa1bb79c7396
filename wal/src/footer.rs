//! The footer of a segment: where its groups stand, for those who open the log later.
//!
//! A segment that has ended gets a footer in its last block, which is kept free for it. It is written
//! away from the commit path, when the header of the next segment is durable, and not durably. So it may be
//! missing, torn, or that of an earlier use of the file. It saves steps and decides nothing:
//!
//! - it is believed only if it checks, names this very use of this file, and leads to the segment behind;
//! - where it is not believed, readers walk from the first group;
//! - where a group is not found that it names, they walk from the first group as well, and what is
//!   wrong is said of the groups.
//!
//! It may reach further than the segment counts: a truncation voids the end of a segment, and its footer
//! stays. The end of a segment is said by the header of the next one only. What the footer names stays true:
//! a block that was durable is never written again in the same use of its file. See `docs/format/log.md`.

use crate::Lsn;
use crate::disk::{ALIGNMENT_MAX, Buffer};
use crate::frame::{BLOCK_LEN, FORMAT_VERSION, u32_at, u64_at};
use crate::segment::{FOOTER_LEN, GROUPS_START, Segment, SegmentHeader};

/// First bytes of every footer.
const MAGIC: u32 = u32::from_le_bytes(*b"SLSF");
/// Bytes of a footer.
const LEN: usize = ALIGNMENT_MAX;
const _: () =
    assert!(LEN == 4096 && FOOTER_LEN == 4096, "a footer fills the block that is kept for it");
/// Bytes before the places of groups.
const HEAD_LEN: usize = 64;
/// Bytes of the place of a group.
const PLACE_LEN: usize = 8;
/// Places at the most: what fits. They are 130 KiB apart in a full segment of 64 MiB.
const PLACES_MAX: usize = (LEN - HEAD_LEN) / PLACE_LEN;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// The log it belongs to.
    pub log_id: u64,
    /// The use of the file that it describes.
    pub incarnation: u64,
    /// Position of the segment's first record.
    pub first: Lsn,
    /// The position after its last record when the footer was written.
    pub end: Lsn,
    /// The chain that the next segment begins with.
    pub chain: u64,
    /// First position and offset of some groups, ascending.
    pub places: Vec<(Lsn, u64)>,
}

impl Footer {
    /// That of a segment with this header, which `next` continues, and of whose groups some stand at
    /// `places`: every so-many-th is taken, as many as fit.
    pub(crate) fn new(
        header: &SegmentHeader,
        end: Lsn,
        next: &SegmentHeader,
        places: &[(Lsn, u64)],
    ) -> Self {
        let stride = places.len().div_ceil(PLACES_MAX).max(1);
        let places = places.iter().filter(|(first, _)| *first < end).step_by(stride);
        Self {
            log_id: header.log_id,
            incarnation: header.incarnation,
            first: header.first,
            end,
            chain: next.chain,
            places: places.copied().collect(),
        }
    }

    /// The footer's bytes: one block.
    pub(crate) fn encode(&self) -> Buffer {
        let mut bytes = [0; LEN];
        let count = u16::try_from(self.places.len()).expect("as many as fit into a block");
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&count.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.chain.to_le_bytes());
        let (head, places) = bytes.split_at_mut(HEAD_LEN);
        for ((first, offset), place) in self.places.iter().zip(places.chunks_exact_mut(PLACE_LEN)) {
            let distance = u32::try_from(first.0 - self.first.0).expect("a record takes 12 bytes");
            let block = u32::try_from(offset / BLOCK_LEN).expect("a segment has 4 GiB at the most");
            place[..4].copy_from_slice(&distance.to_le_bytes());
            place[4..].copy_from_slice(&block.to_le_bytes());
        }
        let crc = crc(head, places);
        head[HEAD_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        let mut block = Buffer::with_capacity(LEN);
        block.extend(&bytes);
        block
    }

    /// Decodes a block; none if it is no footer that this program has written whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.first_chunk()?;
        let (head, rest) = bytes.split_at(HEAD_LEN);
        let version = u16::from_le_bytes([head[4], head[5]]);
        if u32_at(head, 0) != MAGIC || u32_at(head, HEAD_LEN - 4) != crc(head, rest) {
            return None;
        }
        let count = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let (places, padding) = rest.split_at_checked(count * PLACE_LEN)?;
        let reserved = head[48..HEAD_LEN - 4].iter().chain(padding);
        if version != FORMAT_VERSION || reserved.into_iter().any(|byte| *byte != 0) {
            return None;
        }
        let (first, end) = (Lsn(u64_at(head, 24)), Lsn(u64_at(head, 32)));
        if first == Lsn(0) || end <= first || end > Lsn::MAX {
            return None;
        }
        let place = |place: &[u8]| {
            let lsn = Lsn(first.0 + u64::from(u32_at(place, 0)));
            (lsn, u64::from(u32_at(place, 4)) * BLOCK_LEN)
        };
        let places: Vec<_> = places.chunks_exact(PLACE_LEN).map(place).collect();
        let is_ascending = places.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1);
        let begins = places.first().is_none_or(|(_, offset)| *offset >= GROUPS_START);
        let ends = places.last().is_none_or(|(last, _)| *last < end);
        (is_ascending && begins && ends).then(|| Self {
            log_id: u64_at(head, 8),
            incarnation: u64_at(head, 16),
            first,
            end,
            chain: u64_at(head, 40),
            places,
        })
    }

    /// Whether it is that of the segment with this header, which `next` continues.
    pub(crate) fn is_of(&self, header: &SegmentHeader, next: &SegmentHeader) -> bool {
        // One that reaches further is that of a segment whose end was truncated.
        let leads_on = self.end > next.first || (self.end, self.chain) == (next.first, next.chain);
        let use_of = (self.log_id, self.incarnation, self.first);
        use_of == (header.log_id, header.incarnation, header.first) && leads_on
    }
}

impl Segment {
    /// What stands where the footer belongs; none if it is no whole footer, or cannot be read.
    pub(crate) fn read_footer(&self) -> Option<Footer> {
        let mut bytes = [0; LEN];
        let count = self.file.read_at(&mut bytes, self.groups_end()).ok()?;
        Footer::decode(&bytes[..count])
    }
}

/// Checksum of a footer: of all its bytes but those that hold it.
fn crc(head: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..HEAD_LEN - 4]);
    hasher.update(rest);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(incarnation: u64, first: u64, chain: u64) -> SegmentHeader {
        SegmentHeader {
            in_use: true,
            log_id: 7,
            incarnation,
            first: Lsn(first),
            chain,
            len: 64 << 20,
            trimmed: Lsn(0),
            previous: 0,
        }
    }

    fn footer(places: u64) -> Footer {
        let places: Vec<_> = (0..places).map(|at| (Lsn(100 + at), (1 + at) * BLOCK_LEN)).collect();
        Footer::new(&header(3, 100, 5), Lsn(5000), &header(4, 5000, 9), &places)
    }

    #[test]
    fn comes_back_and_every_flipped_bit_is_refused() {
        let footer = footer(20);
        let block = footer.encode();
        assert_eq!(Footer::decode(&block), Some(footer));
        for bit in 0..LEN * 8 {
            let mut damaged = block.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Footer::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(Footer::decode(&[0; LEN]), None);
        assert_eq!(Footer::decode(&block[..LEN - 1]), None);
    }

    #[test]
    fn places_are_thinned_evenly_and_never_reach_beyond_the_end() {
        for count in [0, 1, 504, 505, 4000, 20_000] {
            let footer = footer(count);
            assert!(footer.places.len() <= PLACES_MAX);
            assert_eq!(footer.places.is_empty(), count == 0);
            assert!(footer.places.iter().all(|(first, _)| *first < footer.end));
            let gaps = footer.places.windows(2).map(|pair| pair[1].0.0 - pair[0].0.0);
            let stride = count.div_ceil(u64::try_from(PLACES_MAX).unwrap());
            assert!(gaps.into_iter().all(|gap| gap == stride));
            assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        }
    }

    /// A file is used again and again, and a truncation ends a segment once more.
    #[test]
    fn is_believed_of_one_use_of_a_file_only() {
        let footer = footer(20);
        let (own, next) = (header(3, 100, 5), header(4, 5000, 9));
        assert!(footer.is_of(&own, &next));
        assert!(footer.is_of(&own, &header(6, 200, 77)), "its end was truncated");
        assert!(!footer.is_of(&own, &header(6, 5001, 9)), "the segment grew after that");
        assert!(!footer.is_of(&own, &header(6, 5000, 8)), "it leads to another one");
        assert!(!footer.is_of(&header(2, 100, 5), &next));
        assert!(!footer.is_of(&header(3, 99, 5), &next));
        assert!(!footer.is_of(&SegmentHeader { log_id: 8, ..own }, &next));
    }

    /// A right checksum over what was never written is no reason to go by it, or to stop.
    #[test]
    fn what_was_never_written_is_not_believed_behind_a_right_checksum() {
        // Version, too many places, first position, end, reserved bytes, a place behind the other, one in
        // front of the groups, one behind the end, padding.
        let edits: [(usize, u8); 10] = [
            (4, 2),
            (4, 0),
            (7, 0xff),
            (31, 0xff),
            (39, 0xff),
            (48, 1),
            (HEAD_LEN, 2),
            (HEAD_LEN + 4, 0),
            (HEAD_LEN + 19 * PLACE_LEN + 3, 1),
            (LEN - 1, 1),
        ];
        for (at, byte) in edits {
            let mut block = footer(20).encode().to_vec();
            block[at] = byte;
            let (head, rest) = block.split_at_mut(HEAD_LEN);
            let crc = crc(head, rest);
            head[HEAD_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Footer::decode(&block), None, "{byte} at {at}");
        }
    }
}
