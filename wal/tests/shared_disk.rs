//! Many logs on one shared disk: no log loses what it acknowledged, waits for long behind another one, or
//! suffers from another one's failures.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use strandline_wal::disk::simulated::{Fault, SimulatedDisk};
use strandline_wal::disk::{
    Buffer, Disk, DurableWrite, File, OpenMode, SharedDisk, Submitted, WriteQueue,
};
use strandline_wal::{Error, Lsn, Options, Wal};

/// How many writes the simulated disk bears at once.
const PLACES: usize = 8;

fn options() -> Options {
    Options { segment_size: 64 << 10, spares: 1, group_size_max: 8 << 10, ..Options::default() }
}

fn dir(log: usize) -> PathBuf {
    PathBuf::from(format!("/log-{log}"))
}

/// A shared disk in the running process of `disk`.
fn shared(disk: &SimulatedDisk) -> Arc<SharedDisk> {
    Arc::new(SharedDisk::new(disk.mount()))
}

fn file(disk: &dyn Disk, name: &str) -> Arc<dyn File> {
    disk.open(Path::new(name), OpenMode::CreateLog).unwrap()
}

fn write(file: &Arc<dyn File>, id: u64) -> DurableWrite {
    let mut bytes = Buffer::with_capacity(4096);
    bytes.extend(&[u8::try_from(id).unwrap(); 4096]);
    DurableWrite { id, file: file.clone(), offset: id * 4096, bytes: bytes.into() }
}

fn submit(queue: &dyn WriteQueue, file: &Arc<dyn File>, ids: std::ops::Range<u64>) {
    for id in ids {
        assert!(matches!(queue.submit(write(file, id)), Submitted::Queued));
    }
}

/// Fairness in turns, not in time: one lane keeps the disk busy and has much parked; those that come
/// later are served in turn with it.
#[test]
fn a_lane_with_much_to_write_lets_the_others_have_their_turns() {
    let disk = SimulatedDisk::new(1);
    disk.set_stepped(true);
    let shared = shared(&disk);
    let names = ["/greedy", "/one", "/two"];
    let lanes = names.map(|name| (shared.write_queue().unwrap(), file(&*shared, name)));
    submit(&*lanes[0].0, &lanes[0].1, 0..20);
    submit(&*lanes[1].0, &lanes[1].1, 0..3);
    submit(&*lanes[2].0, &lanes[2].1, 0..2);
    let in_flight = || disk.in_flight().into_iter().map(|one| (one.path, one.offset));
    assert_eq!(disk.in_flight().len(), PLACES, "the disk is given no more than it bears");
    assert!(in_flight().all(|(path, _)| path == Path::new(names[0])));

    let mut seen: BTreeSet<_> = in_flight().collect();
    let mut order = Vec::new();
    let mut ended = [0; 3];
    while disk.complete_one().is_some() {
        for (ended, (lane, _)) in ended.iter_mut().zip(&lanes) {
            *ended += lane.poll().into_iter().filter(|one| one.result.is_ok()).count();
        }
        for (path, offset) in in_flight() {
            if seen.insert((path.clone(), offset)) {
                order.push(names.iter().position(|name| path == Path::new(name)).unwrap());
            }
        }
    }
    assert_eq!(order[..8], [0, 1, 2, 0, 1, 2, 0, 1], "one write each in turn");
    assert!(order[8..].iter().all(|lane| *lane == 0), "{order:?}");
    assert_eq!(ended, [20, 3, 2]);
}

/// The ids of a lane are its own: two lanes may use the same ones, and each is told of its writes only.
#[test]
fn each_lane_is_told_of_its_own_writes() {
    let disk = SimulatedDisk::new(2);
    disk.set_stepped(true);
    let shared = shared(&disk);
    let lanes = [0, 1].map(|lane| {
        let file = file(&*shared, &format!("/{lane}"));
        (shared.write_queue().unwrap(), file)
    });
    for (lane, file) in &lanes {
        submit(&**lane, file, 5..7);
    }
    let complete = |lane: usize| {
        let mut ids = BTreeSet::new();
        while ids.len() < 2 {
            ids.extend(lanes[lane].0.complete().into_iter().map(|one| one.id));
        }
        assert!(lanes[lane].0.complete().is_empty(), "nothing is left");
        ids
    };
    // Whoever waits for his own finds out about the other's.
    assert_eq!(complete(1), BTreeSet::from([5, 6]));
    assert_eq!(complete(0), BTreeSet::from([5, 6]));
}

#[test]
fn a_lane_that_is_dropped_has_its_parked_writes_performed() {
    let disk = SimulatedDisk::new(3);
    disk.set_stepped(true);
    let shared = shared(&disk);
    let (busy, leaving) = (shared.write_queue().unwrap(), shared.write_queue().unwrap());
    let files = [file(&*shared, "/busy"), file(&*shared, "/leaving")];
    shared.sync_dir(Path::new("/")).unwrap();
    submit(&*busy, &files[0], 0..20);
    submit(&*leaving, &files[1], 1..4);
    drop(leaving);
    let content = disk.durable_content(Path::new("/leaving")).unwrap();
    for id in 1..4_u8 {
        assert_eq!(content[usize::from(id) * 4096..][..4096], [id; 4096]);
    }
    let mut ended = 0;
    while ended < 20 {
        ended += busy.complete().len();
    }
}

fn payload(log: usize, number: u64) -> Vec<u8> {
    format!("record {number} of log {log}").into_bytes()
}

/// Appends a few records in each round, waiting for each, until the log refuses; returns how many were
/// acknowledged. No log begins a round before all have ended the one before: all of them are at it when the
/// crash comes, which one of them calls for when the first round is over.
fn fill(wal: &Wal, log: usize, rounds: &Barrier, call_for_crash: impl Fn()) -> u64 {
    let mut acknowledged = 0;
    let mut is_well = true;
    for round in 0..30 {
        if rounds.wait().is_leader() && round == 1 {
            call_for_crash();
        }
        for _ in 0..3 {
            let record = payload(log, acknowledged + 1);
            let done = wal.append(&record).and_then(|lsn| wal.wait(lsn).map(|()| lsn));
            is_well &= done.is_ok();
            match done {
                Ok(lsn) if is_well => assert_eq!(lsn, Lsn(acknowledged + 1)),
                _ => break,
            }
            acknowledged += 1;
        }
    }
    acknowledged
}

/// The records of the log, all whole and its own; their count.
fn check(wal: &Wal, log: usize) -> u64 {
    let mut reader = wal.reader(Lsn(1));
    let mut count = 0;
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            assert_eq!(record.payload, payload(log, lsn.0));
            count = lsn.0;
        }
    }
    count
}

/// 120 logs, each written by a thread of its own, when the process or the machine goes down.
#[test]
fn a_hundred_logs_keep_what_they_acknowledged_over_a_crash() {
    const LOGS: usize = 120;
    for (seed, crash, stepped) in [
        (1, Fault::PowerCut, true),
        (2, Fault::PowerCut, false),
        (3, Fault::Kill, true),
        (4, Fault::Kill, false),
    ] {
        let disk = SimulatedDisk::new(seed);
        disk.set_stepped(stepped);
        let process = shared(&disk);
        let logs: Vec<Wal> = (0..LOGS)
            .map(|log| Wal::open(process.clone(), &dir(log), options()).unwrap().0)
            .collect();
        let rounds = Arc::new(Barrier::new(LOGS));
        let threads: Vec<_> = logs
            .into_iter()
            .enumerate()
            .map(|(log, wal)| {
                let (rounds, disk) = (rounds.clone(), disk.clone());
                let crash = move || disk.fail_at(disk.operations() + 100 * seed, crash);
                std::thread::spawn(move || fill(&wal, log, &rounds, crash))
            })
            .collect();
        let acknowledged: Vec<u64> =
            threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(acknowledged.iter().all(|count| *count > 0), "{seed}: {acknowledged:?}");
        assert_eq!(disk.restart(), Some(crash), "{seed}");
        disk.set_stepped(false);
        let process = shared(&disk);
        for (log, acknowledged) in acknowledged.into_iter().enumerate() {
            let (wal, _) = Wal::open(process.clone(), &dir(log), options()).unwrap();
            let found = check(&wal, log);
            assert!(found >= acknowledged, "{seed}: log {log} has {found} of {acknowledged}");
            assert!(found <= acknowledged + 1, "{seed}: log {log} has {found}");
        }
    }
}

/// Failing writes of one log: rewritten or, if the disk goes on failing, the end of this log and no other.
#[test]
fn a_log_whose_file_fails_does_not_hurt_the_others() {
    let disk = SimulatedDisk::new(6);
    disk.set_stepped(true);
    let process = shared(&disk);
    let options = Options { background: false, ..options() };
    let logs =
        [0, 1, 2].map(|log| Wal::open(process.clone(), &dir(log), options.clone()).unwrap().0);
    let [broken, one, two] = &logs;
    let submit_all = || {
        for wal in &logs {
            wal.append(b"under way with the others").unwrap();
        }
        // The first write is that of the first log.
        logs.iter().for_each(|wal| wal.pump().unwrap());
        assert_eq!(disk.in_flight().len(), 3);
    };
    disk.fail_writes_from(disk.operations() + 1, 1);
    submit_all();
    logs.iter().for_each(|wal| wal.sync().unwrap());
    assert_eq!(logs.each_ref().map(|wal| wal.stats().rewrites), [1, 0, 0]);
    logs.iter().for_each(|wal| wal.prepare(false).unwrap());

    disk.fail_writes_from(disk.operations() + 1, 1);
    submit_all();
    one.sync().unwrap();
    two.sync().unwrap();
    disk.fail_writes_from(disk.operations() + 1, 100);
    let error = broken.sync().unwrap_err();
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    disk.clear_faults();
    for wal in [one, two] {
        let lsn = wal.append(b"still well").unwrap();
        wal.wait(lsn).unwrap();
        assert_eq!(wal.stats().rewrites, 0);
        wal.close().unwrap();
    }
}

/// Logs come and go while others write.
#[test]
fn logs_are_closed_and_opened_while_others_write() {
    const LOGS: usize = 24;
    for stepped in [true, false] {
        let disk = SimulatedDisk::new(7);
        disk.set_stepped(stepped);
        let process = shared(&disk);
        let ends = Arc::new(AtomicBool::new(false));
        let openings = Arc::new(AtomicU64::new(0));
        let writers: Vec<_> = (0..LOGS)
            .map(|log| {
                let (process, ends, openings) = (process.clone(), ends.clone(), openings.clone());
                std::thread::spawn(move || {
                    // Every other one is opened for a few records at a time.
                    let records = if log % 2 == 0 { 3 } else { u64::MAX };
                    let mut written = 0;
                    while !ends.load(Ordering::Acquire) {
                        let (wal, _) = Wal::open(process.clone(), &dir(log), options()).unwrap();
                        openings.fetch_add(1, Ordering::AcqRel);
                        assert_eq!(wal.last(), Lsn(written));
                        for _ in 0..records {
                            written += 1;
                            let lsn = wal.append(&payload(log, written)).unwrap();
                            wal.wait(lsn).unwrap();
                            if ends.load(Ordering::Acquire) {
                                break;
                            }
                            wal.trim(Lsn(written));
                        }
                        wal.close().unwrap();
                    }
                    written
                })
            })
            .collect();
        while openings.load(Ordering::Acquire) < 200 {
            std::thread::yield_now();
        }
        ends.store(true, Ordering::Release);
        for (log, writer) in writers.into_iter().enumerate() {
            let written = writer.join().unwrap();
            assert!(written > 0, "log {log} was starved");
            let (wal, _) = Wal::open(process.clone(), &dir(log), options()).unwrap();
            assert_eq!(wal.last(), Lsn(written));
        }
    }
}
