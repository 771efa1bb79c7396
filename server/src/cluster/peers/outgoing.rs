//! What waits to be sent to one other node.
//!
//! Bounded in bytes, and empty while there is no connection: a node that is gone costs nothing, and
//! what is sent to it is refused at once, so that whoever sends can do something else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::cluster::link::Frame;

/// How many bytes wait at the most for one node: two or three of the largest entries, or a second
/// of a fast network. One frame that is longer goes if nothing else waits.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// What a frame counts beside its body: so there is a bound on how many empty ones wait.
const FRAME_COST: usize = 64;

/// The queue to one node.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: Mutex<Queue>,
    /// Told when the queue is no longer empty.
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whether there is a connection. Invariant: the queue is empty if there is none.
    is_open: bool,
    /// In the order in which they leave.
    frames: Vec<Frame>,
    /// What they cost, together with those that were taken and have not left.
    cost: usize,
}

impl Outgoing {
    /// What a frame counts in the queue.
    pub(crate) fn cost(frame: &Frame) -> usize {
        FRAME_COST + frame.body().len()
    }

    /// Queues a frame; false if it will surely not be sent.
    pub(crate) fn push(&self, frame: Frame) -> bool {
        if !frame.is_sendable() {
            return false;
        }
        let cost = Self::cost(&frame);
        let mut queue = self.lock();
        let has_room = queue.cost == 0 || queue.cost + cost <= QUEUE_BYTES_MAX;
        if !queue.is_open || !has_room {
            return false;
        }
        queue.cost += cost;
        queue.frames.push(frame);
        let is_first = queue.frames.len() == 1;
        drop(queue);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    /// All that waits, as soon as there is something. Nothing is lost if the wait is given up.
    pub(crate) async fn take(&self) -> Vec<Frame> {
        loop {
            let frames = std::mem::take(&mut self.lock().frames);
            if !frames.is_empty() {
                return frames;
            }
            self.filled.notified().await;
        }
    }

    /// Frames of this cost that were taken have left.
    pub(crate) fn left(&self, cost: usize) {
        let mut queue = self.lock();
        assert!(cost <= queue.cost, "only what was queued can leave");
        queue.cost -= cost;
    }

    /// There is a connection.
    pub(crate) fn open(&self) {
        self.lock().is_open = true;
    }

    /// There is none any more: what waits is dropped. It may be out of date when there is one again,
    /// and who sent it finds out in his own way what has become of it.
    pub(crate) fn close(&self) {
        *self.lock() = Queue::default();
    }

    /// Whether all that was queued has left, or has no connection to leave by.
    pub(crate) fn is_drained(&self) -> bool {
        self.lock().cost == 0
    }

    /// Whether there is a connection.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::link::{BODY_LEN_MAX, STATUS_LEN_MAX};

    fn taken(outgoing: &Outgoing) -> Vec<Frame> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(outgoing.take())
    }

    #[test]
    fn the_queue_is_bounded_until_what_was_taken_has_left() {
        let outgoing = Outgoing::default();
        let frame = || Frame::Replica(vec![0; QUEUE_BYTES_MAX / 4 - FRAME_COST]);
        assert!(!outgoing.push(frame()), "there is no connection");
        outgoing.open();
        for _ in 0..4 {
            assert!(outgoing.push(frame()));
        }
        let tiny = || Frame::Status(Vec::new());
        assert!(!outgoing.push(tiny()), "it is full");
        assert_eq!(taken(&outgoing).len(), 4);
        assert!(!outgoing.push(tiny()), "what was taken has not left");
        outgoing.left(QUEUE_BYTES_MAX / 4);
        assert!(outgoing.push(tiny()) && !outgoing.is_drained());
        outgoing.close();
        assert!(outgoing.is_drained());
        assert!(!outgoing.is_open());
        outgoing.open();
        assert!(outgoing.push(frame()), "what waited has gone with the connection");
        assert_eq!(taken(&outgoing).len(), 1);
    }

    #[test]
    fn a_long_frame_goes_alone_and_one_that_is_too_long_never() {
        let outgoing = Outgoing::default();
        outgoing.open();
        assert!(!outgoing.push(Frame::Replica(vec![0; BODY_LEN_MAX + 1])));
        assert!(!outgoing.push(Frame::Status(vec![0; STATUS_LEN_MAX + 1])));
        assert!(outgoing.push(Frame::Replica(vec![0; BODY_LEN_MAX])));
        assert!(!outgoing.push(Frame::Status(Vec::new())));
    }
}
