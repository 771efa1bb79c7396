//! A hash that stays what it is: for digests that are compared between replicas and between runs.

/// FNV-1a over 64 bits, and a mixing step at the end of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Adds bytes, with their length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Hash {
        let mut word = self.0;
        for chunk in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            word = (word ^ u64::from_le_bytes(eight)).wrapping_mul(0x0000_0100_0000_01b3);
            word ^= word >> 29;
        }
        Hash(word).word(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
    }

    /// Adds a number.
    #[must_use]
    pub fn word(self, number: u64) -> Hash {
        let word = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Hash(word ^ (word >> 32))
    }

    /// The hash of everything added.
    pub fn get(self) -> u64 {
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^ (word >> 31)
    }
}

/// The hash of one pair of a state; a state's hash is all of its pairs' by exclusive or, so that it is
/// kept up to date with each change.
pub fn pair(key: &[u8], value: &[u8]) -> u64 {
    Hash::default().bytes(key).bytes(value).get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(pair(b"ab", b"c"), pair(b"a", b"bc"));
        assert_ne!(pair(b"a", b""), pair(b"", b"a"));
        assert_ne!(Hash::default().bytes(&[0; 8]).get(), Hash::default().bytes(&[0; 16]).get());
        assert_eq!(pair(b"key", b"value"), pair(b"key", b"value"));
    }
}
