//! Virtual time: an agenda of what happens when, and clocks that disagree about it.
//!
//! Nothing waits in a simulation. The agenda gives the next thing that happens, and then it is that
//! late. Things of the same moment happen in the order in which they were put there, so a run depends
//! on its seed alone.
//!
//! Each node has a [`Clock`]: its ticks are up to 30 % too fast or too slow, and its wall clock jumps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A moment, in microseconds since the beginning of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A thousandth of a second, in microseconds.
pub const MILLISECOND: u64 = 1000;
/// A second, in microseconds.
pub const SECOND: u64 = 1_000_000;

impl Time {
    /// So many microseconds later.
    #[must_use]
    pub fn after(self, span: u64) -> Time {
        Time(self.0.checked_add(span).expect("a run ends long before the end of time"))
    }

    /// How many microseconds have passed since `earlier`.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:3}.{:06}", self.0 / SECOND, self.0 % SECOND)
    }
}

/// What happens when.
#[derive(Debug)]
pub struct Agenda<E> {
    /// By moment, and within a moment by the order in which they were put here; and where each stands.
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// The things themselves: they are large, and stay where they are.
    places: Vec<Option<E>>,
    /// Places that are free.
    free: Vec<usize>,
    /// How many have ever been put here.
    count: u64,
    /// The moment of what was taken last. Invariant: nothing in `order` is earlier.
    now: Time,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            order: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
            count: 0,
            now: Time::default(),
        }
    }
}

impl<E> Agenda<E> {
    /// How late it is.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Lets something happen at a moment; at once if that has passed.
    pub fn at(&mut self, time: Time, event: E) {
        self.count += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(event);
        self.order.push(Reverse((time.max(self.now), self.count, place)));
    }

    /// Lets something happen so many microseconds from now.
    pub fn after(&mut self, span: u64, event: E) {
        self.at(self.now.after(span), event);
    }

    /// The next thing; it is that late then.
    pub fn take_next(&mut self) -> Option<E> {
        let Reverse((time, _, place)) = self.order.pop()?;
        assert!(time >= self.now, "time does not run backward");
        self.now = time;
        self.free.push(place);
        self.places[place].take()
    }
}

/// What a node takes for the time.
#[derive(Clone, Debug)]
pub struct Clock {
    /// How fast it runs, in parts of a thousand.
    rate: u32,
    /// What its wall clock is ahead, in milliseconds.
    ahead_ms: i64,
}

/// The wall clock at the beginning of a run: some day in 2025.
const EPOCH_MS: i64 = 1_750_000_000_000;

impl Clock {
    /// A clock that runs at so many parts of a thousand.
    pub fn new(rate: u32) -> Self {
        assert!((500..=2000).contains(&rate), "a clock, not a random number");
        Self { rate, ahead_ms: 0 }
    }

    /// How long, in true microseconds, this clock takes for a span.
    pub fn span(&self, span: u64) -> u64 {
        span * 1000 / u64::from(self.rate)
    }

    /// Microseconds that have passed by this clock, whatever it shows; it says nothing to other nodes.
    pub fn steady_us(&self, now: Time) -> u64 {
        u64::from(self.rate) * SECOND + now.0 * u64::from(self.rate) / 1000
    }

    /// Milliseconds since 1970, as this clock has it.
    pub fn wall_ms(&self, now: Time) -> u64 {
        let passed = i64::try_from(now.0 * u64::from(self.rate) / 1_000_000).unwrap_or(i64::MAX);
        u64::try_from(EPOCH_MS.saturating_add(passed).saturating_add(self.ahead_ms)).unwrap_or(0)
    }

    /// Lets the wall clock jump.
    pub fn jump(&mut self, by_ms: i64) {
        self.ahead_ms = self.ahead_ms.saturating_add(by_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_then_in_order() {
        let mut agenda = Agenda::default();
        agenda.after(20, "late");
        agenda.after(10, "first");
        agenda.after(10, "second");
        assert_eq!(agenda.take_next(), Some("first"));
        assert_eq!(agenda.now(), Time(10));
        // What should have happened already happens now.
        agenda.at(Time(3), "missed");
        assert_eq!(agenda.take_next(), Some("second"));
        assert_eq!(agenda.take_next(), Some("missed"));
        assert_eq!(agenda.now(), Time(10));
        assert_eq!(agenda.take_next(), Some("late"));
        assert_eq!(agenda.take_next(), None);
    }

    #[test]
    fn a_fast_clock_ticks_early_and_a_wall_clock_jumps() {
        let mut clock = Clock::new(1300);
        assert_eq!(clock.span(13_000), 10_000);
        let before = clock.wall_ms(Time(SECOND));
        assert_eq!(clock.wall_ms(Time(2 * SECOND)) - before, 1300);
        clock.jump(-3_600_000);
        assert_eq!(clock.wall_ms(Time(SECOND)), before - 3_600_000);
    }
}
