//! Goal: no fault at any operation makes the engine lose what it reported as flushed, show what was
//! not applied, or fail to open. Method: a workload of entries, seals and work is run once to count
//! its operations on the disk; then once for each of them and each fault. After the fault, a restart
//! and a further power cut, the engine must hold exactly the model's state at its flushed index, and
//! after the replay the model's last state.

use strandline_wal::disk::simulated::Fault;

use super::*;
use crate::Error;

const ENTRIES: u64 = 110;

/// What a run came to before its process ended.
struct Outcome {
    log: Vec<Logged>,
    /// The highest index that the engine reported as flushed.
    flushed: Index,
}

/// The entries are the same for every run of a seed.
fn entries(seed: u64) -> Vec<Logged> {
    let mut random = Random::new(seed);
    (0..ENTRIES)
        .map(|number| match number {
            5 => Logged::Create("a".into()),
            40 => Logged::Create("b".into()),
            70 => Logged::Drop(KeyspaceId(1)),
            _ => Logged::Batch(random_batch(&mut random, 3, 5)),
        })
        .collect()
}

/// Applies, seals and works until the end or a crash. Errors of single operations are borne as the
/// owner of an engine would: the work is tried again later.
fn run(disk: &Arc<SimulatedDisk>, log: Vec<Logged>) -> Outcome {
    let mut flushed = Index(0);
    let mut engine = None;
    for _ in 0..3 {
        match open(disk) {
            Ok(opened) => {
                engine = Some(opened);
                break;
            }
            Err(_) if disk.is_down() => break,
            Err(Error::Wal(strandline_wal::Error::Io { .. })) => {}
            Err(error) => panic!("opening: {error}"),
        }
    }
    let Some(engine) = engine else { return Outcome { log, flushed } };
    for (number, entry) in (1..).zip(&log) {
        apply(&engine, Index(number), entry);
        if number % 9 == 0 {
            engine.seal(machine_state(engine.applied()));
        }
        for _ in 0..4 {
            match engine.work(Index(number - number % 4)) {
                Ok(_) => {}
                Err(_) if disk.is_down() => return Outcome { log, flushed },
                Err(Error::Wal(strandline_wal::Error::Io { .. }) | Error::ReadOnly { .. }) => {}
                Err(error) => panic!("working: {error}"),
            }
            flushed = flushed.max(engine.flushed());
        }
    }
    Outcome { log, flushed }
}

/// Opens the engine as after a crash and compares it with the model.
fn check(disk: &Arc<SimulatedDisk>, outcome: &Outcome, context: &str) -> Index {
    let engine = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    let flushed = engine.flushed();
    assert!(flushed >= outcome.flushed, "{context}: {} was flushed", outcome.flushed);
    if flushed > Index(0) {
        assert_eq!(engine.machine_state(), machine_state(flushed), "{context}");
    }
    let mut model = Model::new();
    let mut entries = (1..).map(Index).zip(&outcome.log);
    for (_, entry) in entries.by_ref().take(usize::try_from(flushed.0).unwrap()) {
        model.apply(entry);
    }
    model.check(&engine.view(), context);
    assert_eq!(engine.keyspace("a"), model.pairs(KeyspaceId(1)).map(|_| KeyspaceId(1)));
    for (index, entry) in entries {
        model.apply(entry);
        apply(&engine, index, entry);
    }
    engine.seal(machine_state(engine.applied()));
    work_all(&engine);
    model.check(&engine.view(), context);
    assert!(engine.verify().unwrap().is_clean(), "{context}");
    engine.flushed()
}

fn run_with_fault(seed: u64, at: u64, fault: Fault) {
    let context = format!("seed {seed}, {fault:?} at operation {at}");
    let disk = SimulatedDisk::new(seed ^ at);
    disk.fail_at(at, fault);
    let mut outcome = run(&disk, entries(seed));
    disk.clear_faults();
    if disk.counters().faults == 0 {
        // The operation cannot meet this fault: a read does not need room.
        return;
    }
    if disk.restart().is_none() {
        disk.kill();
    }
    // Opened twice: what the first opening believed may not depend on what a power cut takes away.
    let fork = disk.fork(at);
    check(&fork, &outcome, &context);
    let opened = open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    outcome.flushed = opened.flushed();
    drop(opened);
    disk.power_cut();
    check(&disk, &outcome, &context);
}

fn operations(seed: u64) -> u64 {
    let disk = SimulatedDisk::new(seed);
    run(&disk, entries(seed));
    disk.operations()
}

#[test]
fn nothing_flushed_is_lost_by_any_fault_at_any_operation() {
    for seed in seeds(11..12) {
        let last = operations(seed);
        println!("seed {seed}, {last} operations");
        assert!(last > 200, "the workload is worth it: {last}");
        for at in 1..=last {
            for fault in Fault::ALL {
                run_with_fault(seed, at, fault);
            }
        }
    }
}

#[test]
fn a_full_disk_stops_work_and_nothing_else() {
    let disk = SimulatedDisk::new(5);
    let log = entries(5);
    let engine = open(&disk).unwrap();
    let mut model = Model::new();
    for (number, entry) in (1..).zip(&log) {
        apply(&engine, Index(number), entry);
        model.apply(entry);
        if number % 9 == 0 {
            engine.seal(machine_state(engine.applied()));
        }
        disk.set_full(number > 20 && number % 50 > 10);
        match engine.work(Index(number)) {
            Ok(_) => {}
            Err(Error::Wal(error)) => assert!(error.is_full(), "{error}"),
            Err(error) => panic!("{error}"),
        }
    }
    disk.set_full(true);
    model.check(&engine.view(), "while the disk is full");
    let flushed = engine.flushed();
    drop(engine);
    disk.power_cut();
    // It opens on a full disk, too.
    let engine = open(&disk).unwrap();
    assert_eq!(engine.flushed(), flushed);
    for (index, entry) in (1..).map(Index).zip(&log) {
        if index > flushed {
            apply(&engine, index, entry);
        }
    }
    engine.seal(machine_state(engine.applied()));
    disk.set_full(false);
    work_all(&engine);
    model.check(&engine.view(), "when there is room again");
    assert_eq!(engine.trimmable(), engine.applied());
    assert_eq!(engine.stats().obsolete_tables, 0);
}
