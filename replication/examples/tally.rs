//! A state machine of one's own on three replicas: votes are tallied, and survive the leader.
//!
//! All replicas run in this thread, and messages go from one to the other by hand; a program would put
//! sockets and a clock around the same calls.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use strandline_engine::{Changes, Entry, EntryHeader, EntryKind, KeyspaceId, Machine};
use strandline_replication::{
    Envelope, Event, Index, Member, MemberRole, Options, Outcome, Output, Replica, ReplicaId, Role,
};
use strandline_wal::disk::RealDisk;

/// Counts how often each name was called. It reads and writes through `changes` only, so that every
/// replica comes to the same.
struct Tally;

impl Machine for Tally {
    fn apply(
        &mut self,
        entry: &Entry<'_>,
        changes: &mut Changes<'_>,
    ) -> strandline_engine::Result<()> {
        use strandline_engine::Read;
        let before = changes.get(KeyspaceId::DEFAULT, entry.command)?;
        let count = before.map_or(0, |value| count_of(&value)) + 1;
        changes.put(KeyspaceId::DEFAULT, entry.command, &count.to_le_bytes())
    }
}

fn count_of(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Three replicas, what goes between them, and what they have said.
struct Group {
    replicas: BTreeMap<u64, Replica>,
    network: VecDeque<Envelope>,
    /// What is applied where.
    applied: BTreeMap<u64, Index>,
    accepted: Option<(u64, Index)>,
}

impl Group {
    fn step(&mut self, id: u64, event: Event) -> Result<(), Box<dyn Error>> {
        let Some(replica) = self.replicas.get_mut(&id) else { return Ok(()) };
        let mut output = Output::default();
        replica.step(event, &mut output)?;
        self.network.extend(output.messages);
        for outcome in output.outcomes {
            match outcome {
                Outcome::Committed(index) => drop(self.applied.insert(id, index)),
                Outcome::Accepted { token, first, .. } => self.accepted = Some((token, first)),
                _ => {}
            }
        }
        Ok(())
    }

    /// A tick for everybody, and all messages delivered.
    fn round(&mut self) -> Result<(), Box<dyn Error>> {
        let ids: Vec<u64> = self.replicas.keys().copied().collect();
        for id in ids {
            self.step(id, Event::Tick)?;
        }
        while let Some(envelope) = self.network.pop_front() {
            self.step(envelope.to.0, Event::Received(envelope))?;
        }
        Ok(())
    }

    fn leader(&self) -> Option<u64> {
        let mut replicas = self.replicas.iter();
        replicas.find(|(_, replica)| replica.status().role == Role::Leader).map(|(id, _)| *id)
    }

    /// Calls a name, and waits until the leader has applied the call.
    fn call(&mut self, token: u64, name: &str) -> Result<(), Box<dyn Error>> {
        while self.leader().is_none() {
            self.round()?;
        }
        let leader = self.leader().ok_or("somebody leads")?;
        let mut payload = EntryHeader::of_kind(EntryKind::COMMAND).encode().to_vec();
        payload.extend_from_slice(name.as_bytes());
        self.step(leader, Event::Propose { token, entries: vec![payload], session: None })?;
        let Some((_, index)) = self.accepted.filter(|(accepted, _)| *accepted == token) else {
            return Err("the leader takes calls".into());
        };
        // Its term would have to be compared too, if another leader could come in between.
        while self.applied.get(&leader).is_none_or(|applied| *applied < index) {
            self.round()?;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("strandline-tally-{}", std::process::id()));
    let ids = [1, 2, 3];
    let members = ids.map(|id| Member { id: ReplicaId(id), role: MemberRole::Voter });
    let mut replicas = BTreeMap::new();
    for id in ids {
        let home: PathBuf = dir.join(id.to_string());
        std::fs::create_dir_all(&home)?;
        let mut options =
            Options { id: ReplicaId(id), members: members.to_vec(), ..Options::default() };
        options.seed = id;
        // This thread drives the log itself.
        options.db.background = false;
        options.db.wal.segment_size = 1 << 20;
        let disk = Arc::new(RealDisk::open(&home, None)?);
        replicas.insert(id, Replica::open(disk, &home, options, Box::new(Tally))?);
    }
    let (network, applied) = (VecDeque::new(), BTreeMap::new());
    let mut group = Group { replicas, network, applied, accepted: None };
    for (token, name) in (1..).zip(["ebb", "flow", "ebb"]) {
        group.call(token, name)?;
    }
    let first = group.leader().ok_or("somebody leads")?;
    println!("replica {first} leads; it is taken away");
    group.replicas.remove(&first);
    group.call(4, "ebb")?;
    for (id, replica) in &group.replicas {
        let count = replica.db().get(KeyspaceId::DEFAULT, b"ebb")?;
        println!(
            "replica {id}: ebb was called {} times",
            count.map_or(0, |value| count_of(&value))
        );
    }
    drop(group);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
