//! How often which value was seen, in buckets that are known beforehand.

/// Buckets of each power of two: a value is off by an eighth at the most.
const PARTS: usize = 4;
const PARTS_LOG2: u32 = 2;

/// Powers of two told apart: values from 2^36 on share the last bucket.
const POWERS: usize = 36;

const BUCKETS: usize = POWERS * PARTS;

/// Counts of values, by size. It has a fixed size, allocates nothing and is cheap to copy.
///
/// ```
/// let mut histogram = strandline_wal::Histogram::default();
/// (1..=1000).for_each(|value| histogram.record(value));
/// assert_eq!((histogram.count(), histogram.max()), (1000, 1000));
/// assert!((448..=576).contains(&histogram.percentile(50.0)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket_of(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean; 0 without values.
    pub fn mean(&self) -> u64 {
        self.sum.checked_div(self.count).unwrap_or(0)
    }

    /// The greatest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A value that about `percent` percent of all do not exceed; 0 without values.
    pub fn percentile(&self, percent: f64) -> u64 {
        let thousandths = (percent.clamp(0.0, 100.0) * 1000.0).round();
        // A whole number from 0 to 100,000: the conversion is exact.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let thousandths = thousandths as u128;
        let rank = (u128::from(self.count) * thousandths).div_ceil(100_000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return upper_of(bucket).min(self.max);
            }
        }
        self.max
    }

    /// Takes in the values of another one.
    pub fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// The buckets that are not empty: the greatest value of each, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let all = self.buckets.iter().enumerate();
        all.filter(|(_, count)| **count > 0).map(|(bucket, count)| (upper_of(bucket), *count))
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Histogram")
            .field("count", &self.count)
            .field("p50", &self.percentile(50.0))
            .field("p99", &self.percentile(99.0))
            .field("max", &self.max)
            .finish()
    }
}

/// Values below `PARTS` have a bucket each; above, the highest bits decide.
fn bucket_of(value: u64) -> usize {
    let Some(power) = value.checked_ilog2().filter(|power| *power >= PARTS_LOG2) else {
        return usize::try_from(value).expect("a small value");
    };
    let part = usize::try_from(value >> (power - PARTS_LOG2)).expect("a few bits") - PARTS;
    let power = usize::try_from(power - PARTS_LOG2).expect("less than 64") + 1;
    (power * PARTS + part).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn upper_of(bucket: usize) -> u64 {
    let number = |count: usize| u64::try_from(count).expect("a small number");
    match bucket / PARTS {
        0 => number(bucket),
        _ if bucket == BUCKETS - 1 => u64::MAX,
        power => {
            let shift = power - 1;
            (number(PARTS + bucket % PARTS + 1) << shift) - 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        let mut from = 0;
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(from), bucket, "{from}");
            assert_eq!(bucket_of(upper_of(bucket)), bucket, "{bucket}");
            from = upper_of(bucket).wrapping_add(1);
        }
        assert_eq!(from, 0, "the last one goes up to the greatest number");
    }

    #[test]
    fn percentiles_are_near_and_never_beyond_the_greatest() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile(99.0), histogram.mean()), (0, 0));
        for value in 1..=10_000 {
            histogram.record(value);
        }
        for percent in [1_u32, 50, 90, 99, 100] {
            let exact = u64::from(percent) * 100;
            let found = histogram.percentile(f64::from(percent));
            assert!(found >= exact && found <= exact + exact / 4, "{percent}: {found}");
        }
        assert_eq!(histogram.percentile(100.0), 10_000);
        let mut twice = histogram;
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.max(), twice.mean()), (20_000, 10_000, 5000));
    }
}
