//! A log with a spare directory on a second disk: whatever its own disk fails or does not end, nothing that was
//! acknowledged is lost, nobody hangs, and the log goes on.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use strandline_wal::disk::simulated::{Fault, Survival};
use strandline_wal::{Lsn, Moved, Wal, inspect_segment};

mod common;
use common::pair::{Pair, STALL_MILLIS, expected};
use common::{Family, set_compress};

/// The log's own disk fails at every operation in turn: it goes on in the spare directory, all of
/// the time, and every later life has all of it.
#[test]
fn its_own_disk_fails_at_every_operation() {
    fails_at_every_operation();
}

/// The same with groups that are compressed: what is laid out anew is compressed for its new place.
#[test]
fn its_own_disk_fails_under_a_compressed_log() {
    set_compress(true);
    fails_at_every_operation();
    let mut pair = Pair::new(1, Family::Threads);
    let (wal, _) = pair.open().unwrap();
    pair.own.fail_writes_from(pair.own.operations() + 1, u64::MAX);
    pair.work(&wal, 30);
    let files = pair.spare.files().into_iter().map(|file| file.path);
    let mut segments = files.filter(|path| path.extension().is_some());
    let is_compressed =
        |path: PathBuf| inspect_segment(&*pair.spare, &path).unwrap().contains("bytes compressed");
    assert!(segments.any(is_compressed));
}

fn fails_at_every_operation() {
    let runs = [
        (Family::Threads, 1, 1, Survival::NOTHING),
        (Family::Threads, 1, u64::MAX, Survival::of(500)),
        (Family::Ring, 1, 1, Survival::of(500)),
        (Family::Ring, 2, u64::MAX, Survival::NOTHING),
        (Family::Single, 3, 3, Survival::of(500)),
    ];
    for (family, step, count, survival) in runs {
        let mut moves = 0;
        for k in (1..).step_by(step) {
            let what = format!("{family:?}, {count} from {k}");
            let mut pair = Pair::new(k, family);
            pair.own.set_survival(survival);
            let (wal, _) = pair.open().unwrap();
            let at = pair.own.operations() + k;
            pair.own.fail_writes_from(at, count);
            assert_eq!(pair.work(&wal, 30), 0, "{what}: the spare disk is well");
            let is_met = pair.own.operations() >= at;
            moves += u64::from(wal.stats().moved == Some(Moved::Failed));
            pair.power_cut(Survival::NOTHING);
            drop(wal);
            let wal = pair.reopen(&what);
            assert_eq!(pair.work(&wal, 15), 0, "{what}");
            pair.power_cut(Survival::of(300));
            drop(wal);
            let wal = pair.reopen(&what);
            wal.close().unwrap();
            if !is_met {
                break;
            }
        }
        assert!(moves > 3, "{family:?}, {count}: {moves} moves");
    }
}

/// Both disks fail, the second one some time after the first: the log stops, or goes on; it says nothing
/// wrong.
#[test]
fn both_disks_fail() {
    let mut stopped = 0;
    for k in (1..50).step_by(4) {
        for j in (1..30).step_by(3) {
            let what = format!("{k} and {j}");
            let mut pair = Pair::new(k, Family::Threads);
            let (wal, _) = pair.open().unwrap();
            pair.own.fail_writes_from(pair.own.operations() + k, u64::MAX);
            pair.spare.fail_writes_from(pair.spare.operations() + j, 1 + j % 4);
            pair.work(&wal, 40);
            stopped += u64::from(wal.stats().space == strandline_wal::Space::Poisoned);
            pair.power_cut(Survival::NOTHING);
            drop(wal);
            pair.reopen(&what).close().unwrap();
        }
    }
    assert!(stopped > 0);
}

/// A crash in the middle of anything, with the log in either directory.
#[test]
fn power_cuts_at_every_operation_of_the_spare_disk() {
    for k in 1..100 {
        let what = format!("cut at {k}");
        let mut pair = Pair::new(k, Family::Threads);
        pair.own.set_survival(Survival::of(500));
        pair.spare.set_survival(Survival::of(500));
        pair.spare.fail_at(k, Fault::PowerCut);
        if let Ok((wal, _)) = pair.open() {
            pair.own.fail_writes_from(pair.own.operations() + 5, u64::MAX);
            pair.work(&wal, 40);
        }
        pair.own.clear_faults();
        pair.own.power_cut();
        pair.spare.clear_faults();
        if pair.spare.restart().is_none() {
            pair.spare.power_cut();
        }
        pair.reopen(&what).close().unwrap();
    }
}

/// Drives a log whose writes are stepped; those of its own disk end if `flows`.
fn pump(pair: &mut Pair, wal: &Wal, flows: bool, tickets: &mut Vec<Lsn>) {
    for _ in 0..6 {
        wal.pump().unwrap_or_else(|error| expected(&error));
        while flows && pair.own.complete_one().is_some() {}
        while pair.spare.complete_one().is_some() {}
    }
    wal.take_ended();
    let durable = wal.durable();
    tickets.retain(|lsn| *lsn > durable);
    pair.acknowledged = pair.acknowledged.max(durable.0);
}

/// A run in which the log's own disk hangs from step `k` on, and what hangs lands at step `k + late`. Returns whether it
/// moved.
fn hang(k: u8, late: u8, lands_all: bool) -> bool {
    let what = format!("hangs at {k}, lands {late} later");
    let mut pair = Pair::new(u64::from(k), Family::Ring);
    pair.stall_millis = STALL_MILLIS;
    let (wal, _) = pair.open().unwrap();
    let mut waiting = Vec::new();
    for number in 0..40 {
        let flows = number < k || number >= k + late;
        if number == k + late && !lands_all {
            // One of them, and never the others.
            pair.own.complete_one();
        }
        waiting.extend(pair.append(&wal, number));
        pump(&mut pair, &wal, flows && (lands_all || number < k), &mut waiting);
        if number == k {
            pair.let_time_pass();
            pump(&mut pair, &wal, false, &mut waiting);
        }
        // Nobody else makes spares.
        wal.prepare(false).unwrap_or_else(|error| expected(&error));
    }
    pump(&mut pair, &wal, false, &mut waiting);
    let stats = wal.stats();
    assert!(waiting.is_empty(), "{what}: {waiting:?} wait, {stats:?}");
    assert_eq!(wal.durable(), wal.last(), "{what}");
    pair.check(&wal, &what);
    let moved = stats.moved == Some(Moved::Stalled);
    assert!(!moved || stats.segments_elsewhere > 0);
    pair.power_cut(Survival::of(500));
    drop(wal);
    pair.stall_millis = 0;
    let wal = pair.reopen(&what);
    pair.power_cut(Survival::NOTHING);
    drop(wal);
    let mut wal = pair.reopen(&what);
    pair.work(&wal, 10);
    // Once more, in yet another life.
    wal.close().unwrap();
    drop(wal);
    wal = pair.reopen(&what);
    wal.close().unwrap();
    moved
}

#[test]
fn its_own_disk_hangs_and_what_hung_lands_at_every_moment() {
    let mut moves = 0;
    for k in 0..16 {
        for late in [1, 2, 3, 5, 8, 13] {
            for lands_all in [false, true] {
                moves += u64::from(hang(k, late, lands_all));
            }
        }
    }
    assert!(moves > 150, "{moves} moves");
}

/// What hung in one life lands in the next one, where the device has kept it: on a file that is void or gone.
#[test]
fn what_hung_lands_in_a_later_life() {
    let mut landed = 0;
    for k in 0..16 {
        for when in 0..6 {
            let what = format!("hangs at {k}, lands in step {when} of the next life");
            let mut pair = Pair::new(u64::from(k), Family::Ring);
            pair.stall_millis = STALL_MILLIS;
            let (wal, _) = pair.open().unwrap();
            let mut waiting = Vec::new();
            for number in 0..k {
                pair.append(&wal, number);
                pump(&mut pair, &wal, true, &mut waiting);
                let _ = wal.prepare(false);
            }
            pair.append(&wal, k);
            wal.pump().unwrap();
            let hung = pair.own.in_flight();
            let as_landed = pair.own.fork(1);
            pair.let_time_pass();
            pump(&mut pair, &wal, false, &mut waiting);
            for number in 0..5 {
                pair.append(&wal, number);
                pump(&mut pair, &wal, false, &mut waiting);
            }
            assert_eq!(wal.stats().moved, Some(Moved::Stalled), "{what}");
            pair.own.set_survival(Survival::NOTHING);
            pair.own.power_cut();
            pair.spare.power_cut();
            drop(wal);
            pair.stall_millis = 0;
            let mut wal = pair.reopen(&what);
            for step in 0..10_u8 {
                if step == when {
                    for write in &hung {
                        let Some(content) = as_landed.visible_content(&write.path) else {
                            continue;
                        };
                        let from = usize::try_from(write.offset).unwrap();
                        let bytes = &content[from..from + write.len];
                        if pair.own.visible_content(&write.path).is_some() {
                            pair.own.corrupt(&write.path, write.offset, bytes);
                            landed += 1;
                        }
                    }
                }
                for number in 0..4 {
                    pair.append(&wal, number);
                    pump(&mut pair, &wal, true, &mut waiting);
                }
                pair.trimmed = pair.acknowledged.saturating_sub(20);
                wal.trim(Lsn(pair.trimmed));
                let _ = wal.prepare(false);
                if step % 4 == 3 {
                    drop(wal);
                    pair.power_cut(Survival::NOTHING);
                    wal = pair.reopen(&what);
                }
            }
            pair.check(&wal, &what);
            drop(wal);
            pair.power_cut(Survival::NOTHING);
            let wal = pair.reopen(&what);
            wal.close().unwrap();
        }
    }
    assert!(landed > 20, "{landed} landed");
}
