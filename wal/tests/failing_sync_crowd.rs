//! A disk that fails at every operation in turn, while many wait in every way there is: nothing is
//! acknowledged that is not there after a power cut that keeps nothing, and everybody gets an answer.
//!
//! Threads append and wait, so that one writes for the others; callbacks are run by the log's own threads;
//! and a log that one thread drives is pumped. On the disk as every family of rungs drives it, for a
//! single failure (which is saved in a fresh segment) and for a disk that fails from then on (which ends
//! in a stopped log).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use strandline_wal::disk::simulated::{SimulatedDisk, Survival};
use strandline_wal::{Error, Lsn, Options, Wal};

mod common;
use common::{DIR, Family, options};

/// Longer than any run takes: who waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);
const THREADS: u8 = 4;
const RECORDS: u8 = 12;

/// How they wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Threads,
    Callbacks,
    Pumped,
}

/// What was appended where, and which of it was acknowledged.
#[derive(Default)]
struct Told {
    appended: BTreeMap<u64, Vec<u8>>,
    acknowledged: u64,
}

fn payload(thread: u8, number: u8) -> Vec<u8> {
    vec![thread * RECORDS + number + 1; 200 + 700 * usize::from(number % 5)]
}

/// Refusals that a caller may meet when the disk fails; others are bugs.
fn expected(error: &Error) {
    let is_known = matches!(error, Error::Poisoned { .. } | Error::Io { .. } | Error::Full { .. });
    assert!(is_known, "{error}");
}

fn threads(wal: &Wal) -> Told {
    let workers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let wal = wal.clone();
            std::thread::spawn(move || {
                let mut told = Told::default();
                for number in 0..RECORDS {
                    let payload = payload(thread, number);
                    let lsn = match wal.append(&payload) {
                        Ok(lsn) => lsn,
                        Err(error) => {
                            expected(&error);
                            break;
                        }
                    };
                    told.appended.insert(lsn.0, payload);
                    match wal.wait(lsn) {
                        Ok(()) => told.acknowledged = told.acknowledged.max(lsn.0),
                        Err(error) => expected(&error),
                    }
                }
                told
            })
        })
        .collect();
    let mut all = Told::default();
    for worker in workers {
        let told = worker.join().unwrap();
        all.appended.extend(told.appended);
        all.acknowledged = all.acknowledged.max(told.acknowledged);
    }
    all
}

fn callbacks(wal: &Wal) -> Told {
    let mut told = Told::default();
    let (sender, receiver) = mpsc::channel();
    let mut asked = 0;
    for (thread, number) in all_records() {
        let payload = payload(thread, number);
        match wal.submit(&[&payload]) {
            Ok(ticket) => {
                told.appended.insert(ticket.lsn().0, payload);
                let sender = sender.clone();
                // Nobody listens any more if this came too late.
                let asks = ticket.then(move |outcome| drop(sender.send(outcome)));
                asked += u8::from(asks.is_ok());
            }
            Err(error) => expected(&error),
        }
    }
    for _ in 0..asked {
        match receiver.recv_timeout(PATIENCE).expect("a callback is called") {
            Ok(lsn) => told.acknowledged = told.acknowledged.max(lsn.0),
            Err(error) => expected(&error),
        }
    }
    told
}

fn pumped(wal: &Wal, disk: &SimulatedDisk) -> Told {
    let mut told = Told::default();
    let mut tickets = Vec::new();
    for (thread, number) in all_records() {
        let payload = payload(thread, number);
        match wal.try_submit(&[&payload]) {
            Ok(Some(ticket)) => {
                told.appended.insert(ticket.lsn().0, payload);
                tickets.push(ticket);
            }
            Ok(None) => {}
            Err(error) => expected(&error),
        }
        if number % 3 == 2 {
            for _ in 0..4 {
                wal.pump().unwrap_or_else(|error| expected(&error));
                while disk.complete_one().is_some() {}
            }
            // Nobody else makes spares.
            wal.prepare(false).unwrap_or_else(|error| expected(&error));
        }
    }
    for _ in 0..20 {
        wal.pump().unwrap_or_else(|error| expected(&error));
        while disk.complete_one().is_some() {}
    }
    for ticket in tickets {
        let lsn = ticket.lsn();
        let is_told = ticket.is_durable();
        match ticket.wait() {
            Ok(_) => told.acknowledged = told.acknowledged.max(lsn.0),
            Err(error) => {
                expected(&error);
                assert!(!is_told, "durable, and then not");
            }
        }
    }
    told
}

fn all_records() -> impl Iterator<Item = (u8, u8)> {
    (0..THREADS).flat_map(|thread| (0..RECORDS).map(move |number| (thread, number)))
}

/// Operations fail from the `k`th on after the log was opened; returns whether the run was that long.
fn run(family: Family, way: Way, k: u64, count: u64, survival: Survival) -> bool {
    let disk = SimulatedDisk::new(k);
    family.set_up(&disk);
    disk.set_survival(survival);
    let options = Options { background: way == Way::Callbacks, ..options() };
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), options).unwrap();
    let at = disk.operations() + k;
    disk.fail_writes_from(at, count);
    let told = match way {
        Way::Threads => threads(&wal),
        Way::Callbacks => callbacks(&wal),
        Way::Pumped => pumped(&wal, &disk),
    };
    let is_met = disk.operations() >= at;
    assert!(wal.durable().0 >= told.acknowledged);
    disk.clear_faults();
    disk.set_survival(Survival::NOTHING);
    disk.power_cut();
    drop(wal);
    let what = format!("{family:?}, {way:?}, {count} from {k}");
    let (wal, _) = Wal::open(disk.mount(), Path::new(DIR), self::options())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut last = 0;
    let mut reader = wal.reader(Lsn(1));
    while let Some(records) = reader.next_records().unwrap() {
        for record in records.iter() {
            let (lsn, record) = record.unwrap();
            let was = told.appended.get(&lsn.0);
            assert_eq!(was.map(Vec::as_slice), Some(record.payload), "{what}: position {lsn}");
            last = lsn.0;
        }
    }
    assert!(last >= told.acknowledged, "{what}: {last} of {}", told.acknowledged);
    is_met
}

#[test]
fn everybody_gets_an_answer_whatever_fails() {
    let (sender, receiver) = mpsc::channel();
    let sender = Arc::new(sender);
    for family in Family::ALL {
        for way in [Way::Threads, Way::Callbacks, Way::Pumped] {
            let mut runs = 0;
            for count in [1, 2, u64::MAX] {
                for survival in [Survival::NOTHING, Survival::of(500)] {
                    for k in 1.. {
                        let sender = sender.clone();
                        let thread = std::thread::spawn(move || {
                            // Nobody listens any more if this came too late.
                            let _ = sender.send(run(family, way, k, count, survival));
                        });
                        // A panic sends nothing, and is met by the thread's end.
                        let began = std::time::Instant::now();
                        let is_met = loop {
                            assert!(
                                began.elapsed() < PATIENCE,
                                "{family:?}, {way:?}, {count} from {k}: somebody waits for ever"
                            );
                            match receiver.recv_timeout(Duration::from_millis(200)) {
                                Ok(is_met) => break is_met,
                                Err(_) if thread.is_finished() => match receiver.try_recv() {
                                    Ok(is_met) => break is_met,
                                    Err(_) => {
                                        thread.join().unwrap();
                                        unreachable!("it ended without a word");
                                    }
                                },
                                Err(_) => {}
                            }
                        };
                        runs += 1;
                        if !is_met {
                            break;
                        }
                    }
                }
            }
            println!("{family:?}, {way:?}: {runs} runs, nothing lost, nobody hangs");
        }
    }
}
