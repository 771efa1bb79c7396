//! A file that is read from front to back, some slices ahead of who reads it.
//!
//! A disk serves several reads at once faster than one after the other, and what has been read can be checked
//! meanwhile. A few threads take in the slices of a stretch of the file, in turn; a slice that its reader has not
//! come to waits for him, and no more than [`AHEAD`] of them do. Who reads on where he stopped gets copies of the
//! slices; who reads elsewhere reads the file itself, and so does who comes to a slice that could not be read:
//! he learns what is wrong, and where.
//!
//! Each byte of the stretch is read once, if it is read from front to back. Nobody may write to it meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Buffer, File};
use crate::Result;

/// Bytes of a slice.
const SLICE_LEN: u64 = 512 << 10;
/// How many slices are read, or wait, ahead of the one that was last asked for.
const AHEAD: u64 = 8;

/// See the module's documentation.
pub(crate) struct ReadAhead {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

struct Shared {
    file: Arc<dyn File>,
    /// The stretch.
    range: Range<u64>,
    state: Mutex<State>,
    /// A slice was read, or is wanted.
    moved: Condvar,
}

struct State {
    /// The slice that is to be read next, counted from the start of the stretch.
    next: u64,
    /// The first slice that is still wanted.
    wanted: u64,
    /// What was read of those from there on; none if it could not be read as a whole.
    slices: BTreeMap<u64, Option<Buffer>>,
    /// Memory of slices that are not wanted any more.
    unused: Vec<Buffer>,
    /// Whether nobody reads any more.
    is_over: bool,
}

impl ReadAhead {
    /// Begins to read this stretch of a file, by so many threads.
    pub(crate) fn start(file: Arc<dyn File>, range: Range<u64>, readers: usize) -> Self {
        let state = State {
            next: 0,
            wanted: 0,
            slices: BTreeMap::new(),
            unused: Vec::new(),
            is_over: false,
        };
        let (state, moved) = (Mutex::new(state), Condvar::new());
        let shared = Arc::new(Shared { file, range, state, moved });
        let start = |_| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("strandline-read".into());
            builder.spawn(move || shared.read()).ok()
        };
        // Without any the file itself is read.
        let readers = (0..readers).map_while(start).collect();
        Self { shared, readers }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.moved.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a slice lies in the file; empty behind the end of the stretch.
    fn place(&self, slice: u64) -> Range<u64> {
        let start = (self.range.start + slice * SLICE_LEN).min(self.range.end);
        start..(start + SLICE_LEN).min(self.range.end)
    }

    /// What a thread does: it reads slices until there are no more.
    fn read(&self) {
        let mut state = self.lock();
        while !state.is_over {
            if state.next >= state.wanted + AHEAD {
                state = self.wait(state);
                continue;
            }
            let slice = state.next;
            let place = self.place(slice);
            if place.is_empty() {
                return;
            }
            state.next += 1;
            let mut bytes = state.unused.pop().unwrap_or_else(|| Buffer::with_capacity(0));
            drop(state);
            let len = usize::try_from(place.end - place.start).expect("a slice is small");
            bytes.resize(len);
            let read = self.file.read_at(bytes.as_mut_slice(), place.start);
            state = self.lock();
            state.slices.insert(slice, read.is_ok_and(|count| count == len).then_some(bytes));
            self.moved.notify_all();
        }
    }

    /// Copies what there is of a slice from `offset` on; how much that is. None if it could not be read, or
    /// was passed already.
    fn copy(&self, into: &mut [u8], offset: u64) -> Option<usize> {
        let slice = (offset - self.range.start) / SLICE_LEN;
        let mut state = self.lock();
        if slice < state.wanted {
            return None;
        }
        while let Some(first) = state.slices.first_entry().filter(|first| *first.key() < slice) {
            let passed = first.remove();
            state.unused.extend(passed);
        }
        if slice > state.wanted {
            state.wanted = slice;
            // Who jumps leaves out what lies between.
            state.next = state.next.max(slice);
            self.moved.notify_all();
        }
        while !state.slices.contains_key(&slice) {
            state = self.wait(state);
        }
        let bytes = state.slices.get(&slice)?.as_ref()?;
        let from = usize::try_from(offset - self.place(slice).start).expect("within a slice");
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Some(count)
    }
}

impl File for ReadAhead {
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < into.len() && !self.readers.is_empty() {
            let at = offset + u64::try_from(done).expect("it is in memory");
            if !self.shared.range.contains(&at) {
                break;
            }
            match self.shared.copy(&mut into[done..], at) {
                Some(count) => done += count,
                None => break,
            }
        }
        if done == into.len() {
            return Ok(done);
        }
        let at = offset + u64::try_from(done).expect("it is in memory");
        Ok(done + self.shared.file.read_at(&mut into[done..], at)?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.shared.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<()> {
        self.shared.file.sync()
    }

    fn len(&self) -> Result<u64> {
        self.shared.file.len()
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.shared.file.allocate(len)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.moved.notify_all();
        for reader in self.readers.drain(..) {
            // What a disk refuses is an error, no panic.
            let _ = reader.join();
        }
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ReadAhead").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::simulated::{Random, SimulatedDisk};
    use super::super::{Disk, OpenMode};
    use super::*;

    const LEN: u64 = 9 << 20;
    const START: u64 = 4096;

    fn file() -> (Arc<SimulatedDisk>, Arc<dyn File>, Vec<u8>) {
        let disk = SimulatedDisk::new(1);
        let file = disk.open(Path::new("/file"), OpenMode::CreateLog).unwrap();
        let mut content = vec![0; usize::try_from(LEN).unwrap()];
        Random::new(7).fill(&mut content);
        file.write_at(&content, 0).unwrap();
        (disk, file, content)
    }

    fn range(offset: u64, len: usize) -> Range<usize> {
        let from = usize::try_from(offset).unwrap();
        from..from + len
    }

    #[test]
    fn from_front_to_back_each_byte_is_read_once() {
        for readers in [0, 1, 3] {
            for step in [1000, 4096, 700_000, 3 << 20] {
                let (disk, file, content) = file();
                let before = disk.counters().bytes_read;
                let ahead = ReadAhead::start(file, START..LEN, readers);
                let mut offset = START;
                while offset < LEN {
                    let mut into = vec![0; step.min(usize::try_from(LEN - offset).unwrap())];
                    assert_eq!(ahead.read_at(&mut into, offset).unwrap(), into.len());
                    assert!(into == content[range(offset, into.len())], "{step} at {offset}");
                    offset += u64::try_from(into.len()).unwrap();
                }
                drop(ahead);
                assert_eq!(disk.counters().bytes_read - before, LEN - START, "in steps of {step}");
            }
        }
    }

    #[test]
    fn wherever_it_is_read_it_is_what_the_file_holds() {
        let (_, file, content) = file();
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let ahead = ReadAhead::start(file.clone(), START..LEN, 3);
            for _ in 0..20 {
                let offset = random.below(LEN + 10_000);
                let mut into = vec![0; 1 + random.index(2 << 20)];
                let count = ahead.read_at(&mut into, offset).unwrap();
                let left = usize::try_from(LEN.saturating_sub(offset)).unwrap();
                assert_eq!(count, into.len().min(left), "at {offset}, seed {seed}");
                let held = if count == 0 { 0..0 } else { range(offset, count) };
                assert!(into[..count] == content[held], "at {offset}, seed {seed}");
            }
        }
    }

    /// A sector that cannot be read is met where it is, and hides nothing else.
    #[test]
    fn what_cannot_be_read_fails_as_in_the_file() {
        let (disk, file, content) = file();
        let bad = 5 << 20;
        disk.make_unreadable(Path::new("/file"), bad);
        let ahead = ReadAhead::start(file.clone(), START..LEN, 3);
        for offset in (START..LEN).step_by(4096) {
            let mut into = vec![0; 4096];
            let (found, expected) =
                (ahead.read_at(&mut into, offset), file.read_at(&mut [0; 4096], offset));
            assert_eq!(found.is_err(), expected.is_err(), "at {offset}");
            assert_eq!(found.is_err(), offset == bad);
            assert!(found.is_err() || into == content[range(offset, 4096)], "at {offset}");
        }
    }

    #[test]
    fn who_stops_early_leaves_nobody_behind() {
        let (disk, file, _) = file();
        let before = disk.counters().bytes_read;
        let ahead = ReadAhead::start(file.clone(), START..LEN, 3);
        ahead.read_at(&mut [0; 64], START).unwrap();
        drop(ahead);
        assert!(
            disk.counters().bytes_read - before <= AHEAD * SLICE_LEN,
            "no more than that ahead"
        );
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
