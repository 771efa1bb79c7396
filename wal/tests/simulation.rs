//! The log on the simulated disk: many seeds, every fault at every operation.
//!
//! `STRANDLINE_SEED` is the first seed and `STRANDLINE_SEEDS` their number; a failure names its seed.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::cipher::{Chacha, keyring};
use common::{Family, Model, check, flip, misdirect, run, set_compress, set_keyring, work};
use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk, Survival};
use strandline_wal::{KeyId, Keyring};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_acknowledged_is_lost_whatever_the_seed() {
    let (first, count) = (number("STRANDLINE_SEED", 1), number("STRANDLINE_SEEDS", 300));
    let (mut acknowledged, mut crashes) = (0, 0);
    for seed in first..first + count {
        set_compress(seed.is_multiple_of(3));
        let cipher = Chacha::of(1);
        let keyring = || Keyring::new(KeyId(1), cipher.clone());
        set_keyring(seed.is_multiple_of(5).then(keyring));
        match run(seed).and_then(|outcome| cipher.nonces().map(|_| outcome)) {
            Ok(outcome) => {
                acknowledged += outcome.acknowledged;
                crashes += outcome.crashes;
            }
            Err(reason) => {
                panic!(
                    "{reason}; replay: STRANDLINE_SEED={seed} STRANDLINE_SEEDS=1 cargo test -p strandline-wal --test simulation"
                )
            }
        }
    }
    println!("{count} seeds from {first}: {acknowledged} acknowledged, {crashes} crashes, 0 lost");
    assert!(acknowledged > count, "the workload acknowledges something");
}

#[test]
fn a_seed_runs_the_same_twice() {
    for seed in 1..20 {
        set_compress(seed > 10);
        set_keyring((seed % 10 > 6).then(|| keyring(1)));
        let once = run(seed).unwrap().event_hash;
        assert_eq!(once, run(seed).unwrap().event_hash, "seed {seed}");
    }
}

/// The workload is the same each time; the fault moves through it, operation by operation.
#[test]
fn every_fault_at_every_operation_of_a_workload() {
    every_fault_at_every_operation(3);
}

#[test]
fn every_fault_at_every_operation_of_a_compressed_workload() {
    set_compress(true);
    every_fault_at_every_operation(9);
}

#[test]
fn every_fault_at_every_operation_of_an_encrypted_workload() {
    set_keyring(Some(keyring(1)));
    // The cipher is slow where it is not optimised.
    every_fault_at_every_operation(26);
}

/// Every one where it is optimised, as in the gate's step of simulations; every `stride`-th else.
fn every_fault_at_every_operation(stride: usize) {
    let stride = if cfg!(debug_assertions) { stride } else { 1 };
    let operations = {
        let disk = SimulatedDisk::new(5);
        work(&disk, &mut Random::new(5), &mut Model::default(), 200).unwrap();
        disk.operations()
    };
    let mut runs = 0;
    for fault in Fault::ALL {
        for at in (1..=operations).step_by(stride) {
            for survival in [Survival::NOTHING, Survival::of(500)] {
                let disk: Arc<SimulatedDisk> = SimulatedDisk::new(5);
                disk.set_survival(survival);
                disk.fail_at(at, fault);
                let mut model = Model::default();
                let ended = work(&disk, &mut Random::new(5), &mut model, 200);
                assert!(ended.is_err() || !fault.is_crash(), "{fault:?} at {at} was met");
                disk.clear_faults();
                if disk.restart().is_none() {
                    disk.power_cut();
                }
                check(&disk, &mut model).unwrap_or_else(|reason| {
                    panic!("{fault:?} at operation {at}, {survival:?}: {reason}")
                });
                runs += 1;
            }
        }
    }
    println!("{runs} runs over {operations} operations, 0 lost");
}

/// Every bit of a small closed log, in turn: all records are there, or the damage is told.
#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let stride = if cfg!(debug_assertions) { 37 } else { 1 };
    let mut noticed = 0;
    for bit in (0..11 * 4096 * 8).step_by(stride) {
        noticed += u64::from(
            flip(9, Some(bit), Family::Threads).unwrap_or_else(|reason| panic!("{reason}")),
        );
    }
    println!("{noticed} flipped bits were noticed, the others harmless");
}

#[test]
fn a_misdirected_write_is_never_read_as_another() {
    for seed in 0..100 {
        for family in Family::ALL {
            misdirect(seed, family)
                .unwrap_or_else(|reason| panic!("{family:?}, seed {seed}: {reason}"));
        }
    }
}
