//! Taking turns: the protocol that makes two numbers from one noisy machine comparable.
//!
//! Every contestant runs once in every round; who goes first is drawn anew each time, from a seed.
//! So a disturbance that lasts longer than a round hits all of them, and what one leaves behind
//! (dirty pages, a hot disk) does not always fall on the same other one. Before each round the bare
//! disk is measured ([`Probe`]); a round whose probe is off the median of all by more than
//! `PROBE_OFF_MAX` is dropped and counted.
//!
//! What comes out is a ratio per round, ours over theirs. Its median is the result, its minimum and
//! maximum say how far to trust it. An absolute number alone says nothing.

use std::time::Duration;

use crate::Result;
use crate::probe::Probe;
use crate::random::Random;

/// A round is dropped when its probe is this many times slower or faster than the median.
const PROBE_OFF_MAX: u32 = 3;

/// One who takes turns.
pub trait Contestant {
    /// The name in the report.
    fn name(&self) -> &'static str;

    /// Works for as long as one turn lasts.
    ///
    /// # Errors
    ///
    /// If it cannot; it is left out of the remaining rounds then.
    fn turn(&mut self) -> Result<Turn>;
}

/// Which part of the operations took at most a latency of [`Turn::latency_us`].
pub const QUANTILES: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// What one contestant did in one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// Operations acknowledged per second.
    pub ops_per_s: f64,
    /// 99 of 100 took at most this long, in microseconds.
    pub p99_us: f64,
    /// The system call that made the acknowledgement durable.
    pub durable_by: String,
    /// Latencies at [`QUANTILES`], in microseconds; empty if they are not known.
    pub latency_us: Vec<f64>,
    /// Flushes of the device's cache for each operation, if it counts them.
    pub flushes_per_op: Option<f64>,
    /// Synced writes or calls of sync that it made itself for each operation, if it counts them.
    pub syncs_per_op: Option<f64>,
    /// Bytes that the device wrote for each byte of a value.
    pub device_bytes_per_payload_byte: Option<f64>,
    /// What else was counted, where a row is about that: less is better.
    pub counted: Option<f64>,
    /// What that count may be at most, where that was promised.
    pub counted_max: Option<f64>,
}

/// What became of a contestant: a turn per round that was kept, or why there are none.
#[derive(Debug)]
pub struct Score {
    /// The contestant.
    pub name: &'static str,
    /// Its turns, in the order of the rounds; or the first error.
    pub turns: std::result::Result<Vec<Turn>, String>,
}

/// All rounds of one comparison.
#[derive(Debug)]
pub struct Rounds {
    /// The contestants in the order they were given; ours is the first.
    pub scores: Vec<Score>,
    /// How many rounds count.
    pub kept: usize,
    /// How many did not, because of their probe.
    pub dropped: usize,
    /// The median probe.
    pub probe: Duration,
}

impl Rounds {
    /// Lets the contestants take turns, `count` times.
    ///
    /// # Errors
    ///
    /// If the disk cannot be probed. A contestant's own error is its score.
    ///
    /// # Panics
    ///
    /// If there is no round or no contestant.
    pub fn run(
        contestants: &mut [Box<dyn Contestant>],
        count: usize,
        seed: u64,
        probe: &mut Probe,
    ) -> Result<Rounds> {
        assert!(count > 0, "at least one round");
        assert!(!contestants.is_empty(), "at least one contestant");
        let mut random = Random::new(seed);
        let mut probes = Vec::with_capacity(count);
        let mut scores: Vec<Score> = contestants
            .iter()
            .map(|contestant| Score { name: contestant.name(), turns: Ok(Vec::new()) })
            .collect();
        for _ in 0..count {
            probes.push(probe.measure()?);
            let mut order: Vec<usize> = (0..contestants.len()).collect();
            random.shuffle(&mut order);
            for place in order {
                let score = &mut scores[place];
                if let Ok(turns) = &mut score.turns {
                    match contestants[place].turn() {
                        Ok(turn) => turns.push(turn),
                        Err(error) => score.turns = Err(error.to_string()),
                    }
                }
            }
        }
        Ok(Rounds::judge(scores, &probes))
    }

    /// Of all but ours, the one with the highest median.
    pub fn best_of_others(&self) -> Option<&Score> {
        let rate = |score: &Score| {
            let turns = score.turns.as_ref().ok().filter(|turns| !turns.is_empty())?;
            Some(median(turns.iter().map(|turn| turn.ops_per_s).collect()))
        };
        let rated = self.scores.iter().skip(1).filter_map(|score| Some((score, rate(score)?)));
        rated.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(score, _)| score)
    }

    /// Drops the rounds whose probe is off.
    fn judge(mut scores: Vec<Score>, probes: &[Duration]) -> Rounds {
        let mut sorted = probes.to_vec();
        sorted.sort_unstable();
        let median = sorted[sorted.len() / 2];
        let keep: Vec<bool> = probes
            .iter()
            .map(|probe| *probe <= median * PROBE_OFF_MAX && median <= *probe * PROBE_OFF_MAX)
            .collect();
        for score in &mut scores {
            if let Ok(turns) = &mut score.turns {
                assert_eq!(turns.len(), keep.len(), "a turn per round");
                let mut keep = keep.iter();
                turns.retain(|_| *keep.next().expect("a verdict per turn"));
            }
        }
        let kept = keep.iter().filter(|keep| **keep).count();
        Rounds { scores, kept, dropped: probes.len() - kept, probe: median }
    }
}

/// The middle of some numbers; of an even count, the mean of the two in the middle.
///
/// # Panics
///
/// If there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "no numbers have no median");
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn turn(ops_per_s: f64) -> Turn {
        Turn { ops_per_s, p99_us: 1.0, durable_by: "nothing".into(), ..Turn::default() }
    }

    fn millis(probes: &[u64]) -> Vec<Duration> {
        probes.iter().map(|probe| Duration::from_millis(*probe)).collect()
    }

    #[test]
    fn a_round_with_a_probe_far_off_is_dropped_from_every_score() {
        let score = |name| Score { name, turns: Ok(vec![turn(1.0), turn(2.0), turn(3.0)]) };
        let rounds = Rounds::judge(vec![score("a"), score("b")], &millis(&[10, 31, 9]));
        assert_eq!((rounds.kept, rounds.dropped), (2, 1));
        for score in rounds.scores {
            assert_eq!(score.turns.unwrap(), [turn(1.0), turn(3.0)]);
        }
        // Too fast is as suspicious: that write never reached the disk.
        let rounds = Rounds::judge(vec![score("a")], &millis(&[10, 2, 9]));
        assert_eq!((rounds.kept, rounds.dropped), (2, 1));
    }

    #[test]
    fn everybody_runs_in_every_round_and_a_failure_is_a_score() {
        struct Runner(&'static str, usize);
        impl Contestant for Runner {
            fn name(&self) -> &'static str {
                self.0
            }
            fn turn(&mut self) -> Result<Turn> {
                self.1 += 1;
                match (self.0, self.1) {
                    ("tired", 2) => Err(Error::Unreadable { output: "yawn".into() }),
                    _ => Ok(turn(2.0)),
                }
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let mut probe = Probe::open(dir.path()).unwrap();
        let mut runners: Vec<Box<dyn Contestant>> =
            vec![Box::new(Runner("steady", 0)), Box::new(Runner("tired", 0))];
        let rounds = Rounds::run(&mut runners, 5, 7, &mut probe).unwrap();
        assert_eq!(rounds.kept + rounds.dropped, 5);
        assert_eq!(rounds.scores[0].turns.as_ref().unwrap().len(), rounds.kept);
        assert!(rounds.scores[1].turns.as_ref().unwrap_err().contains("yawn"));
    }

    #[test]
    fn the_best_of_the_others_is_not_ours_and_no_failure() {
        let score = |name, rates: &[f64]| Score {
            name,
            turns: Ok(rates.iter().map(|rate| turn(*rate)).collect()),
        };
        let failed = Score { name: "broken", turns: Err("no".into()) };
        let scores = vec![
            score("ours", &[9.0]),
            score("a", &[1.0, 2.0, 8.0]),
            score("b", &[3.0; 3]),
            failed,
        ];
        let mut rounds = Rounds { scores, kept: 3, dropped: 0, probe: Duration::ZERO };
        assert_eq!(rounds.best_of_others().map(|best| best.name), Some("b"));
        rounds.scores.truncate(1);
        assert!(rounds.best_of_others().is_none());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]).total_cmp(&2.0), std::cmp::Ordering::Equal);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]).total_cmp(&2.5), std::cmp::Ordering::Equal);
    }
}
