//! Every deliberate bug of the log must be found by the simulation, within its budget of seeds.
//!
//! Without the feature `canary` there is nothing to find, and nothing is tested here.
#![cfg(feature = "canary")]

mod common;
use common::Family;
use common::cipher::Chacha;

use std::sync::mpsc;
use std::time::Duration;

use strandline_wal::{KeyId, Keyring, canary};

/// A seed that does not end is a find of its own: a waiter hangs.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a checker says of a seed: nothing, or what it found.
type Checker = fn(u64, Family) -> Option<String>;

fn simulation(seed: u64, family: Family) -> Option<String> {
    common::run_on(seed, Some(family)).err()
}

fn encrypted_simulation(seed: u64, family: Family) -> Option<String> {
    let cipher = Chacha::of(1);
    common::set_keyring(Some(Keyring::new(KeyId(1), cipher.clone())));
    simulation(seed, family).or_else(|| cipher.nonces().err())
}

fn flipped_bit(seed: u64, family: Family) -> Option<String> {
    common::flip(seed, None, family).err()
}

fn misdirected_write(seed: u64, family: Family) -> Option<String> {
    common::misdirect(seed, family).err()
}

/// Number, budget of seeds, the checker that must find it, and a word of what it says.
const CANARIES: [(u8, u64, Checker, &str); 11] = [
    (canary::NO_DIRECTORY_SYNC_AFTER_CREATE, 50, simulation, ""),
    (canary::CORRUPTION_TAKEN_FOR_TORN_TAIL, 200, flipped_bit, "and no word"),
    (canary::SYNC_ERROR_IGNORED, 50, simulation, ""),
    (canary::SYNC_RETRIED_AND_BELIEVED, 50, simulation, ""),
    (canary::RECOVERY_TRUSTS_PAGE_CACHE, 50, simulation, ""),
    (canary::RECYCLED_GROUPS_VALID_AGAIN, 200, simulation, ""),
    (canary::CHECKSUM_NOT_VERIFIED, 200, flipped_bit, "and no word"),
    (canary::POSITION_NOT_COVERED, 1000, misdirected_write, "and no word"),
    (canary::HALF_BATCH_VISIBLE, 200, simulation, "leaves nothing behind"),
    (canary::WATERMARK_STANDS_STILL, 50, simulation, "hangs"),
    (canary::SALT_NOT_DRAWN, 50, encrypted_simulation, "comes twice"),
];

/// Runs a checker on a thread of its own, so that one that hangs is found out.
fn caught(checker: Checker, seed: u64, family: Family) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let found = checker(seed, family);
        // Nobody listens any more if this came too late.
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(found) => found,
        Err(mpsc::RecvTimeoutError::Timeout) => Some("a waiter hangs".into()),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("it ended without a word");
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Some(text.unwrap_or_default())
        }
    }
}

/// One process-wide switch: one test.
#[test]
fn each_is_caught_within_its_budget() {
    let mut missed = Vec::new();
    let families = Family::ALL.into_iter();
    let cases = families.flat_map(|family| CANARIES.map(|canary| (family, canary)));
    for (family, (number, budget, checker, by)) in cases {
        canary::switch_on(number);
        let found = (1..=budget).find_map(|seed| {
            let reason = caught(checker, seed, family)?;
            reason.contains(by).then_some((seed, reason))
        });
        canary::switch_on(0);
        match found {
            Some((seed, reason)) => {
                println!("canary {number}, {family:?}: caught at seed {seed}: {reason}")
            }
            None => missed.push((family, number, budget)),
        }
    }
    assert!(missed.is_empty(), "not caught (family, number, budget): {missed:?}");
}
