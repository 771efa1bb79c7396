//! raft-engine's own files, with a count of the calls that make them durable.
//!
//! The device counts flushes, but not every device has a cache to be flushed, and a journal adds its own. So what
//! is called is counted where it is called.

use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

/// The default file system, counted.
#[derive(Default)]
pub(super) struct CountedFiles {
    syncs: Arc<AtomicU64>,
}

impl CountedFiles {
    /// Calls of sync since the beginning.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    fn counted(&self, file: Inner) -> Counted {
        Counted { file: Arc::new(file), syncs: self.syncs.clone() }
    }
}

type Inner = <DefaultFileSystem as FileSystem>::Handle;
type InnerReader = <DefaultFileSystem as FileSystem>::Reader;
type InnerWriter = <DefaultFileSystem as FileSystem>::Writer;

/// An open file.
pub(super) struct Counted {
    file: Arc<Inner>,
    syncs: Arc<AtomicU64>,
}

impl Handle for Counted {
    fn truncate(&self, offset: usize) -> Result<()> {
        self.file.truncate(offset)
    }

    fn file_size(&self) -> Result<usize> {
        self.file.file_size()
    }

    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}

impl FileSystem for CountedFiles {
    type Handle = Counted;
    type Reader = Reader;
    type Writer = Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> Result<Counted> {
        Ok(self.counted(DefaultFileSystem.create(path)?))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> Result<Counted> {
        Ok(self.counted(DefaultFileSystem.open(path, permission)?))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<Counted>) -> Result<Reader> {
        Ok(Reader(DefaultFileSystem.new_reader(handle.file.clone())?))
    }

    fn new_writer(&self, handle: Arc<Counted>) -> Result<Writer> {
        Ok(Writer(DefaultFileSystem.new_writer(handle.file.clone())?))
    }
}

/// Their reader.
pub(super) struct Reader(InnerReader);

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        self.0.read(into)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

/// Their writer.
pub(super) struct Writer(InnerWriter);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Seek for Writer {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.0.seek(to)
    }
}

impl WriteExt for Writer {
    fn truncate(&mut self, offset: usize) -> Result<()> {
        self.0.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, size: usize) -> Result<()> {
        self.0.allocate(offset, size)
    }
}
