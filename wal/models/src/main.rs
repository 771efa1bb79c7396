//! Models of the log's waking, checked in every order of steps (up to a bound on preemptions).
//!
//! `waiters.rs` is the log's own file, compiled here with loom's types. What stands around it below is the
//! shape of `drive.rs`: everything else of the log happens under its lock, one step after the other, and
//! has nothing to be interleaved. A model fails if a thread is left asleep (loom reports a deadlock), if
//! somebody returns before its record is durable, or if anything panics.

mod sync;
#[path = "../../src/waiters.rs"]
#[allow(dead_code, reason = "a model needs less than the log")]
mod waiters;

use loom::sync::{Arc, Mutex, MutexGuard};
use waiters::{Reason, Waiters};

/// As in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// Futures and callbacks are told from the same lists; here are none.
mod ticket {
    pub struct Task;
    impl Task {
        pub fn end(&self, _: super::Lsn, _: bool) {}
    }
}

/// What the log's lock protects, as far as it matters to who is woken.
struct State {
    last: u64,
    wanted: u64,
    durable: u64,
    /// The last position of the group in flight.
    in_flight: Option<u64>,
    /// Which write fails, if one does, and how many there were.
    fails_at: Option<usize>,
    writes: usize,
    failed: bool,
    waiters: Waiters,
}

struct Log(Mutex<State>);

impl Log {
    fn new(fails_at: Option<usize>) -> Arc<Self> {
        Arc::new(Log(Mutex::new(State {
            last: 0,
            wanted: 0,
            durable: 0,
            in_flight: None,
            fails_at,
            writes: 0,
            failed: false,
            waiters: Waiters::new(Lsn(0)),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no model panics under the lock")
    }

    fn append(&self) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        state.last
    }

    fn wait(&self, lsn: u64) -> Result<(), ()> {
        let mut state = self.lock();
        state.wanted = state.wanted.max(lsn);
        let mut was_heir = false;
        loop {
            if Lsn(lsn) <= state.waiters.settled {
                self.hand_on(state);
                return Ok(());
            }
            if state.failed {
                self.hand_on(state);
                return Err(());
            }
            if state.can_write() {
                let end = state.last;
                state.in_flight = Some(end);
                state.writes += 1;
                let fails = state.fails_at == Some(state.writes);
                self.hand_on(state);
                loom::thread::yield_now(); // the disk
                self.completed(end, fails);
                state = self.lock();
                continue;
            }
            let submitted = state.submitted();
            let group = (state.last > submitted).then_some(Lsn(submitted + 1));
            let bed = state.waiters.add(Lsn(lsn), group, was_heir);
            drop(state);
            match bed.park() {
                Reason::Settled => return Ok(()),
                Reason::Look => state = self.lock(),
                Reason::Lead => {
                    was_heir = true;
                    state = self.lock();
                    state.waiters.heir_looks();
                }
            }
        }
    }

    fn completed(&self, end: u64, fails: bool) {
        let mut state = self.lock();
        if fails || state.failed {
            state.failed = true;
            let all = state.waiters.take_all();
            drop(state);
            all.wake(Reason::Look);
            return;
        }
        assert_eq!(state.in_flight.take(), Some(end), "only what is in flight completes");
        state.durable = end;
        let durable = Lsn(state.durable);
        state.waiters.settled = state.waiters.settled.max(durable);
        let heir = state.heir();
        let settled = state.waiters.take_settled();
        drop(state);
        if let Some(heir) = heir {
            heir.wake(Reason::Lead);
        }
        settled.wake(Reason::Settled);
    }

    fn hand_on(&self, mut state: MutexGuard<'_, State>) {
        let heir = state.heir();
        drop(state);
        if let Some(heir) = heir {
            heir.wake(Reason::Lead);
        }
    }
}

impl State {
    fn submitted(&self) -> u64 {
        self.in_flight.unwrap_or(self.durable)
    }

    fn can_write(&self) -> bool {
        let is_wanted = self.submitted() < self.wanted.min(self.last);
        !self.failed && self.in_flight.is_none() && is_wanted
    }

    fn heir(&mut self) -> Option<Arc<waiters::Sleeper>> {
        if !self.can_write() {
            return None;
        }
        let durable = Lsn(self.durable);
        self.waiters.take_heir(durable)
    }
}

/// Threads that append and wait, `rounds` times each.
fn commit(name: &str, threads: usize, rounds: usize, fails_at: Option<usize>) {
    let mut builder = loom::model::Builder::new();
    // The orders of three threads are many.
    builder.preemption_bound = Some(if threads > 2 { 1 } else { 3 });
    builder.max_branches = 10_000;
    builder.check(move || {
        let log = Log::new(fails_at);
        let work = move |log: Arc<Log>| {
            for _ in 0..rounds {
                let lsn = log.append();
                match log.wait(lsn) {
                    Ok(()) => assert!(log.lock().durable >= lsn, "told too early"),
                    Err(()) => assert!(fails_at.is_some(), "nothing failed"),
                }
            }
        };
        let others: Vec<_> = (0..threads)
            .map(|_| {
                let log = log.clone();
                loom::thread::spawn(move || work(log))
            })
            .collect();
        // Not in here: loom takes a wake-up that comes late, and is harmless, for the end of a join.
        others.into_iter().for_each(|other| other.join().expect("no thread panics"));
    });
    println!("{name}: every order of {threads} threads");
}

fn main() {
    commit("two commits each", 2, 2, None);
    commit("a group", 3, 1, None);
    commit("a write fails", 2, 1, Some(1));
    commit("the second write fails", 2, 2, Some(2));
}
