//! What a reader gave stays as it is while somebody holds it: files that are used again are not those that
//! are mapped.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use strandline_wal::disk::RealDisk;
use strandline_wal::{Lsn, Options, Records, Wal};

const SEGMENT: u64 = 64 << 10;

/// A log in a directory of the machine's own disk, where a map shows what is written to its file.
fn open(dir: &std::path::Path) -> Wal {
    let options = Options {
        segment_size: SEGMENT,
        spares: 1,
        background: false,
        new_log_id: 7,
        ..Options::default()
    };
    let disk = Arc::new(RealDisk::open(dir, None).unwrap());
    Wal::open(disk, &dir.join("log"), options).unwrap().0
}

/// Appends records of one byte's value until the log has so many more segments' worth.
fn fill(wal: &Wal, byte: u8, segments: u64) {
    for _ in 0..segments * SEGMENT / 8192 {
        wal.wait(wal.append(&[byte; 6000]).unwrap()).unwrap();
    }
}

fn assert_are(records: &Records, byte: u8) {
    for record in records.iter() {
        let (lsn, record) = record.unwrap();
        let payload = record.payload;
        assert!(payload.iter().all(|found| *found == byte), "record {lsn} has changed");
    }
}

/// The first records of a log that was filled and opened again: what was just written is read from memory.
fn filled(dir: &std::path::Path) -> (Wal, Records) {
    let wal = open(dir);
    fill(&wal, 1, 4);
    wal.close().unwrap();
    drop(wal);
    let wal = open(dir);
    let records = wal.reader(Lsn(1)).next_records().unwrap().unwrap();
    (wal, records)
}

/// Trims all that can be, and lets the files be used again by what follows.
fn reuse(wal: &Wal) {
    for _ in 0..4 {
        wal.trim(wal.last());
        fill(wal, 3, 3);
    }
}

#[test]
fn records_outlive_their_reader_and_the_trimming_of_their_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, records) = filled(dir.path());
    reuse(&wal);
    assert_are(&records, 1);
    assert_eq!(wal.stats().segments_read, 1, "what is kept is seen");
    drop(records);
    reuse(&wal);
    assert_eq!(wal.stats().segments_read, 0);
}

#[test]
fn records_outlive_a_truncation_of_their_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, records) = filled(dir.path());
    wal.truncate(Lsn(3)).unwrap();
    fill(&wal, 2, 2);
    reuse(&wal);
    assert_are(&records, 1);
}

#[test]
fn records_outlive_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, records) = filled(dir.path());
    wal.reset(Lsn(1000)).unwrap();
    fill(&wal, 2, 2);
    reuse(&wal);
    assert_are(&records, 1);
}
