//! The whole store on the simulated disk: many seeds, every fault at every operation.
//!
//! `STRANDLINE_SEED` is the first seed and `STRANDLINE_SEEDS` their number; a failure names its seed.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Model, check, run, work};
use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk, Survival};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_seed() {
    let (first, count) = (number("STRANDLINE_SEED", 1), number("STRANDLINE_SEEDS", 60));
    let mut writes = 0;
    for seed in first..first + count {
        match run(seed) {
            Ok(count) => writes += count,
            Err(reason) => {
                panic!(
                    "{reason}; replay: STRANDLINE_SEED={seed} STRANDLINE_SEEDS=1 cargo test -p strandline-engine --test simulation"
                )
            }
        }
    }
    println!("{count} seeds from {first}: {writes} writes, 0 lost");
    assert!(writes > count, "the workload writes something");
}

/// The workload is the same each time; the fault moves through it, operation by operation.
/// `STRANDLINE_STRIDE` tries every n-th operation only; 1 is all.
#[test]
fn every_fault_at_every_operation_of_a_workload() {
    let operations = {
        let disk = SimulatedDisk::new(5);
        work(&disk, &mut Random::new(5), &mut Model::new(), 200).unwrap();
        disk.operations()
    };
    let stride = number("STRANDLINE_STRIDE", if cfg!(debug_assertions) { 9 } else { 1 });
    let mut runs = 0;
    for fault in Fault::ALL {
        for at in (1..=operations).step_by(usize::try_from(stride).unwrap()) {
            let disk = SimulatedDisk::new(5);
            disk.set_survival(if at % 2 == 0 { Survival::NOTHING } else { Survival::of(500) });
            disk.fail_at(at, fault);
            let mut model = Model::new();
            // A fault may end the workload or be borne; what counts is what is found afterwards.
            let _ = work(&disk, &mut Random::new(5), &mut model, 200);
            disk.clear_faults();
            disk.set_full(false);
            if disk.restart().is_none() {
                disk.power_cut();
            }
            check(&disk, &mut model)
                .unwrap_or_else(|reason| panic!("{fault:?} at operation {at}: {reason}"));
            runs += 1;
        }
    }
    println!("{runs} runs over {operations} operations, 0 lost");
}
