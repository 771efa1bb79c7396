//! The spare directory: where a log goes on when its own disk fails a write, or does not end one.
//!
//! A log that has one keeps prepared segments there, as many as in its own directory. The one time that
//! what a write failed to make durable is laid out anew, that is done there, and the log stays there until it is
//! closed. When it is opened again the segments of both directories are one log, and new ones are
//! begun in its own directory.
//!
//! ```text
//! own:   [1: sealed] [2: up to position 70, then void]      left as it is: a late write may land in it
//! spare:                          [3: from position 71 on]
//! ```
//!
//! **Nobody can open half of it.** Before anything is written to a spare directory both get a *mark*, a small [file](crate::mark)
//! that names the log. Its own directory with a mark is refused without the spare one, and so is a spare
//! directory of another log, or one that has lost its mark. An orderly close of a log of which nothing stands in
//! the spare directory takes the mark of its own directory away.
//!
//! **A write that hangs may land at any time**, also in a later life of the process. So the file that it goes to
//! is never put to use again: in this life it is left alone, with all others of the directory that was
//! left; in later lives no segment is put to use again that was there when the log was opened. What it
//! lands on is void: the header of the segment in the spare directory says so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::core::Core;
use crate::disk::{Disk, Lock, PairedDisk, VERDICT_FILE};
use crate::housekeeping::Housekeeper;
use crate::mark::{self, MARK_FILE, Mark, log_in};
use crate::wal::{LOCK_FILE, Shared};
use crate::{Error, Result};

/// Why a log has left its own directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Moved {
    /// A write failed.
    Failed,
    /// A write had not ended after [`Options::stall_millis`](crate::Options::stall_millis).
    Stalled,
}

impl Moved {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Moved::Failed => "failed",
            Moved::Stalled => "stalled",
        }
    }
}

/// A directory on another disk in which a log goes on when its own fails. One log's alone.
#[derive(Clone, Debug)]
pub struct SpareDirectory {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The directory, which is created if it is missing.
    pub dir: PathBuf,
}

impl SpareDirectory {
    /// Takes the directory for one log.
    pub(crate) fn lock(&self) -> Result<Box<dyn Lock>> {
        self.disk.create_dir_all(&self.dir)?;
        self.disk.lock(&self.dir.join(LOCK_FILE))
    }

    /// Marks both directories, before anything is written to the spare one: that one first, so that a log's own
    /// mark says that there is another.
    pub(crate) fn mark(&self, disk: &dyn Disk, dir: &Path, log_id: u64) -> Result<()> {
        for dir in [&self.dir, dir] {
            match Mark::read(disk, dir)? {
                // A process that was killed may have left its name in the cache only.
                Some(found) if found == log_id => disk.sync_dir(dir)?,
                _ => mark::write(disk, dir, log_id)?,
            }
        }
        Ok(())
    }

    /// The log's own directory is whole without the spare one. If it cannot be said, nothing is lost.
    pub(crate) fn unmark(&self, disk: &dyn Disk, dir: &Path) {
        let _ = disk.remove(&dir.join(MARK_FILE)).and_then(|()| disk.sync_dir(dir));
    }

    fn contains(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }
}

/// The disk of a log that is opened without a spare directory.
///
/// # Errors
///
/// [`Error::SpareAbsent`] if it has one.
pub(crate) fn whole(disk: Arc<dyn Disk>, dir: &Path) -> Result<Arc<dyn Disk>> {
    match Mark::read(&*disk, dir)? {
        None => Ok(disk),
        Some(log_id) => Err(Error::SpareAbsent { path: dir.to_path_buf(), log_id }),
    }
}

/// The log in `dir` on `disk` and its spare directory, as one disk on which it is found in `dir`: for
/// [`verify`](crate::verify), [`Salvage`](crate::Salvage) and all who look at a log that is not open. A mark that is
/// damaged is theirs to tell of.
///
/// # Errors
///
/// [`Error::SpareAbsent`] if the spare directory does not hold the log's mark, [`Error::Foreign`] if it is
/// another log's, [`Error::InvalidOption`] if one directory lies in the other.
pub fn with_spare(
    disk: Arc<dyn Disk>,
    dir: &Path,
    spare: &SpareDirectory,
) -> Result<Arc<dyn Disk>> {
    let is_damaged =
        Mark::look(&*disk, dir)?.is_damaged() || Mark::look(&*spare.disk, &spare.dir)?.is_damaged();
    match is_damaged {
        true => both(disk, dir, spare, false),
        false => pair(disk, dir, spare, false),
    }
}

/// Both directories as one disk, whatever their marks say.
fn both(
    disk: Arc<dyn Disk>,
    dir: &Path,
    spare: &SpareDirectory,
    is_apart: bool,
) -> Result<Arc<dyn Disk>> {
    if spare.contains(dir) || spare.dir.starts_with(dir) {
        let (spare, dir) = (spare.dir.display(), dir.display());
        let reason = format!("the spare directory {spare} and {dir} lie in one another");
        return Err(Error::InvalidOption { reason });
    }
    Ok(Arc::new(PairedDisk::new(
        (disk, dir.to_path_buf()),
        (spare.disk.clone(), spare.dir.clone()),
        &[LOCK_FILE, MARK_FILE, VERDICT_FILE],
        is_apart,
    )))
}

/// As [`with_spare`]; `is_apart` has writes made by threads that nobody waits for.
pub(crate) fn pair(
    disk: Arc<dyn Disk>,
    dir: &Path,
    spare: &SpareDirectory,
    is_apart: bool,
) -> Result<Arc<dyn Disk>> {
    let paired = both(disk.clone(), dir, spare, is_apart)?;
    let own_mark = Mark::read(&*disk, dir)?;
    let (_, own) = log_in(&*disk, dir)?;
    let there = Mark::read(&*spare.disk, &spare.dir)?;
    let foreign = |expected: String, found: String| {
        Err(Error::Foreign { path: spare.dir.clone(), expected, found })
    };
    match (own_mark.or(own), there) {
        (Some(own), Some(there)) if own != there => foreign(
            format!("the spare directory of log {own:016x}"),
            format!("that of {there:016x}"),
        ),
        (None, Some(there)) => foreign(
            format!("a spare directory without a mark: {} holds no log", dir.display()),
            format!("that of log {there:016x}"),
        ),
        (_, None) if own_mark.is_some() => {
            let log_id = own_mark.unwrap_or(0);
            Err(Error::SpareAbsent { path: dir.to_path_buf(), log_id })
        }
        (_, None) if log_in(&*spare.disk, &spare.dir)?.0 => {
            foreign("an empty directory, or one with a mark".into(), "segments without".into())
        }
        _ => Ok(paired),
    }
}

/// Starts the thread that looks for writes that do not end. It sleeps while none is in flight. When the log has
/// moved another one is made to keep house, for the one that did may hang where the write does.
pub(crate) fn watch(shared: &Arc<Shared>) -> Result<()> {
    let weak = Arc::downgrade(shared);
    let spawned = std::thread::Builder::new()
        .name("strandline-watch".into())
        .spawn(move || watch_writes(&weak))
        .map_err(|source| Error::Io {
            operation: "thread start",
            path: PathBuf::new(),
            offset: 0,
            source,
        })?;
    shared.lock().watcher = Some(spawned.thread().clone());
    spawned.thread().unpark();
    Ok(())
}

fn watch_writes(weak: &Weak<Shared>) {
    loop {
        let pause = {
            let Some(shared) = weak.upgrade() else { return };
            shared.give_up_hung();
            let mut state = shared.lock();
            if state.core.failure().is_some() {
                return;
            }
            if state.core.moved().is_some() {
                // Told by nobody, it would not know that it is this log's.
                state.housekeeper = None;
                drop(state);
                let _ = Arc::new(Housekeeper::default()).keep(&shared);
                return;
            }
            let is_idle = state.core.in_flight() == 0;
            state.watcher_sleeps = is_idle;
            // Late by a quarter at the most.
            let often = Duration::from_millis(state.core.options.stall_millis) / 4;
            (!is_idle).then_some(often.max(Duration::from_millis(1)))
        };
        match pause {
            Some(pause) => std::thread::park_timeout(pause),
            None => std::thread::park(),
        }
    }
}

impl Shared {
    /// If a write hangs and there is a spare directory: the log goes on there.
    pub(crate) fn give_up_hung(&self) {
        if self.spare.is_none() {
            return;
        }
        let now = self.disk.now();
        let mut state = self.lock();
        let bound = state.core.options.stall_millis;
        if bound == 0 {
            return;
        }
        state.core.tick(now);
        let Some((writes, queued)) = state.core.give_up(Duration::from_millis(bound)) else {
            return;
        };
        state.waiters.queued -= queued;
        drop(state);
        self.perform_all(writes);
        self.settle(self.lock());
    }

    /// Segments whose files stand in the spare directory, prepared ones aside.
    pub(crate) fn segments_elsewhere(&self, core: &Core) -> usize {
        let Some(spare) = &self.spare else { return 0 };
        let files = core.sealed.iter().chain(&core.held).map(|in_use| &in_use.segment);
        files.chain([&core.active.segment]).filter(|segment| spare.contains(&segment.path)).count()
    }
}
