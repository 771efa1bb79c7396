//! A store whose log is driven on behalf of others: by an event loop, or by threads made for it.

use crate::{Db, Error, Result};

impl Db {
    /// Takes what the disk has completed, and applies it, without waiting: for an event loop over a log
    /// opened with [`events`](strandline_wal::Options::events), when its
    /// [`completion_fd`](strandline_wal::Wal::completion_fd) is readable. Submit what is due after that.
    pub fn take_ended(&self) {
        self.inner.wal.take_ended();
    }

    /// Submits what is due, without waiting: at the end of a turn in which the loop has appended, or has
    /// taken what ended.
    ///
    /// # Errors
    ///
    /// The error that stopped the log; the machine has been told.
    pub fn submit_due(&self) -> Result<()> {
        self.stepped(self.inner.wal.submit_due())
    }

    fn stepped(&self, result: strandline_wal::Result<()>) -> Result<()> {
        result.map_err(|error| {
            let error = Error::from(error);
            self.inner.committer.log_failed(&error);
            error
        })
    }

    /// Commits on behalf of others until the store is closed: for a server's commit threads.
    ///
    /// # Errors
    ///
    /// The error that stopped the log; the machine has been told.
    pub fn lead(&self) -> Result<()> {
        self.stepped(self.inner.wal.lead())
    }
}
