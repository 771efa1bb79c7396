//! Every deliberate bug of the engine must be found by the simulation, within its budget of seeds.
//!
//! Without the feature `canary` there is nothing to find, and nothing is tested here.
#![cfg(feature = "canary")]

mod common;

use strandline_wal::canary;

/// Number and budget of seeds.
const CANARIES: [(u8, u64); 3] = [
    (canary::NO_DIRECTORY_SYNC_AFTER_CREATE, 50),
    (canary::NO_DIRECTORY_SYNC_AFTER_RENAME, 50),
    (canary::COMPACTION_DROPS_NEEDED, 1000),
];

/// One process-wide switch: one test.
#[test]
fn each_is_caught_within_its_budget() {
    let mut missed = Vec::new();
    for (number, budget) in CANARIES {
        canary::switch_on(number);
        let found =
            (1..=budget).find_map(|seed| match std::panic::catch_unwind(|| common::run(seed)) {
                Ok(Ok(_)) => None,
                Ok(Err(reason)) => Some((seed, reason)),
                Err(_) => Some((seed, "a panic".into())),
            });
        canary::switch_on(0);
        match found {
            Some((seed, reason)) => println!("canary {number}: caught at seed {seed}: {reason}"),
            None => missed.push((number, budget)),
        }
    }
    assert!(missed.is_empty(), "not caught (number, budget): {missed:?}");
}
