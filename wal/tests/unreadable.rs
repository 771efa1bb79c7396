//! What cannot be read while the log is opened must not be written over.
//!
//! A block that the disk refused to read was taken for a block of ones, and the end of the log, which
//! is written once more at each opening, was written from that: a read that failed for a moment
//! destroyed the header of the newest segment, and acknowledged records with it. Found by the cluster
//! simulator, profile `default`, seed 22355.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use strandline_wal::disk::simulated::{Fault, SimulatedDisk};
use strandline_wal::{Lsn, Options, Tail, Wal};

const DIR: &str = "/log";

fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        spares: 1,
        group_size_max: 8 << 10,
        pending_size_max: 32 << 10,
        background: false,
        new_log_id: 7,
        ..Options::default()
    }
}

/// Every pair of neighbouring operations of an opening fails in turn; the opening after that finds
/// what was acknowledged.
#[test]
fn a_read_that_fails_while_opening_destroys_nothing() {
    let disk = SimulatedDisk::new(1);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    for number in 0..5_u8 {
        let lsn = wal.append(&[number; 3000]).unwrap();
        wal.wait(lsn).unwrap();
    }
    let last = wal.durable();
    disk.kill();
    drop(wal);
    for ahead in 1.. {
        let disk = disk.fork(ahead);
        let operations = disk.operations();
        disk.fail_at(operations + ahead, Fault::Eio);
        disk.fail_at(operations + ahead + 1, Fault::Eio);
        let opened = Wal::open(disk.mount(), Path::new(DIR), options());
        let is_past = disk.operations() < operations + ahead;
        // Whoever opens a log learns that its end is in doubt, and decides.
        let is_suspect = opened
            .as_ref()
            .is_ok_and(|(_, recovery)| matches!(recovery.tail, Tail::Suspect { .. }));
        disk.clear_faults();
        disk.kill();
        drop(opened);
        let (wal, recovery) = Wal::open(disk.mount(), Path::new(DIR), options())
            .unwrap_or_else(|error| panic!("after a fault at operation {ahead}: {error}"));
        assert!(is_suspect || recovery.last >= last, "lost at operation {ahead}: {recovery:?}");
        let mut reader = wal.reader(Lsn(1));
        let records = reader.next_records().unwrap().map_or(0, |records| records.iter().count());
        assert!(is_suspect || records > 0, "nothing is left at operation {ahead}");
        if is_past {
            return;
        }
    }
}

/// One read of a sealed segment brings its header and its first group's: if it fails, the header is asked for
/// alone. Whatever fails once, the log opens whole the next time, and what opens at once is whole.
#[test]
fn a_read_of_a_sealed_segment_that_fails_hides_nothing() {
    let disk = SimulatedDisk::new(1);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    for number in 0..60_u8 {
        let lsn = wal.append(&[number; 3000]).unwrap();
        wal.wait(lsn).unwrap();
    }
    let last = wal.durable();
    assert!(wal.stats().segments_in_use > 3);
    wal.close().unwrap();
    drop(wal);
    disk.kill();
    let mut opened_at_once = 0;
    for ahead in 1.. {
        let disk = disk.fork(ahead);
        let operations = disk.operations();
        disk.fail_at(operations + ahead, Fault::Eio);
        let opened = Wal::open(disk.mount(), Path::new(DIR), options());
        let is_past = disk.operations() < operations + ahead;
        if let Ok((_, recovery)) = &opened {
            opened_at_once += 1;
            assert_eq!((recovery.last, &recovery.tail), (last, &Tail::Clean), "operation {ahead}");
        }
        disk.clear_faults();
        disk.kill();
        drop(opened);
        let (wal, recovery) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
        assert_eq!(recovery.last, last, "after a fault at operation {ahead}");
        let read = wal.reader(Lsn(1)).next_records().unwrap().map_or(0, |all| all.iter().count());
        assert!(read > 0, "nothing is left at operation {ahead}");
        if is_past {
            break;
        }
    }
    assert!(opened_at_once > 3, "a front that is not read at once is no reason not to open");
}
