//! For drivers of one thread: appending and writing without ever waiting for the disk.

use crate::core::Refused;
use crate::wal::{Shared, Wal};
use crate::{Error, Lsn, Result};

impl Wal {
    /// As [`append_all`](Wal::append_all), but does not wait: `None` says that too much waits for the
    /// disk, or for a spare segment, and nothing has changed. Try again when something has become
    /// durable.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append).
    ///
    /// # Panics
    ///
    /// If there is no payload.
    pub fn try_append_all(&self, payloads: &[&[u8]]) -> Result<Option<Lsn>> {
        assert!(!payloads.is_empty(), "an append has at least one record");
        let framed = self.frame(payloads)?;
        for is_second in [false, true] {
            let mut state = self.shared.lock();
            match state.core.append(&framed) {
                Ok(lsn) => return Ok(Some(lsn)),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Pending) => return Ok(None),
                Err(Refused::NoSpare) if state.is_full => {
                    state.tell_housekeeper();
                    return Err(Error::Full { path: self.shared.dir.clone() });
                }
                Err(Refused::NoSpare) => {}
            }
            if state.housekeeper.is_some() || is_second {
                state.tell_housekeeper();
                return Ok(None);
            }
            drop(state);
            // Nobody else makes spares.
            match self.shared.prepare() {
                Err(error) if !error.is_full() => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Submits every write that is due and takes what has ended, without waiting: for a log that one
    /// thread drives. On disks that write in the calling thread everything appended is durable when
    /// it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] when the log has stopped.
    pub fn pump(&self) -> Result<()> {
        self.shared.pump()
    }
}

impl Shared {
    fn pump(&self) -> Result<()> {
        loop {
            self.poll();
            let write = {
                let mut state = self.lock();
                if let Some(error) = state.core.failure() {
                    return Err(error);
                }
                let last = state.core.last();
                state.core.want(last);
                state.core.next_write()
            };
            match write {
                // A failure is the core's to handle; it is seen above.
                Some(write) => drop(self.perform(write)),
                None => return Ok(()),
            }
        }
    }
}
