//! What each ratio must reach.
//!
//! A floor holds if the *lower end of the interval* in which the median is believed to lie is at or above
//! it: see [`interval`]. The aim is to leave the floors far behind.

/// The two sides of the interval for a median leave out one case in twenty together.
const LEFT_OUT: f64 = 0.05;

/// What ours over theirs must reach; none where nothing was promised.
pub fn floor(
    workload: &str,
    concurrency: usize,
    pipeline: Option<usize>,
    peer: &str,
) -> Option<f64> {
    let floor = match (workload, concurrency, pipeline, peer) {
        ("append", 1, _, "raft-engine") => 1.0,
        ("append", 8, _, "raft-engine") => 1.2,
        ("append", 64, _, "raft-engine") => 1.3,
        ("append", 256, _, "raft-engine") => 1.7,
        ("block", 1 | 4 | 16, _, "disk") => 0.85,
        ("large", _, _, "disk") => 0.9,
        ("rung", _, _, "best-forced") => 0.95,
        ("reopen", _, _, "raft-engine") => 5.0,
        ("put", 1, _, "rocksdb") => 1.3,
        ("put", 8, _, "rocksdb") => 1.5,
        ("put", 64, _, "rocksdb") => 2.0,
        ("put", 1, _, "fjall" | "redb" | "lmdb") => 1.0,
        ("put", 8, _, "fjall" | "redb" | "lmdb") => 3.0,
        ("put", 64, _, "fjall" | "redb" | "lmdb") => 10.0,
        ("set", 64, None, "etcd") => 5.0,
        ("set", 512, None, "etcd") => 10.0,
        ("set", 1, Some(1), "redis-server") => 1.2,
        ("set", 64, Some(1), "redis-server") => 1.1,
        ("set", 64, Some(16), "redis-server") => 1.0,
        ("get", 64, Some(1 | 16), "redis-server") => 0.9,
        _ => return None,
    };
    Some(floor)
}

/// What ours over theirs must not pass, where less is better.
pub fn ceiling(workload: &str, peer: &str) -> Option<f64> {
    match (workload, peer) {
        ("index-memory", "raft-engine") => Some(0.25),
        _ => None,
    }
}

/// The interval in which the median lies in 19 cases of 20, from so many samples, whatever their
/// distribution: from the k-th smallest to the k-th largest, with the largest k for which it holds. Under six
/// samples not even the whole range is enough; it is what there is.
///
/// # Panics
///
/// If there are no samples.
pub fn interval(samples: &[f64]) -> (f64, f64) {
    assert!(!samples.is_empty(), "no samples have no interval");
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // A sample is below the median as often as a coin shows heads. The chance that fewer than k of n are:
    let count = f64::from(u32::try_from(sorted.len()).unwrap_or(u32::MAX));
    let mut chance = 0.5_f64.powf(count);
    let (mut below, mut heads, mut tails) = (0.0, 0.0, count);
    let mut k = 0;
    loop {
        below += chance;
        if below * 2.0 > LEFT_OUT || k >= sorted.len() / 2 {
            break;
        }
        k += 1;
        heads += 1.0;
        chance *= tails / heads;
        tails -= 1.0;
    }
    let k = k.max(1) - 1;
    (sorted[k], sorted[sorted.len() - 1 - k])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: u32) -> Vec<f64> {
        (1..=count).rev().map(f64::from).collect()
    }

    #[test]
    fn the_interval_of_a_median_is_that_of_the_textbooks() {
        let of = |count| interval(&numbers(count));
        // Tables of the sign test: 9 samples leave out one at each end, 15 three, 25 seven.
        assert_eq!(of(9), (2.0, 8.0));
        assert_eq!(of(15), (4.0, 12.0));
        assert_eq!(of(25), (8.0, 18.0));
        assert_eq!(of(8), (1.0, 8.0));
        // Too few: all there is.
        assert_eq!(of(5), (1.0, 5.0));
        assert_eq!(of(1), (1.0, 1.0));
        assert_eq!(of(2), (1.0, 2.0));
    }

    #[test]
    fn floors_are_those_of_the_rows_that_are_made() {
        assert_eq!(floor("append", 256, None, "raft-engine"), Some(1.7));
        assert_eq!(floor("append", 256, None, "disk"), None);
        assert_eq!(floor("set", 64, None, "etcd"), Some(5.0));
        assert_eq!(floor("set", 64, Some(1), "redis-server"), Some(1.1));
        assert_eq!(ceiling("index-memory", "raft-engine"), Some(0.25));
    }
}
