//! A data set whose every value can be told from its key: for benchmarks that read all back.
//!
//! Keys are numbers, scattered over the key space, so that writing them in turn gives compaction work
//! at all places. Values are pseudo-random, so that neither a disk nor the tables' compression can
//! shorten them, and begin with the number and the version they are of, so that a value of another
//! key, or an older one, is told apart.

use strandline_engine::{Batch, Db, Durability, KeyspaceId};

use super::to_usize;
use crate::cli::error::Result;
use crate::cli::scratch;

/// Odd, so that distinct numbers give distinct keys.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes of a key.
pub(crate) const KEY_LEN: u64 = 8;
/// Number and version in front of a value.
pub(crate) const STAMP_LEN: u64 = 16;
/// Bytes of values in one batch, about.
const BATCH_LEN: u64 = 64 << 10;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataSet {
    /// How many keys.
    pub(crate) count: u64,
    /// Bytes of a value.
    pub(crate) value_len: u64,
}

/// What reading back found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// As it should be.
    pub(crate) right: u64,
    /// Not there.
    pub(crate) missing: u64,
    /// Something else.
    pub(crate) wrong: u64,
}

impl Found {
    /// Adds what another thread found.
    pub(crate) fn add(&mut self, other: Found) {
        self.right += other.right;
        self.missing += other.missing;
        self.wrong += other.wrong;
    }

    /// Takes one value, or its absence.
    pub(crate) fn take(&mut self, value: Option<&[u8]>, expected: &[u8]) {
        match value {
            None => self.missing += 1,
            Some(value) if value == expected => self.right += 1,
            Some(_) => self.wrong += 1,
        }
    }
}

impl DataSet {
    /// As many keys as take about this many bytes.
    pub(crate) fn of_bytes(bytes: u64, value_len: u64) -> DataSet {
        let value_len = value_len.max(STAMP_LEN);
        DataSet { count: (bytes / (value_len + KEY_LEN)).max(1), value_len }
    }

    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.count * (self.value_len + KEY_LEN)
    }

    /// The key of a number.
    pub(crate) fn key(number: u64) -> [u8; 8] {
        number.wrapping_mul(SCATTER).to_le_bytes()
    }

    /// The number of a key, if it is one of ours.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        // The inverse modulo 2^64, by Newton's method: each step doubles the right bits.
        let inverse = (0..6).fold(SCATTER, |inverse, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(SCATTER.wrapping_mul(inverse)))
        });
        let key = u64::from_le_bytes(key.try_into().ok()?);
        let number = key.wrapping_mul(inverse);
        (number < self.count).then_some(number)
    }

    /// The value of a number, as of a version.
    pub(crate) fn value(&self, number: u64, version: u64) -> Vec<u8> {
        let len = to_usize(self.value_len);
        let mut value = Vec::with_capacity(len + 8);
        value.extend_from_slice(&number.to_le_bytes());
        value.extend_from_slice(&version.to_le_bytes());
        let mut state =
            number.wrapping_mul(SCATTER) ^ version.wrapping_mul(0xff51_afd7_ed55_8ccd) | 1;
        while value.len() < len {
            // Xorshift (Marsaglia): enough against compression.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend_from_slice(&state.to_le_bytes());
        }
        value.truncate(len);
        value
    }

    /// Puts the numbers, in batches, by several threads. What is acknowledged is on disk.
    ///
    /// # Errors
    ///
    /// The first of the store, or an interrupt.
    pub(crate) fn write(
        &self,
        db: &Db,
        numbers: impl Iterator<Item = u64> + Clone + Sync,
        version: u64,
        threads: usize,
    ) -> Result<()> {
        let batch_count = to_usize((BATCH_LEN / self.value_len).clamp(1, 256));
        in_parallel(threads, &|thread| {
            let mut numbers = numbers.clone().skip(thread).step_by(threads).peekable();
            while numbers.peek().is_some() {
                scratch::check()?;
                let mut batch = Batch::new();
                for number in numbers.by_ref().take(batch_count) {
                    let value = self.value(number, version);
                    batch.put(KeyspaceId::DEFAULT, &DataSet::key(number), &value)?;
                }
                db.write(&batch, Durability::Disk)?;
            }
            Ok(Found::default())
        })?;
        Ok(())
    }

    /// Gets every number, by several threads, and compares.
    ///
    /// # Errors
    ///
    /// The first of the store, or an interrupt.
    pub(crate) fn read(
        &self,
        db: &Db,
        threads: usize,
        version_of: &(dyn Fn(u64) -> u64 + Sync),
    ) -> Result<Found> {
        in_parallel(threads, &|thread| {
            let mut found = Found::default();
            let first = u64::try_from(thread).expect("few threads");
            for number in (first..self.count).step_by(threads) {
                scratch::check()?;
                let value = db.get(KeyspaceId::DEFAULT, &DataSet::key(number))?;
                let expected = self.value(number, version_of(number));
                found.take(value.as_deref(), &expected);
            }
            Ok(found)
        })
    }
}

/// Runs `work` with the number of each of `threads` threads and adds up what they found.
fn in_parallel(threads: usize, work: &(dyn Fn(usize) -> Result<Found> + Sync)) -> Result<Found> {
    let results: Vec<Result<Found>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("benchmarks do not panic")).collect()
    });
    let mut all = Found::default();
    for found in results {
        all.add(found?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_again_and_values_are_distinct() {
        let set = DataSet::of_bytes(1 << 20, 100);
        assert_eq!((set.count, set.bytes()), (9709, 9709 * 108));
        for number in [0, 1, 2, 77, set.count - 1] {
            assert_eq!(set.number(&DataSet::key(number)), Some(number));
            assert_eq!(set.value(number, 1).len(), 100);
            assert_ne!(set.value(number, 1)[16..], set.value(number, 2)[16..]);
            assert_ne!(set.value(number, 1)[16..], set.value(number + 1, 1)[16..]);
        }
        assert_eq!(set.number(&DataSet::key(set.count)), None);
        assert_eq!(set.number(b"short"), None);
    }
}
