//! Opening a log that has a spare directory: nobody opens half of it, and an operator can take it apart.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use strandline_wal::disk::simulated::{Fault, SimulatedDisk, Survival};
use strandline_wal::disk::{Disk, OpenMode, VERDICT_FILE};
use strandline_wal::{
    Error, Lsn, Moved, Options, Recovery, Salvage, SpareDirectory, Wal, verify, with_spare,
};

mod common;
use common::pair::{Pair, SPARE};
use common::{DIR, Family, options};

/// A pair whose log stands in both directories, closed in order.
fn moved() -> Pair {
    let mut pair = Pair::new(3, Family::Threads);
    let (wal, _) = pair.open().unwrap();
    pair.work(&wal, 10);
    pair.own.fail_writes_from(pair.own.operations() + 1, 1);
    pair.work(&wal, 10);
    let stats = wal.stats();
    assert_eq!((stats.moved, stats.rewrites), (Some(Moved::Failed), 1));
    assert!(stats.segments_elsewhere > 0 && stats.spares > 0);
    wal.close().unwrap();
    pair
}

#[test]
fn half_a_log_is_refused() {
    let mut pair = moved();
    let half = |result: Result<(Wal, Recovery), Error>| match result {
        Err(Error::SpareAbsent { path, log_id }) => {
            assert_eq!((path.as_path(), log_id), (Path::new(DIR), 77));
        }
        other => panic!("{:?}", other.map(|(_, recovery)| recovery)),
    };
    half(pair.open_alone());
    let dir = Path::new(DIR);
    assert!(matches!(verify(&*pair.own, dir), Err(Error::SpareAbsent { .. })));
    assert!(matches!(Salvage::plan(&*pair.own, dir, Lsn(1)), Err(Error::SpareAbsent { .. })));
    // An empty directory, and that of another log.
    let right = std::mem::replace(&mut pair.spare, SimulatedDisk::new(5));
    half(pair.open());
    let other = Pair::new(9, Family::Threads);
    let spare = Some(other.directory());
    let options = Options { spare, new_log_id: 78, ..options() };
    let (wal, _) = Wal::open(other.own.clone(), dir, options).unwrap();
    wal.append(b"of another log").unwrap();
    wal.sync().unwrap();
    drop(wal);
    pair.spare = other.spare.clone();
    assert!(matches!(pair.open(), Err(Error::Foreign { .. })));
    // The spare directory without the log.
    let own = std::mem::replace(&mut pair.own, SimulatedDisk::new(6));
    pair.spare = right;
    assert!(matches!(pair.open(), Err(Error::Foreign { .. })));
    pair.own = own;
    let mark = strandline_wal::inspect_segment(&*pair.own, &dir.join("SPARE")).unwrap();
    assert!(mark.contains("log 000000000000004d"), "{mark}");
    let both = with_spare(pair.own.clone(), dir, &pair.directory()).unwrap();
    let verified = verify(&*both, dir).unwrap();
    assert!(verified.damages.is_empty() && verified.segments >= 2, "{verified:?}");
    assert_eq!(verified.last.0, pair.acknowledged.max(verified.last.0));
    pair.reopen("whole").close().unwrap();
}

/// Each directory has what a probe found of its disk: a name that both have, and that is no file of the log.
#[test]
fn what_probes_found_stands_in_both_directories() {
    let mut pair = Pair::new(3, Family::Threads);
    let wal = pair.open().unwrap().0;
    pair.work(&wal, 40);
    drop(wal);
    for (disk, dir) in [(&pair.own, DIR), (&pair.spare, SPARE)] {
        let file = disk.open(&Path::new(dir).join(VERDICT_FILE), OpenMode::Create).unwrap();
        file.write_at(b"whatever", 0).unwrap();
    }
    let dir = Path::new(DIR);
    let both = with_spare(pair.own.clone(), dir, &pair.directory()).unwrap();
    let verified = verify(&*both, dir).unwrap();
    assert!(verified.damages.is_empty(), "{verified:?}");
    let salvage = Salvage::apply(&*both, dir, Lsn(1), None).unwrap();
    assert!(!salvage.is_needed() && salvage.damages.is_empty(), "{salvage:?}");
    pair.reopen("with what probes found").close().unwrap();
    for (disk, dir) in [(&pair.own, DIR), (&pair.spare, SPARE)] {
        assert!(disk.exists(&Path::new(dir).join(VERDICT_FILE)).unwrap(), "it is left alone");
    }
}

/// A mark that a killed process has left in the cache only is no mark yet.
#[test]
fn a_log_that_moved_has_marks_whatever_befell_its_first_opening() {
    let count = {
        let pair = Pair::new(3, Family::Threads);
        pair.open().unwrap();
        pair.own.operations()
    };
    for at in 1..=count {
        let mut pair = Pair::new(3, Family::Threads);
        pair.own.fail_at(at, Fault::Kill);
        drop(pair.open());
        pair.own.clear_faults();
        pair.own.restart();
        let (wal, _) = pair.open().unwrap();
        pair.own.fail_writes_from(pair.own.operations() + 1, 1);
        pair.work(&wal, 10);
        if wal.stats().moved.is_none() {
            continue;
        }
        pair.power_cut(Survival::NOTHING);
        drop(wal);
        let alone = pair.open_alone().map(|(wal, _)| wal.last());
        assert!(matches!(alone, Err(Error::SpareAbsent { .. })), "killed at {at}: {alone:?}");
        drop(pair.reopen("with it"));
    }
}

#[test]
fn damage_in_either_directory_is_found() {
    let pair = moved();
    let dir = Path::new(DIR);
    for (disk, under) in [(&pair.own, DIR), (&pair.spare, SPARE)] {
        let fork = disk.fork(1);
        let segment = fork
            .files()
            .into_iter()
            .map(|file| file.path)
            .filter(|path| {
                path.starts_with(under) && path.extension().is_some_and(|e| e == "segment")
            })
            .find(|path| fork.visible_content(path).unwrap()[6] == 2)
            .unwrap();
        fork.corrupt(&segment, 4096 + 70, b"damage");
        let (own, spare) = match under {
            DIR => (fork, pair.spare.clone()),
            _ => (pair.own.clone(), fork),
        };
        let directory = SpareDirectory { disk: spare, dir: SPARE.into() };
        let both = with_spare(own, dir, &directory).unwrap();
        let damages = verify(&*both, dir).unwrap().damages;
        assert!(
            matches!(&damages[..], [Error::Corruption { path, .. }] if *path == segment),
            "{damages:?}"
        );
    }
}

/// What an operator does who gives the spare directory up: its segments go to the log's own directory.
#[test]
fn the_two_can_be_put_together_by_hand() {
    let pair = moved();
    for path in segments(&pair.spare) {
        let content = pair.spare.visible_content(&path).unwrap();
        let to = Path::new(DIR).join(path.file_name().unwrap());
        let file = pair.own.open(&to, strandline_wal::disk::OpenMode::Create).unwrap();
        file.write_at(&content, 0).unwrap();
        file.sync().unwrap();
    }
    pair.own.remove(&Path::new(DIR).join("SPARE")).unwrap();
    pair.own.sync_dir(Path::new(DIR)).unwrap();
    let (wal, _) = pair.open_alone().unwrap();
    pair.check(&wal, "put together");
    wal.close().unwrap();
}

fn segments(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let files = disk.files().into_iter().map(|file| file.path);
    files.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect()
}

/// A log that never needed it is whole without it once it was closed in order, and only then.
#[test]
fn a_spare_directory_that_was_not_used_may_go() {
    let mut pair = Pair::new(4, Family::Threads);
    let (wal, _) = pair.open().unwrap();
    pair.work(&wal, 10);
    pair.power_cut(Survival::NOTHING);
    drop(wal);
    assert!(matches!(pair.open_alone(), Err(Error::SpareAbsent { .. })));
    pair.reopen("whole").close().unwrap();
    let (wal, _) = pair.open_alone().unwrap();
    pair.check(&wal, "alone");
    wal.close().unwrap();
    pair.reopen("together again").close().unwrap();
}

/// When it is opened again the log goes home, and its second directory is empty in the end.
#[test]
fn the_log_goes_home() {
    let mut pair = moved();
    let wal = pair.reopen("moved");
    assert_eq!(wal.stats().moved, None);
    for _ in 0..8 {
        assert_eq!(pair.work(&wal, 20), 0);
        pair.trimmed = wal.durable().0;
        wal.trim(wal.durable());
        wal.prepare(false).unwrap();
    }
    let stats = wal.stats();
    assert_eq!((stats.segments_elsewhere, stats.spares_elsewhere), (0, 2), "{stats:?}");
    wal.close().unwrap();
    drop(wal);
    let (wal, _) = pair.open_alone().unwrap();
    wal.close().unwrap();
}

/// A spare directory that is full is no reason to refuse anything.
#[test]
fn a_spare_directory_without_room() {
    let mut pair = Pair::new(4, Family::Threads);
    pair.spare.set_capacity(Some(100 << 10));
    let (wal, _) = pair.open().unwrap();
    assert_eq!(wal.stats().spares_elsewhere, 1);
    pair.spare.set_full(true);
    assert_eq!(pair.work(&wal, 40), 0);
    wal.close().unwrap();
}

/// A log in both directories is mended whichever of them is damaged, and whatever befalls the mending: where
/// the power fails on either disk, the same again goes on.
#[test]
fn what_is_damaged_in_either_directory_is_mended() {
    let whole = moved();
    let (mut cuts, mut faults) = (0, 0);
    for (at, damaged) in [&whole.own, &whole.spare].into_iter().enumerate() {
        let in_use = |path: &PathBuf| damaged.visible_content(path).unwrap()[6] == 2;
        for path in segments(damaged).into_iter().filter(in_use) {
            for offset in [0, 4096 + 70] {
                for (fails, k) in [(0, 1), (0, 4), (0, 9), (1, 1), (1, 3), (1, 7), (1, u64::MAX)] {
                    let what = format!("{} at {offset}, disk {fails} at {k}", path.display());
                    let mut pair = Pair::new(3, Family::Threads);
                    (pair.own, pair.spare) = (whole.own.fork(k), whole.spare.fork(k));
                    pair.appended = whole.appended.clone();
                    pair.acknowledged = whole.acknowledged;
                    [&pair.own, &pair.spare][at].corrupt(&path, offset, &[0xa5; 64]);
                    let both = with_spare(pair.own.mount(), dir(), &pair.directory()).unwrap();
                    let plan = Salvage::plan(&*both, dir(), Lsn(1)).unwrap();
                    assert!(plan.is_needed(), "{what}: {plan:?}");
                    let consent = plan.cut.map(|cut| cut.first);
                    drop(both);
                    let failing = [&pair.own, &pair.spare][fails];
                    failing.fail_at(failing.operations().saturating_add(k), Fault::PowerCut);
                    faults += u64::from(mend(&pair, consent).is_err());
                    pair.power_cut(Survival::NOTHING);
                    let done = mend(&pair, consent).unwrap();
                    assert!(done.is_applied || !done.is_needed(), "{what}: {done:?}");
                    if let Some(first) = consent {
                        pair.acknowledged = first.0 - 1;
                        pair.appended.retain(|lsn, _| *lsn < first.0);
                        cuts += 1;
                    }
                    pair.power_cut(Survival::NOTHING);
                    let wal = pair.reopen(&what);
                    assert_eq!(pair.work(&wal, 10), 0, "{what}");
                    wal.close().unwrap();
                }
            }
        }
    }
    assert!(cuts > 10 && faults > 20, "{cuts} cuts, {faults} faults");
}

fn dir() -> &'static Path {
    Path::new(DIR)
}

/// Mends the log in both directories.
fn mend(pair: &Pair, consent: Option<Lsn>) -> Result<Salvage, Error> {
    let both = with_spare(pair.own.mount(), dir(), &pair.directory())?;
    Salvage::apply(&*both, dir(), Lsn(1), consent)
}
