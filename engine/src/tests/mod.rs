//! Tests of the engine as a whole: against a model, through crashes, over damage, and with readers.
//!
//! The log that a real engine stands on is a list of entries here: what was "written" to it is never
//! lost, so after a crash the entries after `flushed` are replayed from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::{Random, SimulatedDisk};

use crate::{Batch, Compression, Engine, Index, KeyspaceId, Options, Range, Read, Result};

mod crash;
mod damage;
mod measure;
mod model;
mod readers;
mod unreadable;

const DIR: &str = "/engine";

/// What the engine should hold: keyspaces by number, with their pairs; none if dropped.
type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The state that entries add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    keyspaces: Vec<(String, Option<Pairs>)>,
}

/// An entry of the log.
#[derive(Clone, Debug)]
enum Logged {
    Batch(Batch),
    Create(String),
    Drop(KeyspaceId),
}

impl Model {
    fn new() -> Self {
        Model { keyspaces: vec![("default".into(), Some(Pairs::new()))] }
    }

    fn pairs(&self, keyspace: KeyspaceId) -> Option<&Pairs> {
        self.keyspaces.get(usize::try_from(keyspace.0).unwrap())?.1.as_ref()
    }

    fn apply(&mut self, entry: &Logged) {
        match entry {
            Logged::Batch(batch) => {
                for op in batch.ops() {
                    let keyspace = usize::try_from(op.keyspace.0).unwrap();
                    let Some((_, Some(pairs))) = self.keyspaces.get_mut(keyspace) else { continue };
                    match op.value {
                        Some(value) => pairs.insert(op.key.to_vec(), value.to_vec()),
                        None => pairs.remove(op.key),
                    };
                }
            }
            Logged::Create(name) => {
                let is_there =
                    self.keyspaces.iter().any(|(own, pairs)| own == name && pairs.is_some());
                if !is_there {
                    self.keyspaces.push((name.clone(), Some(Pairs::new())));
                }
            }
            Logged::Drop(id) => {
                if let Some(keyspace) = self.keyspaces.get_mut(usize::try_from(id.0).unwrap()) {
                    keyspace.1 = None;
                }
            }
        }
    }

    /// That `read` shows exactly this, walked in both directions.
    fn check(&self, read: &dyn Read, context: &str) {
        for (number, (_, pairs)) in (0..).zip(&self.keyspaces) {
            let empty = Pairs::new();
            let pairs = pairs.as_ref().unwrap_or(&empty);
            let expected: Vec<_> =
                pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            let id = KeyspaceId(number);
            assert_eq!(collect(read, id, Range::all()), expected, "{context}: keyspace {number}");
            let mut backward = collect(read, id, Range::all().backward());
            backward.reverse();
            assert_eq!(backward, expected, "{context}: keyspace {number}, backward");
        }
    }
}

fn collect(read: &dyn Read, keyspace: KeyspaceId, range: Range) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = read.range(keyspace, range);
    pairs.map(|pair| pair.map(|(key, value)| (key, value.to_vec())).unwrap()).collect()
}

/// Brings an entry to the engine, as whoever owns the log does.
fn apply(engine: &Engine, index: Index, entry: &Logged) {
    match entry {
        Logged::Batch(batch) => engine.apply(index, batch).unwrap(),
        Logged::Create(name) => {
            engine.create_keyspace(index, name).unwrap();
            engine.apply(index, &Batch::new()).unwrap();
        }
        Logged::Drop(id) => {
            let _ = engine.drop_keyspace(index, *id);
            engine.apply(index, &Batch::new()).unwrap();
        }
    }
}

/// The machine's state that these tests give, derived from the index.
fn machine_state(index: Index) -> Vec<u8> {
    format!("state at {index}").into_bytes()
}

/// Settings under which a few hundred small writes fill several levels.
fn tiny() -> Options {
    Options {
        memtable_size: 2 << 10,
        block_cache_size: 64 << 10,
        block_size: 256,
        compression: Compression::Lz4,
        table_size: 1 << 10,
        level_0_trigger: 2,
        level_0_max: 8,
        level_1_size: 2 << 10,
        ..Options::default()
    }
}

fn open(disk: &Arc<SimulatedDisk>) -> Result<Engine> {
    switch_on_canary();
    let disk: Arc<dyn Disk> = disk.mount();
    Engine::open(disk, Path::new(DIR), tiny())
}

/// With the feature `canary`, the number in this variable switches a canary on for the whole run,
/// which must then fail: `STRANDLINE_CANARY=30 cargo test -p strandline-engine --features canary`.
#[cfg(feature = "canary")]
pub(crate) fn switch_on_canary() {
    if let Ok(number) = std::env::var("STRANDLINE_CANARY") {
        strandline_wal::canary::switch_on(number.parse().unwrap());
    }
}

#[cfg(not(feature = "canary"))]
pub(crate) fn switch_on_canary() {}

/// The seeds of a random test: these, or the one in the variable `STRANDLINE_SEED`.
fn seeds(usual: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("STRANDLINE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => usual,
    }
}

/// Works until there is nothing to do.
fn work_all(engine: &Engine) {
    let synced = engine.applied();
    while engine.work(synced).unwrap() == crate::Worked::Done {}
}

/// A batch of one to `ops_max` puts and deletes; often several of one key.
fn random_batch(random: &mut Random, keyspaces: u64, ops_max: u64) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=random.below(ops_max) {
        let keyspace = KeyspaceId(u32::try_from(random.below(keyspaces)).unwrap());
        let key = random_key(random);
        if random.chance(300) {
            batch.delete(keyspace, &key).unwrap();
        } else {
            let mut value = vec![0; random.index(60)];
            random.fill(&mut value);
            batch.put(keyspace, &key, &value).unwrap();
        }
    }
    batch
}

fn random_key(random: &mut Random) -> Vec<u8> {
    // Keys that are prefixes of one another, and bytes at both ends, belong in here.
    let number = random.below(80);
    match number {
        0 => vec![0],
        1 => vec![0, 0],
        2 => vec![0xff],
        3 => vec![0xff, 0xff],
        _ => format!("key{number}").into_bytes(),
    }
}
