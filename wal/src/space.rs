//! Room for the log: the spares, the cap on its size, and who holds it back.
//!
//! Room is made away from the commit path and ahead of need, so that a full disk, or a log that is
//! as large as it may be, refuses an append before it is accepted. Both end by themselves: when there
//! is room on the disk, when the log is trimmed, when a reader lets go of a segment.

use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::core::{Core, InUse};
use crate::segment::SegmentId;
use crate::sync::Mutex;
use crate::wal::{Shared, State};
use crate::{Error, Result, preparer};

/// Whether the log has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Space {
    /// It has.
    #[default]
    Normal,
    /// The disk is full. Appends go on as long as there are spares, and resume when there is room.
    Full,
    /// The log has reached [`Options::log_size_max`](crate::Options::log_size_max). Appends go on as long
    /// as there are spares, and resume when it is trimmed or readers let go of what was trimmed.
    Capped,
    /// A write failed for good: see [`Error::Poisoned`].
    Poisoned,
}

impl Core {
    /// Files that the log has now.
    fn files(&self) -> u64 {
        let files = 1 + self.sealed.len() + self.held.len() + self.spares();
        u64::try_from(files).expect("a log has few files")
    }

    /// Trimmed segments that readers hold.
    pub(crate) fn segments_read(&self) -> usize {
        self.held.iter().filter(|in_use| InUse::is_read(in_use)).count()
    }

    /// Whether one more file would make the log larger than it may be.
    fn is_capped(&self) -> bool {
        let size = (self.files() + 1).saturating_mul(self.options.segment_size);
        self.options.log_size_max > 0 && size > self.options.log_size_max
    }
}

impl State {
    pub(crate) fn space(&self) -> Space {
        match self.core.failure() {
            Some(Error::Poisoned { .. }) => Space::Poisoned,
            _ if self.is_capped => Space::Capped,
            _ if self.is_full => Space::Full,
            _ => Space::Normal,
        }
    }
}

impl State {
    /// Whether spares are missing. If not, there is room, and all that were wanted are there.
    fn lacks_spares(&mut self) -> bool {
        let lacks = self.core.failure().is_none() && self.core.spares_missing() > 0;
        if !lacks {
            self.is_full = false;
            self.is_capped = false;
            self.core.spares_wanted = 0;
        }
        lacks
    }
}

impl Shared {
    /// Makes the spares that are missing.
    pub(crate) fn prepare(&self) -> Result<()> {
        while self.prepare_one()? {}
        Ok(())
    }

    /// Makes one spare, if any is missing, where the log is or else in the spare directory; whether more are.
    pub(crate) fn prepare_one(&self) -> Result<bool> {
        if self.lock().core.moved().is_some() {
            return self.prepare_here(&self.making_elsewhere);
        }
        let here = self.prepare_here(&self.making);
        if matches!(here, Ok(true)) {
            return here;
        }
        // A spare directory that is full or gone is seen in the statistics: the log goes on without.
        let elsewhere = self.prepare_elsewhere().unwrap_or(false);
        here.map(|_| elsewhere)
    }

    /// Where segments are made now.
    fn home(&self, core: &Core) -> &Path {
        match (&self.spare, core.moved()) {
            (Some(spare), Some(_)) => &spare.dir,
            _ => &self.dir,
        }
    }

    /// Makes a segment in the spare directory while the log is not there, if one is missing; whether more are.
    fn prepare_elsewhere(&self) -> Result<bool> {
        let Some(spare) = &self.spare else { return Ok(false) };
        let _making = self.making_elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let (len, log_id) = {
            let state = self.lock();
            let core = &state.core;
            if core.failure().is_some() || core.missing_elsewhere() == 0 {
                return Ok(false);
            }
            (core.options.segment_size, core.log_id)
        };
        let made = preparer::make(&*self.disk, &spare.dir, self.next_id(), len, log_id)?;
        let mut state = self.lock();
        state.core.add_spare(made, true);
        Ok(state.core.missing_elsewhere() > 0)
    }

    /// A number that no segment has, in neither directory.
    fn next_id(&self) -> SegmentId {
        SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed))
    }

    fn prepare_here(&self, making: &Mutex<()>) -> Result<bool> {
        let _making = making.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that takes nothing more needs no room, and one that is closed has no directory.
        if self.lock().core.failure().is_some() {
            return Ok(false);
        }
        self.recycle()?;
        let (len, log_id, dir) = {
            let mut state = self.lock();
            if !state.lacks_spares() {
                return Ok(false);
            }
            (state.core.options.segment_size, state.core.log_id, self.home(&state.core))
        };
        if let Some(error) = self.capped() {
            return Err(error);
        }
        let made = preparer::make(&*self.disk, dir, self.next_id(), len, log_id);
        let mut state = self.lock();
        match made {
            Ok(segment) => {
                state.core.add_spare(segment, dir != self.dir);
                Ok(state.lacks_spares())
            }
            Err(error) => {
                state.is_full = error.is_full();
                state.core.spares_wanted = 0;
                Err(error)
            }
        }
    }

    /// Turns trimmed segments into spares, or removes them if there are enough.
    fn recycle(&self) -> Result<()> {
        let removable = self.lock().core.take_released();
        for segment in &removable {
            self.disk.remove(&segment.path)?;
        }
        let mut dirs: Vec<_> = removable.iter().filter_map(|one| one.path.parent()).collect();
        dirs.dedup();
        for dir in dirs {
            self.disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// The error, if the log may not have another file now.
    pub(crate) fn capped(&self) -> Option<Error> {
        let mut state = self.lock();
        state.is_capped = state.core.is_capped();
        if !state.is_capped {
            return None;
        }
        state.core.spares_wanted = 0;
        Some(Error::Capped {
            path: self.dir.clone(),
            size_max: state.core.options.log_size_max,
            first: state.core.first().0,
            last: state.core.last().0,
            held: state.core.held.len(),
        })
    }

    /// What an append is refused with that found no room.
    pub(crate) fn refusal(&self, error: Error) -> Error {
        match error {
            Error::Capped { .. } => error,
            error if error.is_full() => Error::Full { path: self.dir.clone() },
            error => error,
        }
    }
}
