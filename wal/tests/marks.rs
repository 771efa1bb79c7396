//! Goal: a damaged mark of a spare directory is told of like every other damage, and given back from the other
//! mark if everything says that both directories are of one log; else a person is told what to do.
//!
//! Method: a log that has moved, closed in order, on two simulated disks; one mark or both are damaged, and
//! the directories are mixed up with those of another log.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::disk::{Disk, OpenMode};
use strandline_wal::{Error, Lsn, Moved, Options, Salvage, Wal, verify, with_spare};

mod common;
use common::pair::{Pair, SPARE};
use common::{DIR, Family, options};

const MARK_LEN: usize = 20;

/// A pair whose log stands in both directories, closed in order.
fn moved(log_id: u64) -> Pair {
    let mut pair = Pair::new(log_id, Family::Threads);
    let options = Options { spare: Some(pair.directory()), new_log_id: log_id, ..options() };
    let (wal, _) = Wal::open(pair.own.mount(), Path::new(DIR), options).unwrap();
    pair.work(&wal, 10);
    pair.own.fail_writes_from(pair.own.operations() + 1, 1);
    pair.work(&wal, 10);
    assert_eq!(wal.stats().moved, Some(Moved::Failed));
    wal.close().unwrap();
    pair.own.clear_faults();
    pair
}

fn mark_of(dir: &str) -> PathBuf {
    Path::new(dir).join("SPARE")
}

fn both(pair: &Pair) -> Arc<dyn Disk> {
    with_spare(pair.own.mount(), Path::new(DIR), &pair.directory()).unwrap()
}

fn contents(pair: &Pair) -> Vec<(PathBuf, Vec<u8>)> {
    let of = |disk: &SimulatedDisk| {
        let paths = disk.files().into_iter().map(|file| file.path);
        paths.map(|path| (path.clone(), disk.visible_content(&path).unwrap())).collect::<Vec<_>>()
    };
    let mut all = [of(&pair.own), of(&pair.spare)].concat();
    // Whoever mends takes the lock.
    all.retain(|(path, _)| !path.ends_with("LOCK"));
    all
}

/// What is told of, without anything being changed: files and whether it is for a person to say.
fn told(pair: &Pair) -> (Vec<PathBuf>, bool) {
    let before = contents(pair);
    let disk = both(pair);
    let files = |damages: &[Error]| {
        let file = |error: &Error| match error {
            Error::Corruption { path, offset: 0, expected, found } => {
                assert!(expected.contains("mark") && found.starts_with('['), "{error}");
                path.clone()
            }
            other => panic!("{other}"),
        };
        damages.iter().map(file).collect::<Vec<_>>()
    };
    let verified = verify(&*disk, Path::new(DIR)).unwrap();
    let plan = Salvage::plan(&*disk, Path::new(DIR), Lsn(1)).unwrap();
    assert_eq!(files(&plan.damages), files(&verified.damages));
    assert_eq!(contents(pair), before, "nothing was changed");
    (files(&verified.damages), plan.unclear.is_some())
}

#[test]
fn one_mark_is_given_back_from_the_other_whatever_became_of_it() {
    for (at, dir) in [DIR, SPARE].into_iter().enumerate() {
        for damage in 0..MARK_LEN + 2 {
            let mut pair = moved(77);
            let disk = [&pair.own, &pair.spare][at].clone();
            let path = mark_of(dir);
            let whole = disk.visible_content(&path).unwrap();
            assert_eq!(whole.len(), MARK_LEN);
            let mut damaged = whole.clone();
            match damage {
                MARK_LEN => damaged.fill(0),
                21 => damaged.truncate(7),
                byte => damaged[byte] ^= 0x10,
            }
            disk.remove(&path).unwrap();
            let file = disk.open(&path, OpenMode::Create).unwrap();
            file.write_at(&damaged, 0).unwrap();
            file.sync().unwrap();
            assert!(matches!(pair.open(), Err(Error::Corruption { .. })), "it does not open");
            assert_eq!(told(&pair), (vec![path.clone()], false));
            let both = both(&pair);
            let salvage = Salvage::apply(&*both, Path::new(DIR), Lsn(1), None).unwrap();
            assert!(salvage.is_applied && !salvage.changes_segments(), "{salvage:?}");
            assert_eq!(salvage.given_back, std::slice::from_ref(&path));
            assert_eq!(salvage.aside.len(), 1);
            assert_eq!(disk.visible_content(&salvage.aside[0].1).unwrap(), damaged, "it is kept");
            assert_eq!(disk.visible_content(&path).unwrap(), whole);
            assert_eq!(told(&pair), (vec![], false));
            pair.reopen("given back").close().unwrap();
        }
    }
}

#[test]
fn a_mark_is_given_back_through_any_crash() {
    for (at, dir) in [DIR, SPARE].into_iter().enumerate() {
        for ahead in 1.. {
            let mut pair = moved(77);
            let disk = [&pair.own, &pair.spare][at].clone();
            disk.corrupt(&mark_of(dir), 17, &[1, 2]);
            disk.fail_at(disk.operations() + ahead, Fault::PowerCut);
            let applied = with_spare(pair.own.mount(), Path::new(DIR), &pair.directory())
                .and_then(|both| Salvage::apply(&*both, Path::new(DIR), Lsn(1), None));
            let is_past = !disk.is_down();
            assert_eq!(applied.is_ok_and(|salvage| salvage.is_applied), is_past);
            pair.power_cut(Survival::of(500));
            for disk in [&pair.own, &pair.spare] {
                disk.restart();
            }
            let again = Salvage::apply(&*both(&pair), Path::new(DIR), Lsn(1), None).unwrap();
            assert!(again.unclear.is_none(), "{again:?}");
            assert_eq!(told(&pair), (vec![], false), "after a crash at operation {ahead}");
            pair.reopen("given back").close().unwrap();
            if is_past {
                break;
            }
        }
    }
}

/// Nothing is done where it could make one log of two.
#[test]
fn what_is_not_tied_together_is_left_to_a_person() {
    let refuse = |pair: &Pair, files: &[PathBuf]| {
        assert_eq!(told(pair), (files.to_vec(), true));
        let before = contents(pair);
        let both = both(pair);
        let salvage = Salvage::apply(&*both, Path::new(DIR), Lsn(1), Some(Lsn(1))).unwrap();
        assert!(!salvage.is_applied && !salvage.is_needed(), "{salvage:?}");
        assert_eq!(contents(pair), before);
    };
    // Both are damaged.
    let pair = moved(77);
    pair.own.corrupt(&mark_of(DIR), 9, &[0xff]);
    pair.spare.corrupt(&mark_of(SPARE), 9, &[0xff]);
    refuse(&pair, &[mark_of(DIR), mark_of(SPARE)]);
    // The spare directory is that of another log, and either mark is damaged.
    for (at, dir) in [DIR, SPARE].into_iter().enumerate() {
        let mut pair = moved(77);
        pair.spare = moved(78).spare;
        [&pair.own, &pair.spare][at].corrupt(&mark_of(dir), 0, b"x");
        let named: Vec<_> = pair.spare.list(Path::new(SPARE)).unwrap();
        let own = pair.own.list(Path::new(DIR)).unwrap();
        for name in named.iter().filter(|name| own.contains(name) && name.ends_with("segment")) {
            pair.spare.remove(&Path::new(SPARE).join(name)).unwrap();
        }
        refuse(&pair, &[mark_of(dir)]);
    }
    // Nothing in the directory says of which log it is.
    let pair = moved(77);
    for name in pair.spare.list(Path::new(SPARE)).unwrap() {
        if name.ends_with("segment") {
            pair.spare.remove(&Path::new(SPARE).join(name)).unwrap();
        }
    }
    pair.spare.corrupt(&mark_of(SPARE), 9, &[0xff]);
    refuse(&pair, &[mark_of(SPARE)]);
}

#[test]
fn without_the_spare_directory_a_damaged_mark_is_told_of_and_nothing_else() {
    let pair = moved(77);
    pair.own.corrupt(&mark_of(DIR), 0, b"x");
    assert!(matches!(pair.open_alone(), Err(Error::Corruption { .. })));
    let own = pair.own.mount();
    let verified = verify(&*own, Path::new(DIR)).unwrap();
    let [Error::Corruption { path, .. }] = &verified.damages[..] else { panic!("{verified:?}") };
    assert_eq!((path, verified.segments), (&mark_of(DIR), 0));
    let salvage = Salvage::apply(&*own, Path::new(DIR), Lsn(1), Some(Lsn(1))).unwrap();
    assert!(!salvage.is_applied);
    assert!(salvage.unclear.is_some_and(|unclear| unclear.contains("--log-spare-dir")));
}
