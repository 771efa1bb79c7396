//! Every deliberate bug of the log must be found by the simulation, within its budget of seeds.
//!
//! Without the feature `canary` there is nothing to find, and nothing is tested here.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "canary")]

mod common;

use strandline_wal::canary;

/// Number, budget of seeds, and a word of the checker that must find it.
const CANARIES: [(u8, u64, &str); 9] = [
    (canary::NO_DIRECTORY_SYNC_AFTER_CREATE, 50, ""),
    (canary::SYNC_ERROR_IGNORED, 50, "gone"),
    (canary::SYNC_RETRIED_AND_BELIEVED, 50, "gone"),
    (canary::RECOVERY_TRUSTS_PAGE_CACHE, 50, "gone"),
    (canary::RECYCLED_GROUPS_VALID_AGAIN, 200, ""),
    (canary::POSITION_NOT_COVERED, 1000, ""),
    (canary::HALF_BATCH_VISIBLE, 200, "leaves nothing behind"),
    (canary::WATERMARK_STANDS_STILL, 50, ""),
    (canary::CORRUPTION_TAKEN_FOR_TORN_TAIL, 200, "gone"),
];

/// One process-wide switch: one test.
#[test]
fn each_is_caught_within_its_budget() {
    let mut missed = Vec::new();
    for (number, budget, by) in CANARIES {
        canary::switch_on(number);
        let caught = (1..=budget).find_map(|seed| {
            let run = std::panic::catch_unwind(|| common::run(seed));
            let reason = match run {
                Ok(Ok(_)) => return None,
                Ok(Err(reason)) => reason,
                Err(panic) => panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
                    .unwrap_or_default(),
            };
            reason.contains(by).then_some((seed, reason))
        });
        canary::switch_on(0);
        match caught {
            Some((seed, reason)) => println!("canary {number}: caught at seed {seed}: {reason}"),
            None => missed.push((number, budget)),
        }
    }
    assert!(missed.is_empty(), "not caught (number, budget): {missed:?}");
}
