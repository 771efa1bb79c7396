//! How many durable writes are in flight at once, and how large a group has grown when it goes: found
//! while the log runs.
//!
//! More writes in flight keep the disk busier; fewer let groups grow, so that a write carries more
//! records and costs less processor time for each. Which is better depends on the disk, on how many
//! wait and on what the rest of the machine does, so it is tried: now and then the neighbouring depth
//! (half or twice) takes turns with the present one, a window of completions each, and takes its
//! place if clearly more bytes were acknowledged per second.
//!
//! ```text
//! depth 2 | 2  4  2  4  2 | better: 4  4  8  4  8  4 | worse: 4  4  4  4 ... (twice as long until the next trial)
//! ```
//!
//! The target size follows from the depth: what is in flight and waiting, shared out between the
//! groups in flight and the one that fills. It is a function of what it is told: time is passed in.
//! Nothing here is ever waited for: with nothing in flight a group goes at once.

use std::time::Duration;

/// Completions in a window, and how long it lasts at the least: enough that chance evens out.
const WINDOW_SYNCS: u32 = 48;
const WINDOW_TIME: Duration = Duration::from_millis(8);

/// Windows of a trial: the present depth and the other in turn, the present one first and last.
const TRIAL_WINDOWS: u32 = 5;

/// Windows until the next trial: doubled whenever the present depth was confirmed.
const PAUSE_MIN: u32 = 3;
const PAUSE_MAX: u32 = 96;

/// By how many percent the other depth must be better. Less is chance.
const GAIN_PERCENT: u64 = 5;

/// The depth to begin with, if the disk bears it.
const DEPTH_FIRST: usize = 2;

/// Why a group was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing was in flight.
    Idle,
    /// It had reached the target size.
    Size,
    /// It had waited for long enough.
    Age,
}

/// What is in flight and waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Writes in flight.
    pub flights: usize,
    /// Bytes in flight and pending.
    pub outstanding: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pacing {
    /// What the disk bears.
    depth_max: usize,
    /// Writes per second beyond which none goes beside another; 0 for no bound.
    iops_max: u32,
    /// Whether no other depth is tried.
    is_fixed: bool,
    /// The depth in force; during a trial it may be the other one.
    depth: usize,
    /// How long a write takes, smoothed.
    sync: Duration,
    /// Bytes in flight and pending, smoothed.
    outstanding: u64,
    /// When the last write was submitted.
    submitted: Duration,
    window: Window,
    trial: Option<Trial>,
    /// Windows until the next trial, and how many that was last.
    pause: u32,
    pause_last: u32,
    /// Whether the next trial is of a greater depth.
    up: bool,
    /// The rate of the last window outside of trials.
    rate: u64,
}

#[derive(Debug, Default)]
struct Window {
    start: Duration,
    bytes: u64,
    syncs: u32,
    /// Most writes in flight when one was submitted.
    flights_max: usize,
    /// Whether something waited for the depth.
    is_bound: bool,
}

#[derive(Debug)]
struct Trial {
    present: usize,
    other: usize,
    /// Windows that have ended.
    windows: u32,
    /// Sums of rates.
    rate_present: u64,
    rate_other: u64,
}

impl Pacing {
    /// For a disk that bears this depth. `fixed` is 0 if the depth is to be found, `iops_max` is 0 for
    /// no bound.
    pub(crate) fn new(depth_max: usize, fixed: usize, iops_max: u32) -> Self {
        assert!(depth_max > 0, "a disk bears one write at least");
        Self {
            depth_max,
            iops_max,
            is_fixed: fixed > 0,
            depth: if fixed > 0 { fixed } else { DEPTH_FIRST }.min(depth_max),
            sync: Duration::ZERO,
            outstanding: 0,
            submitted: Duration::ZERO,
            window: Window::default(),
            trial: None,
            pause: PAUSE_MIN,
            pause_last: PAUSE_MIN,
            up: true,
            rate: 0,
        }
    }

    /// The depth in force.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// Whether one more write may go beside those in flight.
    pub(crate) fn has_room(&self, now: Duration, flights: usize) -> bool {
        if flights == 0 {
            return true;
        }
        let apart = match self.iops_max {
            0 => Duration::ZERO,
            bound => Duration::from_secs(1) / bound,
        };
        flights < self.depth && now.saturating_sub(self.submitted) >= apart
    }

    /// Why a group of `len` bytes that somebody has waited for since `opened` is to go now, if it is.
    pub(crate) fn is_due(
        &self,
        now: Duration,
        flights: usize,
        len: usize,
        opened: Duration,
    ) -> Option<Why> {
        let parts = u32::try_from(self.depth).unwrap_or(u32::MAX);
        if flights == 0 {
            Some(Why::Idle)
        } else if len >= self.target_len() {
            Some(Why::Size)
        } else if now.saturating_sub(opened) > self.sync / parts {
            Some(Why::Age)
        } else {
            None
        }
    }

    /// How large a group grows while others are in flight, in bytes.
    pub(crate) fn target_len(&self) -> usize {
        let groups = u64::try_from(self.depth).unwrap_or(u64::MAX).saturating_add(1);
        usize::try_from(self.outstanding / groups).unwrap_or(usize::MAX)
    }

    /// Something waits although nothing may go: the depth is a bound.
    pub(crate) fn is_bound(&mut self) {
        self.window.is_bound = true;
    }

    /// A write was submitted; `load` counts it.
    pub(crate) fn submitted(&mut self, now: Duration, load: Load) {
        let outstanding = u64::try_from(load.outstanding).unwrap_or(u64::MAX);
        self.outstanding = smoothed(self.outstanding, outstanding);
        // A log that was at rest begins a window anew: the rest is no doing of the depth.
        let is_rested = now.saturating_sub(self.submitted) > WINDOW_TIME;
        if self.window.syncs == 0 || (load.flights <= 1 && is_rested) {
            self.window = Window { start: now, ..Window::default() };
        }
        self.window.flights_max = self.window.flights_max.max(load.flights);
        self.submitted = now;
    }

    /// A write has ended that took `took`, and `bytes` have become durable by it.
    pub(crate) fn completed(&mut self, now: Duration, took: Duration, bytes: u64) {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sync = Duration::from_nanos(smoothed(nanos(self.sync), nanos(took)));
        self.window.bytes += bytes;
        self.window.syncs += 1;
        let lasted = now.saturating_sub(self.window.start);
        if self.window.syncs >= WINDOW_SYNCS && lasted >= WINDOW_TIME {
            let micros = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX).max(1);
            let rate = self.window.bytes.saturating_mul(1_000_000) / micros;
            let ended =
                std::mem::replace(&mut self.window, Window { start: now, ..Window::default() });
            self.window_ended(rate, &ended);
        }
    }

    fn window_ended(&mut self, rate: u64, window: &Window) {
        if let Some(trial) = &mut self.trial {
            if trial.windows.is_multiple_of(2) {
                trial.rate_present = trial.rate_present.saturating_add(rate);
            } else {
                trial.rate_other = trial.rate_other.saturating_add(rate);
            }
            trial.windows += 1;
            self.depth = if trial.windows.is_multiple_of(2) { trial.present } else { trial.other };
            if trial.windows == TRIAL_WINDOWS {
                self.judge();
            }
            return;
        }
        // Another load: what was found is worth less.
        if rate > self.rate.saturating_mul(2) || rate < self.rate / 2 {
            self.pause_last = PAUSE_MIN;
            self.pause = self.pause.min(PAUSE_MIN);
        }
        self.rate = rate;
        self.pause = self.pause.saturating_sub(1);
        if self.pause == 0 {
            self.trial = self.next_trial(window);
            self.pause = self.pause_last;
        }
    }

    /// The other depth to try: one that would make a difference by what was seen last.
    fn next_trial(&mut self, seen: &Window) -> Option<Trial> {
        if self.is_fixed {
            return None;
        }
        let present = self.depth;
        let (greater, smaller) = ((present * 2).min(self.depth_max), present / 2);
        let up = seen.is_bound && greater > present;
        let down = smaller > 0 && seen.flights_max > smaller;
        let other = match (up, down) {
            (false, false) => return None,
            (true, false) => greater,
            (false, true) => smaller,
            (true, true) if self.up => greater,
            (true, true) => smaller,
        };
        self.up = other > present;
        Some(Trial { present, other, windows: 0, rate_present: 0, rate_other: 0 })
    }

    fn judge(&mut self) {
        let Some(trial) = self.trial.take() else { return };
        let others = u64::from(TRIAL_WINDOWS / 2);
        let presents = u64::from(TRIAL_WINDOWS) - others;
        let present = trial.rate_present / presents;
        let other = trial.rate_other / others;
        if other > present.saturating_add(present / 100 * GAIN_PERCENT) {
            self.depth = trial.other;
            self.pause_last = PAUSE_MIN;
        } else {
            self.depth = trial.present;
            self.up = !self.up;
            self.pause_last = (self.pause_last * 2).min(PAUSE_MAX);
        }
        self.pause = self.pause_last;
    }
}

/// An eighth of the way from `old` to `new`; all of it from nothing.
fn smoothed(old: u64, new: u64) -> u64 {
    if old == 0 { new } else { old - old / 8 + new / 8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a disk whose rate is a function of the depth complete writes for some seconds.
    fn run(pacing: &mut Pacing, seconds: u64, rate: impl Fn(usize) -> u64) -> Vec<usize> {
        let mut now = Duration::ZERO;
        let mut depths = Vec::new();
        while now < Duration::from_secs(seconds) {
            let depth = pacing.depth();
            pacing.submitted(now, Load { flights: depth, outstanding: 64 * 256 });
            pacing.is_bound();
            let took = Duration::from_micros(100);
            now += took;
            pacing.completed(now, took, rate(depth) / 10_000);
            if depths.last() != Some(&depth) {
                depths.push(depth);
            }
        }
        depths
    }

    #[test]
    fn finds_the_depth_at_which_most_is_acknowledged() {
        for best in [1_usize, 2, 4, 8, 16] {
            let mut pacing = Pacing::new(16, 0, 0);
            let rate = |depth: usize| {
                let distance = depth.ilog2().abs_diff(best.ilog2());
                200_000_000 - u64::from(distance) * 30_000_000
            };
            run(&mut pacing, 20, rate);
            assert!(pacing.trial.is_some() || pacing.depth() == best, "{best}: {pacing:?}");
            let present = pacing.trial.map_or(pacing.depth, |trial| trial.present);
            assert_eq!(present, best);
        }
    }

    #[test]
    fn where_it_makes_no_difference_it_stays_and_tries_ever_more_seldom() {
        let mut pacing = Pacing::new(16, 0, 0);
        let changes = run(&mut pacing, 60, |_| 100_000_000).len();
        assert_eq!(pacing.trial.map_or(pacing.depth, |trial| trial.present), DEPTH_FIRST);
        assert!(changes < 400, "{changes} changes in 7,500 windows");
    }

    #[test]
    fn a_log_that_one_thread_uses_tries_nothing() {
        let mut pacing = Pacing::new(16, 0, 0);
        let mut now = Duration::ZERO;
        for _ in 0..100_000 {
            pacing.submitted(now, Load { flights: 1, outstanding: 256 });
            now += Duration::from_micros(100);
            pacing.completed(now, Duration::from_micros(100), 256);
            assert_eq!(pacing.depth(), DEPTH_FIRST);
        }
    }

    #[test]
    fn a_group_goes_when_idle_large_or_old() {
        let mut pacing = Pacing::new(4, 0, 0);
        let micros = Duration::from_micros;
        pacing.submitted(micros(0), Load { flights: 1, outstanding: 3000 });
        pacing.completed(micros(100), micros(100), 3000);
        assert_eq!(pacing.target_len(), 1000);
        let due =
            |flights, len, age: u64| pacing.is_due(micros(500), flights, len, micros(500 - age));
        assert_eq!(due(0, 1, 0), Some(Why::Idle));
        assert_eq!(due(1, 1000, 0), Some(Why::Size));
        assert_eq!(due(1, 999, 50), None);
        assert_eq!(due(1, 999, 51), Some(Why::Age));
    }

    #[test]
    fn the_ceiling_holds_back_only_what_would_go_beside_another() {
        let mut pacing = Pacing::new(4, 0, 1000);
        pacing.submitted(Duration::from_millis(5), Load { flights: 1, outstanding: 1 });
        assert!(pacing.has_room(Duration::from_millis(5), 0));
        assert!(!pacing.has_room(Duration::from_micros(5900), 1));
        assert!(pacing.has_room(Duration::from_millis(6), 1));
        assert!(!pacing.has_room(Duration::from_millis(6), 2), "the depth to begin with");
    }
}
