//! Durable writes of a simulated disk: performed at once, or under way until they are stepped.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::super::{Buffer, Completion, DurableWrite, Submitted, WriteQueue, io_error};
use super::fault::{self, Fault, Operation};
use super::file::SimulatedFile;
use super::name_space::DEPTH_MAX;
use super::names::FileId;
use super::state::{Shared, State, bounded, enter, to_u64};
use crate::{Error, Result};

/// A durable write under way, as a test sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// [`DurableWrite::id`].
    pub id: u64,
    /// The name its file was opened by.
    pub path: PathBuf,
    /// Where it will land.
    pub offset: u64,
    /// How many bytes.
    pub len: usize,
}

/// A durable write that was submitted and has not ended.
#[derive(Clone)]
pub(super) struct Flight {
    pub(super) id: u64,
    pub(super) file: FileId,
    pub(super) path: PathBuf,
    pub(super) offset: usize,
    pub(super) bytes: Arc<Buffer>,
    /// How it will end, if not well.
    pub(super) fault: Option<Fault>,
}

/// The durable writes of one queue.
#[derive(Default)]
pub(super) struct Queue {
    /// Submitted, not ended, in order of submission.
    flights: Vec<Flight>,
    /// Ended, not yet fetched.
    ended: Vec<Completion>,
}

impl Clone for Queue {
    /// A copy of the disk is for another process, which awaits no completions.
    fn clone(&self) -> Self {
        Queue { flights: self.flights.clone(), ended: Vec::new() }
    }
}

impl State {
    /// The durable writes under way, in order of submission, queue by queue.
    pub(super) fn in_flight(&self) -> Vec<InFlight> {
        let flights = self.queues.values().flat_map(|queue| &queue.flights);
        let seen = flights.map(|flight| InFlight {
            id: flight.id,
            path: flight.path.clone(),
            offset: to_u64(flight.offset),
            len: flight.bytes.len(),
        });
        seen.collect()
    }

    /// Lets the first durable write end of which `chosen` is true.
    pub(super) fn complete_first(&mut self, chosen: impl Fn(&Flight) -> bool) -> Option<u64> {
        let found = self.queues.iter().find_map(|(queue, inside)| {
            inside.flights.iter().position(&chosen).map(|position| (*queue, position))
        });
        found.map(|(queue, position)| self.complete_at(queue, position))
    }

    /// Lets a randomly chosen durable write of any queue, or of one, end.
    pub(super) fn complete_random(&mut self, only: Option<u64>) -> Option<u64> {
        let queues = self.queues.iter();
        let chosen = queues.filter(|(queue, _)| only.is_none_or(|only| only == **queue));
        let places: Vec<(u64, usize)> = chosen
            .flat_map(|(queue, inside)| (0..inside.flights.len()).map(|index| (*queue, index)))
            .collect();
        if places.is_empty() {
            return None;
        }
        let (queue, position) = places[self.random.index(places.len())];
        Some(self.complete_at(queue, position))
    }

    fn complete_at(&mut self, queue: u64, position: usize) -> u64 {
        let inside = self.queues.get_mut(&queue).expect("the queue was found there");
        let flight = inside.flights.remove(position);
        self.note("complete", flight.id);
        let result = self.perform_and_release(&flight);
        let inside = self.queues.get_mut(&queue).expect("queues are never removed");
        inside.ended.push(Completion { id: flight.id, result });
        flight.id
    }

    fn perform_and_release(&mut self, flight: &Flight) -> Result<()> {
        let result = self.perform(flight);
        self.release(flight.file);
        result.map_err(|error| flight_error(flight, error))
    }

    /// A crash ends all durable writes under way: after a power cut each is an unsynced write, after
    /// a kill it was performed so or not at all. Their queues report an error.
    pub(super) fn end_flights(&mut self, crash: Fault) {
        let queues: Vec<u64> = self.queues.keys().copied().collect();
        for queue in queues {
            let inside = self.queues.get_mut(&queue).expect("its key was there");
            for flight in std::mem::take(&mut inside.flights) {
                if self.is_issued(crash) {
                    self.content(flight.file).write(flight.offset, &flight.bytes);
                }
                let result = Err(flight_error(&flight, fault::down()));
                let inside = self.queues.get_mut(&queue).expect("queues are never removed");
                inside.ended.push(Completion { id: flight.id, result });
            }
        }
    }
}

fn flight_error(flight: &Flight, error: io::Error) -> Error {
    io_error(Operation::DurableWrite.name(), &flight.path, to_u64(flight.offset), error)
}

/// The queue of one log on a simulated disk.
pub(super) struct SimulatedQueue {
    /// The disk.
    state: Shared,
    /// The process that made the queue.
    generation: u64,
    /// Which of the disk's queues it is.
    number: u64,
}

impl SimulatedQueue {
    /// A new queue of the running process.
    pub(super) fn new(shared: &Shared) -> Self {
        let mut state = enter(shared);
        let number = to_u64(state.queues.len());
        state.queues.insert(number, Queue::default());
        SimulatedQueue { state: Arc::clone(shared), generation: state.generation, number }
    }

    fn start(&self, state: &mut State, write: &DurableWrite) -> Result<Submitted> {
        let file: &dyn std::any::Any = &*write.file;
        let file = file
            .downcast_ref::<SimulatedFile>()
            .filter(|file| file.is_of(&self.state))
            .ok_or_else(|| Error::InvalidOption {
                reason: format!("a durable write to {:?}, a file of another disk", write.file),
            })?;
        file.check_log(state, write.offset, write.bytes.len())?;
        let operation = Operation::DurableWrite;
        let path = file.path();
        state
            .check_alive(Some(file.generation()))
            .map_err(|error| io_error(operation.name(), path, write.offset, error))?;
        let offset = bounded(write.offset, write.bytes.len())
            .map_err(|error| io_error(operation.name(), path, write.offset, error))?;
        let fault =
            state.begin(Some(self.generation), operation, path, write.offset, &write.bytes)?;
        let flight = Flight {
            id: write.id,
            file: file.id(),
            path: path.to_path_buf(),
            offset,
            bytes: Arc::clone(&write.bytes),
            fault,
        };
        state.content(flight.file).users += 1;
        let crash = fault.filter(|fault| fault.is_crash());
        if let Some(crash) = crash {
            if state.is_issued(crash) {
                state.content(flight.file).write(offset, &write.bytes);
            }
            return Err(state.fail(crash, operation, path, write.offset));
        }
        if state.stepped {
            let queue = state.queues.get_mut(&self.number).expect("queues are never removed");
            queue.flights.push(flight);
            return Ok(Submitted::Queued);
        }
        Ok(Submitted::Done(state.perform_and_release(&flight)))
    }
}

impl WriteQueue for SimulatedQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let mut state = enter(&self.state);
        match self.start(&mut state, &write) {
            Ok(submitted) => submitted,
            Err(error) => Submitted::Done(Err(error)),
        }
    }

    fn complete(&self) -> Vec<Completion> {
        let mut state = enter(&self.state);
        let nothing_ended =
            state.queues.get(&self.number).is_some_and(|queue| queue.ended.is_empty());
        if nothing_ended {
            state.complete_random(Some(self.number));
        }
        let queue = state.queues.get_mut(&self.number).expect("queues are never removed");
        std::mem::take(&mut queue.ended)
    }

    fn poll(&self) -> Vec<Completion> {
        let mut state = enter(&self.state);
        let queue = state.queues.get_mut(&self.number).expect("queues are never removed");
        std::mem::take(&mut queue.ended)
    }

    fn places_max(&self) -> Option<usize> {
        Some(DEPTH_MAX)
    }
}

impl std::fmt::Debug for SimulatedQueue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SimulatedQueue").field("number", &self.number).finish_non_exhaustive()
    }
}
