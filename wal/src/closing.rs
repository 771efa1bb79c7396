//! The end of a log: the marker that says that its tail was durable, and closing.

use std::sync::PoisonError;

use crate::spare::Moved;
use crate::waiters::Reason;
use crate::wal::Shared;
use crate::{Error, Result};

impl Shared {
    /// Writes the marker that claims an idle tail, if one is due.
    pub(crate) fn mark(&self, closing: bool) -> Result<()> {
        if closing {
            self.write_footers();
            if self.lock().core.marker_lacks_spare() {
                // On a full disk the log is closed without.
                let _ = self.prepare();
            }
        }
        let write = {
            // The housekeeper may have begun with a marker of its own since all was settled.
            let mut state = if closing { self.settled()? } else { self.lock() };
            let write = state.core.marker(closing);
            state.tell_watcher();
            write
        };
        let Some(write) = write else { return Ok(()) };
        let opens_segment = write.offset == 0;
        let result = self.perform(write);
        // It may be under way, and nobody else may know.
        self.hand_on(self.lock());
        result?;
        if closing && opens_segment {
            self.settle_in_flight()?;
            return self.mark(true);
        }
        Ok(())
    }

    /// See [`Wal::close`](crate::Wal::close).
    pub(crate) fn close(&self) -> Result<()> {
        let last = {
            let state = self.lock();
            match state.core.failure() {
                Some(Error::Closed) => return Ok(()),
                Some(_) => None,
                None => Some(state.core.last()),
            }
        };
        let result = match last {
            Some(last) => self.wait(last).and_then(|()| self.settle_in_flight()),
            None => Ok(()),
        };
        let marked = result.and_then(|()| self.mark(true)).and_then(|()| self.settle_in_flight());
        let mut state = self.lock();
        let failure = state.core.failure();
        state.core.close();
        let all = state.waiters.take_all();
        if let Some(housekeeper) = state.housekeeper.take() {
            housekeeper.unpark();
        }
        state.watcher.take().inspect(std::thread::Thread::unpark);
        let elsewhere = self.segments_elsewhere(&state.core);
        let (hangs, moved) = (state.core.hanging() > 0, state.core.moved());
        drop(state);
        all.wake(Reason::Look);
        self.notifier.close();
        // Whoever is making or replacing files ends before the directory is another's. Who does in one that
        // hangs is not waited for, and the directory stays locked.
        drop(self.making_elsewhere.lock().unwrap_or_else(PoisonError::into_inner));
        let mut locks =
            std::mem::take(&mut *self.locks.lock().unwrap_or_else(PoisonError::into_inner));
        if moved == Some(Moved::Stalled) && hangs {
            locks.drain(..1).for_each(std::mem::forget);
        } else {
            drop(self.making.lock().unwrap_or_else(PoisonError::into_inner));
            drop(self.layout.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if let Some(spare) = &self.spare
            && (marked.is_ok(), elsewhere, moved) == (true, 0, None)
        {
            spare.unmark(&*self.disk, &self.dir);
        }
        drop(locks);
        marked.and(failure.map_or(Ok(()), Err))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::disk::SimulatedDisk;
    use crate::{Options, Wal};

    /// The marker of an idle tail is under way when that of the close is due.
    #[test]
    fn a_marker_of_the_housekeeper_does_not_take_the_place_of_the_closing_one() {
        let disk = SimulatedDisk::new(1);
        let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), Options::default()).unwrap();
        let lsn = wal.append(b"last").unwrap();
        wal.wait(lsn).unwrap();
        let shared = &wal.shared;
        // Begun here, or by the housekeeper just before.
        let begun = shared.lock().core.marker(false);
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| shared.mark(true));
            // Time for it to meet what was begun.
            std::thread::sleep(std::time::Duration::from_millis(20));
            begun.into_iter().for_each(|write| shared.perform(write).unwrap());
            closing.join().unwrap().unwrap();
        });
        disk.kill();
        let (_, recovery) = Wal::open(disk, Path::new("/log"), Options::default()).unwrap();
        assert!(recovery.closed, "{recovery:?}");
    }
}
