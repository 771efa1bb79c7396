//! All that a simulated disk knows, behind one mutex: numbering of operations, the fault plan, room,
//! crashes, and the effects of operations on files.
//!
//! An operation goes through three steps. [`State::begin`] refuses it if the disk is down or the
//! handle is of an earlier process, numbers it, adds it to the event hash and says which planned
//! fault it meets. The caller performs it, wholly or as far as the fault lets it. A fault ends in
//! [`State::fail`], which takes the disk down if it is a crash and makes the error.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{ALIGNMENT_MAX, io_error};
use super::content::Content;
use super::fault::{self, Counters, Fault, Operation, Survival};
use super::image::SECTOR;
use super::names::{FileId, Names};
use super::queue::{Flight, Queue};
use super::random::{Random, mix};
use crate::{Error, Result};

/// No simulated file is longer: it lies in memory, twice, and an offset beyond is a slip of the tester
/// or of the code under test.
pub(super) const FILE_LEN_MAX: usize = 1 << 30;

/// How much of a removed file is kept to come to light again as stale bytes.
const STALE_MAX: usize = 1 << 20;

/// The state as the disk, its files, locks and queues share it.
pub(super) type Shared = Arc<Mutex<State>>;

/// Enters the state. A panic of a test thread inside is not made worse by a second one here.
pub(super) fn enter(shared: &Shared) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The disk, its faults and its history.
#[derive(Clone)]
pub(super) struct State {
    /// Every draw of this disk.
    pub(super) random: Random,
    /// What [`Disk::draw`](crate::disk::Disk::draw) gives, apart, so that it changes no other draw.
    pub(super) salts: Random,
    /// What a power cut leaves.
    pub(super) survival: Survival,
    /// Directories and names.
    pub(super) names: Names,
    /// Content by identity.
    pub(super) files: BTreeMap<FileId, Content>,
    /// How many files were ever made; the identity of the last one.
    file_count: u64,
    /// The beginning of the file that was deleted last.
    stale: Vec<u8>,
    /// Which process uses the disk; handles of earlier ones are refused.
    pub(super) generation: u64,
    /// The crash that took the disk down, while it is down.
    pub(super) down: Option<Fault>,
    /// Which operation meets which fault.
    pub(super) plan: BTreeMap<u64, Fault>,
    /// From which operation on how many durable writes and syncs fail.
    pub(super) bad_patch: (u64, u64),
    /// Held lock files.
    pub(super) locks: BTreeSet<FileId>,
    /// Durable writes under way.
    pub(super) queues: BTreeMap<u64, Queue>,
    /// Whether durable writes are queued until they are completed one by one.
    pub(super) stepped: bool,
    /// Whether there is no room at all.
    pub(super) full: bool,
    /// How many bytes all files may have together.
    pub(super) capacity: Option<u64>,
    /// Whether syncs say `Ok` and do nothing.
    pub(super) lying: bool,
    /// Sectors that return an error for so many reads, and are sound.
    pub(super) stumbles: BTreeMap<(FileId, usize), u32>,
    /// Where the next durable write goes instead.
    pub(super) misdirect: Option<usize>,
    /// What durable writes are aligned to.
    pub(super) alignment: usize,
    /// What was done how often.
    pub(super) counters: Counters,
    /// Of all operations so far.
    hash: u64,
    /// How many events so far: the clock of the disk.
    pub(super) events: u32,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let survival = Survival::draw(&mut random);
        State {
            random,
            salts: Random::new(!seed),
            survival,
            names: Names::default(),
            files: BTreeMap::new(),
            file_count: 0,
            stale: Vec::new(),
            generation: 0,
            down: None,
            plan: BTreeMap::new(),
            bad_patch: (0, 0),
            locks: BTreeSet::new(),
            queues: BTreeMap::new(),
            stepped: false,
            full: false,
            capacity: None,
            lying: false,
            stumbles: BTreeMap::new(),
            misdirect: None,
            alignment: ALIGNMENT_MAX,
            counters: Counters::default(),
            hash: seed,
            events: 0,
        }
    }

    /// Numbers an operation and says which fault it meets.
    pub(super) fn begin(
        &mut self,
        generation: Option<u64>,
        operation: Operation,
        path: &Path,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Fault>> {
        self.check_alive(generation)
            .map_err(|error| io_error(operation.name(), path, offset, error))?;
        let len = u64::try_from(bytes.len()).expect("a length fits 64 bits");
        operation.count(&mut self.counters, len);
        self.note(operation.name(), offset);
        self.note_bytes(path.as_os_str().as_encoded_bytes());
        self.note_bytes(bytes);
        // Without this draw a seed that meets its first fault would decide it alike at every operation.
        let _ = self.random.next_u64();
        let planned = self.plan.remove(&self.counters.operations);
        let fault = planned.filter(|fault| operation.meets(*fault));
        let fault = fault.or_else(|| self.fault_of_bad_patch(operation));
        self.counters.faults += u64::from(fault.is_some());
        Ok(fault)
    }

    fn fault_of_bad_patch(&mut self, operation: Operation) -> Option<Fault> {
        let (from, count) = self.bad_patch;
        let meets = matches!(operation, Operation::DurableWrite | Operation::Sync);
        if !meets || count == 0 || self.counters.operations < from {
            return None;
        }
        self.bad_patch.1 -= 1;
        Some(Fault::Eio)
    }

    /// Whether an operation through a handle of this generation can take place.
    pub(super) fn check_alive(&self, generation: Option<u64>) -> io::Result<()> {
        if generation.is_some_and(|generation| generation != self.generation) {
            return Err(fault::outlived());
        }
        if self.down.is_some() { Err(fault::down()) } else { Ok(()) }
    }

    /// Whether the effect of an operation that meets this fault takes place nevertheless.
    pub(super) fn is_issued(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::PowerCut => true,
            Fault::Kill => self.random.chance(500),
            Fault::Eio | Fault::Enospc | Fault::ShortWrite => false,
        }
    }

    /// The error of an operation that met a fault; the disk is down if it was a crash.
    pub(super) fn fail(
        &mut self,
        fault: Fault,
        operation: Operation,
        path: &Path,
        offset: u64,
    ) -> Error {
        if fault.is_crash() {
            self.end_flights(fault);
            self.down = Some(fault);
        }
        io_error(operation.name(), path, offset, fault.error())
    }

    /// Ends the process, leaves what this crash leaves, and lets the next process begin.
    pub(super) fn crash(&mut self, crash: Fault) {
        assert!(crash.is_crash(), "{crash:?} is not a crash");
        self.end_flights(crash);
        self.end_process();
        self.note(if crash == Fault::PowerCut { "power cut" } else { "kill" }, 0);
        self.counters.crashes += 1;
        if crash == Fault::PowerCut {
            self.names.power_cut(self.survival.names, &mut self.random);
            for content in self.files.values_mut() {
                content.power_cut(&self.survival, &mut self.random, &self.stale);
            }
        }
        self.collect_all();
    }

    /// Handles and locks end with the process that held them.
    pub(super) fn end_process(&mut self) {
        self.generation += 1;
        self.down = None;
        self.locks.clear();
        for content in self.files.values_mut() {
            content.users = 0;
        }
    }

    /// A new file without a name.
    pub(super) fn new_file(&mut self) -> FileId {
        self.file_count += 1;
        let file = FileId(self.file_count);
        self.files.insert(file, Content::default());
        file
    }

    /// The content of a file that is open or has a name.
    pub(super) fn content(&mut self, file: FileId) -> &mut Content {
        self.files.get_mut(&file).expect("a file with a name or a handle has content")
    }

    /// One handle fewer.
    pub(super) fn release(&mut self, file: FileId) {
        let content = self.content(file);
        content.users = content.users.checked_sub(1).expect("every user was counted");
        self.collect(file);
    }

    /// Deletes the content of a file that nobody can reach any more.
    pub(super) fn collect(&mut self, file: FileId) {
        let unused = self.files.get(&file).is_some_and(|content| content.users == 0);
        if !unused || self.names.mentions(file) {
            return;
        }
        let content = self.files.remove(&file).expect("it was there a moment ago");
        let bytes = content.durable().bytes();
        if !bytes.is_empty() {
            self.stale = bytes[..bytes.len().min(STALE_MAX)].to_vec();
        }
    }

    /// Deletes every file that nobody can reach any more.
    pub(super) fn collect_all(&mut self) {
        let files: Vec<FileId> = self.files.keys().copied().collect();
        for file in files {
            self.collect(file);
        }
    }

    /// Looks at bytes of a file; the error is the offset of a sector that cannot be read.
    pub(super) fn touch(
        &mut self,
        file: FileId,
        range: std::ops::Range<usize>,
    ) -> std::result::Result<(), usize> {
        let sectors = (file, range.start / SECTOR)..(file, range.end.div_ceil(SECTOR));
        let stumble = self.stumbles.range_mut(sectors).find(|(_, count)| **count > 0);
        if let Some((place, count)) = stumble {
            *count -= 1;
            return Err(place.1 * SECTOR);
        }
        // A file that has no name any more is only in the memory of whoever has mapped it.
        let content = self.files.get(&file);
        match content.and_then(|content| content.cache().unreadable_in(range)) {
            Some(bad) => Err(bad),
            None => Ok(()),
        }
    }

    /// A buffered write; returns the error that it ends with.
    pub(super) fn write(
        &mut self,
        file: FileId,
        offset: usize,
        bytes: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let Some(fault) = fault else {
            let end = self.end_with_room(file, offset + bytes.len());
            let count = end.saturating_sub(offset);
            self.content(file).write(offset, &bytes[..count]);
            return if count < bytes.len() { Err(fault::no_space()) } else { Ok(()) };
        };
        let count = match fault {
            Fault::PowerCut => bytes.len(),
            Fault::Kill if self.random.chance(500) => bytes.len(),
            Fault::ShortWrite => self.random.index(bytes.len().max(1)),
            Fault::Kill | Fault::Eio | Fault::Enospc => self.random.index(bytes.len() + 1),
        };
        self.content(file).write(offset, &bytes[..count]);
        Err(fault.error())
    }

    /// A sync of a file.
    pub(super) fn sync(&mut self, file: FileId, fault: Option<Fault>) -> io::Result<()> {
        let lying = self.lying;
        let survival = self.survival;
        match fault {
            None if lying => Ok(()),
            None => {
                self.content(file).sync();
                Ok(())
            }
            Some(fault) => {
                if !fault.is_crash() {
                    let content = self.files.get_mut(&file).expect("an open file has content");
                    content.sync_failed(&survival, &mut self.random);
                }
                Err(fault.error())
            }
        }
    }

    /// Sets the length of a file.
    pub(super) fn allocate(&mut self, file: FileId, len: usize) -> io::Result<()> {
        if self.end_with_room(file, len) < len {
            return Err(fault::no_space());
        }
        self.content(file).set_len(len);
        Ok(())
    }

    /// Performs a durable write to its end.
    pub(super) fn perform(&mut self, flight: &Flight) -> io::Result<()> {
        let (file, offset, bytes) = (flight.file, flight.offset, flight.bytes.as_slice());
        let whole_sectors = bytes.len() / SECTOR;
        let (count, error) = match flight.fault {
            None => {
                let end = self.end_with_room(file, offset + bytes.len());
                (end.saturating_sub(offset) / SECTOR * SECTOR, fault::no_space())
            }
            Some(Fault::Eio) => {
                let content = self.files.get_mut(&file).expect("a write under way has a file");
                let survival = self.survival;
                content.write_durably_failed(offset, bytes, &survival, &mut self.random);
                return Err(Fault::Eio.error());
            }
            Some(fault) => (self.random.index(whole_sectors.max(1)) * SECTOR, fault.error()),
        };
        if flight.fault.is_some() || count < bytes.len() {
            self.content(file).write(offset, &bytes[..count]);
            return Err(error);
        }
        if self.lying {
            self.content(file).write(offset, bytes);
        } else if let Some(to) = self.misdirect.take() {
            self.content(file).write_misdirected(to, bytes);
        } else {
            self.content(file).write_durably(offset, bytes);
        }
        Ok(())
    }

    /// How far towards `end` the file can grow; `end` itself if there is room, or no growth.
    fn end_with_room(&self, file: FileId, end: usize) -> usize {
        let len = self.files.get(&file).map_or(0, |content| content.cache().len());
        if end <= len {
            return end;
        }
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        if end - len <= room { end } else { len + room }
    }

    /// How many bytes files may still grow.
    pub(super) fn room(&self) -> u64 {
        match self.capacity {
            _ if self.full => 0,
            None => u64::MAX,
            Some(capacity) => capacity.saturating_sub(self.used()),
        }
    }

    /// The bytes of all files that have a name or are open.
    pub(super) fn used(&self) -> u64 {
        let used = self
            .files
            .iter()
            .filter(|(file, content)| content.users > 0 || self.names.is_visible(**file));
        used.map(|(_, content)| to_u64(content.cache().len())).sum()
    }

    /// Adds an event to the hash.
    pub(super) fn note(&mut self, event: &str, number: u64) {
        self.events += 1;
        self.note_bytes(event.as_bytes());
        self.hash = mix(self.hash ^ number);
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        let sum = u64::from(crc32fast::hash(bytes));
        self.hash = mix(self.hash.rotate_left(1) ^ sum);
    }

    /// The hash of all operations and draws so far.
    pub(super) fn event_hash(&self) -> u64 {
        mix(self.hash ^ self.random.state())
    }
}

/// The end of an access, if a simulated file can reach that far.
pub(super) fn bounded(offset: u64, len: usize) -> io::Result<usize> {
    let offset = usize::try_from(offset).ok();
    let end = offset.and_then(|offset| offset.checked_add(len));
    match (offset, end) {
        (Some(offset), Some(end)) if end <= FILE_LEN_MAX => Ok(offset),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}

pub(super) fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}
