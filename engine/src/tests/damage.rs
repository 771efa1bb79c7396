//! Goal: no damaged byte makes the engine answer wrongly. Method: every byte of every file of a small
//! engine is flipped in turn; the engine must refuse to open, or answer reads rightly or with an
//! error, and verification must name the damage that opening let pass.

use super::*;

pub(super) fn filled(seed: u64) -> (Arc<SimulatedDisk>, Model) {
    let disk = SimulatedDisk::new(seed);
    let engine = open(&disk).unwrap();
    let mut random = Random::new(seed);
    let mut model = Model::new();
    for number in 1..=60_u64 {
        let entry = Logged::Batch(random_batch(&mut random, 1, 5));
        model.apply(&entry);
        apply(&engine, Index(number), &entry);
        if number % 20 == 0 {
            engine.seal(machine_state(engine.applied()));
            work_all(&engine);
        }
    }
    (disk, model)
}

/// Whether the damage was noticed by the time that everything was read and verified.
fn is_noticed(disk: &Arc<SimulatedDisk>, model: &Model, context: &str) -> bool {
    let Ok(engine) = open(disk) else { return true };
    let view = engine.view();
    let mut read = Vec::new();
    for pair in view.range(KeyspaceId::DEFAULT, Range::all()) {
        let Ok((key, value)) = pair else { return true };
        read.push((key, value.to_vec()));
    }
    let pairs = model.pairs(KeyspaceId::DEFAULT).unwrap().clone();
    let expected: Vec<_> = pairs.into_iter().collect();
    assert_eq!(read, expected, "{context}: a wrong answer");
    !engine.verify().unwrap().is_clean()
}

#[test]
fn every_flipped_byte_is_noticed_or_harmless() {
    let (disk, model) = filled(21);
    disk.kill();
    let files = disk.files();
    let mut harmless = 0;
    for file in &files {
        for offset in 0..file.len {
            let damaged = disk.fork(offset);
            damaged.flip_bit(&file.path, offset * 8 + offset % 8);
            let context = format!("{} at {offset}", file.path.display());
            if !is_noticed(&damaged, &model, &context) {
                harmless += 1;
                // Only a marker at the end of the manifest can go unnoticed: it says nothing.
                assert!(file.path.to_string_lossy().contains("MANIFEST"), "{context} unnoticed");
            }
        }
    }
    assert!(harmless <= 44, "{harmless} bytes are more than one marker");
}

#[test]
fn a_file_that_is_missing_is_named() {
    let (disk, _) = filled(22);
    for file in disk.files() {
        let fork = disk.fork(1);
        fork.remove(&file.path).unwrap();
        let error = open(&fork).expect_err("a file is missing").to_string();
        let name = file.path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(error.contains(&name), "{error} does not name {name}");
    }
}

#[test]
fn a_damaged_table_ends_compaction_but_not_reads_and_flushes() {
    let (disk, _) = filled(23);
    let engine = open(&disk).unwrap();
    let mut random = Random::new(23);
    let tables = disk.files().into_iter().map(|file| file.path);
    let tables = tables.filter(|path| path.to_string_lossy().ends_with(".table"));
    drop(engine);
    // The first bytes after the header belong to the first data block.
    for path in tables {
        disk.corrupt(&path, 40, &[0xa5; 8]);
    }
    let Ok(engine) = open(&disk) else { return };
    let mut errors = 0;
    for number in 61..=300_u64 {
        let batch = random_batch(&mut random, 1, 5);
        engine.apply(Index(number), &batch).unwrap();
        if number % 10 == 0 {
            engine.seal(machine_state(engine.applied()));
        }
        errors += u32::from(engine.work(Index(number)).is_err());
    }
    assert_eq!(errors, 1, "damage is returned once");
    assert!(engine.stats().compaction_error.is_some());
    let flushed = engine.flushed();
    while engine.work(Index(300)).unwrap() == crate::Worked::Done {}
    assert!(engine.flushed() >= flushed && engine.flushed() == Index(300));
    assert!(!engine.stalled(), "nobody waits for a compaction that does not come");
    assert!(!engine.verify().unwrap().is_clean());
}
