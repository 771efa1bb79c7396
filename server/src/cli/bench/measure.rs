//! Measuring: when each write should begin, how long it took, and what comes out of it.
//!
//! Times are kept in nanoseconds with three significant digits and shown in microseconds. Each thread
//! has its own histogram; they are added at the end.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::facts::Facts;
use crate::cli::error::{Error, Result};
use crate::cli::scratch;

/// The longest time that is told apart: an hour, in nanoseconds.
const TIME_MAX: u64 = 3_600_000_000_000;
/// Significant digits of a time.
const DIGITS: u8 = 3;
/// Sleeping is this inexact; the last part of a wait is spent yielding.
const SLEEP_SLACK: Duration = Duration::from_micros(100);
/// The longest sleep between two looks for an interrupt.
const LOOK: Duration = Duration::from_millis(100);
/// What is reported: name and quantile.
const QUANTILES: [(&str, f64); 5] = [
    ("p50_us", 0.5),
    ("p90_us", 0.9),
    ("p99_us", 0.99),
    ("p99_9_us", 0.999),
    ("p99_99_us", 0.9999),
];

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// By how many threads.
    pub(crate) threads: usize,
    /// For how long.
    pub(crate) time: Duration,
    /// Writes per second of all together, if bounded.
    pub(crate) rate: Option<u64>,
}

/// When the writes of one thread begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    ends: Instant,
    /// Time between two beginnings; none without a rate.
    step: Option<Duration>,
    /// When the next one should begin.
    due: Instant,
}

impl Pace {
    /// The pace of thread number `thread`, for `batch` writes at a time.
    pub(crate) fn new(plan: &Plan, started: Instant, thread: usize, batch: u64) -> Pace {
        let threads = u32::try_from(plan.threads).expect("few threads");
        let batch = u32::try_from(batch).expect("small batches");
        let between = |rate: u64| {
            let nanos = 1_000_000_000 * u128::from(threads) * u128::from(batch) / u128::from(rate);
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let step = plan.rate.map(between);
        // The threads begin one after the other, or all would come at once.
        let offset = step.map_or(Duration::ZERO, |step| step / threads);
        let due = started + offset * u32::try_from(thread).expect("few threads");
        Pace { ends: started + plan.time, step, due }
    }

    /// When the next write should have begun, if that is now or past; moves on by one.
    pub(crate) fn take_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let Some(step) = self.step else { return Some(now) };
        if self.due > now {
            return None;
        }
        let due = self.due;
        self.due += step;
        Some(due)
    }

    /// How long it is until the next write should begin.
    pub(crate) fn until_due(&self) -> Duration {
        match self.step {
            Some(_) => self.due.saturating_duration_since(Instant::now()),
            None => Duration::ZERO,
        }
    }

    /// Waits for the next beginning. None when the time is over.
    pub(crate) fn wait(&mut self) -> Option<Instant> {
        loop {
            if self.is_over() {
                return None;
            }
            if let Some(due) = self.take_due() {
                return Some(due);
            }
            match self.until_due().saturating_sub(SLEEP_SLACK) {
                Duration::ZERO => std::thread::yield_now(),
                time => std::thread::sleep(time.min(LOOK)),
            }
        }
    }

    /// Whether the time is over, or the process was asked to end.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.ends || scratch::check().is_err()
    }
}

/// Times of many writes.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub(crate) fn new() -> Times {
        let histogram = Histogram::new_with_bounds(1, TIME_MAX, DIGITS);
        Times(histogram.expect("the bounds are constants that work"))
    }

    /// Adds the write that should have begun at `due` and has just ended.
    pub(crate) fn note(&mut self, due: Instant) {
        let nanos = u64::try_from(due.elapsed().as_nanos()).unwrap_or(TIME_MAX);
        self.0.saturating_record(nanos);
    }

    fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("equal bounds");
    }

    /// Such a part of all took at most so many microseconds.
    pub(crate) fn micros_at(&self, quantile: f64) -> f64 {
        micros(self.0.value_at_quantile(quantile))
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }
}

/// Runs `work` on every thread of the plan and adds up the times. The result is how long it took in
/// all, to the end of the last write.
///
/// # Errors
///
/// The first error of a thread, or [`Error::Interrupted`].
pub(crate) fn run(
    plan: &Plan,
    batch: u64,
    work: &(dyn Fn(usize, &mut Pace, &mut Times) -> Result<()> + Sync),
) -> Result<(Times, Duration)> {
    let started = Instant::now();
    let results: Vec<Result<Times>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut times = Times::new();
                    let mut pace = Pace::new(plan, started, thread, batch);
                    work(thread, &mut pace, &mut times)?;
                    Ok(times)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("benchmarks do not panic")).collect()
    });
    let took = started.elapsed();
    scratch::check()?;
    let mut all = Times::new();
    for times in results {
        all.add(&times?);
    }
    match all.count() {
        0 => Err(Error::Usage { reason: "not a single write ended: try --seconds 10".into() }),
        _ => Ok((all, took)),
    }
}

/// What the log counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Durable writes.
    pub(crate) syncs: u64,
    /// Bytes handed to the disk by them.
    pub(crate) device_bytes: u64,
}

impl Counted {
    /// What was counted since `before`.
    pub(crate) fn since(self, before: Counted) -> Counted {
        Counted {
            syncs: self.syncs.saturating_sub(before.syncs),
            device_bytes: self.device_bytes.saturating_sub(before.device_bytes),
        }
    }
}

impl From<strandline_wal::Stats> for Counted {
    fn from(stats: strandline_wal::Stats) -> Counted {
        Counted { syncs: stats.syncs, device_bytes: stats.device_bytes }
    }
}

/// What a benchmark found.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was measured.
    pub(crate) target: &'static str,
    /// Further facts, in the order they are shown.
    pub(crate) facts: Vec<(&'static str, serde_json::Value)>,
    /// How long each write took.
    pub(crate) times: Times,
    /// How long all took.
    pub(crate) took: Duration,
    /// What the log counted, if it can be known.
    pub(crate) counted: Option<Counted>,
    /// Bytes of keys and values written.
    pub(crate) payload_bytes: u64,
}

impl Report {
    fn pairs(&self) -> Vec<(&'static str, serde_json::Value)> {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut pairs = vec![("bench", self.target.into())];
        pairs.extend(self.facts.iter().cloned());
        pairs.push(("ops", self.times.count().into()));
        pairs.push(("took_ms", millis.into()));
        pairs.push(("ops_per_s", (self.times.count().saturating_mul(1000) / millis).into()));
        for (name, quantile) in QUANTILES {
            pairs.push((name, micros(self.times.0.value_at_quantile(quantile)).into()));
        }
        pairs.push(("max_us", micros(self.times.0.max()).into()));
        pairs.push(("syncs", self.counted.map(|counted| counted.syncs).into()));
        pairs.push(("device_bytes", self.counted.map(|counted| counted.device_bytes).into()));
        pairs.push(("payload_bytes", self.payload_bytes.into()));
        pairs
    }

    /// As it is shown.
    pub(crate) fn facts(&self) -> Facts {
        Facts { pairs: self.pairs(), good: true }
    }
}

/// Nanoseconds as microseconds with one decimal.
fn micros(nanos: u64) -> f64 {
    f64::from(u32::try_from(nanos / 100).unwrap_or(u32::MAX)) / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { threads: 4, time: Duration::from_secs(3600), rate: Some(1000) };

    #[test]
    fn a_late_write_is_due_when_it_should_have_begun() {
        let started = Instant::now().checked_sub(Duration::from_secs(1)).expect("it is not 1970");
        let mut pace = Pace::new(&PLAN, started, 1, 1);
        assert_eq!(pace.take_due(), Some(started + Duration::from_millis(1)));
        assert_eq!(
            pace.take_due(),
            Some(started + Duration::from_millis(5)),
            "a quarter of the rate"
        );
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let started = Instant::now() + Duration::from_secs(3600);
        assert_eq!(Pace::new(&PLAN, started, 0, 1).take_due(), None);
        let fast = Plan { rate: None, ..PLAN };
        assert!(Pace::new(&fast, started, 0, 1).take_due().is_some(), "as fast as possible");
    }

    #[test]
    fn a_report_has_what_scripts_rely_on() {
        let mut times = Times::new();
        times.0.saturating_record(1_500);
        let report = Report {
            target: "wal",
            facts: vec![("threads", 1.into())],
            times,
            took: Duration::from_millis(500),
            counted: None,
            payload_bytes: 256,
        };
        let json = report.facts().json();
        assert_eq!(json["ops_per_s"], 2);
        assert_eq!(json["p99_us"], 1.5);
        assert!(json["syncs"].is_null() && json["device_bytes"].is_null());
        assert_eq!(json["payload_bytes"], 256);
        assert!(report.facts().table().contains("p99_99_us"));
    }
}
