//! A disk on which many logs of one process lie: they share one queue for their durable writes
//! and one thread that prepares segments.
//!
//! A log opened on a disk by itself has a ring of its own, and a disk that is given to hundreds of logs has
//! hundreds of rings that know nothing of each other. On a [`SharedDisk`] all logs have
//! lanes of one queue: as many writes are under way as the disk bears and no more,
//! those of several logs leave together, and no log starves another one. Everything else goes straight to the
//! disk inside.
//!
//! One [`Housekeeper`] makes the spare segments of all of them, writes footers and marks idle tails, one log
//! after the other.
//!
//! Logs for event loops and logs for threads that wait complete differently: where a process has both, there
//! are two queues. The queue ends with its last log and is made anew with the next.
//!
//! Not shared is what is no queue: on rungs that write in the calling thread the threads that wait are the
//! queue, and the kernel is fair between them. And where the sync of one write covers a whole file, so that
//! one write at a time is all that a queue bears, each log keeps its own: its file is another one.
//!
//! A shared disk belongs to one process: after a simulated crash the next one makes its own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::shared_queue::SharedQueue;
use super::{Disk, File, Lock, Map, OpenMode, Profile, WriteQueue};
use crate::{Housekeeper, Result};

/// See the [module](self)'s documentation. A cheap handle: clones share as well.
///
/// ```
/// use std::sync::Arc;
/// use strandline_wal::disk::{RealDisk, SharedDisk};
/// use strandline_wal::{Options, Wal};
///
/// # let dir = std::env::temp_dir().join(format!("strandline-shared-{}", std::process::id()));
/// let disk = Arc::new(SharedDisk::new(Arc::new(RealDisk::open(&dir, None)?)));
/// let options = Options { segment_size: 1 << 20, ..Options::default() };
/// let mut logs = Vec::new();
/// for group in 0..8 {
///     let (wal, _) = Wal::open(disk.clone(), &dir.join(group.to_string()), options.clone())?;
///     logs.push(wal);
/// }
/// for wal in &logs {
///     let lsn = wal.append(b"of one group")?;
///     wal.wait(lsn)?;
/// }
/// for wal in &logs {
///     wal.close()?;
/// }
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SharedDisk {
    inner: Arc<dyn Disk>,
    queues: Arc<Queues>,
    housekeeper: Arc<Housekeeper>,
}

/// The queues that logs have joined.
#[derive(Debug, Default)]
struct Queues {
    /// Of logs whose threads wait.
    waiting: Mutex<Weak<SharedQueue>>,
    /// Of logs that are driven by event loops.
    events: Mutex<Weak<SharedQueue>>,
}

impl SharedDisk {
    /// Lets the logs that are opened on it share `inner`.
    pub fn new(inner: Arc<dyn Disk>) -> SharedDisk {
        SharedDisk { inner, queues: Arc::default(), housekeeper: Arc::default() }
    }
}

/// A lane of the queue in `place`, which is made of what `make` gives if there is none.
fn join(
    place: &Mutex<Weak<SharedQueue>>,
    make: impl FnOnce() -> Result<Box<dyn WriteQueue>>,
) -> Result<Box<dyn WriteQueue>> {
    // Replaced as a whole.
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = place.upgrade() {
        return Ok(Box::new(queue.join()?));
    }
    let inner = make()?;
    match inner.places_max() {
        Some(places_max) if places_max > 1 => {
            let queue = Arc::new(SharedQueue::new(inner, places_max));
            *place = Arc::downgrade(&queue);
            Ok(Box::new(queue.join()?))
        }
        _ => Ok(inner),
    }
}

impl Disk for SharedDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.inner.open(path, mode)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.inner.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.inner.remove(path)
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.link(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.inner.sync_dir(dir)
    }

    fn map(&self, path: &Path) -> Result<Map> {
        self.inner.map(path)
    }

    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        self.inner.map_front(path, len)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }

    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        join(&self.queues.waiting, || self.inner.write_queue())
    }

    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        join(&self.queues.events, || self.inner.event_queue())
    }

    fn housekeeper(&self) -> Option<Arc<Housekeeper>> {
        Some(self.housekeeper.clone())
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    fn readers_max(&self) -> usize {
        self.inner.readers_max()
    }

    fn draw(&self, into: &mut [u8]) -> Result<()> {
        self.inner.draw(into)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }
}
