//! A disk in memory that tears, loses and refuses, the same way each time for the same seed.
//!
//! It stands in for a real disk wherever the crash behaviour of code is to be tested: in tests of the
//! log and the engine, and under the whole cluster in the simulator. There is no I/O, no clock and no
//! thread in it. One seed decides every draw, so that a run is repeated by its seed; whether two runs
//! were the same is told by [`SimulatedDisk::event_hash`]. Any thread may use it, but only one thread
//! at a time makes a run repeatable.
//!
//! # What it models
//!
//! A file has a *cache*, which reads see, and *durable* content; names likewise. A buffered write, a
//! length, and a change of names each start *unsynced*.
//!
//! ```text
//!             write_at, allocate                    sync(file)
//!   caller ───────────────────────▶ cache+unsynced ────────────▶ durable content
//!          ── submit ── complete ──────────────────────────────▶      "
//!          ── create, rename, ... ▶ names+unsynced ── sync_dir ▶ durable names
//!                                        │
//!                power cut: each 512-byte sector, each length and
//!                each change of names survives, or not, by itself
//! ```
//!
//! | fault | how |
//! |---|---|
//! | power cut, kill | [`power_cut`](SimulatedDisk::power_cut), [`kill`](SimulatedDisk::kill), or [`Fault::PowerCut`] and [`Fault::Kill`] during an operation chosen by its number |
//! | torn and lost writes, lengths without data | [`Survival`]; drawn from the seed, or [set](SimulatedDisk::set_survival) |
//! | failed sync, failed durable write | [`Fault::Eio`]: the lost sectors are clean afterwards, reads see the new bytes or the old, later syncs say `Ok`, the next power cut shows the loss |
//! | full disk | [`set_full`](SimulatedDisk::set_full), [`set_capacity`](SimulatedDisk::set_capacity), [`Fault::Enospc`] also late, at a sync |
//! | short write | [`Fault::ShortWrite`] |
//! | reordered durable writes | [`set_stepped`](SimulatedDisk::set_stepped) and [`complete_one`](SimulatedDisk::complete_one) |
//! | bad sector, bit rot, lost name, misdirected write | [`make_unreadable`](SimulatedDisk::make_unreadable), [`fail_reads`](SimulatedDisk::fail_reads), [`flip_bit`](SimulatedDisk::flip_bit), [`corrupt`](SimulatedDisk::corrupt), [`lose`](SimulatedDisk::lose), [`misdirect_next_write`](SimulatedDisk::misdirect_next_write) |
//! | a disk that lies | [`set_lying`](SimulatedDisk::set_lying): opt-in, outside what one node promises |
//!
//! After a crash every handle of the earlier process - file, lock, queue - returns an error, and locks
//! are free. The disk itself is the machine's and lives on. Code that might still act through it
//! after its process ended, say in a `drop`, is given a [`mount`](SimulatedDisk::mount), which dies too.
//!
//! # Where it is harsher than a real disk
//!
//! - Two writes into one sector survive apart, although a page cache would write them together.
//! - Where a length survives without its data, content of deleted files can come to light.
//! - A write that a failed sync lost is not healed by a later write into the same page.
//!
//! # What it leaves out
//!
//! - Time: slow and hanging operations are those of the simulator, which steps durable writes.
//! - Permissions, symbolic links, removal of directories, `..` in paths. Relative paths begin at the
//!   root. Capacity counts content only: names cost nothing.
//! - A failed [`sync_dir`](super::Disk::sync_dir) loses nothing by itself: file systems keep metadata dirty,
//!   or stop.
//! - A [`Map`](super::Map) is a copy of the moment it was made: what befalls the file later does not show in it,
//!   except that sectors become unreadable, which is met by who [touches](super::Map::touch) them. Mapping the front
//!   of a file with an unreadable sector in it is an error instead of a signal.
//!
//! # Example
//!
//! ```
//! use std::path::Path;
//! use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
//! use strandline_wal::disk::{Disk, OpenMode};
//!
//! let disk = SimulatedDisk::new(1);
//! disk.set_survival(Survival::NOTHING);
//! disk.create_dir_all(Path::new("/db"))?;
//! let path = Path::new("/db/manifest");
//! let file = disk.open(path, OpenMode::Create)?;
//! file.write_at(b"version 1", 0)?;
//! file.sync()?;
//! // The bytes are durable; the name is not, because nobody synced the directory.
//! disk.power_cut();
//! assert!(!disk.exists(path)?);
//! assert!(file.sync().is_err(), "handles end with the process");
//! # Ok::<(), strandline_wal::Error>(())
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

mod content;
mod fault;
mod file;
mod image;
mod name_space;
mod names;
mod queue;
mod random;
mod state;

#[cfg(test)]
mod tests;

pub use fault::{Counters, Fault, Survival};
pub use queue::InFlight;
pub use random::{PER_MILLE, Random};

use super::ALIGNMENT_MAX;
use image::SECTOR;
use names::FileId;
use state::{Shared, State, enter, to_u64};

/// A simulated disk. See the [module](self) for what it models.
pub struct SimulatedDisk {
    /// What all handles share.
    state: Shared,
    /// The process that this handle belongs to; `None` for the machine's own.
    generation: Option<u64>,
}

/// A file as the tester sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its name, from the root.
    pub path: PathBuf,
    /// The length that operations see.
    pub len: u64,
    /// The length on the disk; `None` if this name would be gone, or another file's, after a power
    /// cut that keeps nothing.
    pub durable_len: Option<u64>,
    /// How many sectors of writes are not durable.
    pub unsynced_sectors: usize,
}

/// Running it: crashes, and faults at chosen operations.
impl SimulatedDisk {
    /// An empty disk. The seed decides all its draws, the chance of [survival](Survival) included.
    pub fn new(seed: u64) -> Arc<SimulatedDisk> {
        let state = Arc::new(Mutex::new(State::new(seed)));
        Arc::new(SimulatedDisk { state, generation: None })
    }

    /// The same disk as the running process sees it: this handle dies with the next crash.
    pub fn mount(&self) -> Arc<SimulatedDisk> {
        let generation = Some(enter(&self.state).generation);
        Arc::new(SimulatedDisk { state: Arc::clone(&self.state), generation })
    }

    /// A disk of its own with the same content, synced and unsynced, that draws by another seed:
    /// for trying many ends of one beginning. It has no handles and no locks, durable writes under
    /// way are unsynced writes on it, and no fault is planned.
    pub fn fork(&self, seed: u64) -> Arc<SimulatedDisk> {
        let mut state = enter(&self.state).clone();
        state.random = Random::new(seed);
        state.salts = Random::new(!seed);
        state.end_flights(Fault::PowerCut);
        state.end_process();
        state.queues.clear();
        state.plan.clear();
        state.bad_patch = (0, 0);
        state.collect_all();
        Arc::new(SimulatedDisk { state: Arc::new(Mutex::new(state)), generation: None })
    }

    /// Cuts the power and turns it on again: what was not synced survives by chance, handles and
    /// locks of the process are gone. A disk that is down comes up again.
    pub fn power_cut(&self) {
        enter(&self.state).crash(Fault::PowerCut);
    }

    /// Ends the process and lets the next one begin: what was written is readable but still not
    /// durable; each durable write under way was performed or not, and is not durable either. A disk
    /// that is down comes up again.
    pub fn kill(&self) {
        enter(&self.state).crash(Fault::Kill);
    }

    /// Plans a fault for the operation that will have this number: the next one has
    /// [`operations`](SimulatedDisk::operations) + 1. A fault that the operation cannot meet, such as
    /// a full disk while reading, is dropped; [`Counters::faults`] counts those that were met.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        enter(&self.state).plan.insert(operation, fault);
    }

    /// Lets `count` durable writes and syncs in a row fail with [`Fault::Eio`], from the operation with
    /// this number on: a disk that fails a write tends to fail the next one too.
    pub fn fail_writes_from(&self, operation: u64, count: u64) {
        enter(&self.state).bad_patch = (operation, count);
    }

    /// Forgets all faults that are still planned.
    pub fn clear_faults(&self) {
        let mut state = enter(&self.state);
        state.plan.clear();
        state.bad_patch = (0, 0);
    }

    /// Whether a planned crash took the disk down.
    pub fn is_down(&self) -> bool {
        enter(&self.state).down.is_some()
    }

    /// Brings a disk up again that is down, after the crash that took it down. Returns which it was;
    /// `None`, and nothing is done, if the disk is up.
    pub fn restart(&self) -> Option<Fault> {
        let mut state = enter(&self.state);
        let crash = state.down?;
        state.crash(crash);
        Some(crash)
    }

    /// How many operations there were. Numbered is everything that reaches the disk: not the length
    /// of an open file, not [`complete`](super::WriteQueue::complete), and nothing that was refused
    /// because the disk was down or the handle dead.
    pub fn operations(&self) -> u64 {
        enter(&self.state).counters.operations
    }

    /// What was done how often.
    pub fn counters(&self) -> Counters {
        enter(&self.state).counters
    }

    /// A number for all that happened so far, bytes and draws included: the same for the same seed
    /// and the same operations.
    pub fn event_hash(&self) -> u64 {
        enter(&self.state).event_hash()
    }
}

/// Settings.
impl SimulatedDisk {
    /// Sets what survives a power cut or a failed sync, in place of what the seed drew.
    pub fn set_survival(&self, survival: Survival) {
        enter(&self.state).survival = survival;
    }

    /// What survives a power cut or a failed sync.
    pub fn survival(&self) -> Survival {
        enter(&self.state).survival
    }

    /// Whether every write that needs room is refused. Writing over what is there needs none.
    pub fn set_full(&self, full: bool) {
        enter(&self.state).full = full;
    }

    /// How many bytes all files may have together; `None` for no limit. A write that goes beyond
    /// performs what fits and fails. Removing files makes room, once no handle is open.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        enter(&self.state).capacity = bytes;
    }

    /// The bytes of all files.
    pub fn used(&self) -> u64 {
        enter(&self.state).used()
    }

    /// Whether durable writes are queued until they are completed: by
    /// [`complete_one`](SimulatedDisk::complete_one), by [`complete_id`](SimulatedDisk::complete_id),
    /// or one at random by a caller who waits while nothing has ended.
    pub fn set_stepped(&self, stepped: bool) {
        enter(&self.state).stepped = stepped;
    }

    /// Whether syncs and durable writes say `Ok` and make nothing durable.
    pub fn set_lying(&self, lying: bool) {
        enter(&self.state).lying = lying;
    }

    /// What durable writes are aligned to; 4096 unless set.
    ///
    /// # Panics
    ///
    /// If it is not a power of two from 512 to [`ALIGNMENT_MAX`].
    pub fn set_alignment(&self, alignment: usize) {
        assert!(alignment.is_power_of_two(), "an alignment is a power of two");
        assert!((SECTOR..=ALIGNMENT_MAX).contains(&alignment), "a sector to a log block");
        enter(&self.state).alignment = alignment;
    }
}

/// Durable writes under way.
impl SimulatedDisk {
    /// Those that were submitted and have not ended.
    pub fn in_flight(&self) -> Vec<InFlight> {
        enter(&self.state).in_flight()
    }

    /// Lets one of them, drawn at random, end; returns its id, or `None` if there is none.
    pub fn complete_one(&self) -> Option<u64> {
        enter(&self.state).complete_random(None)
    }

    /// Lets the one with this id end; whether there was one.
    pub fn complete_id(&self, id: u64) -> bool {
        enter(&self.state).complete_first(|flight| flight.id == id).is_some()
    }
}

/// Damage. Each of these does the same to the cache and to the disk, and is not numbered.
impl SimulatedDisk {
    /// Makes the sector at this offset return `EIO` until it is written wholly.
    ///
    /// # Panics
    ///
    /// If there is no such file, as all of these.
    pub fn make_unreadable(&self, path: &Path, offset: u64) {
        let offset = usize::try_from(offset).expect("an offset in a simulated file");
        let mut state = enter(&self.state);
        state.note("unreadable", to_u64(offset));
        let file = visible_file(&state, path);
        state
            .content(file)
            .images_mut()
            .into_iter()
            .for_each(|image| image.make_unreadable(offset));
    }

    /// Lets the next `count` reads that touch the sector at this offset fail with `EIO`; then it is sound.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn fail_reads(&self, path: &Path, offset: u64, count: u32) {
        let sector = usize::try_from(offset).expect("an offset in a simulated file") / SECTOR;
        let mut state = enter(&self.state);
        state.note("stumble", to_u64(sector));
        let file = visible_file(&state, path);
        state.stumbles.insert((file, sector), count);
    }

    /// Inverts one bit, counted from the beginning of the file, lowest bit of a byte first.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let bit = usize::try_from(bit).expect("a bit of a simulated file");
        let mut state = enter(&self.state);
        state.note("flip", to_u64(bit));
        let file = visible_file(&state, path);
        state.content(file).images_mut().into_iter().for_each(|image| image.flip(bit));
    }

    /// Replaces bytes, as far as the file reaches.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn corrupt(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).expect("an offset in a simulated file");
        let mut state = enter(&self.state);
        state.note("corrupt", to_u64(offset));
        let file = visible_file(&state, path);
        let images = state.content(file).images_mut();
        images.into_iter().for_each(|image| image.write_within(offset, bytes));
    }

    /// Takes the name of a file away, which no power cut brings back.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    pub fn lose(&self, path: &Path) {
        let mut state = enter(&self.state);
        state.note("lose", 0);
        let file = visible_file(&state, path);
        state.names.lose(path).expect("it was there a moment ago");
        state.collect(file);
    }

    /// Lets the next durable write land at another offset of its file, as far as that reaches, and
    /// succeed.
    pub fn misdirect_next_write(&self, to: u64) {
        let to = usize::try_from(to).expect("an offset in a simulated file");
        enter(&self.state).misdirect = Some(to);
    }
}

/// Looking at it, without operations.
impl SimulatedDisk {
    /// What a power cut that keeps nothing unsynced would leave under this name.
    pub fn durable_content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = enter(&self.state);
        let file = state.names.durable_file(path).ok()?;
        state.files.get(&file).map(|content| content.durable().bytes().to_vec())
    }

    /// What reads see under this name.
    pub fn visible_content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = enter(&self.state);
        let file = state.names.file(path).ok()?;
        state.files.get(&file).map(|content| content.cache().bytes().to_vec())
    }

    /// All files that have a name, sorted by it.
    pub fn files(&self) -> Vec<FileReport> {
        let state = enter(&self.state);
        let named = state.names.files().into_iter();
        let reports = named.map(|(path, file)| {
            let content = state.files.get(&file).expect("a named file has content");
            let is_durable = state.names.durable_file(&path).is_ok_and(|found| found == file);
            FileReport {
                path,
                len: to_u64(content.cache().len()),
                durable_len: is_durable.then(|| to_u64(content.durable().len())),
                unsynced_sectors: content.unsynced_sectors(),
            }
        });
        reports.collect()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = enter(&self.state);
        out.debug_struct("SimulatedDisk")
            .field("generation", &state.generation)
            .field("down", &state.down)
            .field("files", &state.files.len())
            .field("counters", &state.counters)
            .finish_non_exhaustive()
    }
}

fn visible_file(state: &State, path: &Path) -> FileId {
    match state.names.file(path) {
        Ok(file) => file,
        Err(error) => panic!("no file {} to damage: {error}", path.display()),
    }
}
