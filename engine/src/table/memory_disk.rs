//! A disk for the tests of tables: files in a map, and nothing of directories, logs or crashes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use strandline_wal::disk::{Disk, File, Lock, Map, OpenMode, Profile, Rung, WriteQueue};
use strandline_wal::{Error, Result};

/// Files in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>,
}

#[derive(Debug, Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
}

fn refused(operation: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::Io { operation, path: path.into(), offset: 0, source: kind.into() }
}

impl MemoryDisk {
    /// An empty one.
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a file there, in place of one that may be there.
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let file = Arc::new(MemoryFile { bytes: Mutex::new(bytes) });
        self.files.lock().unwrap().insert(path.into(), file);
    }

    /// The bytes of a file.
    pub(super) fn content(&self, path: &Path) -> Vec<u8> {
        self.files.lock().unwrap()[path].bytes.lock().unwrap().clone()
    }

    fn file(&self, operation: &'static str, path: &Path) -> Result<Arc<MemoryFile>> {
        let found = self.files.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| refused(operation, path, io::ErrorKind::NotFound))
    }
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, _: &Path) -> Result<()> {
        Ok(())
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_str().unwrap().into()).collect())
    }
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        if mode == OpenMode::Create {
            if self.exists(path)? {
                return Err(refused("create", path, io::ErrorKind::AlreadyExists));
            }
            self.put(path, Vec::new());
        }
        Ok(self.file("open", path)?)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.files.lock().unwrap().contains_key(path))
    }
    fn rename(&self, from: &Path, _: &Path) -> Result<()> {
        Err(refused("rename", from, io::ErrorKind::Unsupported))
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.file("remove", path)?;
        self.files.lock().unwrap().remove(path);
        Ok(())
    }
    fn link(&self, from: &Path, _: &Path) -> Result<()> {
        Err(refused("link", from, io::ErrorKind::Unsupported))
    }
    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }
    fn map(&self, path: &Path) -> Result<Map> {
        Ok(Map::new(Arc::new(self.file("map", path)?.bytes.lock().unwrap().clone())))
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        Err(refused("lock", path, io::ErrorKind::Unsupported))
    }
    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        Err(refused("queue", Path::new(""), io::ErrorKind::Unsupported))
    }
    fn profile(&self) -> Profile {
        Profile { rung: Rung::Simulated, alignment: 1, depth_max: 1 }
    }
}

impl File for MemoryFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize> {
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(usize::try_from(offset).unwrap()..).unwrap_or(&[]);
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let mut own = self.bytes.lock().unwrap();
        let len = own.len().max(offset + bytes.len());
        own.resize(len, 0);
        own[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    fn len(&self) -> Result<u64> {
        Ok(u64::try_from(self.bytes.lock().unwrap().len()).unwrap())
    }
    fn allocate(&self, _: u64) -> Result<()> {
        Ok(())
    }
}
