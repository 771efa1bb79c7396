//! A workload over the whole store (log and engine) on the simulated disk, and what must hold.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_engine::{
    Batch, Changes, Db, DbOptions, Durability, Entry, Error, KeyspaceId, Machine, Options, Range,
    Read, Result, Worked,
};
use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk, Survival};

pub(crate) const DIR: &str = "/store";

/// Small memtables and segments, so that a short workload flushes and compacts.
pub(crate) fn options() -> DbOptions {
    DbOptions {
        wal: strandline_wal::Options {
            segment_size: 64 << 10,
            spares: 1,
            group_size_max: 8 << 10,
            pending_size_max: 32 << 10,
            new_log_id: 7,
            ..strandline_wal::Options::default()
        },
        engine: Options { memtable_size: 64 << 10, ..Options::default() },
        rung: None,
        background: false,
        ..DbOptions::default()
    }
}

/// Batches only.
pub(crate) struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
        Ok(())
    }
}

pub(crate) fn open(disk: &Arc<SimulatedDisk>) -> Result<Db> {
    Db::open_with(disk.clone(), Path::new(DIR), options(), Box::new(Nothing))
}

/// The pairs of a state.
pub(crate) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What is known: the state after each write that was taken, by index, and what was acknowledged.
#[derive(Default)]
pub(crate) struct Model {
    /// State after each taken write; the last one is the present.
    pub states: Vec<Pairs>,
    /// How many of the states were acknowledged.
    pub acknowledged: usize,
    pub writes: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { states: vec![Pairs::new()], acknowledged: 0, writes: 0 }
    }

    fn present(&self) -> Pairs {
        self.states.last().cloned().unwrap_or_default()
    }
}

/// Runs `steps` steps; returns early with the error if the store cannot go on.
pub(crate) fn work(
    disk: &Arc<SimulatedDisk>,
    random: &mut Random,
    model: &mut Model,
    steps: usize,
) -> Result<()> {
    let mut db = open(disk)?;
    for _ in 0..steps {
        match random.below(16) {
            0 => {
                db.close()?;
                model.acknowledged = model.states.len() - 1;
                drop(db);
                db = open(disk)?;
            }
            1 => tolerate(db.flush()).map(|_| ())?,
            2 | 3 => while tolerate(db.work())? == Some(Worked::Done) {},
            4 => disk.set_full(random.below(4) == 0),
            5 => {
                compare(&db, &model.present()).map_err(|reason| Error::InvalidOption { reason })?
            }
            _ => write(&db, random, model)?,
        }
    }
    disk.set_full(false);
    db.close()?;
    model.acknowledged = model.states.len() - 1;
    Ok(())
}

fn write(db: &Db, random: &mut Random, model: &mut Model) -> Result<()> {
    let mut batch = Batch::new();
    let mut next = model.present();
    for _ in 0..1 + random.below(4) {
        let key = format!("key{:03}", random.below(60)).into_bytes();
        if random.below(4) == 0 {
            batch.delete(KeyspaceId::DEFAULT, &key)?;
            next.remove(&key);
        } else {
            let mut value = vec![0; random.index(2500)];
            random.fill(&mut value);
            batch.put(KeyspaceId::DEFAULT, &key, &value)?;
            next.insert(key, value);
        }
    }
    let durability = if random.below(4) == 0 { Durability::Memory } else { Durability::Disk };
    let index = match db.append(&[batch.as_entry()], durability) {
        Ok(index) => index,
        Err(error) if error.is_full() => return Ok(()),
        Err(Error::Stalled { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    model.states.push(next);
    model.writes += 1;
    if durability == Durability::Disk {
        db.wait(index)?;
        model.acknowledged = model.states.len() - 1;
    }
    Ok(())
}

/// A full disk is no reason to stop.
fn tolerate<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_full() => Ok(None),
        Err(Error::Stalled { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn pairs(db: &Db, range: Range) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let view = db.view();
    let pairs = view.range(KeyspaceId::DEFAULT, range);
    pairs.map(|pair| pair.map(|(key, value)| (key, value.to_vec()))).collect()
}

/// Whether the store reads as `expected`, by range both ways and key by key.
fn compare(db: &Db, expected: &Pairs) -> std::result::Result<(), String> {
    let text = |error: Error| format!("reading: {error}");
    let wanted: Vec<_> = expected.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    if pairs(db, Range::all()).map_err(text)? != wanted {
        return Err("a scan shows another state".into());
    }
    let mut backward = pairs(db, Range::all().backward()).map_err(text)?;
    backward.reverse();
    if backward != wanted {
        return Err("a backward scan shows another state".into());
    }
    for number in 0..60 {
        let key = format!("key{number:03}").into_bytes();
        let found = db.get(KeyspaceId::DEFAULT, &key).map_err(text)?.map(|value| value.to_vec());
        if found.as_ref() != expected.get(&key) {
            return Err(format!("key{number:03} reads differently than it should"));
        }
    }
    Ok(())
}

/// Opens the store; it must show one of the states from the last acknowledged one on.
pub(crate) fn check(
    disk: &Arc<SimulatedDisk>,
    model: &mut Model,
) -> std::result::Result<(), String> {
    let db = open(disk).map_err(|error| format!("refused to open: {error}"))?;
    let found: Pairs = pairs(&db, Range::all())
        .map_err(|error| format!("reading: {error}"))?
        .into_iter()
        .collect();
    let candidates = &model.states[model.acknowledged..];
    if !candidates.contains(&found) {
        return Err(format!(
            "{} pairs that are no state since the last acknowledged write",
            found.len()
        ));
    }
    compare(&db, &found)?;
    db.verify().map_err(|error| format!("verify: {error}"))?;
    model.states = vec![found];
    model.acknowledged = 0;
    Ok(())
}

/// Several lives of one store, each ended by a fault, a crash or an orderly close.
pub(crate) fn run(seed: u64) -> std::result::Result<u64, String> {
    let mut random = Random::new(seed);
    let disk = SimulatedDisk::new(seed);
    let mut model = Model::new();
    disk.set_stepped(random.below(2) == 0);
    for _ in 0..1 + random.below(3) {
        disk.set_survival(Survival::draw(&mut random));
        if random.below(4) > 0 {
            let fault = Fault::ALL[random.index(Fault::ALL.len())];
            disk.fail_at(disk.operations() + 1 + random.below(400), fault);
        }
        let ended = work(&disk, &mut random, &mut model, 60);
        disk.clear_faults();
        disk.set_full(false);
        if let Err(Error::InvalidOption { reason }) = ended {
            return Err(reason);
        }
        match random.below(3) {
            _ if disk.restart().is_some() => {}
            0 => disk.kill(),
            _ => disk.power_cut(),
        }
        check(&disk, &mut model)?;
        if random.below(2) == 0 {
            disk.power_cut();
            check(&disk, &mut model)?;
        }
    }
    Ok(model.writes)
}
