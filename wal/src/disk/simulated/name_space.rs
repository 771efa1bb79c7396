//! The operations of a simulated disk on names: [`Disk`] for [`SimulatedDisk`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::super::{Disk, File, Lock, Map, OpenMode, Profile, Rung, WriteQueue, io_error};
use super::SimulatedDisk;
use super::fault::{self, Operation};
use super::file::{SimulatedFile, SimulatedLock};
use super::names::FileId;
use super::queue::SimulatedQueue;
use super::state::{State, enter, to_u64};
use crate::{Error, Result};

/// How far the disk's clock goes at each event.
const EVENT_TIME: Duration = Duration::from_micros(40);

/// How many durable writes may be in flight: as on the fastest real rungs.
pub(super) const DEPTH_MAX: usize = 8;

impl SimulatedDisk {
    /// Numbers an operation and performs it, unless a fault forbids: then the effect takes place if
    /// the fault is a crash that caught the operation after it was issued.
    fn operate<T>(
        &self,
        operation: Operation,
        path: &Path,
        perform: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> Result<T> {
        let mut state = enter(&self.state);
        let Some(fault) = state.begin(self.generation, operation, path, 0, &[])? else {
            return perform(&mut state).map_err(|error| io_error(operation.name(), path, 0, error));
        };
        if state.is_issued(fault) {
            // How it went is not told: the caller sees the crash.
            let _ = perform(&mut state);
        }
        Err(state.fail(fault, operation, path, 0))
    }
}

/// Opens or creates; the handle is counted.
fn open_file(state: &mut State, path: &Path, mode: OpenMode) -> io::Result<(FileId, u64)> {
    let file = match mode {
        OpenMode::Read | OpenMode::Write | OpenMode::Log => state.names.file(path)?,
        OpenMode::Create | OpenMode::CreateLog => create_file(state, path)?,
    };
    state.content(file).users += 1;
    Ok((file, state.generation))
}

fn create_file(state: &mut State, path: &Path) -> io::Result<FileId> {
    let file = state.new_file();
    let created = state.names.create(path, file);
    if created.is_err() {
        state.collect(file);
    }
    created.map(|()| file)
}

/// Locks; `None` if the lock is held.
fn lock_file(state: &mut State, path: &Path) -> io::Result<Option<(FileId, u64)>> {
    let file = match state.names.file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create_file(state, path)?,
        found => found?,
    };
    if !state.locks.insert(file) {
        return Ok(None);
    }
    state.content(file).users += 1;
    Ok(Some((file, state.generation)))
}

impl Disk for SimulatedDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let operation = Operation::CreateDirectory;
        let mut state = enter(&self.state);
        let fault = state.begin(self.generation, operation, dir, 0, &[])?;
        if let Some(fault) = fault {
            if state.is_issued(fault) {
                // Made, but the syncs that belong to it did not come to pass.
                let _ = state.names.create_directories(dir, false);
            }
            return Err(state.fail(fault, operation, dir, 0));
        }
        let durably = !state.lying;
        let created = state.names.create_directories(dir, durably);
        created.map_err(|error| io_error(operation.name(), dir, 0, error))
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.operate(Operation::List, dir, |state| state.names.list(dir))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        let operation = match mode {
            OpenMode::Read | OpenMode::Write | OpenMode::Log => Operation::Open,
            OpenMode::Create | OpenMode::CreateLog => Operation::Create,
        };
        let (file, generation) =
            self.operate(operation, path, |state| open_file(state, path, mode))?;
        Ok(Arc::new(SimulatedFile::new(&self.state, generation, file, path, mode)))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.operate(Operation::Exists, path, |state| state.names.exists(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.operate(Operation::Rename, from, |state| {
            // The new name is part of the event as well as the old one.
            state.note(&to.to_string_lossy(), 0);
            let replaced = state.names.file(to).ok();
            state.names.rename(from, to)?;
            replaced.into_iter().for_each(|file| state.collect(file));
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.operate(Operation::Remove, path, |state| {
            let file = state.names.remove(path)?;
            state.collect(file);
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.operate(Operation::Link, to, |state| {
            state.note(&from.to_string_lossy(), 0);
            state.names.link(from, to)
        })
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let operation = Operation::SyncDirectory;
        let mut state = enter(&self.state);
        if let Some(fault) = state.begin(self.generation, operation, dir, 0, &[])? {
            return Err(state.fail(fault, operation, dir, 0));
        }
        let directory = state.names.directory(dir);
        let directory = directory.map_err(|error| io_error(operation.name(), dir, 0, error))?;
        if !state.lying {
            state.names.sync(directory);
            state.collect_all();
        }
        Ok(())
    }

    fn map(&self, path: &Path) -> Result<Map> {
        let (file, bytes) = self.operate(Operation::Map, path, |state| {
            let file = state.names.file(path)?;
            Ok((file, state.content(file).cache().bytes().to_vec()))
        })?;
        let (state, path) = (Arc::clone(&self.state), path.to_path_buf());
        Ok(Map::with_touch(Arc::new(bytes), move |range| {
            let touched = enter(&state).touch(file, range);
            let operation = Operation::Read.name();
            touched.map_err(|bad| io_error(operation, &path, to_u64(bad), fault::unreadable()))
        }))
    }

    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        let operation = Operation::Map;
        let read = self.operate(operation, path, |state| {
            let file = state.names.file(path)?;
            let image = state.content(file).cache();
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let mut bytes = vec![0; image.len().min(len)];
            Ok(image.read(&mut bytes, 0).map(|_| bytes))
        })?;
        match read {
            Ok(bytes) => Ok(Map::new(Arc::new(bytes))),
            Err(bad) => Err(io_error(operation.name(), path, to_u64(bad), fault::unreadable())),
        }
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        let locked = self.operate(Operation::Lock, path, |state| lock_file(state, path))?;
        let (file, generation) =
            locked.ok_or_else(|| Error::Locked { path: path.to_path_buf() })?;
        Ok(Box::new(SimulatedLock::new(&self.state, generation, file)))
    }

    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        enter(&self.state)
            .check_alive(self.generation)
            .map_err(|error| io_error("open queue", Path::new("/"), 0, error))?;
        Ok(Box::new(SimulatedQueue::new(&self.state)))
    }

    fn draw(&self, into: &mut [u8]) -> Result<()> {
        enter(&self.state).salts.fill(into);
        Ok(())
    }

    fn now(&self) -> Duration {
        EVENT_TIME * enter(&self.state).events
    }

    fn profile(&self) -> Profile {
        let alignment = enter(&self.state).alignment;
        Profile { rung: Rung::Simulated, alignment, depth_max: DEPTH_MAX }
    }
}
