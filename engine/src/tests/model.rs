//! Goal: whatever is applied, sealed, flushed, compacted, dropped and reopened in whatever order,
//! every reader sees exactly what a sorted map would show at its index. Method: random steps on the
//! engine and on the map, views kept along the way with the map's copy of their moment.

use std::ops::Bound;

use super::*;
use crate::{Direction, View};

const STEPS: usize = 1200;
const KEYSPACES: u64 = 4;

struct Run {
    seed: u64,
    random: Random,
    disk: Arc<SimulatedDisk>,
    engine: Engine,
    model: Model,
    log: Vec<Logged>,
    views: Vec<(View, Model)>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let disk = SimulatedDisk::new(seed);
        let engine = open(&disk).unwrap();
        let (random, model) = (Random::new(seed), Model::new());
        Run { seed, random, disk, engine, model, log: Vec::new(), views: Vec::new() }
    }

    fn append(&mut self, entry: Logged) {
        self.model.apply(&entry);
        self.log.push(entry);
        let index = Index(u64::try_from(self.log.len()).unwrap());
        apply(&self.engine, index, self.log.last().unwrap());
        assert_eq!(self.engine.applied(), index);
    }

    fn reopen(&mut self) {
        // The old engine ends first, as a process does; its views go with it.
        self.views.clear();
        self.disk.kill();
        self.engine = open(&self.disk).unwrap();
        let flushed = self.engine.flushed();
        assert_eq!(self.engine.applied(), flushed);
        if flushed > Index(0) {
            assert_eq!(self.engine.machine_state(), machine_state(flushed));
        }
        for (index, entry) in (1..).map(Index).zip(&self.log) {
            if index > flushed {
                apply(&self.engine, index, entry);
            }
        }
    }

    fn random_range(&mut self) -> Range {
        let mut bound = || match self.random.below(3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(random_key(&mut self.random)),
            _ => Bound::Excluded(random_key(&mut self.random)),
        };
        let (start, end) = (bound(), bound());
        let is_forward = self.random.chance(500);
        let direction = if is_forward { Direction::Forward } else { Direction::Backward };
        Range { start, end, direction }
    }

    fn check_view(&mut self) {
        let range = self.random_range();
        let key = random_key(&mut self.random);
        let which = self.random.index(self.views.len());
        let (view, model) = &self.views[which];
        for number in 0..4 {
            let id = KeyspaceId(number);
            let empty = Pairs::new();
            let pairs = model.pairs(id).unwrap_or(&empty);
            let within = pairs.iter().filter(|(key, _)| range.contains(key));
            let mut expected: Vec<_> =
                within.map(|(key, value)| (key.clone(), value.clone())).collect();
            if range.direction == Direction::Backward {
                expected.reverse();
            }
            let seed = self.seed;
            assert_eq!(collect(view, id, range.clone()), expected, "seed {seed}, {range:?}");
            let value = view.get(id, &key).unwrap().map(|value| value.to_vec());
            assert_eq!(value.as_ref(), pairs.get(&key), "seed {seed}, get {key:?}");
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => {
                let batch = random_batch(&mut self.random, KEYSPACES, 6);
                self.append(Logged::Batch(batch));
            }
            40..42 => {
                let name = format!("keyspace {}", self.random.below(3));
                self.append(Logged::Create(name));
            }
            42 => {
                let id = KeyspaceId(1 + u32::try_from(self.random.below(3)).unwrap());
                self.append(Logged::Drop(id));
            }
            43..50 => self.engine.seal(machine_state(self.engine.applied())),
            50..75 => {
                let applied = self.engine.applied().0;
                let synced = applied - self.random.below(5).min(applied);
                for _ in 0..self.random.below(8) {
                    self.engine.work(Index(synced)).unwrap();
                }
                assert!(self.engine.flushed() <= Index(synced).max(self.engine.trimmable()));
            }
            75..78 => work_all(&self.engine),
            78..83 => {
                if self.views.len() < 6 {
                    self.views.push((self.engine.view(), self.model.clone()));
                }
            }
            83..86 => {
                if !self.views.is_empty() {
                    let which = self.random.index(self.views.len());
                    self.views.swap_remove(which);
                }
            }
            86..97 => {
                if !self.views.is_empty() {
                    self.check_view();
                }
            }
            97 => self.reopen(),
            _ => {
                let key = random_key(&mut self.random);
                let value = self.engine.get(KeyspaceId::DEFAULT, &key).unwrap();
                let expected = self.model.pairs(KeyspaceId::DEFAULT).unwrap().get(&key);
                assert_eq!(value.map(|value| value.to_vec()).as_ref(), expected);
            }
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.step();
    }
    let context = format!("seed {seed}");
    run.model.check(&run.engine.view(), &context);
    let digest = run.engine.digest().unwrap();
    run.engine.seal(machine_state(run.engine.applied()));
    run.views.clear();
    work_all(&run.engine);
    run.model.check(&run.engine.view(), &context);
    assert_eq!(run.engine.digest().unwrap(), digest, "{context}: the digest knows no layout");
    let report = run.engine.verify().unwrap();
    assert!(report.is_clean() && report.manifest, "{context}: {report:?}");
    run.reopen();
    assert_eq!(run.engine.flushed(), run.engine.applied());
    assert_eq!(run.engine.digest().unwrap(), digest, "{context}: after reopening");
    let stats = run.engine.stats();
    assert_eq!(stats.obsolete_tables, 0, "{context}");
    // Nothing is left over: the tables in use, one manifest and CURRENT.
    let tables: usize = stats.levels.iter().map(|level| level.tables).sum();
    assert_eq!(run.disk.files().len(), tables + 2, "{context}: {:?}", run.disk.files());
}

#[test]
fn the_engine_reads_like_a_sorted_map() {
    for seed in seeds(0..24) {
        run(seed);
    }
}

#[test]
fn replicas_with_different_layouts_have_equal_digests() {
    let mut random = Random::new(7);
    let [a, b] = [1, 2].map(|seed| open(&SimulatedDisk::new(seed)).unwrap());
    for index in (1..400).map(Index) {
        let batch = random_batch(&mut random, 1, 4);
        for engine in [&a, &b] {
            engine.apply(index, &batch).unwrap();
        }
        if index.0 % 20 == 0 {
            b.seal(Vec::new());
            work_all(&b);
        }
    }
    assert!(b.stats().compactions > 0);
    assert_eq!(a.digest().unwrap(), b.digest().unwrap());
    let mut batch = Batch::new();
    batch.put(KeyspaceId::DEFAULT, b"one more", b"").unwrap();
    a.apply(Index(400), &batch).unwrap();
    assert_ne!(a.digest().unwrap(), b.digest().unwrap());
}

#[test]
fn a_view_outlives_the_engine_and_keeps_its_files() {
    let disk = SimulatedDisk::new(3);
    let engine = open(&disk).unwrap();
    let mut random = Random::new(3);
    let mut model = Model::new();
    let mut index = Index(0);
    let mut fill = |engine: &Engine, model: &mut Model| {
        for _ in 0..150 {
            index.0 += 1;
            let entry = Logged::Batch(random_batch(&mut random, 1, 4));
            model.apply(&entry);
            apply(engine, index, &entry);
            if index.0.is_multiple_of(30) {
                engine.seal(Vec::new());
                work_all(engine);
            }
        }
    };
    fill(&engine, &mut model);
    let view = engine.view();
    let held = model.clone();
    fill(&engine, &mut model);
    assert!(engine.stats().obsolete_tables > 0, "the view holds tables that were replaced");
    held.check(&view, "while the engine goes on");
    drop(engine);
    held.check(&view, "after the engine");
}

#[test]
fn a_change_after_a_view_is_not_forgotten_even_if_it_deleted_the_key() {
    let engine = open(&SimulatedDisk::new(4)).unwrap();
    let key = b"contested";
    let mut batch = Batch::new();
    batch.put(KeyspaceId::DEFAULT, key, b"1").unwrap();
    engine.apply(Index(1), &batch).unwrap();
    let view = engine.view();
    batch.clear();
    batch.delete(KeyspaceId::DEFAULT, key).unwrap();
    engine.apply(Index(2), &batch).unwrap();
    engine.seal(Vec::new());
    work_all(&engine);
    assert_eq!(engine.last_change(KeyspaceId::DEFAULT, key).unwrap(), Some(Index(2)));
    assert_eq!(view.get(KeyspaceId::DEFAULT, key).unwrap().unwrap(), b"1"[..]);
    assert!(engine.get(KeyspaceId::DEFAULT, key).unwrap().is_none());
}
