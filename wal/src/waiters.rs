//! Who waits for what, and how they are woken.
//!
//! A thread that waits is woken for one of two reasons: what it waits for is *settled*, and then it goes
//! its way without looking at anything again, or it is to *look* again, because the log has ended or
//! it is to take the lead. While one that was told to lead is on its way, nobody else is.
//!
//! The first thread that waits for a record of a group has a [`Sleeper`] of its own and may be woken alone,
//! to lead. All others of the group share a [`Bunk`] and are woken with one system call. That is not for
//! the calls' sake: between two of them the kernel takes the processor from whoever wakes and gives it
//! to whom it woke, which was half a context switch for each acknowledgement.
//!
//! ```text
//! group 7 (durable)        group 8 (in flight)      group 9 (filling)
//! sleeper  bunk of 30      sleeper  bunk of 12      sleeper  bunk of 21
//! `--- settled together    `--- drives already      `--- the heir
//! ```
//!
//! Invariant: while a bunk is not settled, the first of its group is parked in `positions` or drives: so
//! there is always somebody to lead. Both lists are in the order of positions; those of a group that
//! became durable come first and cost nothing for the others. Whoever takes somebody out of a list
//! wakes it, once, after the lock was released.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::Lsn;
use crate::canary;
use crate::sync::{AtomicU8, AtomicU32, Ordering, Thread, current, futex, park, thread_local};
use crate::ticket::Task;

/// Why a thread was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// To look again.
    Look,
    /// To look again and, unless somebody was faster, to drive.
    Lead,
    /// What it waited for is durable, and the hook was called for it.
    Settled,
}

const ASLEEP: u8 = 0;
const LOOK: u8 = 1;
const LEAD: u8 = 2;
const SETTLED: u8 = 3;

fn signal_of(reason: Reason) -> u8 {
    match reason {
        Reason::Look => LOOK,
        Reason::Lead => LEAD,
        Reason::Settled => SETTLED,
    }
}

/// A thread that may park here.
pub(crate) struct Sleeper {
    thread: Thread,
    /// Set before the thread is unparked; taken back by it.
    signal: AtomicU8,
}

impl Sleeper {
    fn new() -> Arc<Self> {
        Arc::new(Self { thread: current(), signal: AtomicU8::new(ASLEEP) })
    }

    /// The calling thread's.
    pub(crate) fn of_this_thread() -> Arc<Self> {
        thread_local! {
            static SLEEPER: RefCell<Arc<Sleeper>> = RefCell::new(Sleeper::new());
        }
        // While a thread ends it may have lost the one it had.
        SLEEPER.try_with(|sleeper| sleeper.borrow().clone()).unwrap_or_else(|_| Sleeper::new())
    }

    /// Wakes it. Only whoever took it out of the list it was in may do that.
    pub(crate) fn wake(&self, reason: Reason) {
        // An exchange rather than a store, so that it comes after the last look of the sleeper.
        self.signal.swap(signal_of(reason), Ordering::AcqRel);
        self.thread.unpark();
    }

    /// Sleeps until it is woken.
    pub(crate) fn park(&self) -> Reason {
        loop {
            match self.signal.swap(ASLEEP, Ordering::AcqRel) {
                LOOK => return Reason::Look,
                LEAD => return Reason::Lead,
                SETTLED => return Reason::Settled,
                _ => park(),
            }
        }
    }
}

/// Where the others of a group sleep, who are only woken together.
#[derive(Default)]
pub(crate) struct Bunk(AtomicU32);

impl Bunk {
    /// Wakes all.
    fn wake(&self, reason: Reason) {
        self.0.store(u32::from(signal_of(reason)), Ordering::Release);
        // It fails for memory that is not ours only.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
    }

    /// Sleeps until all are woken.
    fn park(&self) -> Reason {
        loop {
            match u8::try_from(self.0.load(Ordering::Acquire)) {
                Ok(SETTLED) => return Reason::Settled,
                Ok(LOOK) => return Reason::Look,
                // It returns for several reasons, and only the word counts.
                _ => drop(futex::wait(&self.0, futex::Flags::PRIVATE, u32::from(ASLEEP), None)),
            }
        }
    }
}

/// Where a thread is to park.
pub(crate) enum Bed {
    Own(Arc<Sleeper>),
    Shared(Arc<Bunk>),
}

impl Bed {
    /// Sleeps until it is woken.
    pub(crate) fn park(&self) -> Reason {
        match self {
            Bed::Own(sleeper) => sleeper.park(),
            Bed::Shared(bunk) => bunk.park(),
        }
    }
}

/// The bunk of one group.
struct Bunked {
    /// The first position of the group.
    group: Lsn,
    /// The last position that somebody waits for here.
    upto: Lsn,
    /// `None` while nobody but the first waits.
    bunk: Option<Arc<Bunk>>,
}

/// Who was taken out and is to be woken.
#[derive(Default)]
pub(crate) struct Taken {
    sleepers: Vec<Arc<Sleeper>>,
    bunks: Vec<Arc<Bunk>>,
    tasks: Vec<(Lsn, Arc<Task>)>,
}

impl Taken {
    /// Wakes them: those alone, who may have to lead, first.
    pub(crate) fn wake(self, reason: Reason) {
        self.sleepers.iter().for_each(|sleeper| sleeper.wake(reason));
        self.bunks.iter().for_each(|bunk| bunk.wake(reason));
        self.tasks.iter().for_each(|(lsn, task)| task.end(*lsn, reason == Reason::Settled));
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Waiters {
    /// Threads parked until a position is settled, in the order of positions.
    positions: VecDeque<(Lsn, Arc<Sleeper>)>,
    /// The others of each group, in the order of positions.
    bunks: VecDeque<Bunked>,
    /// Futures and callbacks, in the order of positions. They never lead.
    tasks: VecDeque<(Lsn, Arc<Task>)>,
    /// Threads parked in [`Wal::lead`](crate::Wal::lead).
    leaders: Vec<Arc<Sleeper>>,
    /// Threads that were told to lead and have not looked yet.
    heirs: usize,
    /// Everything up to here is durable and the hook has been called for it.
    pub(crate) settled: Lsn,
    /// Writes that the disk performs in the background.
    pub(crate) queued: i64,
    /// Whether a thread waits for the disk's completions.
    pub(crate) reaping: bool,
}

impl Waiters {
    /// Nobody waits; everything up to `settled` was durable when the log was opened.
    pub(crate) fn new(settled: Lsn) -> Self {
        Self { settled, ..Self::default() }
    }

    /// After a truncation.
    pub(crate) fn settle_back(&mut self, last: Lsn) {
        self.settled = self.settled.min(last);
    }

    /// After a reset.
    pub(crate) fn settle_at(&mut self, last: Lsn) {
        self.settled = last;
    }

    /// Somebody is there to lead.
    pub(crate) fn add_leader(&mut self) -> Bed {
        let sleeper = Sleeper::of_this_thread();
        self.leaders.push(sleeper.clone());
        Bed::Own(sleeper)
    }

    /// Somebody waits for `lsn`. `group` is the first position of the group being filled, if there is one.
    /// Who was told to lead and found nothing to do keeps a bed of its own: it may be the first of the
    /// group, and those in the bunk count on it.
    pub(crate) fn add(&mut self, lsn: Lsn, group: Option<Lsn>, was_heir: bool) -> Bed {
        let shares = !was_heir || canary::is_on(canary::HEIR_LIES_IN_BUNK);
        if let Some(group) = group.filter(|group| *group <= lsn && shares) {
            match self.bunks.back_mut().filter(|last| last.group == group) {
                Some(last) => {
                    last.upto = last.upto.max(lsn);
                    return Bed::Shared(last.bunk.get_or_insert_default().clone());
                }
                None => self.bunks.push_back(Bunked { group, upto: lsn, bunk: None }),
            }
        }
        let sleeper = Sleeper::of_this_thread();
        // The place is at the end or close to it.
        let before = self.positions.iter().rposition(|(other, _)| *other <= lsn);
        self.positions.insert(before.map_or(0, |at| at + 1), (lsn, sleeper.clone()));
        Bed::Own(sleeper)
    }

    /// A task waits for `lsn`.
    pub(crate) fn add_task(&mut self, lsn: Lsn, task: Arc<Task>) {
        let before = self.tasks.iter().rposition(|(other, _)| *other <= lsn);
        self.tasks.insert(before.map_or(0, |at| at + 1), (lsn, task));
    }

    /// Takes out everybody, to be told to look again.
    pub(crate) fn take_all(&mut self) -> Taken {
        let waiting = self.positions.drain(..).map(|(_, sleeper)| sleeper);
        Taken {
            sleepers: waiting.chain(self.leaders.drain(..)).collect(),
            bunks: self.bunks.drain(..).filter_map(|bunked| bunked.bunk).collect(),
            tasks: self.tasks.drain(..).collect(),
        }
    }

    /// Takes out those whose positions are settled.
    pub(crate) fn take_settled(&mut self) -> Taken {
        let settled = self.settled;
        let count = self.positions.partition_point(|(lsn, _)| *lsn <= settled);
        let tasks = self.tasks.partition_point(|(lsn, _)| *lsn <= settled);
        let bunks = self.bunks.partition_point(|bunked| bunked.upto <= settled);
        Taken {
            sleepers: self.positions.drain(..count).map(|(_, sleeper)| sleeper).collect(),
            bunks: self.bunks.drain(..bunks).filter_map(|bunked| bunked.bunk).collect(),
            tasks: self.tasks.drain(..tasks).collect(),
        }
    }

    /// One that was told to lead looks.
    pub(crate) fn heir_looks(&mut self) {
        self.heirs -= 1;
    }

    /// Takes out somebody to take the lead, unless somebody is about to: a thread that is there for it, or the first of those that
    /// wait for more than is durable.
    pub(crate) fn take_heir(&mut self, durable: Lsn) -> Option<Arc<Sleeper>> {
        if self.heirs > 0 {
            return None;
        }
        let heir = self.leaders.pop().or_else(|| {
            let first = self.positions.partition_point(|(lsn, _)| *lsn <= durable);
            self.positions.remove(first).map(|(_, sleeper)| sleeper)
        });
        self.heirs += usize::from(heir.is_some());
        heir
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(bed: Bed) -> Arc<Sleeper> {
        match bed {
            Bed::Own(sleeper) => sleeper,
            Bed::Shared(_) => panic!("the first of a group has a bed of its own"),
        }
    }

    /// A waiter as of a thread of its own.
    fn add(waiters: &mut Waiters, lsn: u64, group: Option<u64>) -> Bed {
        std::thread::scope(|scope| {
            scope.spawn(|| waiters.add(Lsn(lsn), group.map(Lsn), false)).join().unwrap()
        })
    }

    #[test]
    fn the_settled_come_out_in_order_and_the_heir_is_the_first_of_the_rest() {
        let mut waiters = Waiters::new(Lsn(0));
        let places = [3, 1, 2, 5, 4, 5];
        let sleepers = places.map(|lsn| own(add(&mut waiters, lsn, None)));
        waiters.settled = Lsn(2);
        let taken = waiters.take_settled().sleepers;
        assert!(Arc::ptr_eq(&taken[0], &sleepers[1]) && Arc::ptr_eq(&taken[1], &sleepers[2]));
        assert_eq!(taken.len(), 2);
        let heir = waiters.take_heir(Lsn(3)).unwrap();
        assert!(Arc::ptr_eq(&heir, &sleepers[4]));
        assert!(waiters.take_heir(Lsn(3)).is_none(), "one is on its way");
        waiters.heir_looks();
        let leader = own(waiters.add_leader());
        assert!(Arc::ptr_eq(&waiters.take_heir(Lsn(3)).unwrap(), &leader));
        waiters.heir_looks();
        assert_eq!(waiters.take_all().sleepers.len(), 3);
        assert!(waiters.take_heir(Lsn(0)).is_none());
    }

    #[test]
    fn the_first_of_a_group_may_lead_and_the_others_are_woken_together() {
        let mut waiters = Waiters::new(Lsn(0));
        let first = own(add(&mut waiters, 1, Some(1)));
        for lsn in [2, 3] {
            assert!(matches!(add(&mut waiters, lsn, Some(1)), Bed::Shared(_)));
        }
        // A latecomer of the first group, when the second is being filled.
        own(add(&mut waiters, 3, Some(4)));
        let second = own(add(&mut waiters, 4, Some(4)));
        assert!(Arc::ptr_eq(&waiters.take_heir(Lsn(0)).unwrap(), &first));
        waiters.heir_looks();
        waiters.settled = Lsn(3);
        let taken = waiters.take_settled();
        assert_eq!((taken.sleepers.len(), taken.bunks.len()), (1, 1));
        assert!(Arc::ptr_eq(&waiters.take_heir(Lsn(3)).unwrap(), &second));
    }

    /// The first of a group was told to lead, found somebody else at it and lay down in the bunk of its group.
    /// When that one left nobody could be told any more, and all of the group slept for ever.
    #[test]
    fn an_heir_that_comes_too_late_can_be_told_again() {
        let mut waiters = Waiters::new(Lsn(0));
        let first = own(add(&mut waiters, 1, Some(1)));
        assert!(matches!(add(&mut waiters, 2, Some(1)), Bed::Shared(_)));
        assert!(Arc::ptr_eq(&waiters.take_heir(Lsn(0)).unwrap(), &first));
        waiters.heir_looks();
        let again = own(waiters.add(Lsn(1), Some(Lsn(1)), true));
        assert!(Arc::ptr_eq(&waiters.take_heir(Lsn(0)).unwrap(), &again));
    }

    #[test]
    fn whoever_sleeps_in_a_bunk_is_woken_before_and_while_it_sleeps() {
        let bunk = Bunk::default();
        std::thread::scope(|scope| {
            let sleepers: Vec<_> = (0..4).map(|_| scope.spawn(|| bunk.park())).collect();
            std::thread::yield_now();
            bunk.wake(Reason::Settled);
            for sleeper in sleepers {
                assert_eq!(sleeper.join().unwrap(), Reason::Settled);
            }
        });
        assert_eq!(bunk.park(), Reason::Settled);
    }

    #[test]
    fn a_wake_is_not_lost_if_it_comes_before_the_sleep() {
        let sleeper = Sleeper::of_this_thread();
        sleeper.wake(Reason::Settled);
        assert_eq!(sleeper.park(), Reason::Settled);
    }
}
