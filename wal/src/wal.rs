//! The log: open, append, wait, read, truncate, trim, close.
//!
//! ```text
//! append -> group being filled --+                       +-> durable prefix -> hook -> waiters
//!                                +-> sealed -> disk ---->+
//! (the next group fills meanwhile)    (several in flight)
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};

use crate::core::{Append, Bounds, Core, InUse, Refused};
use crate::disk::{ALIGNMENT_MAX, Buffer, Disk, Lock, WriteQueue};
use crate::frame::GROUP_HEADER_LEN;
use crate::group::{Framed, Pending};
use crate::notifier::Notifier;
use crate::reader::Reader;
use crate::record::{self, Kind};
use crate::recovery::{self, Recovery};
use crate::scrub::Scrubber;
use crate::segment::SegmentId;
use crate::spare::{self, SpareDirectory};
use crate::sync::{Mutex, MutexGuard};
use crate::waiters::Waiters;
use crate::{Error, Keyring, Lsn, Options, Result, Stats, canary};

/// The file whose lock a log holds.
pub(crate) const LOCK_FILE: &str = "LOCK";

/// Called with the durable position whenever it has grown, before those who wait for it are woken.
/// Several threads may call it at once.
pub type DurableHook = Box<dyn Fn(Lsn) + Send + Sync>;

/// A durable log in one directory. A cheap handle: clones share the log.
///
/// ```
/// use strandline_wal::{Options, Wal, disk::RealDisk};
/// use std::sync::Arc;
///
/// let dir = std::env::temp_dir().join(format!("strandline-doc-{}", std::process::id()));
/// std::fs::create_dir_all(&dir)?;
/// let disk = Arc::new(RealDisk::open(&dir, None)?);
/// let options = Options { segment_size: 1 << 20, ..Options::default() };
/// let (wal, _recovery) = Wal::open(disk, &dir, options)?;
/// let lsn = wal.append(b"never lost")?;
/// wal.wait(lsn)?; // it is on disk now
/// let records = wal.reader(lsn).next_records()?.expect("it is durable");
/// for record in records.iter() {
///     assert_eq!(record.expect("checked when read").1.payload, b"never lost");
/// }
/// wal.close()?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Wal {
    pub(crate) shared: Arc<Shared>,
    /// Ends the housekeeping when the last handle is gone.
    _last_handle: Arc<LastHandle>,
}

/// What all handles, readers and drivers of a log share.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) queue: Box<dyn WriteQueue>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    /// Where callbacks run.
    pub(crate) notifier: Arc<Notifier>,
    /// Called when the durable position has grown.
    pub(crate) hook: std::sync::OnceLock<DurableHook>,
    /// The spare directory, if the log has one.
    pub(crate) spare: Option<SpareDirectory>,
    /// The number of the next segment file.
    pub(crate) next_segment: AtomicU64,
    /// Held while spares are made in the log's own directory.
    pub(crate) making: Mutex<()>,
    /// The same for the spare directory.
    pub(crate) making_elsewhere: Mutex<()>,
    /// Held while segments are replaced or the log is begun anew.
    pub(crate) layout: Mutex<()>,
    /// Where a verification of the open log is, and what it has found.
    pub(crate) scrubber: Mutex<Scrubber>,
    /// Replaced segments whose new file may lose its name: never used for anything else.
    pub(crate) unsure: Mutex<Vec<Arc<InUse>>>,
    /// Released when the log is closed: those of its own directory, and of the spare one.
    pub(crate) locks: Mutex<Vec<Box<dyn Lock>>>,
    bounds: Bounds,
    /// What encrypted groups are read with.
    pub(crate) keyring: Option<Keyring>,
}

/// What the lock protects.
pub(crate) struct State {
    pub core: Core,
    pub waiters: Waiters,
    /// Whether futures or callbacks have been used, and threads started for them.
    pub has_tasks: bool,
    /// Whether the disk was full when a spare was last made.
    pub is_full: bool,
    /// Whether the log was at its largest size when a spare was last to be made.
    pub is_capped: bool,
    /// Whether housekeeping has been told that there is something to do.
    pub housekeeping_told: bool,
    /// Whether it looks again by itself, soon, at the tail.
    pub housekeeper_watches: bool,
    /// The thread that prepares spares and marks an idle tail.
    pub housekeeper: Option<std::thread::Thread>,
    /// The thread that looks for writes that do not end, and whether it has to be told of one that begins.
    pub watcher: Option<std::thread::Thread>,
    pub watcher_sleeps: bool,
}

struct LastHandle(Arc<Shared>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        // Whoever wanted to know of errors called `close`.
        let _ = self.0.close();
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere while the lock was held broke an invariant there; the core asserts its own.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wal {
    /// Opens the log in `dir`, which is created if it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if it is in use, [`Error::Corruption`] if records are damaged that were
    /// acknowledged, [`Error::FormatVersion`] or [`Error::Foreign`] if it is not ours to read,
    /// [`Error::KeyMissing`] or [`Error::WrongTag`] if its end is encrypted and [`Options::encryption`] does not have
    /// the key, and [`Error::Io`].
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: Options) -> Result<(Wal, Recovery)> {
        options.validate()?;
        disk.create_dir_all(dir)?;
        let mut locks = vec![disk.lock(&dir.join(LOCK_FILE))?];
        let disk = match &options.spare {
            Some(spare) => {
                locks.push(spare.lock()?);
                spare::pair(disk, dir, spare, options.stall_millis > 0)?
            }
            None => spare::whole(disk, dir)?,
        };
        let queue = if options.events { disk.event_queue()? } else { disk.write_queue()? };
        let (start, recovery) = recovery::recover(&*disk, &*queue, dir, &options)?;
        if let Some(spare) = &options.spare {
            spare.mark(&*disk, dir, start.log_id)?;
        }
        let mut next_segment = 1;
        for name in disk.list(dir)? {
            if let Some(id) = SegmentId::from_file_name(&name) {
                next_segment = next_segment.max(id.0 + 1);
            }
        }
        let mut depth_max = disk.profile().depth_max.max(1);
        if options.depth_max > 0 {
            depth_max = depth_max.min(options.depth_max);
        }
        let background = options.background;
        let (bounds, keyring) = (Bounds::new(&options), options.encryption.clone());
        let (spare, watches) = (options.spare.clone(), background && options.stall_millis > 0);
        let core = Core::new(options, depth_max, start);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                core,
                waiters: Waiters::new(recovery.last),
                has_tasks: false,
                is_full: false,
                is_capped: false,
                housekeeping_told: false,
                housekeeper_watches: false,
                housekeeper: None,
                watcher: None,
                watcher_sleeps: false,
            }),
            queue,
            disk,
            dir: dir.to_path_buf(),
            notifier: Arc::default(),
            hook: std::sync::OnceLock::new(),
            spare,
            next_segment: AtomicU64::new(next_segment),
            making: Mutex::new(()),
            making_elsewhere: Mutex::new(()),
            layout: Mutex::new(()),
            scrubber: Mutex::new(Scrubber::new()),
            unsure: Mutex::new(Vec::new()),
            locks: Mutex::new(locks),
            bounds,
            keyring,
        });
        if background {
            shared.disk.housekeeper().unwrap_or_default().keep(&shared)?;
            if watches {
                spare::watch(&shared)?;
            }
        } else {
            // A full disk is no reason not to open: appends are refused, reads are served.
            match shared.prepare() {
                Ok(_) => {}
                Err(error) if error.is_full() => {}
                Err(error) => return Err(error),
            }
        }
        let last_handle = Arc::new(LastHandle(shared.clone()));
        Ok((Wal { shared, _last_handle: last_handle }, recovery))
    }

    /// Has `hook` called whenever the durable position has grown. At most once per log.
    ///
    /// # Panics
    ///
    /// If there is a hook already.
    pub fn set_hook(&self, hook: DurableHook) {
        assert!(self.shared.hook.set(hook).is_ok(), "a log has one hook");
    }

    /// Takes an entry; it is not durable yet. Returns its position.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::Full`], [`Error::Poisoned`] or [`Error::Closed`]; nothing has
    /// changed then.
    pub fn append(&self, payload: &[u8]) -> Result<Lsn> {
        self.append_all(&[payload])
    }

    /// Takes entries, all or none, at consecutive positions. Returns the last one's. Waits if too
    /// much is waiting for the disk.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append).
    ///
    /// # Panics
    ///
    /// If there is no payload.
    pub fn append_all(&self, payloads: &[&[u8]]) -> Result<Lsn> {
        self.append_then(payloads, |_| ())
    }

    /// As [`append_all`](Wal::append_all), and calls `then` with the last position before anybody
    /// else can append or learn that the entries are durable.
    ///
    /// # Errors
    ///
    /// As for [`append`](Wal::append); `then` is not called.
    pub fn append_then(&self, payloads: &[&[u8]], then: impl FnOnce(Lsn)) -> Result<Lsn> {
        assert!(!payloads.is_empty(), "an append has at least one record");
        let mut append = self.prepare_append(payloads)?;
        loop {
            let refused = {
                let mut state = self.shared.lock();
                match state.core.append(&mut append) {
                    Ok(lsn) => {
                        then(lsn);
                        drop(state);
                        let is_late = canary::is_on(canary::PLACE_READ_LATE);
                        return Ok(if is_late { self.last() } else { lsn });
                    }
                    Err(refused) => refused,
                }
            };
            match refused {
                Refused::Error(error) => return Err(error),
                Refused::Pending => self.shared.drain_some()?,
                Refused::NoSpare => match self.shared.prepare() {
                    Ok(_) => {}
                    Err(error) => return Err(self.shared.refusal(error)),
                },
            }
        }
    }

    /// All that can be done of an append before the log is locked.
    pub(crate) fn prepare_append<'a>(&self, payloads: &[&'a [u8]]) -> Result<Append<'a>> {
        let bounds = self.shared.bounds;
        let size_max = bounds.payload_len_max;
        if let Some(payload) = payloads.iter().find(|payload| payload.len() > size_max) {
            return Err(Error::TooLarge { size: payload.len(), size_max });
        }
        let len = payloads.iter().map(|payload| record::len(payload.len())).sum();
        if !bounds.is_whole(payloads.len(), len) {
            let framed = payloads.iter().map(|payload| Framed::new(Kind::ENTRY, payload));
            return Ok(Append::Shared(framed.collect()));
        }
        let len = (GROUP_HEADER_LEN + len).next_multiple_of(ALIGNMENT_MAX);
        let buffer = self.shared.lock().core.spare_buffer(len);
        let buffer = buffer.unwrap_or_else(|| Buffer::with_capacity(len));
        let mut group = Pending::new(buffer, Lsn(0), false);
        payloads.iter().for_each(|payload| group.push_payload(Kind::ENTRY, payload));
        Ok(Append::Whole(Some(group)))
    }

    /// Waits until everything up to `lsn` is durable; the calling thread does the write itself if
    /// nobody else is about to.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] if it cannot be made durable any more.
    pub fn wait(&self, lsn: Lsn) -> Result<()> {
        self.shared.wait(lsn)
    }

    /// Waits until everything appended so far is durable.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Wal::wait).
    pub fn sync(&self) -> Result<()> {
        let last = self.shared.lock().core.last();
        self.shared.wait(last)
    }

    /// Asks for everything up to `lsn` to be made durable, without waiting: a thread that is in
    /// [`lead`](Wal::lead) does it.
    pub fn request(&self, lsn: Lsn) {
        self.shared.request(lsn);
    }

    /// Drives the log until it is closed or poisoned: for threads that commit on behalf of others.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] when the log has stopped.
    pub fn lead(&self) -> Result<()> {
        self.shared.lead()
    }

    /// Position of the last record, durable or not.
    pub fn last(&self) -> Lsn {
        self.shared.lock().core.last()
    }

    /// Everything up to here is durable.
    pub fn durable(&self) -> Lsn {
        self.shared.lock().core.durable()
    }

    /// The first position that is still held.
    pub fn first(&self) -> Lsn {
        self.shared.lock().core.first()
    }

    /// How many bytes each segment takes on the disk.
    pub fn segment_size(&self) -> u64 {
        self.shared.lock().core.options.segment_size
    }

    /// A reader that starts at `from`.
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(self.shared.clone(), from)
    }

    /// Drops the records after `last` (a conflicting suffix), once everything appended is durable.
    /// Positions after `last` are given anew. Readers must not have passed `last`. Until the first
    /// append after this is durable, opening the log again may bring the dropped records back.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`] if `last` has been trimmed, [`Error::Poisoned`], [`Error::Closed`].
    pub fn truncate(&self, last: Lsn) -> Result<()> {
        loop {
            self.sync()?;
            self.shared.settle_in_flight()?;
            let mut state = self.shared.lock();
            if state.core.in_flight() == 0 && !state.core.has_pending() {
                state.core.truncate(last)?;
                state.waiters.settle_back(last);
                return Ok(());
            }
        }
    }

    /// Drops everything: the next record gets position `first`. For a replica whose state was replaced
    /// by a snapshot. Durable when it returns; a crash leaves the log as it was or as it is to be.
    /// Readers must be made anew.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if there is no segment to begin anew in, [`Error::Poisoned`],
    /// [`Error::Closed`]. If the write failed the log may be either way when it is opened again.
    ///
    /// # Panics
    ///
    /// If `first` is 0.
    pub fn reset(&self, first: Lsn) -> Result<()> {
        self.shared.reset(first)
    }

    /// Says that the records up to `lsn` are not needed any more. Whole segments are dropped and
    /// reused when no reader holds them.
    pub fn trim(&self, lsn: Lsn) {
        let mut state = self.shared.lock();
        state.core.trim(lsn);
        state.tell_housekeeper();
    }

    /// Does the background work that is due: writes the footers of sealed segments, makes spare segments,
    /// drops trimmed ones, and marks the tail if `idle`. For logs opened without a thread of their own.
    ///
    /// # Errors
    ///
    /// The first error; [`Error::is_full`] tells a full disk.
    pub fn prepare(&self, idle: bool) -> Result<()> {
        self.shared.give_up_hung();
        self.shared.write_footers();
        self.shared.prepare()?;
        if idle {
            self.shared.mark(false)?;
        }
        Ok(())
    }

    /// Counters and state.
    pub fn stats(&self) -> Stats {
        let state = self.shared.lock();
        Stats {
            spares: state.core.spares(),
            segments_in_use: state.core.sealed.len() + 1,
            space: state.space(),
            is_full: state.is_full,
            first: state.core.first(),
            trimmed: state.core.trimmed,
            segments_held: state.core.held.len(),
            segments_read: state.core.segments_read(),
            depth: state.core.depth(),
            pending_bytes: state.core.pending_size(),
            moved: state.core.moved(),
            spares_elsewhere: state.core.spares_elsewhere(),
            segments_elsewhere: self.shared.segments_elsewhere(&state.core),
            writes_given_up: state.core.hanging(),
            rung: Some(self.shared.disk.profile().rung),
            ..state.core.counters
        }
    }

    /// Makes everything durable, marks the log as closed and gives the directory free. Every handle
    /// gets [`Error::Closed`] from then on. Closing twice is harmless.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] if not everything could be made durable; the log is closed all the same.
    pub fn close(&self) -> Result<()> {
        self.shared.close()
    }
}

impl State {
    /// Wakes the housekeeper if something is due that it would not see by itself. While the log is busy it
    /// is not woken for the tail: it looks whether that is idle, every so often.
    pub(crate) fn tell_what_is_due(&mut self) {
        let will_be_unproven = self.core.is_unproven() || self.core.in_flight() > 0;
        let unseen = will_be_unproven && !self.housekeeper_watches;
        self.tell_watcher();
        if self.core.spares_missing() > 0 || self.core.is_footer_due() || unseen {
            self.tell_housekeeper();
        }
    }

    /// Wakes who looks for writes that hang, if one is in flight and it does not look.
    pub(crate) fn tell_watcher(&mut self) {
        if self.core.in_flight() > 0 && std::mem::take(&mut self.watcher_sleeps) {
            self.watcher.iter().for_each(std::thread::Thread::unpark);
        }
    }

    /// Wakes the housekeeper, once until it has looked.
    pub(crate) fn tell_housekeeper(&mut self) {
        if let Some(housekeeper) = &self.housekeeper
            && !std::mem::replace(&mut self.housekeeping_told, true)
        {
            housekeeper.unpark();
        }
    }
}
