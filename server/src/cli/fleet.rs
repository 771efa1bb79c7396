//! Many connections that one thread keeps busy.
//!
//! Each connection has a window of requests in flight, as a pipelining client has. The thread waits
//! for whichever connections have replies, takes all of them, and refills the windows that have run
//! empty. So every connection is always being served and none waits for another one's replies.
//!
//! What to ask and what to make of the replies is the owner's business: see [`Task`].

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::client::{self, Connection, Reply};

/// How long a connection attempt may take. The server is on this machine, or near.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What a fleet does.
pub(crate) trait Task {
    /// Queues the next requests of `connection`, whose window is empty; returns how many. 0 leaves the
    /// connection idle for this round.
    fn ask(&mut self, connection: usize, out: &mut Connection) -> usize;
    /// Takes the next reply of `connection`, in the order of its requests.
    fn take(&mut self, connection: usize, reply: Reply);
}

/// The connections of one thread.
#[derive(Debug)]
pub(crate) struct Fleet {
    members: Vec<Connection>,
    /// How many replies each one still owes.
    owed: Vec<usize>,
    /// Which have something to read; kept for its memory.
    ready: Vec<bool>,
}

impl Fleet {
    /// Opens `count` connections.
    ///
    /// # Errors
    ///
    /// If one of them cannot be opened.
    pub(crate) fn open(address: SocketAddr, count: usize) -> io::Result<Fleet> {
        let members = (0..count)
            .map(|_| Connection::open(address, CONNECT_MAX))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Fleet { owed: vec![0; members.len()], ready: Vec::new(), members })
    }

    /// Asks on every connection that owes nothing, waits for replies, no longer than `timeout`, and
    /// takes them. Returns how many requests are still without an answer.
    ///
    /// # Errors
    ///
    /// If a connection broke; replies that had been received before have been taken.
    pub(crate) fn round(&mut self, task: &mut dyn Task, timeout: Duration) -> io::Result<usize> {
        for (place, connection) in self.members.iter_mut().enumerate() {
            if self.owed[place] == 0 {
                self.owed[place] = task.ask(place, connection);
                if self.owed[place] > 0 {
                    connection.send()?;
                }
            }
        }
        self.collect(task, timeout)
    }

    /// Takes the replies that are there within `timeout`, without asking. Returns how many requests
    /// are still without an answer.
    ///
    /// # Errors
    ///
    /// As for [`round`](Fleet::round).
    pub(crate) fn collect(&mut self, task: &mut dyn Task, timeout: Duration) -> io::Result<usize> {
        if self.owed.iter().all(|&owed| owed == 0) {
            return Ok(0);
        }
        client::wait(self.members.iter(), timeout, &mut self.ready)?;
        for place in 0..self.members.len() {
            if self.ready[place] {
                self.members[place].fill()?;
                self.take_all(place, task)?;
            }
        }
        Ok(self.owed.iter().sum())
    }

    /// Takes whatever the broken or ending connections still hold, each to its own end: an answer that
    /// arrived was given, whatever happened afterwards.
    pub(crate) fn drain(&mut self, task: &mut dyn Task) {
        for place in 0..self.members.len() {
            while self.owed[place] > 0 {
                // What remains unanswered is unknown, and counted by nobody.
                if self.members[place].fill().is_err() || self.take_all(place, task).is_err() {
                    break;
                }
            }
        }
    }

    fn take_all(&mut self, place: usize, task: &mut dyn Task) -> io::Result<()> {
        while self.owed[place] > 0 {
            let Some(reply) = self.members[place].take()? else { break };
            self.owed[place] -= 1;
            task.take(place, reply);
        }
        Ok(())
    }
}
