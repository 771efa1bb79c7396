//! Many connections that one thread drives: each writes, waits for its answer and writes again.
//!
//! The thread sleeps until something has come for some of them, and takes that without waiting for more.

use std::sync::Barrier;
use std::sync::atomic::AtomicU8;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};

use crate::workload::{Connection, Load, histogram, note};
use crate::{Error, Result};

/// How many answers are taken at a time.
const EVENTS_MAX: usize = 256;
/// A crowd that hears nothing for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Runs until the time is over; the latencies of all.
pub(crate) fn run(
    connections: Vec<Result<Box<dyn Connection>>>,
    mut load: Load,
    phase: &AtomicU8,
    start: &Barrier,
) -> Result<Histogram<u64>> {
    let connections = connections.into_iter().collect::<Result<Vec<_>>>();
    // The one who measures waits at the barrier, whatever has happened.
    start.wait();
    let mut connections = connections?;
    let failed = |error: rustix::io::Errno| Error::io("wait for", "connections")(error.into());
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
    let mut began = Vec::with_capacity(connections.len());
    for (number, connection) in (0..).zip(&mut connections) {
        let event = epoll::EventData::new_u64(number);
        epoll::add(&poll, connection.descriptor(), event, epoll::EventFlags::IN).map_err(failed)?;
        began.push(Instant::now());
        let (key, value) = load.next_pair();
        connection.begin(&key, value)?;
    }
    let mut latencies = histogram();
    let silence = Timespec::try_from(SILENCE_MAX).expect("some seconds");
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&silence))
            .map_err(failed)?;
        if events.is_empty() {
            return Err(Error::io("wait for", "connections")(std::io::ErrorKind::TimedOut.into()));
        }
        for event in &events {
            let number = usize::try_from(event.data.u64()).expect("the number of a connection");
            let connection = &mut connections[number];
            if !connection.end()? {
                continue;
            }
            let now = Instant::now();
            if !note(&mut latencies, phase, now - began[number]) {
                return Ok(latencies);
            }
            began[number] = now;
            let (key, value) = load.next_pair();
            connection.begin(&key, value)?;
        }
    }
}
