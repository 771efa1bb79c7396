//! Seeded randomness for the simulated disk and for tests.
//!
//! One 64-bit counter and a mixing function (SplitMix64): small enough to be read at a glance, good
//! enough for drawing faults, the same on every machine. Equal seeds give equal sequences for ever,
//! because a seed in a report of a failure must still replay it next year. It is no source of secrets.

/// A sequence of numbers that depends on its seed alone.
///
/// ```
/// use strandline_wal::disk::simulated::Random;
///
/// let (mut one, mut other) = (Random::new(7), Random::new(7));
/// assert_eq!(one.next_u64(), other.next_u64());
/// assert!(one.below(6) < 6);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random {
    /// The counter; every draw advances it by [`STEP`].
    state: u64,
}

/// An odd number close to 2^64 divided by the golden ratio: its multiples are spread evenly.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// How many parts a chance is told in.
pub const PER_MILLE: u32 = 1000;

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number of the sequence.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number from 0 up to, not including, `bound`.
    ///
    /// # Panics
    ///
    /// If `bound` is 0, below which there is nothing.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits is 64 bits")
    }

    /// An index into something of `len` parts.
    ///
    /// # Panics
    ///
    /// If `len` is 0.
    pub fn index(&mut self, len: usize) -> usize {
        let bound = u64::try_from(len).expect("a length fits 64 bits");
        usize::try_from(self.below(bound)).expect("less than a length")
    }

    /// True in `per_mille` of a thousand draws: never for 0, always for 1000.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.below(u64::from(PER_MILLE)) < u64::from(per_mille)
    }

    /// Fills `bytes` with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            let noise = self.next_u64().to_le_bytes();
            piece.copy_from_slice(&noise[..piece.len()]);
        }
    }

    /// A sequence of its own that depends on this one, for a part that draws independently.
    #[must_use]
    pub fn split(&mut self) -> Random {
        Random::new(mix(self.next_u64()))
    }

    /// What the rest of the sequence depends on; equal states draw equal numbers.
    pub(super) fn state(&self) -> u64 {
        self.state
    }
}

/// Spreads every bit of `word` over the whole result.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_stay_what_they_are() {
        // The first numbers of seed 0; a change here makes every reported seed worthless.
        let mut random = Random::new(0);
        assert_eq!(random.next_u64(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next_u64(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn draws_stay_in_bounds_and_reach_them() {
        let mut random = Random::new(1);
        let mut seen = [0_u32; 5];
        for _ in 0..5000 {
            seen[random.index(5)] += 1;
        }
        for count in seen {
            assert!((800..1200).contains(&count), "uneven: {seen:?}");
        }
    }

    #[test]
    fn chances_keep_their_ends_and_their_middle() {
        let mut random = Random::new(2);
        assert!((0..1000).all(|_| !random.chance(0)));
        assert!((0..1000).all(|_| random.chance(PER_MILLE)));
        let hits = (0..10_000).filter(|_| random.chance(100)).count();
        assert!((850..1150).contains(&hits), "{hits} of 10000 at a chance of 100 per mille");
    }

    #[test]
    fn fill_and_split_differ_from_their_parent() {
        let mut random = Random::new(3);
        let mut noise = [0_u8; 13];
        random.fill(&mut noise);
        assert_ne!(noise, [0; 13]);
        let mut child = random.split();
        assert_ne!(child.next_u64(), random.next_u64());
    }
}
