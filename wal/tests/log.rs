//! The log on a real disk: what is appended comes back, whatever the rung and the number of threads.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use strandline_wal::disk::{Disk, RealDisk, Rung, SimulatedDisk};
use strandline_wal::{Error, Lsn, Options, Tail, Wal};

fn options() -> Options {
    Options { segment_size: 256 << 10, group_size_max: 32 << 10, ..Options::default() }
}

fn open(dir: &Path, rung: Option<Rung>) -> Option<(Wal, strandline_wal::Recovery)> {
    match RealDisk::open(dir, rung) {
        Ok(disk) => Some(Wal::open(Arc::new(disk), &dir.join("log"), options()).unwrap()),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn contents(wal: &Wal, from: Lsn) -> BTreeMap<u64, Vec<u8>> {
    let mut reader = wal.reader(from);
    let mut found = BTreeMap::new();
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            found.insert(lsn.0, record.payload.to_vec());
        }
    }
    found
}

#[test]
fn many_threads_on_every_rung_lose_nothing() {
    let rungs = [
        Rung::IoUring,
        Rung::Pwritev2,
        Rung::DirectFdatasync,
        Rung::BufferedFdatasync,
        Rung::PortableFsync,
    ];
    for rung in rungs {
        let dir = tempfile::tempdir().unwrap();
        let Some((wal, _)) = open(dir.path(), Some(rung)) else { continue };
        let acknowledged = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for thread in 0..8_usize {
                let (wal, acknowledged) = (wal.clone(), &acknowledged);
                scope.spawn(move || {
                    for count in 0..60_usize {
                        let payload = format!("{thread}.{count}.").repeat(1 + count * thread);
                        let lsn = wal.append(payload.as_bytes()).unwrap();
                        wal.wait(lsn).unwrap();
                        acknowledged.lock().unwrap().insert(lsn.0, payload.into_bytes());
                    }
                });
            }
        });
        let acknowledged = acknowledged.into_inner().unwrap();
        assert_eq!(contents(&wal, Lsn(1)), acknowledged, "{rung}: before it was closed");
        wal.close().unwrap();
        assert!(matches!(wal.append(b"late"), Err(Error::Closed)));
        let (wal, recovery) = open(dir.path(), Some(rung)).unwrap();
        assert!(recovery.closed, "{rung}: {recovery:?}");
        assert_eq!(contents(&wal, Lsn(1)), acknowledged, "{rung}: after it was opened again");
    }
}

#[test]
fn a_log_that_was_not_closed_is_read_to_its_end_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..5_u64 {
        let (wal, recovery) = open(dir.path(), None).unwrap();
        assert_eq!(recovery.tail, Tail::Clean);
        assert_eq!(contents(&wal, Lsn(1)), expected, "round {round}");
        for count in 0..200_u64 {
            let payload = vec![round.to_le_bytes()[0]; usize::try_from(count * 13 % 5000).unwrap()];
            let lsn = wal.append(&payload).unwrap();
            expected.insert(lsn.0, payload);
        }
        wal.sync().unwrap();
        // As after a kill: nothing is closed, only the lock goes.
        std::fs::rename(dir.path().join("log"), dir.path().join("gone")).unwrap();
        copy(&dir.path().join("gone"), &dir.path().join("log"));
        drop(wal);
        std::fs::remove_dir_all(dir.path().join("gone")).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn trimming_recycles_segments_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path(), None).unwrap();
    for count in 0..3000_u64 {
        let lsn = wal.append(&[count.to_le_bytes()[0]; 1000]).unwrap();
        wal.wait(lsn).unwrap();
        if count % 100 == 99 {
            wal.trim(Lsn(lsn.0 - 50));
        }
    }
    let first = wal.first();
    assert!(first > Lsn(2000), "whole segments were dropped: first is {first}");
    assert!(matches!(wal.reader(Lsn(1)).next_records(), Err(Error::OutOfRange { .. })));
    let found = contents(&wal, first);
    wal.close().unwrap();
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert!(files < 14, "{files} files for 3 MB through segments of 256 KiB");
    let (wal, _) = open(dir.path(), None).unwrap();
    assert!(wal.first() <= first);
    assert_eq!(contents(&wal, first), found);
}

/// A reader far behind the writers reads the active segment while it is written: what it takes in at
/// once must not hold a group that was not whole yet.
#[test]
fn a_reader_that_follows_from_afar_sees_every_record_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path(), None).unwrap());
    let options = Options { segment_size: 32 << 20, spares: 1, ..Options::default() };
    let (wal, _) = Wal::open(disk, &dir.path().join("log"), options).unwrap();
    let payload = |lsn: u64| vec![lsn.to_le_bytes()[0]; usize::try_from(lsn * 7 % 9000).unwrap()];
    const COUNT: u64 = 4000;
    std::thread::scope(|scope| {
        let writer = wal.clone();
        scope.spawn(move || {
            for lsn in 1..=COUNT {
                assert_eq!(writer.append(&payload(lsn)).unwrap(), Lsn(lsn));
                if lsn % 10 == 0 {
                    writer.wait(Lsn(lsn)).unwrap();
                }
            }
        });
        let mut next = 1;
        while next <= COUNT {
            // Another reader each time: it has nothing at hand, and begins where groups are old.
            let mut reader = wal.reader(Lsn(next));
            for _ in 0..50 {
                let Some(records) = reader.next_records().unwrap() else { break };
                for record in records.iter() {
                    let (lsn, record) = record.unwrap();
                    assert_eq!((lsn, record.payload), (Lsn(next), &payload(next)[..]));
                    next += 1;
                }
            }
        }
    });
}

#[test]
fn truncating_drops_the_end_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path(), None).unwrap();
    for count in 0..1000_u64 {
        wal.append(&count.to_le_bytes()).unwrap();
    }
    wal.truncate(Lsn(400)).unwrap();
    assert_eq!((wal.last(), wal.durable()), (Lsn(400), Lsn(400)));
    let lsn = wal.append(b"another").unwrap();
    assert_eq!(lsn, Lsn(401));
    wal.wait(lsn).unwrap();
    let found = contents(&wal, Lsn(1));
    assert_eq!((found.len(), &found[&401]), (401, &b"another".to_vec()));
    wal.close().unwrap();
    let (wal, _) = open(dir.path(), None).unwrap();
    assert_eq!(contents(&wal, Lsn(1)), found);
}

#[test]
fn one_directory_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path(), None).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path(), None).unwrap());
    let second = Wal::open(disk.clone(), &dir.path().join("log"), options());
    assert!(matches!(second, Err(Error::Locked { .. })));
    drop(wal);
    Wal::open(disk, &dir.path().join("log"), options()).unwrap();
}

#[test]
fn limits_refuse_before_anything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path(), None).unwrap();
    let large = vec![0; 256 << 10];
    assert!(matches!(wal.append(&large), Err(Error::TooLarge { .. })));
    assert!(matches!(wal.wait(Lsn(1)), Err(Error::OutOfRange { .. })));
    assert_eq!(wal.last(), Lsn(0));
    let bad = Options { segment_size: 5000, ..options() };
    let disk = Arc::new(RealDisk::open(dir.path(), None).unwrap());
    let refused = Wal::open(disk, &dir.path().join("other"), bad);
    assert!(matches!(refused, Err(Error::InvalidOption { .. })));
}

/// Appends that need more new segments than there were spares asked for spares for ever: a batch
/// of several large records, or many appends that nobody waits for.
#[test]
fn appends_take_as_many_segments_as_they_need() {
    let options = Options {
        segment_size: 64 << 10,
        spares: 1,
        background: false,
        new_log_id: 7,
        ..Options::default()
    };
    let large = vec![7; 50_000];
    let batch = [&large[..]; 6];
    for is_stepped in [false, true] {
        let disk = SimulatedDisk::new(1);
        let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), options.clone()).unwrap();
        for _ in 0..20 {
            wal.append(&large).unwrap();
        }
        let last = match is_stepped {
            false => wal.append_all(&batch).unwrap(),
            true => loop {
                wal.pump().unwrap();
                if let Some(last) = wal.try_append_all(&batch).unwrap() {
                    break last;
                }
            },
        };
        wal.wait(last).unwrap();
        assert_eq!((last, wal.stats().spares), (Lsn(26), 1), "no spare is left over");
        drop(wal);
        let (wal, _) = Wal::open(disk, Path::new("/log"), options.clone()).unwrap();
        assert_eq!(contents(&wal, Lsn(1)).len(), 26);
    }
}

/// With all of the active segment truncated, the log said that it began behind its end.
#[test]
fn a_log_begins_at_or_before_its_end() {
    let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
    let (wal, _) = Wal::open(SimulatedDisk::new(1), Path::new("/log"), options).unwrap();
    for last in [2, 1, 0] {
        for _ in 0..4 {
            let lsn = wal.append(&[7; 40_000]).unwrap();
            wal.wait(lsn).unwrap();
        }
        wal.truncate(Lsn(last)).unwrap();
        assert_eq!((wal.first(), wal.last()), (Lsn(1), Lsn(last)));
    }
    // Nor may it begin behind what waits to be written.
    for _ in 0..3 {
        let lsn = wal.append(&[7; 40_000]).unwrap();
        wal.wait(lsn).unwrap();
    }
    wal.truncate(Lsn(1)).unwrap();
    wal.append(b"waits").unwrap();
    wal.append(b"waits").unwrap();
    wal.trim(Lsn(1));
    assert_eq!((wal.first(), wal.last()), (Lsn(2), Lsn(3)));
}

/// A truncation that was refused took back what waiters had been told: the next one waited for ever.
#[test]
fn a_truncation_that_is_refused_changes_nothing() {
    let options = Options { segment_size: 64 << 10, background: false, ..Options::default() };
    let (wal, _) = Wal::open(SimulatedDisk::new(1), Path::new("/log"), options).unwrap();
    for _ in 0..6 {
        let lsn = wal.append(&[7; 40_000]).unwrap();
        wal.wait(lsn).unwrap();
    }
    wal.trim(Lsn(4));
    assert!(matches!(wal.truncate(Lsn(2)), Err(Error::OutOfRange { .. })));
    wal.wait(Lsn(6)).unwrap();
    wal.sync().unwrap();
}
