//! Goal: what the disk cannot read is never answered wrongly, is damage if it is not a matter of a
//! moment, and nothing else is. Method: every sector of every file of a small engine fails in turn, once and
//! for good, before the engine is opened and after.

use strandline_wal::disk::simulated::Fault;
use strandline_wal::{Error as Damage, Lsn};

use super::damage::filled;
use super::*;
use crate::Error;

const SECTOR: u64 = 512;

/// Every sector of every file, with the path.
fn sectors(disk: &SimulatedDisk) -> Vec<(std::path::PathBuf, u64)> {
    let sectors = |len: u64| (0..len).step_by(usize::try_from(SECTOR).unwrap());
    let files = disk.files().into_iter();
    files.flat_map(|file| sectors(file.len).map(move |at| (file.path.clone(), at))).collect()
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "table")
}

/// That this names the sector, as something that could not be read.
fn check_named(error: &Error, path: &Path, sector: u64) {
    let Error::Wal(error @ Damage::Io { path: named, offset, .. }) = error else {
        panic!("{error} is of another kind")
    };
    assert!(error.is_unreadable(), "{error}");
    assert_eq!((named.as_path(), *offset), (path, sector), "{error}");
}

/// Reads everything: all of it is right, or this is why not.
fn read_all(engine: &Engine, model: &Model) -> Result<()> {
    let mut read = Vec::new();
    for pair in engine.view().range(KeyspaceId::DEFAULT, Range::all()) {
        let (key, value) = pair?;
        read.push((key, value.to_vec()));
    }
    let pairs = model.pairs(KeyspaceId::DEFAULT).unwrap().clone();
    let expected: Vec<_> = pairs.into_iter().collect();
    assert_eq!(read, expected, "a wrong answer");
    Ok(())
}

fn scrub_round(engine: &Engine) {
    engine.scrub(1 << 30);
}

#[test]
fn a_sector_that_is_bad_before_opening_is_named_or_opens_hollow() {
    let (disk, model) = filled(31);
    disk.kill();
    let mut hollow = 0;
    for (path, sector) in sectors(&disk) {
        let fork = disk.fork(sector);
        fork.make_unreadable(&path, sector);
        // Alone it refuses, or meets it later.
        let met = match open(&fork) {
            Ok(engine) => read_all(&engine, &model).and_then(|()| {
                scrub_round(&engine);
                engine.damage().map_or(Ok(()), |damage| Err(damage.into()))
            }),
            Err(error) => Err(error),
        };
        check_named(&met.expect_err("it is met"), &path, sector);
        // With peers it opens all the same.
        fork.kill();
        let dir = Path::new(DIR);
        let options = tiny();
        let engine = Engine::open_or_hollow(fork.clone(), dir, options, Lsn(61)).unwrap();
        if engine.is_hollow() {
            hollow += 1;
            assert!(read_all(&engine, &model).is_err());
        } else {
            scrub_round(&engine);
        }
        check_named(&Error::Wal(engine.damage().unwrap()), &path, sector);
    }
    assert!(hollow > 3, "{hollow}");
}

#[test]
fn a_sector_that_becomes_bad_while_it_is_open_is_found() {
    let (disk, model) = filled(32);
    let (mut by_reading, mut by_compacting) = (0, 0);
    for (path, sector) in sectors(&disk).into_iter().filter(|(path, _)| is_table(path)) {
        // Whoever comes first: a reader, a compaction, or nobody but the scrub.
        for first in 0..3 {
            let fork = disk.fork(sector);
            let engine = open(&fork).unwrap();
            if !fork.files().iter().any(|file| file.path == path) {
                continue;
            }
            fork.make_unreadable(&path, sector);
            match first {
                0 => {
                    if let Err(error) = read_all(&engine, &model) {
                        check_named(&error, &path, sector);
                        assert!(engine.damage().is_some());
                        by_reading += 1;
                    }
                }
                1 => {
                    for index in 61..=120 {
                        let entry = Logged::Batch(random_batch(&mut Random::new(index), 1, 5));
                        apply(&engine, Index(index), &entry);
                        if index % 10 == 0 {
                            engine.seal(machine_state(engine.applied()));
                        }
                        while !matches!(engine.work(Index(index)), Ok(crate::Worked::Idle)) {}
                    }
                    let has_ended = engine.stats().compaction_error.is_some();
                    by_compacting += usize::from(has_ended);
                    assert!(!has_ended || engine.damage().is_some());
                    if !engine.state().version.tables().any(|table| table.path() == path) {
                        continue;
                    }
                }
                _ => {}
            }
            scrub_round(&engine);
            check_named(&Error::Wal(engine.damage().unwrap()), &path, sector);
            assert!(!engine.verify().unwrap().is_clean());
        }
    }
    assert!(by_reading > 3 && by_compacting > 0, "{by_reading}, {by_compacting}");
}

#[test]
fn a_read_that_fails_once_is_no_damage() {
    let (disk, model) = filled(33);
    for (path, sector) in sectors(&disk) {
        for opened_before in [true, false] {
            let fork = disk.fork(sector);
            let fail = || fork.fail_reads(&path, sector, 1);
            if !opened_before {
                fail();
            }
            let engine = open(&fork).unwrap();
            if opened_before && fork.exists(&path).unwrap() {
                fail();
            }
            read_all(&engine, &model).unwrap();
            scrub_round(&engine);
            assert!(engine.damage().is_none());
        }
    }
}

/// An opening in which any one operation fails is refused or goes well: what fails once is no damage, whether it
/// reads, or opens a file that it is going to write to. Found by the cluster simulator, profile `state`, seed 31028442.
#[test]
fn no_operation_that_fails_once_opens_hollow() {
    let (disk, model) = filled(36);
    disk.kill();
    let open = |disk: &Arc<SimulatedDisk>| {
        Engine::open_or_hollow(disk.clone(), Path::new(DIR), tiny(), Lsn(61))
    };
    // The first opening begins another manifest, the second goes on with that.
    for _ in 0..2 {
        let whole = disk.fork(0);
        open(&whole).unwrap();
        let (mut refused, mut opened) = (0, 0);
        for at in disk.operations() + 1..=whole.operations() {
            let fork = disk.fork(at);
            fork.fail_at(at, Fault::Eio);
            match open(&fork) {
                Ok(engine) => {
                    assert!(engine.damage().is_none(), "{at}: {}", engine.damage().unwrap());
                    read_all(&engine, &model).unwrap();
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 0 && opened > 0, "{refused}, {opened}");
        open(&disk).unwrap();
        disk.kill();
    }
}

/// What fails is an operation of any kind, once: reading is tried again, and a write that fails says
/// nothing of what is stored.
#[test]
fn no_write_that_fails_is_damage() {
    let run = |disk: &Arc<SimulatedDisk>| -> Result<()> {
        let engine = open(disk)?;
        for index in 61..=100 {
            let entry = Logged::Batch(random_batch(&mut Random::new(index), 1, 5));
            apply(&engine, Index(index), &entry);
            if index % 10 == 0 {
                engine.seal(machine_state(engine.applied()));
            }
            let worked = engine.work(Index(index));
            assert!(engine.damage().is_none() && engine.stats().compaction_error.is_none());
            worked?;
        }
        Ok(())
    };
    let (disk, _) = filled(34);
    let whole = disk.fork(0);
    run(&whole).unwrap();
    for fault in [Fault::Eio, Fault::Enospc] {
        for at in 1..=whole.operations() - disk.operations() {
            let fork = disk.fork(at);
            fork.fail_at(disk.operations() + at, fault);
            let _ = run(&fork);
        }
    }
}

/// It is read, and not looked at in memory, where it is as it was.
#[test]
fn a_byte_that_flips_while_the_table_is_open_is_found() {
    let (disk, model) = filled(35);
    for file in disk.files().into_iter().filter(|file| is_table(&file.path)) {
        for offset in (0..file.len).step_by(7) {
            let fork = disk.fork(offset);
            let engine = open(&fork).unwrap();
            fork.flip_bit(&file.path, 8 * offset);
            let _ = read_all(&engine, &model);
            scrub_round(&engine);
            let damage = engine.damage().expect("it was found").to_string();
            assert!(damage.contains(&file.path.display().to_string()), "{damage}");
        }
        let fork = disk.fork(1);
        let engine = open(&fork).unwrap();
        fork.remove(&file.path).unwrap();
        scrub_round(&engine);
        assert!(engine.damage().unwrap().to_string().contains("no such file"));
    }
}
