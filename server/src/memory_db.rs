//! Stand-in for the engine's `Db` until that is there: nothing is on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use strandline_engine::{
    Batch, Changes, Direction, Entry, EntryKind, Index, KeyspaceId, Machine, Pair, Range, Read,
    Result, Value,
};
use strandline_wal::disk::{Disk, Rung};

type Map = BTreeMap<(KeyspaceId, Vec<u8>), Value>;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    Memory,
    #[default]
    Disk,
}

#[derive(Clone, Debug, Default)]
pub struct DbOptions {
    pub rung: Option<Rung>,
}

struct State {
    map: Arc<Map>,
    queue: Vec<Vec<u8>>,
    appended: u64,
    applied: u64,
    closed: bool,
    machine: Box<dyn Machine>,
}

#[derive(Clone)]
pub struct Db {
    inner: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Clone)]
pub struct View(Arc<Map>);

impl Read for View {
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        Ok(self.0.get(&(keyspace, key.to_vec())).cloned())
    }
    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
        use std::ops::Bound;
        let start = match range.start {
            Bound::Included(key) => Bound::Included((keyspace, key)),
            Bound::Excluded(key) => Bound::Excluded((keyspace, key)),
            Bound::Unbounded => Bound::Included((keyspace, Vec::new())),
        };
        let end = match range.end {
            Bound::Included(key) => Bound::Included((keyspace, key)),
            Bound::Excluded(key) => Bound::Excluded((keyspace, key)),
            Bound::Unbounded => Bound::Excluded((KeyspaceId(keyspace.0 + 1), Vec::new())),
        };
        let pairs =
            self.0.range((start, end)).map(|((_, key), value)| Ok((key.clone(), value.clone())));
        match range.direction {
            Direction::Forward => Box::new(pairs),
            Direction::Backward => Box::new(pairs.rev()),
        }
    }
}

#[derive(Default)]
pub struct WalStats {
    pub groups: u64,
    pub syncs: u64,
    pub device_bytes: u64,
    pub payload_bytes: u64,
    pub is_full: bool,
}

impl Db {
    pub fn open_with(
        _: Arc<dyn Disk>,
        _: &Path,
        _: DbOptions,
        machine: Box<dyn Machine>,
    ) -> Result<Db> {
        let state = State {
            map: Arc::default(),
            queue: Vec::new(),
            appended: 0,
            applied: 0,
            closed: false,
            machine,
        };
        Ok(Db { inner: Arc::new((Mutex::new(state), Condvar::new())) })
    }
    pub fn append(&self, payloads: &[&[u8]], durability: Durability) -> Result<Index> {
        self.append_then(payloads, durability, |_| ())
    }
    pub fn append_then(
        &self,
        payloads: &[&[u8]],
        _: Durability,
        then: impl FnOnce(Index),
    ) -> Result<Index> {
        let mut state = self.inner.0.lock().unwrap();
        state.queue.extend(payloads.iter().map(|payload| payload.to_vec()));
        state.appended += u64::try_from(payloads.len()).unwrap();
        let index = Index(state.appended);
        then(index);
        self.inner.1.notify_all();
        Ok(index)
    }
    pub fn request(&self, _: Index) {}
    pub fn wait(&self, index: Index) -> Result<()> {
        let mut state = self.inner.0.lock().unwrap();
        while state.applied < index.0 {
            state = self.inner.1.wait(state).unwrap();
        }
        Ok(())
    }
    pub fn lead(&self) -> Result<()> {
        let mut state = self.inner.0.lock().unwrap();
        loop {
            if state.closed {
                return Ok(());
            }
            let queue = std::mem::take(&mut state.queue);
            if queue.is_empty() {
                state = self.inner.1.wait(state).unwrap();
                continue;
            }
            for payload in queue {
                let index = Index(state.applied + 1);
                let entry = Entry::decode(index, &payload)?;
                if entry.header.kind == EntryKind::COMMAND {
                    let view = View(state.map.clone());
                    let mut batch = Batch::new();
                    let mut changes = Changes::new(&view, &mut batch);
                    state.machine.apply(&entry, &mut changes)?;
                    drop(view);
                    let map = Arc::make_mut(&mut state.map);
                    for op in batch.ops() {
                        match op.value {
                            Some(value) => {
                                map.insert((op.keyspace, op.key.to_vec()), value.to_vec().into())
                            }
                            None => map.remove(&(op.keyspace, op.key.to_vec())),
                        };
                    }
                }
                state.applied = index.0;
            }
            let applied = Index(state.applied);
            state.machine.published(applied);
            self.inner.1.notify_all();
            state = self.inner.1.wait(state).unwrap();
        }
    }
    pub fn view(&self) -> View {
        View(self.inner.0.lock().unwrap().map.clone())
    }
    pub fn create_keyspace(&self, _: &str) -> Result<KeyspaceId> {
        Ok(KeyspaceId(1))
    }
    pub fn applied(&self) -> Index {
        Index(self.inner.0.lock().unwrap().applied)
    }
    pub fn durable(&self) -> Index {
        self.applied()
    }
    pub fn stats(&self) -> ((), WalStats) {
        ((), WalStats::default())
    }
    pub fn digest(&self) -> Result<u64> {
        Ok(0)
    }
    pub fn close(&self) -> Result<()> {
        self.inner.0.lock().unwrap().closed = true;
        self.inner.1.notify_all();
        Ok(())
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Db")
    }
}
