//! A durable write that fails, at every one of them in turn: nothing is acknowledged that is not there
//! after a power cut that keeps nothing, nobody waits for ever, and what was durable can be read.
//!
//! On the disk as every family of rungs drives it, for a single failure, for two in a row (the
//! rewrite fails too) and for a disk that fails from then on, each with the failed sectors lost, half
//! lost and all on the disk.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
use strandline_wal::{Error, Lsn, Wal};

mod common;
use common::{DIR, Family, options};

/// Longer than any run takes: who waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of a run, in batches of one to three; they fill several segments.
const RECORDS: u64 = 60;

fn payload(lsn: u64) -> Vec<u8> {
    vec![u8::try_from(lsn).unwrap(); 100 + 600 * usize::try_from(lsn % 9).unwrap()]
}

/// Everything that can be read, which must be what was written, from 1 on.
fn readable(wal: &Wal) -> u64 {
    let mut reader = wal.reader(Lsn(1));
    let mut last = 0;
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert_eq!(record.payload, payload(lsn.0), "position {lsn}");
            last = lsn.0;
        }
    }
    last
}

/// What a run showed.
struct Run {
    /// Whether the k-th durable write came at all.
    met: bool,
    /// Whether the log stopped.
    stopped: bool,
}

/// `count` durable writes and syncs fail from the `k`th on after the log was opened.
fn run(family: Family, k: u64, count: u64, survival: Survival) -> Run {
    let disk = SimulatedDisk::new(k);
    family.set_up(&disk);
    disk.set_survival(survival);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options()).unwrap();
    let mut acknowledged = 0;
    let mut stopped = false;
    let begin = disk.counters().durable_writes;
    let mut armed = false;
    while wal.last().0 < RECORDS {
        if !armed && disk.counters().durable_writes - begin + 1 >= k {
            armed = true;
            disk.fail_writes_from(disk.operations() + 1, count);
        }
        let next = wal.last().0 + 1;
        let payloads: Vec<_> = (next..next + 1 + next % 3).map(payload).collect();
        let slices: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let appended = wal.append_all(&slices);
        // Several groups wait for the disk, so that those that can be are in flight together.
        let waits = next % 5 > 2 || wal.last().0 >= RECORDS;
        match appended.and_then(|lsn| if waits { wal.wait(lsn).map(|()| lsn) } else { Ok(Lsn(0)) })
        {
            Ok(lsn) => acknowledged = lsn.0.max(acknowledged),
            Err(Error::Poisoned { .. }) => {
                stopped = true;
                break;
            }
            // A spare could not be made: refused, and nothing has changed.
            Err(Error::Io { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(wal.durable().0 >= acknowledged);
    assert_eq!(readable(&wal), wal.durable().0, "reads go on up to what is durable");
    if stopped {
        assert!(matches!(wal.append(b"more"), Err(Error::Poisoned { .. })), "it stays stopped");
        assert!(
            matches!(wal.wait(wal.last()), Err(Error::Poisoned { .. }))
                || wal.durable() == wal.last()
        );
        assert!(matches!(wal.sync(), Err(Error::Poisoned { .. })) || wal.durable() == wal.last());
    }
    disk.clear_faults();
    disk.set_survival(Survival::NOTHING);
    disk.power_cut();
    drop(wal);
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options())
        .unwrap_or_else(|error| panic!("{family:?}, {count} from {k}: {error}"));
    let found = readable(&wal);
    assert!(found >= acknowledged, "{family:?}, {count} from {k}: {found} of {acknowledged}");
    Run { met: armed, stopped }
}

#[test]
fn at_every_durable_write_on_every_family_of_rungs() {
    for family in Family::ALL {
        let (mut runs, mut stops) = (0, 0);
        for count in [1, 2, u64::MAX] {
            for survival in [Survival::NOTHING, Survival::of(500), Survival::EVERYTHING] {
                for k in 1.. {
                    let (sender, receiver) = mpsc::channel();
                    let thread = std::thread::spawn(move || {
                        // Nobody listens any more if this came too late.
                        let _ = sender.send(run(family, k, count, survival));
                    });
                    match receiver.recv_timeout(PATIENCE) {
                        Ok(run) => {
                            runs += 1;
                            stops += u64::from(run.stopped);
                            if !run.met {
                                break;
                            }
                        }
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            panic!("{family:?}, {count} from {k}: somebody waits for ever");
                        }
                        Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
                    }
                }
            }
        }
        println!("{family:?}: {runs} runs, the log stopped in {stops}, nothing lost, nobody hangs");
        assert!(stops > 0 && stops < runs);
    }
}
