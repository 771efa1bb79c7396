//! Open files and held locks of a simulated disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{File, Lock, OpenMode, io_error};
use super::fault::{self, Operation};
use super::names::FileId;
use super::state::{Shared, State, bounded, enter, to_u64};
use crate::{Error, Result};

/// An open file. It keeps the content after the name is gone, and dies in a crash.
pub(super) struct SimulatedFile {
    /// The disk.
    state: Shared,
    /// The process that opened it.
    generation: u64,
    /// The file, whatever it is named by now.
    file: FileId,
    /// The name it was opened by, for errors.
    path: PathBuf,
    /// What it was opened for.
    mode: OpenMode,
}

impl SimulatedFile {
    /// A handle to a file; the caller has counted it among the file's users.
    pub(super) fn new(
        shared: &Shared,
        generation: u64,
        file: FileId,
        path: &Path,
        mode: OpenMode,
    ) -> Self {
        SimulatedFile {
            state: Arc::clone(shared),
            generation,
            file,
            path: path.to_path_buf(),
            mode,
        }
    }

    pub(super) fn id(&self) -> FileId {
        self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this is a file of that disk.
    pub(super) fn is_of(&self, shared: &Shared) -> bool {
        Arc::ptr_eq(&self.state, shared)
    }

    /// Refuses a durable write that a real disk would refuse.
    pub(super) fn check_log(&self, state: &State, offset: u64, len: usize) -> Result<()> {
        if !self.is_log() {
            return Err(Error::InvalidOption {
                reason: format!("{} was not opened for durable writes", self.path.display()),
            });
        }
        self.check_aligned(state, Operation::DurableWrite, offset, len)
    }

    fn is_log(&self) -> bool {
        matches!(self.mode, OpenMode::Log | OpenMode::CreateLog)
    }

    fn check_aligned(
        &self,
        state: &State,
        operation: Operation,
        offset: u64,
        len: usize,
    ) -> Result<()> {
        let alignment = state.alignment;
        if offset.is_multiple_of(to_u64(alignment)) && len.is_multiple_of(alignment) {
            return Ok(());
        }
        let reason = format!("{len} bytes at {offset} are not aligned to {alignment} bytes");
        let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
        Err(self.error(operation, offset, source))
    }

    fn check_writable(&self, operation: Operation, offset: u64) -> Result<()> {
        if self.mode == OpenMode::Read {
            let source = io::ErrorKind::PermissionDenied.into();
            return Err(self.error(operation, offset, source));
        }
        Ok(())
    }

    fn error(&self, operation: Operation, offset: u64, source: io::Error) -> Error {
        io_error(operation.name(), &self.path, offset, source)
    }
}

impl File for SimulatedFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let operation = Operation::Read;
        let mut state = enter(&self.state);
        let fault = state.begin(Some(self.generation), operation, &self.path, offset, &[])?;
        if let Some(fault) = fault {
            return Err(state.fail(fault, operation, &self.path, offset));
        }
        // Beyond what a file can have there is the end of the file, as everywhere.
        let Ok(start) = usize::try_from(offset) else { return Ok(0) };
        let touched = state.touch(self.file, start..start.saturating_add(into.len()));
        let read = touched.and_then(|()| state.content(self.file).cache().read(into, start));
        if let Ok(count) = read {
            state.counters.bytes_read += to_u64(count);
        }
        read.map_err(|bad| self.error(operation, to_u64(bad), fault::unreadable()))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let operation = Operation::Write;
        self.check_writable(operation, offset)?;
        let mut state = enter(&self.state);
        if self.is_log() {
            self.check_aligned(&state, operation, offset, bytes.len())?;
        }
        let start = bounded(offset, bytes.len());
        let start = start.map_err(|error| self.error(operation, offset, error))?;
        let fault = state.begin(Some(self.generation), operation, &self.path, offset, bytes)?;
        let written = state.write(self.file, start, bytes, fault);
        match fault {
            Some(fault) => Err(state.fail(fault, operation, &self.path, offset)),
            None => written.map_err(|error| self.error(operation, offset, error)),
        }
    }

    fn sync(&self) -> Result<()> {
        let operation = Operation::Sync;
        let mut state = enter(&self.state);
        let fault = state.begin(Some(self.generation), operation, &self.path, 0, &[])?;
        let synced = state.sync(self.file, fault);
        match fault {
            Some(fault) => Err(state.fail(fault, operation, &self.path, 0)),
            None => synced.map_err(|error| self.error(operation, 0, error)),
        }
    }

    fn len(&self) -> Result<u64> {
        let mut state = enter(&self.state);
        state
            .check_alive(Some(self.generation))
            .map_err(|error| io_error("stat", &self.path, 0, error))?;
        Ok(to_u64(state.content(self.file).cache().len()))
    }

    fn allocate(&self, len: u64) -> Result<()> {
        let operation = Operation::Allocate;
        self.check_writable(operation, 0)?;
        let mut state = enter(&self.state);
        let end = bounded(len, 0).map_err(|error| self.error(operation, 0, error))?;
        let fault = state.begin(Some(self.generation), operation, &self.path, len, &[])?;
        let Some(fault) = fault else {
            let allocated = state.allocate(self.file, end);
            return allocated.map_err(|error| self.error(operation, 0, error));
        };
        if state.is_issued(fault) {
            // Whether there was room is not told: the caller sees the crash.
            let _ = state.allocate(self.file, end);
        }
        Err(state.fail(fault, operation, &self.path, 0))
    }
}

impl Drop for SimulatedFile {
    fn drop(&mut self) {
        let mut state = enter(&self.state);
        if state.generation == self.generation {
            state.release(self.file);
        }
    }
}

impl std::fmt::Debug for SimulatedFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SimulatedFile")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// A held lock file.
pub(super) struct SimulatedLock {
    /// The disk.
    state: Shared,
    /// The process that holds it.
    generation: u64,
    /// The file that is locked.
    file: FileId,
}

impl SimulatedLock {
    /// A lock that the caller has entered among those held.
    pub(super) fn new(shared: &Shared, generation: u64, file: FileId) -> Self {
        SimulatedLock { state: Arc::clone(shared), generation, file }
    }
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = enter(&self.state);
        if state.generation == self.generation {
            state.locks.remove(&self.file);
            state.release(self.file);
        }
    }
}

impl std::fmt::Debug for SimulatedLock {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SimulatedLock").field("file", &self.file).finish_non_exhaustive()
    }
}
