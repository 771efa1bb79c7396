//! A write that lands in a wrong place of its file is found out, whichever write it is.
//!
//! The header of a segment that was just put to use was not: the segment still looked like a spare, so
//! its records were given up in silence, and the log ended before them. Found by the cluster simulator,
//! profile `damage`, seed 50386.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::{Error, Lsn, Options, Tail, Wal};

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

fn append(wal: &Wal, count: u8) {
    for number in 0..count {
        let lsn = wal.append(&[number; 3000]).unwrap();
        wal.wait(lsn).unwrap();
        // Spares are made here, as the log has no thread of its own.
        wal.prepare(true).unwrap();
    }
}

#[test]
fn every_write_that_goes_astray_is_found_out() {
    // The log is cut back first, so that segments of several incarnations are there.
    for (before, truncated) in (0..40).flat_map(|before| [(before, false), (before, true)]) {
        let disk = SimulatedDisk::new(u64::from(before));
        let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
        append(&wal, before);
        if truncated && before > 3 {
            wal.truncate(Lsn(u64::from(before) - 2)).unwrap();
        }
        disk.misdirect_next_write(8 * 4096);
        append(&wal, 5);
        let last = wal.durable();
        let closed = wal.close();
        disk.kill();
        drop(wal);
        match Wal::open(disk.mount(), Path::new(DIR), options()) {
            Err(Error::Corruption { .. }) => {}
            Err(error) => panic!("{before} appends before: {error}, after {closed:?}"),
            Ok((_, recovery)) => {
                let is_suspect = matches!(recovery.tail, Tail::Suspect { .. });
                assert!(is_suspect || recovery.last == last, "{before} before: {recovery:?}");
            }
        }
    }
}

/// The last write before the process ended: nothing stands behind its place, and it looks like one that
/// was never written. Found by the cluster simulator, profile `default`, seed 82126: a replica came back
/// without an acknowledged entry and without doubt.
#[test]
fn the_last_write_that_goes_astray_is_found_out() {
    let cases = (0..32).flat_map(|before| (0..32).map(move |case| (before, case)));
    for (before, case) in cases {
        let (to, len) = (case / 2, [3000, 7000][usize::try_from(case % 2).unwrap()]);
        let disk = SimulatedDisk::new(u64::from(before));
        let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
        append(&wal, before);
        // The process ends when its last group is written, and before the marker that would claim it.
        disk.set_stepped(true);
        disk.misdirect_next_write(to * 4096);
        let last = wal.append(&vec![7; len]).unwrap();
        loop {
            wal.pump().unwrap();
            let is_header = disk.in_flight().iter().any(|write| write.offset == 0);
            disk.complete_one().unwrap();
            if !is_header {
                break;
            }
        }
        disk.kill();
        disk.set_stepped(false);
        drop(wal);
        match Wal::open(disk.mount(), Path::new(DIR), options()) {
            Err(Error::Corruption { .. }) => {}
            Err(error) => panic!("{before} appends before, to block {to}: {error}"),
            Ok((_, recovery)) => {
                let is_suspect = matches!(recovery.tail, Tail::Suspect { .. });
                let is_told = is_suspect || recovery.last == last;
                assert!(is_told, "{before} appends before, to block {to}: {recovery:?}");
            }
        }
    }
}
