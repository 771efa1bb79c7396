//! A write that ends, and is announced, before the call that submits it has returned.
//!
//! It happened on a fast disk: the log's housekeeper submitted its marker, the event loop heard the bell,
//! found that nothing was queued, and went to sleep. Nothing was written any more.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use strandline_wal::disk::{
    Completion, Disk, DurableWrite, File, Lock, Map, OpenMode, Profile, SimulatedDisk, Submitted,
    WriteQueue,
};
use strandline_wal::{Options, Result, Wal};

/// A disk whose event queue has another thread hear of each write while it is submitted.
#[derive(Debug)]
struct EagerDisk {
    inner: Arc<SimulatedDisk>,
    log: Log,
}

#[derive(Clone, Default)]
struct Log(Arc<OnceLock<Wal>>);

impl std::fmt::Debug for Log {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Log")
    }
}

#[derive(Debug)]
struct EagerQueue {
    inner: Box<dyn WriteQueue>,
    ended: Mutex<Vec<Completion>>,
    log: Log,
}

impl WriteQueue for EagerQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let id = write.id;
        let Submitted::Done(result) = self.inner.submit(write) else { panic!("it is not stepped") };
        self.ended.lock().unwrap().push(Completion { id, result });
        if let Some(log) = self.log.0.get().cloned() {
            std::thread::spawn(move || log.take_ended()).join().unwrap();
        }
        Submitted::Queued
    }
    fn complete(&self) -> Vec<Completion> {
        self.poll()
    }
    fn poll(&self) -> Vec<Completion> {
        std::mem::take(&mut self.ended.lock().unwrap())
    }
}

impl Disk for EagerDisk {
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
    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        self.inner.map_front(path, len)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }
    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        self.inner.write_queue()
    }
    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        let (inner, log) = (self.inner.write_queue()?, self.log.clone());
        Ok(Box::new(EagerQueue { inner, ended: Mutex::default(), log }))
    }
    fn profile(&self) -> Profile {
        self.inner.profile()
    }
}

#[test]
fn it_is_taken() {
    let log = Log::default();
    let disk = EagerDisk { inner: SimulatedDisk::new(1), log: log.clone() };
    let options =
        Options { segment_size: 256 << 10, background: false, events: true, ..Options::default() };
    let (wal, _) = Wal::open(Arc::new(disk), Path::new("/log"), options).unwrap();
    assert!(log.0.set(wal.clone()).is_ok());
    for round in 0..500_u64 {
        let lsn = wal.append(&[7; 1000]).unwrap();
        wal.submit_due().unwrap();
        assert_eq!(wal.durable(), lsn, "round {round}");
        wal.prepare(true).unwrap();
    }
}
