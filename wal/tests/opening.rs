//! What opening a log costs: a few blocks of every segment, and one segment.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::path::Path;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::{Fault, SimulatedDisk};
use strandline_wal::{Lsn, Options, Wal};

const SEGMENT: u64 = 256 << 10;
const BLOCK: u64 = 4096;
/// The block of its header and the header of its first group, by one read.
const FRONT: u64 = BLOCK + 64;

fn options() -> Options {
    Options { segment_size: SEGMENT, background: false, ..Options::default() }
}

/// The same with 64 segments of 64 MiB is 4 GiB, of which 65 MiB are read.
#[test]
fn after_a_kill_headers_are_read_and_at_most_one_segment() {
    // The large one is read in several slices.
    let cases = [(SEGMENT, 100), (SEGMENT, 5000), (SEGMENT, 40_000), (9 << 20, 10_000_u64)];
    for (segment_size, records) in cases {
        let options = || Options { segment_size, ..options() };
        let disk = SimulatedDisk::new(9);
        let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), options()).unwrap();
        for number in 0..records {
            let lsn = wal.append(&[&number.to_le_bytes()[..], &[5; 1000]].concat()).unwrap();
            if number % 16 == 0 {
                wal.wait(lsn).unwrap();
            }
        }
        wal.sync().unwrap();
        wal.prepare(false).unwrap();
        let count = |count: usize| u64::try_from(count).unwrap();
        let (in_use, spares) = (wal.stats().segments_in_use, wal.stats().spares);
        let (sealed, spares) = (count(in_use) - 1, count(spares));
        disk.kill();
        disk.restart();
        let disk = disk.mount();
        let before = disk.counters();
        let (wal, recovery) = Wal::open(disk.clone(), Path::new("/log"), options()).unwrap();
        let after = disk.counters();
        assert_eq!(recovery.last, Lsn(records));
        let read = after.bytes_read - before.bytes_read;
        assert_eq!(recovery.bytes_read, read, "what it says it read is what was read");
        // Of the newest segment all but the header is read; the header came with the front.
        let looked_at = (sealed + spares + 1) * FRONT + sealed * BLOCK + segment_size - BLOCK;
        // What holds nothing is read once more to be written; groups that nothing claims are not.
        let headers = (sealed + 1) * BLOCK;
        let unproven = recovery.bytes_rewritten - headers;
        assert!(unproven < spares * BLOCK + 64 * 1024, "{unproven} bytes");
        assert_eq!(
            read,
            looked_at + spares * BLOCK,
            "{sealed} sealed segments of {segment_size} bytes"
        );
        // Every position is found, although not every group's place is kept.
        for lsn in (1..=records).step_by(997) {
            let read = wal.reader(Lsn(lsn)).next_records().unwrap().expect("it is durable");
            let (found, record) = read.iter().next().unwrap().unwrap();
            assert_eq!(found, Lsn(lsn));
            assert_eq!(record.payload[..8], (lsn - 1).to_le_bytes());
        }
    }
}

/// A process that was killed while it made a spare left a file without a header, and opening read it to its end.
#[test]
fn a_spare_that_was_being_made_costs_nothing() {
    for fault in [Fault::Kill, Fault::PowerCut] {
        for at in 1..40 {
            let disk = SimulatedDisk::new(at);
            let (wal, _) = Wal::open(disk.clone(), Path::new("/log"), options()).unwrap();
            // So much that a spare is put to use, and another one is wanted.
            let half = vec![7; usize::try_from(SEGMENT / 2).unwrap()];
            wal.append(&half).unwrap();
            let lsn = wal.append(&half).unwrap();
            wal.wait(lsn).unwrap();
            let (_, before) = Wal::open(disk.fork(at), Path::new("/log"), options()).unwrap();
            disk.fail_at(disk.operations() + at, fault);
            let _ = wal.prepare(false);
            if !disk.is_down() {
                assert!(at > 6, "nothing was cut off at {at}");
                break;
            }
            disk.restart();
            let disk = disk.mount();
            let (wal, after) = Wal::open(disk.clone(), Path::new("/log"), options()).unwrap();
            assert_eq!(after.last, lsn);
            // One more spare, if it had its name.
            let bound = before.bytes_read + FRONT + BLOCK;
            assert!(
                after.bytes_read <= bound,
                "{before:?} and {after:?}, cut off at operation {at}"
            );
            let names = disk.list(Path::new("/log")).unwrap();
            let is_known = |name: &String| name.ends_with(".segment") || name == "LOCK";
            assert!(names.iter().all(is_known), "{names:?}");
            wal.close().unwrap();
        }
    }
}
