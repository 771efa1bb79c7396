//! A write that hangs while threads wait, on a real file system: the log goes on in its spare directory, and
//! everybody is told.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use strandline_wal::disk::{
    Completion, Disk, DurableWrite, File, Lock, Map, OpenMode, Profile, RealDisk, Rung, Submitted,
    WriteQueue, WriterThreads,
};
use strandline_wal::{Lsn, Moved, Options, Result, SpareDirectory, Wal};

const PATIENCE: Duration = Duration::from_secs(120);

/// Lets writes pass up to a number, and the others when it is opened.
#[derive(Debug, Default)]
struct Gate {
    passed: AtomicUsize,
    closes_at: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        if self.passed.fetch_add(1, Ordering::Relaxed) < self.closes_at.load(Ordering::Relaxed) {
            return;
        }
        let open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(open, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// A disk whose durable writes pass a gate.
#[derive(Debug)]
struct GatedDisk {
    disk: RealDisk,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct GatedQueue(Box<dyn WriteQueue>, Arc<Gate>);

impl WriteQueue for GatedQueue {
    fn submit(&self, write: DurableWrite) -> Submitted {
        self.1.pass();
        self.0.submit(write)
    }

    fn complete(&self) -> Vec<Completion> {
        self.0.complete()
    }
}

impl Disk for GatedDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        self.disk.open(path, mode)
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        self.disk.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.link(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir)
    }
    fn map_front(&self, path: &Path, len: u64) -> Result<Map> {
        self.disk.map_front(path, len)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        self.disk.lock(path)
    }
    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        Ok(Box::new(GatedQueue(self.disk.write_queue()?, self.gate.clone())))
    }
    fn event_queue(&self) -> Result<Box<dyn WriteQueue>> {
        Ok(Box::new(WriterThreads::new(self.write_queue()?, 4, Path::new("gated"))?))
    }
    fn profile(&self) -> Profile {
        self.disk.profile()
    }
}

/// Many append and wait while write number `k` hangs; all are told that all is durable.
fn hang(k: usize) {
    let (own, spare) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rung = Some(Rung::BufferedFdatasync);
    let gate = Arc::new(Gate::default());
    gate.closes_at.store(usize::MAX, Ordering::Relaxed);
    let disk = RealDisk::open(own.path(), rung).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(GatedDisk { disk, gate: gate.clone() });
    let spare_disk = Arc::new(RealDisk::open(spare.path(), rung).unwrap());
    let directory = SpareDirectory { disk: spare_disk, dir: spare.path().join("log") };
    let dir = own.path().join("log");
    let options = Options {
        segment_size: 256 << 10,
        spares: 1,
        spare: Some(directory),
        stall_millis: 50,
        ..Options::default()
    };
    let (wal, _) = Wal::open(disk.clone(), &dir, options.clone()).unwrap();
    // What is prepared there is prepared in the background.
    let began = Instant::now();
    while wal.stats().spares_elsewhere < 2 {
        assert!(began.elapsed() < PATIENCE, "nothing is prepared");
        std::thread::sleep(Duration::from_millis(5));
    }
    gate.closes_at.store(gate.passed.load(Ordering::Relaxed) + k, Ordering::Relaxed);
    let (sender, receiver) = std::sync::mpsc::channel();
    for thread in 0..4_u8 {
        let (wal, sender) = (wal.clone(), sender.clone());
        std::thread::spawn(move || {
            let mut last = Lsn(0);
            for number in 0..40_u8 {
                last = wal.append(&vec![thread * 40 + number; 3000]).unwrap();
                wal.wait(last).unwrap();
            }
            sender.send(last).unwrap();
        });
    }
    for _ in 0..4 {
        receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{k}: somebody waits for ever"));
    }
    let stats = wal.stats();
    assert_eq!(stats.moved, Some(Moved::Stalled), "{k}");
    assert_eq!((wal.durable(), stats.writes_given_up), (Lsn(160), 1), "{k}");
    // Closing does not wait for it either; the directory stays locked by this process.
    wal.close().unwrap();
    assert!(matches!(
        Wal::open(disk.clone(), &dir, options.clone()),
        Err(strandline_wal::Error::Locked { .. })
    ));
    // Nor does the last handle. Then it lands.
    drop(wal);
    gate.open();
    std::thread::sleep(Duration::from_millis(20));
    let again = own.path().join("again");
    std::fs::rename(&dir, &again).unwrap();
    std::fs::remove_file(again.join("LOCK")).unwrap();
    let (wal, recovery) = Wal::open(disk, &again, options).unwrap();
    assert_eq!((recovery.last, recovery.closed), (Lsn(160), true), "{k}");
    let mut reader = wal.reader(Lsn(1));
    let mut seen = std::collections::BTreeSet::new();
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert!(record.payload.iter().all(|byte| *byte == record.payload[0]), "{lsn}");
            seen.insert(record.payload[0]);
        }
    }
    assert_eq!(seen.len(), 160, "{k}: each once");
    wal.close().unwrap();
}

#[test]
fn a_write_that_hangs_holds_up_nobody() {
    for k in [0, 1, 7, 30] {
        hang(k);
    }
}
