//! Whether the calls on one register fit into one order that time allows.
//!
//! The search is that of Wing and Gong with the memory of Lowe: take a call that may be first, that is
//! one that began before any other ended; see whether its outcome fits the register as it is; go on
//! with the rest; if nothing fits, step back. Which calls were taken and what the register was then is
//! remembered, and no such place is searched twice. Registers do not interact, so each is checked alone.
//!
//! A write of unknown outcome may be taken at any time after it began, or never. One whose value
//! nobody ever saw is left out, as if it came last: that changes no verdict and saves most of the search.
//!
//! The search can take exponential time. It gives up after a number of steps, says so, and is counted.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::history::{Asked, Call, History, Told};
use crate::operation::Action;
use crate::violation::{Checker, Verdict, Violation};

/// How many places are searched for one register before it is given up: a second or so.
const PLACES_MAX: usize = 400_000;

/// What has been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Calls on registers that were decided.
    pub operations: u64,
    /// Registers decided.
    pub registers: u64,
    /// Registers given up.
    pub inconclusive: u64,
}

/// Checks every register of a history.
///
/// # Errors
///
/// The first register whose calls fit into no order.
pub fn check(history: &History) -> Verdict<Checked> {
    let mut registers: BTreeMap<u16, Vec<Call>> = BTreeMap::new();
    // Reads that may be stale are checked for themselves.
    let is_strict = |call: &&Call| !matches!(call.asked, Asked::Stale { .. });
    for call in history.calls().iter().filter(is_strict) {
        registers.entry(call.asked.key()).or_default().push(*call);
    }
    let mut checked = Checked::default();
    for (key, calls) in registers {
        let calls = relevant(&calls);
        match Search::new(&calls).run(PLACES_MAX) {
            Some(true) => {
                checked.registers += 1;
                checked.operations += u64::try_from(calls.len()).unwrap_or(u64::MAX);
            }
            None => checked.inconclusive += 1,
            Some(false) => {
                let reason = format!("no order fits the calls on register {key}: {}", tell(&calls));
                return Err(Violation::new(Checker::Linearizability, reason));
            }
        }
    }
    Ok(checked)
}

/// Leaves out what says nothing: reads without an answer, writes that were not done, and writes of
/// unknown outcome that nobody saw.
fn relevant(calls: &[Call]) -> Vec<Call> {
    let seen: BTreeSet<u64> = calls
        .iter()
        .filter_map(|call| match (call.asked, call.told) {
            (_, Told::Found(value) | Told::Differs(value)) => Some(value),
            (Asked::Write(Action::Exchange { expected, .. }), _) => Some(expected),
            _ => None,
        })
        .collect();
    let says_something = |call: &&Call| match (call.asked, call.told) {
        (_, Told::Nothing) | (Asked::Read { .. }, Told::Unknown) => false,
        (Asked::Write(Action::Put { value, .. }), Told::Unknown)
        | (Asked::Write(Action::Exchange { value, .. }), Told::Unknown) => seen.contains(&value),
        _ => true,
    };
    calls.iter().filter(says_something).copied().collect()
}

/// The calls in words, the last ones if there are many.
fn tell(calls: &[Call]) -> String {
    const CALLS_MAX: usize = 40;
    let skipped = calls.len().saturating_sub(CALLS_MAX);
    let mut text = if skipped > 0 { format!("({skipped} before) ") } else { String::new() };
    for call in &calls[skipped..] {
        let asked = match call.asked {
            Asked::Read { .. } | Asked::Stale { .. } => "read".to_owned(),
            Asked::Write(Action::Put { value, .. }) => format!("put {value}"),
            Asked::Write(Action::Exchange { expected, value, .. }) => {
                format!("exchange {expected} for {value}")
            }
        };
        let ended = call.ended.map_or("..".to_owned(), |ended| ended.to_string());
        text +=
            &format!("[{}-{ended} client {} {asked}: {:?}] ", call.began, call.client, call.told);
    }
    text.trim_end().to_owned()
}

/// What a call makes of the register: none if its outcome does not fit.
fn fits(call: &Call, register: u64) -> Option<u64> {
    match (call.asked, call.told) {
        (Asked::Read { .. }, Told::Found(value)) => (value == register).then_some(register),
        (Asked::Write(Action::Put { value, .. }), _) => Some(value),
        (Asked::Write(Action::Exchange { expected, .. }), Told::Differs(found)) => {
            (found == register && expected != register).then_some(register)
        }
        (Asked::Write(Action::Exchange { expected, value, .. }), _) => {
            (expected == register).then_some(value)
        }
        (Asked::Read { .. } | Asked::Stale { .. }, _) => Some(register),
    }
}

/// Beginnings and ends of calls in a list from which calls are taken and put back.
struct Search<'a> {
    calls: &'a [Call],
    /// For each place of the list: the call, and whether it begins here.
    events: Vec<(usize, bool)>,
    /// The place after each; place 0 is before the first. 0 after the last.
    next: Vec<usize>,
    /// The place before each.
    previous: Vec<usize>,
    /// For each call: the place of its end; 0 if it has none.
    end_of: Vec<usize>,
    /// How many calls have to be taken: those that ended.
    to_take: usize,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [Call]) -> Self {
        let mut moments = Vec::with_capacity(calls.len() * 2);
        for (at, call) in calls.iter().enumerate() {
            moments.push((call.began, at, true));
            if let Some(ended) = call.ended.filter(|_| call.told != Told::Unknown) {
                moments.push((ended, at, false));
            }
        }
        moments.sort_unstable();
        let mut events = vec![(usize::MAX, false)];
        let mut end_of = vec![0; calls.len()];
        for (_, at, begins) in moments {
            if !begins {
                end_of[at] = events.len();
            }
            events.push((at, begins));
        }
        let len = events.len();
        let next = (0..len).map(|at| if at + 1 < len { at + 1 } else { 0 }).collect();
        let previous = (0..len).map(|at| if at > 0 { at - 1 } else { len - 1 }).collect();
        let to_take = end_of.iter().filter(|end| **end > 0).count();
        Self { calls, events, next, previous, end_of, to_take }
    }

    fn take(&mut self, place: usize) {
        let (next, previous) = (self.next[place], self.previous[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn put_back(&mut self, place: usize) {
        let (next, previous) = (self.next[place], self.previous[place]);
        self.next[previous] = place;
        self.previous[next] = place;
    }

    /// Whether there is an order; none if it was not found out within so many places.
    fn run(mut self, places_max: usize) -> Option<bool> {
        let mut searched: HashSet<(Vec<u64>, u64)> = HashSet::new();
        let mut taken = vec![0_u64; self.calls.len().div_ceil(64)];
        let mut way: Vec<(usize, u64)> = Vec::new();
        let (mut register, mut place) = (0, self.next[0]);
        while self.to_take > 0 {
            let (call, begins) = self.events[place];
            // An end that is met before its call was taken, or the end of the list: nothing fits here.
            if place == 0 || !begins {
                let Some((back, before)) = way.pop() else { return Some(false) };
                let (call, _) = self.events[back];
                taken[call / 64] &= !(1 << (call % 64));
                register = before;
                if self.end_of[call] > 0 {
                    self.put_back(self.end_of[call]);
                    self.to_take += 1;
                }
                self.put_back(back);
                place = self.next[back];
                continue;
            }
            if let Some(after) = fits(&self.calls[call], register) {
                taken[call / 64] |= 1 << (call % 64);
                if searched.insert((taken.clone(), after)) {
                    if searched.len() > places_max {
                        return None;
                    }
                    way.push((place, register));
                    register = after;
                    self.take(place);
                    if self.end_of[call] > 0 {
                        self.take(self.end_of[call]);
                        self.to_take -= 1;
                    }
                    place = self.next[0];
                    continue;
                }
                taken[call / 64] &= !(1 << (call % 64));
            }
            place = self.next[place];
        }
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u16 = 1;

    fn put(value: u64) -> Asked {
        Asked::Write(Action::Put { key: KEY, value })
    }

    fn exchange(expected: u64, value: u64) -> Asked {
        Asked::Write(Action::Exchange { key: KEY, expected, value })
    }

    const READ: Asked = Asked::Read { key: KEY };

    /// A history from lines of (what, began, ended, told).
    fn verdict(lines: &[(Asked, u64, u64, Told)]) -> Option<bool> {
        let calls: Vec<Call> = lines
            .iter()
            .enumerate()
            .map(|(at, (asked, began, ended, told))| Call {
                client: u64::try_from(at).unwrap(),
                number: 1,
                asked: *asked,
                began: *began,
                ended: Some(*ended).filter(|_| *told != Told::Unknown),
                told: *told,
            })
            .collect();
        Search::new(&relevant(&calls)).run(PLACES_MAX)
    }

    #[test]
    fn what_happens_one_after_the_other_is_read_as_written() {
        use Told::{Differs, Done, Found};
        let good = [
            (READ, 1, 2, Found(0)),
            (put(5), 3, 4, Done),
            (READ, 5, 6, Found(5)),
            (exchange(5, 6), 7, 8, Done),
            (exchange(5, 7), 9, 10, Differs(6)),
            (READ, 11, 12, Found(6)),
            (put(0), 13, 14, Done),
            (READ, 15, 16, Found(0)),
        ];
        assert_eq!(verdict(&good), Some(true));
    }

    #[test]
    fn a_stale_read_fits_nowhere() {
        use Told::{Done, Found};
        let bad = [(put(1), 1, 2, Done), (put(2), 3, 4, Done), (READ, 5, 6, Found(1))];
        assert_eq!(verdict(&bad), Some(false));
        let overlapping = [(put(1), 1, 2, Done), (put(2), 3, 6, Done), (READ, 4, 5, Found(1))];
        assert_eq!(verdict(&overlapping), Some(true));
    }

    #[test]
    fn reads_do_not_go_back() {
        use Told::{Done, Found};
        let bad = [
            (put(1), 1, 2, Done),
            (put(2), 3, 10, Done),
            (READ, 4, 5, Found(2)),
            (READ, 6, 7, Found(1)),
        ];
        assert_eq!(verdict(&bad), Some(false));
    }

    #[test]
    fn a_lost_write_shows() {
        use Told::{Done, Found};
        assert_eq!(verdict(&[(put(1), 1, 2, Done), (READ, 3, 4, Found(0))]), Some(false));
    }

    #[test]
    fn a_write_that_was_not_done_is_not_read() {
        use Told::{Found, Nothing};
        assert_eq!(verdict(&[(put(1), 1, 2, Nothing), (READ, 3, 4, Found(1))]), Some(false));
    }

    #[test]
    fn an_unknown_write_happens_late_or_never_but_once() {
        use Told::{Done, Found, Unknown};
        let never = [(put(1), 1, 0, Unknown), (put(2), 2, 3, Done), (READ, 4, 5, Found(2))];
        assert_eq!(verdict(&never), Some(true));
        let late = [
            (put(1), 1, 0, Unknown),
            (put(2), 2, 3, Done),
            (READ, 4, 5, Found(2)),
            (READ, 6, 7, Found(1)),
        ];
        assert_eq!(verdict(&late), Some(true));
        let twice = [
            (put(1), 1, 0, Unknown),
            (READ, 2, 3, Found(1)),
            (put(2), 4, 5, Done),
            (READ, 6, 7, Found(2)),
            (READ, 8, 9, Found(1)),
        ];
        assert_eq!(verdict(&twice), Some(false));
    }

    #[test]
    fn two_exchanges_of_one_value_cannot_both_succeed() {
        use Told::Done;
        let bad =
            [(put(1), 1, 2, Done), (exchange(1, 2), 3, 9, Done), (exchange(1, 3), 4, 8, Done)];
        assert_eq!(verdict(&bad), Some(false));
    }

    #[test]
    fn an_exchange_that_differs_proves_another_value() {
        use Told::{Differs, Done};
        let bad = [(put(1), 1, 2, Done), (exchange(1, 2), 3, 4, Differs(0))];
        assert_eq!(verdict(&bad), Some(false));
        let late = [
            (put(9), 1, 0, Told::Unknown),
            (put(1), 2, 3, Done),
            (exchange(1, 2), 4, 5, Differs(9)),
        ];
        assert_eq!(verdict(&late), Some(true), "the unknown write is seen by the exchange");
    }

    #[test]
    fn many_concurrent_writes_are_decided_and_a_cap_gives_up() {
        let mut lines: Vec<_> =
            (1..=12).map(|value| (put(value), value, 100, Told::Done)).collect();
        for value in (1..=12).rev() {
            lines.push((READ, 200 + value, 201 + value, Told::Found(value)));
        }
        // The reads are one after the other, and no write is left for the second one.
        assert_eq!(verdict(&lines), Some(false));
        let calls: Vec<Call> = lines
            .iter()
            .map(|(asked, began, ended, told)| Call {
                client: 0,
                number: 0,
                asked: *asked,
                began: *began,
                ended: Some(*ended),
                told: *told,
            })
            .collect();
        assert_eq!(Search::new(&calls).run(10), None);
    }
}
