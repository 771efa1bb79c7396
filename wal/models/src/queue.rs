//! A queue that bears so many writes at once, and stops at the first thing that may not be done to it:
//!
//! - one thread at a time waits for completions, or looks for them;
//! - no more writes are under way than it bears, and each has an id of its own.

use std::sync::{Arc, Mutex, MutexGuard};

use strandline_wal::disk::{Completion, DurableWrite, Submitted, WriteQueue};

use crate::disk::Order;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct ModelQueue {
    state: Arc<Mutex<State>>,
    order: Order,
    places: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Writes under way, the oldest first.
    in_flight: Vec<u64>,
    /// How many were submitted.
    submitted: usize,
    /// How many have ended.
    ended: usize,
    /// Whether a thread waits for completions, or looks for them.
    is_attended: bool,
}

impl ModelQueue {
    pub fn new(order: Order, places: usize) -> Self {
        Self { state: Arc::default(), order, places }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Never held while another thread of the model runs.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// So many writes came here, and all have ended.
    pub fn has_performed(&self, count: usize) {
        let state = self.state();
        assert_eq!((state.submitted, state.ended), (count, count), "writes that came and ended");
    }

    /// Ends one write, if there is one.
    fn attend(&self) -> Vec<Completion> {
        let is_attended = std::mem::replace(&mut self.state().is_attended, true);
        assert!(!is_attended, "two threads see to the queue inside");
        loom::thread::yield_now(); // the disk
        let mut state = self.state();
        state.is_attended = false;
        let id = match self.order {
            // Each ends where it is submitted.
            Order::Caller => None,
            Order::Newest => state.in_flight.pop(),
            Order::Oldest if state.in_flight.is_empty() => None,
            Order::Oldest => Some(state.in_flight.remove(0)),
        };
        state.ended += usize::from(id.is_some());
        id.map(|id| Completion { id, result: Ok(()) }).into_iter().collect()
    }
}

impl WriteQueue for ModelQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        {
            let mut state = self.state();
            assert!(!state.in_flight.contains(&write.id), "write {} is under way", write.id);
            state.in_flight.push(write.id);
            state.submitted += 1;
            assert!(state.in_flight.len() <= self.places, "more than it bears: {state:?}");
        }
        if self.order != Order::Caller {
            return Submitted::Queued;
        }
        loom::thread::yield_now(); // the disk
        let mut state = self.state();
        state.in_flight.retain(|id| *id != write.id);
        state.ended += 1;
        Submitted::Done(Ok(()))
    }

    fn complete(&self) -> Vec<Completion> {
        self.attend()
    }

    fn poll(&self) -> Vec<Completion> {
        self.attend()
    }

    fn places_max(&self) -> Option<usize> {
        Some(self.places)
    }
}
