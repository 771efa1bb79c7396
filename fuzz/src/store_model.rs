//! A store on a simulated disk, beside a model of it: sorted maps.
//!
//! An input is a sequence of steps: batches at both levels, keyspaces that come and go, views that are
//! held, flushes and compactions, faults, kills and power cuts. At any time the store reads as the model
//! does, forwards, backwards, within any bounds and key by key, and a view as the model did when it was
//! taken. After a crash the store shows the state after one of the writes, the last acknowledged one or
//! a later one: never a mixture, and never half a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use strandline_engine::{
    Batch, Db, Durability, Error, KeyspaceId, Range, Read, Result, View, Worked,
};
use strandline_wal::disk::SimulatedDisk;
use strandline_wal::disk::simulated::{Fault, Survival};

use crate::{Choices, store};

/// Steps of one input at most.
const STEPS_MAX: usize = 120;
/// Views that are held at the most.
const VIEWS_MAX: usize = 3;
/// The keyspace that is always there.
const DEFAULT: &str = "default";
/// Those that come and go.
const NAMES: [&str; 3] = ["moons", "tides", "winds"];
/// What keys are made of: both ends of the order, and neighbours.
const LETTERS: [u8; 4] = [0, 1, b'a', 0xff];
/// The key of the write that fences what a failed write may have left on the disk.
const FENCE: &[u8] = b"fence";

/// The pairs of a keyspace.
type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// The pairs of each keyspace, by its name.
type State = BTreeMap<&'static str, Pairs>;

/// What is known of the store.
struct Model {
    /// The state after each write since the last acknowledged one, which is the first; the last one is
    /// the present.
    states: Vec<State>,
    /// The numbers that keyspaces have had.
    numbers: BTreeSet<KeyspaceId>,
}

/// A run.
struct Run<'a> {
    choices: Choices<'a>,
    disk: Arc<SimulatedDisk>,
    /// Whether the log is compressed.
    compress: bool,
    db: Db,
    model: Model,
    /// Views, with what they are to show.
    views: Vec<(View, State)>,
    /// Whether a write may have failed since the last power cut: then the disk may hold what reads do not show.
    may_hide: bool,
}

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let seed = choices.any::<u8>();
    let disk = SimulatedDisk::new(seed.into());
    let compress = seed % 4 == 3;
    disk.set_stepped(choices.any());
    let db = store::open_as(&disk, compress).expect("a new store opens");
    let states = vec![State::from([(DEFAULT, Pairs::new())])];
    let model = Model { states, numbers: BTreeSet::from([KeyspaceId::DEFAULT]) };
    let mut run = Run { choices, disk, compress, db, model, views: Vec::new(), may_hide: false };
    for _ in 0..STEPS_MAX {
        if run.choices.is_empty() {
            break;
        }
        if let Err(error) = run.step() {
            run.recover(&error);
        }
    }
    run.crash();
    run.disk.power_cut();
    run.compare();
    run.db.verify().expect("what is read is whole");
}

impl Model {
    fn present(&self) -> &State {
        self.states.last().expect("there is always a present")
    }

    /// The present is durable: nothing before it can be what a crash leaves.
    fn acknowledge(&mut self) {
        self.states.drain(..self.states.len() - 1);
    }
}

impl Run<'_> {
    fn step(&mut self) -> Result<()> {
        match self.choices.below(20) {
            0..=6 => self.write(),
            7 => self.create(),
            8 => self.drop_keyspace(),
            9 => tolerate(self.db.flush()),
            10 | 11 => self.work(),
            12 => self.hold(),
            13 => self.read_held(),
            14 => self.reopen(),
            15 => {
                let operation =
                    self.disk.operations() + 1 + u64::from(self.choices.any::<u8>() % 60);
                let fault = self.choices.pick(&Fault::ALL);
                self.may_hide |= !fault.is_crash();
                self.disk.fail_at(operation, fault);
                Ok(())
            }
            16 => {
                self.disk.set_full(self.choices.once_in(3));
                Ok(())
            }
            17 => {
                let chances = [0, 100, 500, 900, 1000];
                self.disk.set_survival(Survival::of(self.choices.pick(&chances)));
                Ok(())
            }
            18 => {
                self.crash();
                Ok(())
            }
            _ => self.read_present(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let len = 1 + self.choices.below(3);
        (0..len).map(|_| self.choices.pick(&LETTERS)).collect()
    }

    /// A name that is there now, and its number.
    fn keyspace(&mut self) -> (&'static str, KeyspaceId) {
        let names: Vec<_> = self.model.present().keys().copied().collect();
        let name = self.choices.pick(&names);
        (name, number(&self.db.view(), name))
    }

    fn write(&mut self) -> Result<()> {
        let mut batch = Batch::new();
        let mut next = self.model.present().clone();
        for _ in 0..1 + self.choices.below(4) {
            let (name, keyspace) = self.keyspace();
            let key = self.key();
            let pairs = next.get_mut(name).expect("it is there now");
            if self.choices.once_in(4) {
                batch.delete(keyspace, &key)?;
                pairs.remove(&key);
            } else {
                let len = self.choices.below(2500);
                let value: Vec<u8> =
                    batch.len().to_le_bytes().into_iter().cycle().take(len).collect();
                batch.put(keyspace, &key, &value)?;
                pairs.insert(key, value);
            }
        }
        let level = if self.choices.once_in(4) { Durability::Memory } else { Durability::Disk };
        let appended = self.db.append(&[batch.as_entry()], level);
        if appended.as_ref().is_err_and(is_refusal) {
            return Ok(());
        }
        self.model.states.push(next);
        let index = appended?;
        if level == Durability::Disk {
            self.db.wait(index)?;
            assert!(self.db.durable() >= index && self.db.applied() >= index);
            self.model.acknowledge();
        }
        Ok(())
    }

    fn create(&mut self) -> Result<()> {
        let name = self.choices.pick(&NAMES);
        let is_new = !self.model.present().contains_key(name);
        let created = self.db.create_keyspace(name);
        if created.as_ref().is_err_and(is_refusal) {
            return Ok(());
        }
        if is_new {
            let mut next = self.model.present().clone();
            next.insert(name, Pairs::new());
            self.model.states.push(next);
        }
        let keyspace = created?;
        if is_new {
            self.model.acknowledge();
            assert!(self.model.numbers.insert(keyspace), "a number is not given twice");
        }
        Ok(())
    }

    fn drop_keyspace(&mut self) -> Result<()> {
        let (name, keyspace) = self.keyspace();
        if name == DEFAULT {
            return Ok(());
        }
        let dropped = self.db.drop_keyspace(keyspace);
        if dropped.as_ref().is_err_and(is_refusal) {
            return Ok(());
        }
        let mut next = self.model.present().clone();
        next.remove(name);
        self.model.states.push(next);
        dropped?;
        self.model.acknowledge();
        Ok(())
    }

    fn work(&mut self) -> Result<()> {
        for _ in 0..self.choices.below(30) {
            match self.db.work() {
                Ok(Worked::Done) => {}
                Ok(Worked::Idle) => break,
                Err(error) => return tolerate(Err(error)),
            }
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        if self.views.len() == VIEWS_MAX {
            self.views.remove(self.choices.below(VIEWS_MAX));
        }
        // What waits for the disk is not seen yet.
        let last = self.db.log().last();
        self.db.wait(strandline_engine::Index(last.0))?;
        self.model.acknowledge();
        self.views.push((self.db.view(), self.model.present().clone()));
        Ok(())
    }

    fn read_held(&mut self) -> Result<()> {
        for (view, state) in &self.views {
            check(view, state, &mut self.choices)?;
        }
        Ok(())
    }

    fn read_present(&mut self) -> Result<()> {
        self.hold()?;
        let (view, state) = self.views.last().expect("it is held");
        check(view, state, &mut self.choices)
    }

    fn reopen(&mut self) -> Result<()> {
        self.views.clear();
        self.db.close()?;
        self.model.acknowledge();
        self.db = store::open_as(&self.disk, self.compress)?;
        self.read_present()
    }

    /// Goes on after an error: with a crash, or by opening the store again in the same process.
    fn recover(&mut self, error: &Error) {
        assert!(!is_damage(error), "a fault is taken for damage: {error}");
        self.views.clear();
        if self.choices.any() {
            let _ = self.db.close();
            return self.compare();
        }
        self.crash();
    }

    fn crash(&mut self) {
        self.views.clear();
        let crash = self.disk.restart().unwrap_or_else(|| match self.choices.once_in(2) {
            true => {
                self.disk.kill();
                Fault::Kill
            }
            false => {
                self.disk.power_cut();
                Fault::PowerCut
            }
        });
        self.may_hide &= crash != Fault::PowerCut;
        self.compare();
    }

    /// Opens the store: it shows one of the states that a crash may leave, which is then the present.
    fn compare(&mut self) {
        // Closing may have been what crashed.
        self.disk.restart();
        self.disk.clear_faults();
        self.disk.set_full(false);
        let db = store::open_as(&self.disk, self.compress);
        self.db = db.expect("a store without damage opens");
        let view = self.db.view();
        let found = read(&view).expect("a store without damage can be read");
        let is_known = self.model.states.contains(&found);
        assert!(is_known, "no state since the last acknowledged write: {:?}", summary(&found));
        check(&view, &found, &mut self.choices).expect("a store without damage can be read");
        self.model.numbers.extend(view.keyspaces().into_iter().map(|(number, _)| number));
        drop(view);
        self.model.states = vec![found];
        if self.may_hide {
            self.fence();
        }
    }

    /// What failed and is not shown may come back with the next power cut, until something else is durable in
    /// its place.
    fn fence(&mut self) {
        let put = self.db.put(KeyspaceId::DEFAULT, FENCE, b"");
        put.expect("a disk without faults takes a write");
        let mut next = self.model.present().clone();
        let pairs = next.get_mut(DEFAULT).expect("it is always there");
        pairs.insert(FENCE.to_vec(), Vec::new());
        self.model.states = vec![next];
        self.may_hide = false;
    }
}

/// The number of a keyspace that is there.
fn number(view: &View, name: &str) -> KeyspaceId {
    match name {
        DEFAULT => KeyspaceId::DEFAULT,
        name => view.keyspace(name).expect("a keyspace that is there has a number"),
    }
}

/// All that a view shows.
fn read(view: &View) -> Result<State> {
    let mut state = State::new();
    for name in NAMES.into_iter().chain([DEFAULT]) {
        if name == DEFAULT || view.keyspace(name).is_some() {
            let pairs = view.range(number(view, name), Range::all());
            let pairs = pairs.map(|pair| pair.map(|(key, value)| (key, value.to_vec())));
            state.insert(name, pairs.collect::<Result<_>>()?);
        }
    }
    Ok(state)
}

/// Whether a view shows this state: all of it, a part of it both ways, and single keys.
fn check(view: &View, state: &State, choices: &mut Choices<'_>) -> Result<()> {
    let found = read(view)?;
    assert!(found == *state, "{:?} for {:?}", summary(&found), summary(state));
    let mut key = || -> Vec<u8> {
        let len = 1 + choices.below(3);
        (0..len).map(|_| choices.pick(&LETTERS)).collect()
    };
    for (name, pairs) in state {
        let keyspace = number(view, name);
        let one = key();
        let value = view.get(keyspace, &one)?;
        assert_eq!(value.as_deref(), pairs.get(&one).map(Vec::as_slice), "{name} {one:?}");
        let ranges = [
            Range::prefix(&one),
            Range { start: Bound::Excluded(key()), end: Bound::Included(key()), ..Range::all() },
            Range { start: Bound::Included(key()), end: Bound::Excluded(key()), ..Range::all() },
        ];
        for range in ranges {
            let expected: Vec<_> = pairs.iter().filter(|(key, _)| range.contains(key)).collect();
            let forward = collect(view, keyspace, range.clone())?;
            assert!(forward.iter().map(|(key, value)| (key, value)).eq(expected), "{range:?}");
            let mut backward = collect(view, keyspace, range.clone().backward())?;
            backward.reverse();
            assert!(forward == backward, "{range:?} both ways");
        }
    }
    Ok(())
}

fn collect(view: &View, keyspace: KeyspaceId, range: Range) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let pairs = view.range(keyspace, range);
    pairs.map(|pair| pair.map(|(key, value)| (key, value.to_vec()))).collect()
}

/// A keyspace, and its keys with the lengths of their values.
type Summary = (&'static str, Vec<(Vec<u8>, usize)>);

/// A state as messages show it.
fn summary(state: &State) -> Vec<Summary> {
    let lens = |(key, value): (&'_ Vec<u8>, &Vec<u8>)| (key.clone(), value.len());
    state.iter().map(|(name, pairs)| (*name, pairs.iter().map(lens).collect())).collect()
}

/// Whether nothing was proposed, and the store goes on.
fn is_refusal(error: &Error) -> bool {
    error.is_full() || matches!(error, Error::Stalled { .. })
}

/// Whether the error says that what was acknowledged is damaged.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Wal(strandline_wal::Error::Corruption { .. }) | Error::Malformed { .. })
}

/// A full disk is no reason to stop.
fn tolerate(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_refusal(&error) => Ok(()),
        result => result,
    }
}
