//! The filter: tells most keys that are not in a table, without reading a block.
//!
//! A blocked Bloom filter over full keys. A key's hash picks one line of 64 bytes and up to seven
//! bits in it, so that a probe costs one cache miss. At 10 bits per key about 1 % of the keys that
//! are not there pass.
//!
//! ```text
//! section: | 0 (pad to a multiple of 64 in the file) | lines, 64 bytes each | probes | 0 (7 bytes) |
//! ```
//!
//! The hash is part of the format. It is not secret: who chooses keys can make them all pass, which
//! costs time and never an answer.

use super::damage::Damage;
use super::trailer::Extent;

/// Bytes of a line: one cache line, and aligned to one when the file is mapped.
const LINE_LEN: usize = 64;
const LINE_BITS: usize = LINE_LEN * 8;

/// Bytes behind the lines: how many probes, and seven reserved.
const TAIL_LEN: usize = 8;

/// Bits of the probe hash that one probe takes; seven probes fit a word.
const PROBE_BITS: u32 = 9;
const PROBES_MAX: u32 = 7;

const _: () = assert!(1 << PROBE_BITS == LINE_BITS, "a probe addresses every bit of a line");
const _: () = assert!(PROBES_MAX * PROBE_BITS <= u64::BITS, "all probes fit one hash");

/// The largest filter, in lines: 512 MiB. Beyond 400 million keys it gets less sharp, not larger.
const LINES_MAX: usize = 8 << 20;

const KEY_MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;
const BLOCK_MULTIPLIER: u64 = 0xD1B5_4A32_D192_ED03;
const PROBE_MULTIPLIER: u64 = 0xA24B_AED4_963E_E407;

/// Both halves of the 128-bit product, folded into one word.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let high = u64::try_from(product >> 64).expect("the upper half of a product is one word");
    high ^ a.wrapping_mul(b)
}

/// The hash of a full key; made once per lookup, and good for the filters of all tables.
pub(crate) fn hash(key: &[u8]) -> u64 {
    let (words, tail) = key.as_chunks::<8>();
    let mut state = KEY_MULTIPLIER ^ u64::try_from(key.len()).expect("a length is a word");
    for word in words {
        state = fold(state ^ u64::from_le_bytes(*word), BLOCK_MULTIPLIER);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    fold(fold(state ^ u64::from_le_bytes(last), BLOCK_MULTIPLIER), KEY_MULTIPLIER)
}

/// The line of a hash among `lines`: the high part of the product, which is evenly spread.
fn line_of(hash: u64, lines: usize) -> usize {
    let lines = u128::try_from(lines).expect("a length fits 128 bits");
    usize::try_from((u128::from(hash) * lines) >> 64).expect("less than the count of lines")
}

/// The bytes and bit masks of a line that a hash probes.
fn probes_of(hash: u64, probes: u32) -> impl Iterator<Item = (usize, u8)> {
    // The line was picked by the upper bits; mixing again makes the probes independent of it.
    let mixed = fold(hash ^ PROBE_MULTIPLIER, PROBE_MULTIPLIER);
    (0..probes).map(move |probe| {
        let bit = (mixed >> (probe * PROBE_BITS)) & ((1 << PROBE_BITS) - 1);
        let bit = usize::try_from(bit).expect("nine bits");
        (bit / 8, 1 << (bit % 8))
    })
}

/// Collects the keys of a table that is being written.
#[derive(Debug)]
pub(super) struct FilterBuilder {
    hashes: Vec<u64>,
    bits_per_key: usize,
}

impl FilterBuilder {
    /// An empty one.
    pub(super) fn new(bits_per_key: usize) -> Self {
        Self { hashes: Vec::new(), bits_per_key: bits_per_key.max(1) }
    }

    /// Takes the hash of one more key; every key once.
    pub(super) fn add(&mut self, hash: u64) {
        self.hashes.push(hash);
    }

    /// About how many bytes the section will have.
    pub(super) fn size_estimate(&self) -> usize {
        self.lines() * LINE_LEN + LINE_LEN + TAIL_LEN
    }

    fn lines(&self) -> usize {
        let bits = self.hashes.len().saturating_mul(self.bits_per_key);
        bits.div_ceil(LINE_BITS).clamp(1, LINES_MAX)
    }

    /// The section, to be written at `offset`.
    pub(super) fn encode(&self, offset: u64) -> Vec<u8> {
        let lines = self.lines();
        // ln 2 bits per key and probe leave half of all bits set, where a filter is sharpest.
        let probes = u32::try_from(self.bits_per_key.saturating_mul(69) / 100);
        let probes = probes.unwrap_or(PROBES_MAX).clamp(1, PROBES_MAX);
        let pad = pad_at(offset);
        let mut section = vec![0; pad + lines * LINE_LEN + TAIL_LEN];
        let (body, tail) = section.split_at_mut(pad + lines * LINE_LEN);
        tail[0] = u8::try_from(probes).expect("at most PROBES_MAX");
        for &hash in &self.hashes {
            let start = pad + line_of(hash, lines) * LINE_LEN;
            for (byte, mask) in probes_of(hash, probes) {
                body[start + byte] |= mask;
            }
        }
        section
    }
}

/// Zero bytes in front of the lines of a section at `offset`.
fn pad_at(offset: u64) -> usize {
    let line = u64::try_from(LINE_LEN).expect("a small constant");
    usize::try_from((line - offset % line) % line).expect("less than a line")
}

/// Where the filter of a table is, and how it is probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    /// Of the first line, in the file.
    start: usize,
    /// How many there are.
    lines: usize,
    /// How many bits of a line a key has.
    probes: u32,
}

impl Filter {
    /// Reads the shape of the filter out of its section, whose checksum was checked.
    ///
    /// # Errors
    ///
    /// If the section is not a filter.
    pub(super) fn decode(section: &[u8], extent: Extent) -> Result<Self, Damage> {
        let damage = |what: &'static str| Damage::new(extent.offset, "a filter", what);
        let pad = pad_at(extent.offset);
        let (start, body) = match (extent.range(), section.get(pad..)) {
            (Some(range), Some(body)) => (range.start + pad, body),
            _ => return Err(damage("a section too short")),
        };
        let Some((lines, tail)) = body.split_last_chunk::<TAIL_LEN>() else {
            return Err(damage("a section too short"));
        };
        if lines.is_empty() || !lines.len().is_multiple_of(LINE_LEN) {
            return Err(damage("a broken line"));
        }
        if section[..pad].iter().chain(&tail[1..]).any(|&byte| byte != 0) {
            return Err(damage("reserved bytes that are not 0"));
        }
        let probes = u32::from(tail[0]);
        if probes == 0 || probes > PROBES_MAX {
            return Err(damage("a count of probes that is not 1 to 7"));
        }
        Ok(Self { start, lines: lines.len() / LINE_LEN, probes })
    }

    /// Whether the key of this hash may be in the table whose whole file is `file`.
    pub(super) fn may_contain(&self, file: &[u8], hash: u64) -> bool {
        let start = self.start + line_of(hash, self.lines) * LINE_LEN;
        // A line beyond the file cannot be: the extent was checked. If it were, "maybe" is no lie.
        let Some(line) = file.get(start..).and_then(|rest| rest.first_chunk::<LINE_LEN>()) else {
            return true;
        };
        probes_of(hash, self.probes).all(|(byte, mask)| line[byte] & mask != 0)
    }

    /// Shape in words, for a dump.
    pub(super) fn describe(&self) -> String {
        format!("{} lines of {LINE_LEN} bytes, {} probes per key", self.lines, self.probes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_missed_and_few_others_pass() {
        for (count, offset) in [(1_u32, 0_u64), (100, 1), (20_000, 63)] {
            let mut builder = FilterBuilder::new(10);
            (0..count).for_each(|key| builder.add(hash(format!("key{key:08}").as_bytes())));
            let section = builder.encode(offset);
            let extent = Extent { offset, len: u64::try_from(section.len()).unwrap() };
            let mut file = vec![0; usize::try_from(offset).unwrap()];
            file.extend_from_slice(&section);
            let filter = Filter::decode(&section, extent).unwrap();
            assert_eq!(filter.start % LINE_LEN, 0);
            for key in 0..count {
                assert!(filter.may_contain(&file, hash(format!("key{key:08}").as_bytes())));
            }
            let passed = (count..count + 100_000)
                .filter(|key| filter.may_contain(&file, hash(format!("key{key:08}").as_bytes())))
                .count();
            // 1 % in theory; twice that would be a bad hash.
            assert!(passed < 2_000, "{passed} of 100000 keys that are not there passed");
        }
    }

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_ne!(hash(b""), hash(b"\0"));
        assert_ne!(hash(b"12345678"), hash(b"12345678\0"));
        let first = hash(b"strandline");
        assert_eq!(
            first, 0x4bae_b615_28b3_fa84,
            "a table written before would not find its keys: {first:#x}"
        );
    }
}
