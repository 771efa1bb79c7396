//! One queue for the durable writes of many logs, fair between them.
//!
//! Each log has a [`Lane`]. The queue inside has as many *places* as the disk bears writes at once. A write
//! takes a free place and is given to the queue inside at once, so that a log that is alone pays for a lock and
//! nothing else. Where no place is free the write is parked in its lane, and the lanes that have something
//! parked are served in turn, one write each: so a log that keeps the disk busy delays another one's write
//! by one round, however much it has parked itself.
//!
//! ```text
//! lane 1  parked: 3 4 5 --.
//! lane 2  parked: 9     --+-- turns: 2 1 --> places: 1.1 1.2 3.7 ... --> the queue inside
//! lane 3                --'                    |
//! mailboxes of the lanes <--- who attends -----'
//! ```
//!
//! The queue inside lets one thread wait at a time. Whoever waits for its own log's writes *attends* it for
//! all: it puts what has ended into the mailboxes of the lanes, wakes those who sleep there and gives the free
//! places to whose turn it is. When its own write has ended it wakes another sleeper to attend. No thread
//! is kept for this.
//!
//! An event loop watches a descriptor of its lane, which is readable when the queue inside has something for
//! anybody, or when somebody else has put something into the lane's mailbox.
//!
//! Invariant: a lane is in `turns` once if it has parked writes, and not otherwise. Invariant: while a place
//! is free and something is parked, or something is under way that a sleeper waits for and nobody attends,
//! a thread is on its way to see to it. Dropping a lane waits for its writes: accepted ones are performed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};

use super::bell::{Bell, Bells};
use super::{Completion, DurableWrite, Submitted, WriteQueue};
use crate::canary;
use crate::sync::{Condvar, Mutex, MutexGuard, yield_now};

/// See the module's documentation.
pub(super) struct SharedQueue {
    /// The queue inside.
    inner: Box<dyn WriteQueue>,
    state: Mutex<State>,
}

/// What all lanes share.
struct State {
    /// The lane and the id of the write that has the place. The number of a place is its write's id in the
    /// queue inside.
    places: Vec<Option<(u64, u64)>>,
    free: Vec<usize>,
    lanes: BTreeMap<u64, LaneState>,
    lane_last: u64,
    /// Lanes that have parked writes, whose turn is next first.
    turns: VecDeque<u64>,
    /// Lanes whose threads sleep, or slept, who is to attend next first.
    sleepers: VecDeque<u64>,
    /// Whether a thread waits for the queue inside, or looks into it.
    is_attended: bool,
}

/// What is known of a lane.
#[derive(Default)]
struct LaneState {
    /// Submitted while no place was free.
    parked: VecDeque<DurableWrite>,
    /// The mailbox: ended and not fetched.
    ended: Vec<Completion>,
    /// Submitted and not ended, the parked ones included.
    outstanding: usize,
    /// Whether a thread sleeps in [`WriteQueue::complete`].
    is_asleep: bool,
    /// Whether the lane is in `sleepers`.
    is_listed: bool,
    /// Wakes the sleeper.
    awake: Arc<Condvar>,
    /// Tells the event loop of what others have put into the mailbox.
    bell: Option<Bell>,
}

impl State {
    fn lane(&mut self, lane: u64) -> &mut LaneState {
        self.lanes.get_mut(&lane).expect("a lane is there while its log has it")
    }

    /// Whether a place is free for a parked write.
    fn has_turn(&self) -> bool {
        !self.free.is_empty() && !self.turns.is_empty()
    }

    /// Gives the write a free place; it is returned as the queue inside is to see it.
    fn take_place(&mut self, lane: u64, write: DurableWrite) -> DurableWrite {
        let place = self.free.pop().expect("the caller saw a free place");
        let before = self.places[place].replace((lane, write.id));
        assert!(before.is_none(), "a free place has no write");
        DurableWrite { id: u64::try_from(place).expect("few places"), ..write }
    }

    /// Takes a write of a lane: it has a place now, or is parked.
    fn accept(&mut self, lane: u64, write: DurableWrite) -> Option<DurableWrite> {
        self.lane(lane).outstanding += 1;
        if !self.free.is_empty() && self.turns.is_empty() {
            return Some(self.take_place(lane, write));
        }
        let own = self.lane(lane);
        own.parked.push_back(write);
        if own.parked.len() == 1 {
            self.turns.push_back(lane);
        }
        None
    }

    /// Gives the free places to whose turn it is, one write at a time.
    fn next_turns(&mut self) -> Vec<DurableWrite> {
        let mut writes = Vec::new();
        while self.has_turn() {
            let lane = self.turns.pop_front().expect("there is a turn");
            let parked = &mut self.lane(lane).parked;
            let write = parked.pop_front().expect("a lane in turn has something parked");
            if !parked.is_empty() && !canary::is_on(canary::TURN_FORGOTTEN) {
                self.turns.push_back(lane);
            }
            writes.push(self.take_place(lane, write));
        }
        writes
    }

    /// The write in this place has ended: its lane, and what it was called there.
    fn leave_place(&mut self, place: u64) -> (u64, u64) {
        let place = usize::try_from(place).expect("few places");
        let (lane, id) = self.places[place].take().expect("what ends has a place");
        self.free.push(place);
        let own = self.lane(lane);
        own.outstanding -= 1;
        (lane, id)
    }

    /// Puts what has ended into the mailboxes, and tells their owners; `own` looks by itself.
    fn deliver(&mut self, ended: Vec<Completion>, own: u64) {
        for Completion { id, result } in ended {
            let (lane, id) = self.leave_place(id);
            let is_own = lane == own;
            let lane = self.lane(lane);
            lane.ended.push(Completion { id, result });
            if is_own || lane.ended.len() > 1 {
                continue;
            }
            if lane.is_asleep {
                lane.awake.notify_one();
            }
            if let Some(bell) = &lane.bell {
                bell.ring();
            }
        }
    }

    /// Wakes a sleeper whose write has not ended, if there is something to see to and nobody does.
    fn hand_on(&mut self) {
        let is_seen_to = self.is_attended && !self.has_turn();
        if is_seen_to || canary::is_on(canary::QUEUE_NOT_HANDED_ON) {
            return;
        }
        while let Some(lane) = self.sleepers.pop_front() {
            let Some(lane) = self.lanes.get_mut(&lane) else { continue };
            lane.is_listed = false;
            if lane.is_asleep && lane.ended.is_empty() {
                lane.awake.notify_one();
                return;
            }
        }
    }
}

impl SharedQueue {
    /// In front of `inner`, which bears `places_max` writes at once.
    pub(super) fn new(inner: Box<dyn WriteQueue>, places_max: usize) -> Self {
        assert!(places_max > 0, "a queue bears one write at least");
        let state = State {
            places: vec![None; places_max],
            free: (0..places_max).collect(),
            lanes: BTreeMap::new(),
            lane_last: 0,
            turns: VecDeque::new(),
            sleepers: VecDeque::new(),
            is_attended: false,
        };
        Self { inner, state: Mutex::new(state) }
    }

    /// A lane for one more log.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the process may open no more descriptors.
    pub(super) fn join(self: Arc<Self>) -> crate::Result<Lane> {
        let bells = self.inner.completion_fd().map(Bells::new).transpose()?;
        let bell = bells.as_ref().map(|bells| bells.own().clone());
        let number = {
            let mut state = self.lock();
            state.lane_last += 1;
            let number = state.lane_last;
            state.lanes.insert(number, LaneState { bell, ..LaneState::default() });
            number
        };
        Ok(Lane { number, bells, queue: self })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock broke an invariant of ours; what it left is asserted again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives these to the queue inside, and delivers those that have ended with that.
    fn start(&self, writes: Vec<DurableWrite>, own: u64) {
        if writes.is_empty() {
            return;
        }
        let ids: Vec<u64> = writes.iter().map(|write| write.id).collect();
        let submitted = ids.into_iter().zip(self.inner.submit_all(writes));
        let done = |(id, submitted)| match submitted {
            Submitted::Done(result) => Some(Completion { id, result }),
            Submitted::Queued => None,
        };
        let ended: Vec<Completion> = submitted.filter_map(done).collect();
        if !ended.is_empty() {
            self.lock().deliver(ended, own);
        }
    }

    /// Serves those whose turn it is, once: more than that would keep this thread from its own log where
    /// the queue inside performs writes in the thread that submits.
    fn serve(&self, own: u64) {
        let writes = self.lock().next_turns();
        self.start(writes, own);
        self.lock().hand_on();
    }

    fn submit(&self, lane: u64, write: DurableWrite) -> Submitted {
        let (accepted, has_turn) = {
            let mut state = self.lock();
            (state.accept(lane, write), state.has_turn())
        };
        let Some(write) = accepted else {
            if has_turn {
                self.serve(lane);
            }
            return Submitted::Queued;
        };
        let place = write.id;
        let submitted = self.inner.submit(write);
        if let Submitted::Done(_) = submitted {
            let waits = {
                let mut state = self.lock();
                state.leave_place(place);
                state.has_turn()
            };
            if waits {
                self.serve(lane);
            }
        }
        submitted
    }

    fn submit_all(&self, lane: u64, writes: Vec<DurableWrite>) -> Vec<Submitted> {
        let mut outcomes = Vec::with_capacity(writes.len());
        let mut accepted = Vec::new();
        {
            let mut state = self.lock();
            for write in writes {
                if let Some(write) = state.accept(lane, write) {
                    accepted.push((outcomes.len(), write));
                }
                outcomes.push(Submitted::Queued);
            }
        }
        let (at, writes): (Vec<usize>, Vec<DurableWrite>) = accepted.into_iter().unzip();
        let places: Vec<u64> = writes.iter().map(|write| write.id).collect();
        for ((at, place), submitted) in
            at.into_iter().zip(places).zip(self.inner.submit_all(writes))
        {
            if let Submitted::Done(_) = submitted {
                self.lock().leave_place(place);
            }
            outcomes[at] = submitted;
        }
        self.serve(lane);
        outcomes
    }

    fn complete(&self, lane: u64) -> Vec<Completion> {
        let mut state = self.lock();
        loop {
            let has_turn = state.has_turn();
            let is_attended = state.is_attended;
            let own = state.lane(lane);
            if !own.ended.is_empty() || own.outstanding == 0 {
                let ended = std::mem::take(&mut own.ended);
                state.hand_on();
                return ended;
            }
            if has_turn {
                drop(state);
                self.serve(lane);
                state = self.lock();
            } else if !is_attended {
                state.is_attended = true;
                drop(state);
                let ended = self.inner.complete();
                if ended.is_empty() {
                    // All that has a place is just being submitted by others.
                    yield_now();
                }
                let writes = {
                    let mut state = self.lock();
                    state.deliver(ended, lane);
                    state.next_turns()
                };
                self.start(writes, lane);
                state = self.lock();
                state.is_attended = false;
            } else {
                own.is_asleep = true;
                let awake = own.awake.clone();
                if !std::mem::replace(&mut own.is_listed, true) {
                    state.sleepers.push_back(lane);
                }
                state = awake.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.lane(lane).is_asleep = false;
            }
        }
    }

    fn poll(&self, lane: u64) -> Vec<Completion> {
        let attends = !std::mem::replace(&mut self.lock().is_attended, true);
        if attends {
            let ended = self.inner.poll();
            let mut state = self.lock();
            state.is_attended = false;
            state.deliver(ended, lane);
        }
        self.serve(lane);
        std::mem::take(&mut self.lock().lane(lane).ended)
    }
}

impl fmt::Debug for SharedQueue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SharedQueue").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// What one log has of a shared queue.
#[derive(Debug)]
pub(super) struct Lane {
    number: u64,
    /// For event loops.
    bells: Option<Bells>,
    queue: Arc<SharedQueue>,
}

impl WriteQueue for Lane {
    fn submit(&self, write: DurableWrite) -> Submitted {
        self.queue.submit(self.number, write)
    }

    fn submit_all(&self, writes: Vec<DurableWrite>) -> Vec<Submitted> {
        self.queue.submit_all(self.number, writes)
    }

    fn complete(&self) -> Vec<Completion> {
        self.queue.complete(self.number)
    }

    fn poll(&self) -> Vec<Completion> {
        if let Some(bells) = &self.bells {
            // First: a bell that rings from here on is for what is not taken below.
            bells.own().silence();
        }
        self.queue.poll(self.number)
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.bells.as_ref().map(Bells::as_fd)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Nobody is left to be told.
        while self.queue.lock().lane(self.number).outstanding > 0 {
            self.queue.complete(self.number);
        }
        self.queue.lock().lanes.remove(&self.number);
    }
}
