//! A log that may not grow beyond a bound, and a reader that never advances.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::{Error, Lsn, Options, Space, Wal};

const DIR: &str = "/log";
const SEGMENT: u64 = 64 << 10;
const CAP: u64 = 8 * SEGMENT;

fn options() -> Options {
    Options {
        segment_size: SEGMENT,
        spares: 1,
        background: false,
        log_size_max: CAP,
        new_log_id: 7,
        ..Options::default()
    }
}

fn open(disk: &Arc<SimulatedDisk>) -> Wal {
    Wal::open(disk.mount(), Path::new(DIR), options()).unwrap().0
}

/// Appends until it is refused; the error.
fn fill(wal: &Wal) -> Error {
    loop {
        match wal.append(&[7; 9000]) {
            Ok(lsn) => wal.wait(lsn).unwrap(),
            Err(error) => return error,
        }
    }
}

#[test]
fn appends_are_refused_at_the_cap_and_resume_when_it_is_trimmed() {
    let disk = SimulatedDisk::new(1);
    let wal = open(&disk);
    assert_eq!(wal.stats().space, Space::Normal);
    for round in 0..20 {
        let last = match fill(&wal) {
            Error::Capped { size_max, first, last, .. } => {
                assert_eq!((size_max, first), (CAP, wal.first().0));
                Lsn(last)
            }
            error => panic!("{error}"),
        };
        assert_eq!(last, wal.durable(), "what was refused has changed nothing");
        assert!(wal.try_append_all(&[&[7; 9000]]).unwrap_err().is_full());
        assert_eq!(wal.stats().space, Space::Capped);
        assert!(disk.used() <= CAP, "round {round}: {} bytes", disk.used());
        // Everything can be read, and the log opens as it is.
        if round % 5 == 0 {
            let before = disk.used();
            let again = disk.fork(1);
            assert_eq!(open(&again).last(), last);
            assert!(again.used() <= before, "opening needs no room");
        }
        wal.trim(Lsn(last.0 - 3));
        wal.prepare(false).unwrap();
        assert_eq!(wal.stats().space, Space::Normal);
        assert_eq!(wal.stats().trimmed, Lsn(wal.first().0 - 1));
    }
}

#[test]
fn a_reader_that_never_advances_holds_one_segment_and_no_more() {
    let disk = SimulatedDisk::new(2);
    drop(open(&disk));
    let wal = open(&disk);
    fill(&wal);
    // It has read one stretch of the oldest segment, and stops there.
    drop(wal);
    let wal = open(&disk);
    let mut reader = wal.reader(Lsn(1));
    let records = reader.next_records().unwrap().unwrap();
    for _ in 0..20 {
        wal.trim(Lsn(wal.durable().0 - 3));
        wal.prepare(false).unwrap();
        assert_eq!(wal.stats().segments_read, 1, "the reader's");
        assert!(matches!(fill(&wal), Error::Capped { held: 1, .. }));
        assert!(disk.used() <= CAP);
    }
    assert_eq!(records.iter().next().unwrap().unwrap().1.payload, [7; 9000]);
    assert!(matches!(reader.next_records(), Err(Error::OutOfRange { .. })), "it was left behind");
    drop((reader, records));
    wal.trim(wal.durable());
    wal.prepare(false).unwrap();
    assert_eq!(wal.stats().segments_read, 0);
}

#[test]
fn a_cap_that_leaves_no_room_to_work_is_refused() {
    let small = Options { log_size_max: 3 * SEGMENT, ..options() };
    assert!(matches!(small.validate(), Err(Error::InvalidOption { .. })));
}
