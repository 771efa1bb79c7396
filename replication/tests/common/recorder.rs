//! What the replicas of a cluster are made of: their machine, entries, members and settings.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use strandline_engine::{Changes, DbOptions, Entry, EntryHeader, EntryKind, KeyspaceId, Machine};
use strandline_replication::{Member, MemberRole, Options, ReplicaId};

/// What was applied where: index to term and command.
pub type Applied = Arc<Mutex<BTreeMap<u64, (u64, Vec<u8>)>>>;

/// At which index each command was executed that may be executed once only.
pub type Once = Arc<Mutex<BTreeMap<Vec<u8>, u64>>>;

/// Sets a key to the index for each command, and writes down what it was given.
pub struct Recorder {
    pub applied: Applied,
    pub once: Once,
    pub count: u64,
}

impl Machine for Recorder {
    fn observe(&mut self, entry: &Entry<'_>) {
        let seen = (entry.header.term, entry.command.to_vec());
        let before = self.applied.lock().unwrap().insert(entry.index.0, seen.clone());
        assert!(before.is_none_or(|before| before == seen), "index {} changed", entry.index);
    }

    fn apply(
        &mut self,
        entry: &Entry<'_>,
        changes: &mut Changes<'_>,
    ) -> strandline_engine::Result<()> {
        self.count += 1;
        if entry.command.starts_with(b"once") {
            let mut once = self.once.lock().unwrap();
            let before = *once.entry(entry.command.to_vec()).or_insert(entry.index.0);
            assert_eq!(before, entry.index.0, "executed twice");
        }
        let value = [entry.index.0.to_le_bytes(), self.count.to_le_bytes()].concat();
        changes.put(KeyspaceId::DEFAULT, entry.command, &value)
    }

    fn state(&self) -> Vec<u8> {
        self.count.to_le_bytes().to_vec()
    }

    fn restore(&mut self, state: &[u8]) -> strandline_engine::Result<()> {
        self.count = u64::from_le_bytes(state.try_into().expect("it is what was given"));
        Ok(())
    }
}

pub fn command(command: &[u8]) -> Vec<u8> {
    let mut payload = EntryHeader::of_kind(EntryKind::COMMAND).encode().to_vec();
    payload.extend_from_slice(command);
    payload
}

pub fn voters(ids: &[u64]) -> Vec<Member> {
    ids.iter().map(|id| Member { id: ReplicaId(*id), role: MemberRole::Voter }).collect()
}

pub fn options(id: u64, members: &[Member], seed: u64) -> Options {
    let mut db = DbOptions { background: false, ..DbOptions::default() };
    db.wal.segment_size = 64 << 10;
    db.wal.spares = 2;
    db.wal.group_size_max = 8 << 10;
    db.wal.pending_size_max = 32 << 10;
    db.wal.background = false;
    db.wal.new_log_id = id;
    db.engine.memtable_size = 32 << 10;
    Options {
        id: ReplicaId(id),
        members: members.to_vec(),
        seed: seed ^ (id << 32),
        db,
        message_len_max: 4 << 10,
        uncommitted_len_max: 64 << 10,
        ..Options::default()
    }
}

/// An entry that a leader took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub index: u64,
    pub term: u64,
    pub command: Vec<u8>,
}

impl super::Cluster {
    /// How often commands were executed at a node, in this life or an earlier one.
    pub fn executions(&self, id: u64, key: &[u8]) -> Vec<u64> {
        let db = self.replica(id).db();
        let value = db.get(KeyspaceId::DEFAULT, key).unwrap();
        value.map_or(Vec::new(), |value| {
            value.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
        })
    }
}
