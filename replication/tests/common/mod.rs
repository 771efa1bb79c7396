//! A whole cluster in one thread: replicas on simulated disks, and a network that is a queue.
//!
//! Whatever a replica has ever applied, in any life, is held against what all others applied at the
//! same index; whatever was acknowledged must be among it.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

mod disks;
mod members;
mod recorder;
pub mod rotting;
pub mod woken;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use strandline_engine::Index;
use strandline_replication::{
    Envelope, Error, Event, Options, Outcome, Output, Refusal, Replica, ReplicaId, Request, Role,
    decode, encode,
};
use strandline_wal::disk::SimulatedDisk;
use strandline_wal::disk::simulated::Random;

pub use members::set;
pub use recorder::{Applied, Once, Recorder, Taken, command, options, voters};

pub const DIR: &str = "/store";

/// One replica, its disk, and what has come of it.
pub struct Node {
    pub id: u64,
    pub disk: Arc<SimulatedDisk>,
    pub replica: Option<Replica>,
    pub applied: Applied,
    pub options: Options,
    pub outcomes: Vec<Outcome>,
    pub refused_messages: Vec<Error>,
    /// Up to here what it has applied was held against the others.
    pub noted: u64,
    /// The error that stopped it.
    pub stopped: Option<Error>,
    /// Whether a test damages its state; else one that is damaged is a bug.
    pub rots: bool,
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub queue: VecDeque<Envelope>,
    /// Pairs from, to that do not hear each other.
    pub cut: BTreeSet<(u64, u64)>,
    pub random: Random,
    /// Parts of a thousand.
    pub loss: u32,
    pub duplication: u32,
    pub reordering: u32,
    /// How likely a durable write ends in a round, in parts of a thousand.
    pub disk_speed: u32,
    /// The node whose clock and disk are slow; 0 for none.
    pub slow: u64,
    /// The node whose clock stands still; 0 for none.
    pub paused: u64,
    /// The node whose durable writes do not end; 0 for none.
    pub hangs: u64,
    pub token: u64,
    /// Rounds, where a test counts them.
    pub ticks: u64,
    /// Proposals by token.
    pub proposed: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Entries by the token of their proposal.
    pub taken: BTreeMap<u64, Vec<Taken>>,
    /// Tokens of proposals that were accepted and are not acknowledged.
    pub waiting: BTreeSet<u64>,
    /// Tokens of proposals that are acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// The highest index that was acknowledged.
    pub acknowledged_index: u64,
    /// Reads under way: the index that they must not be behind.
    pub reads: BTreeMap<u64, u64>,
    pub reads_done: u64,
    /// Who led which term.
    pub leaders: BTreeMap<u64, u64>,
    /// Everything that was ever applied.
    pub history: BTreeMap<u64, (u64, Vec<u8>)>,
    pub digests: BTreeMap<u64, u64>,
    pub once: Once,
}

impl Cluster {
    /// Voters 1 to `count`, all open.
    pub fn new(count: u64, seed: u64) -> Self {
        let ids: Vec<u64> = (1..=count).collect();
        let mut cluster = Cluster::empty(seed);
        for id in &ids {
            cluster.add(options(*id, &voters(&ids), seed));
        }
        cluster
    }

    pub fn empty(seed: u64) -> Self {
        Cluster {
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            cut: BTreeSet::new(),
            random: Random::new(seed),
            loss: 0,
            duplication: 0,
            reordering: 0,
            disk_speed: 1000,
            slow: 0,
            paused: 0,
            hangs: 0,
            token: 0,
            ticks: 0,
            proposed: BTreeMap::new(),
            taken: BTreeMap::new(),
            waiting: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            acknowledged_index: 0,
            reads: BTreeMap::new(),
            reads_done: 0,
            leaders: BTreeMap::new(),
            history: BTreeMap::new(),
            digests: BTreeMap::new(),
            once: Once::default(),
        }
    }

    pub fn add(&mut self, options: Options) {
        let id = options.id.0;
        let node = Node {
            id,
            disk: SimulatedDisk::new(options.seed),
            replica: None,
            applied: Applied::default(),
            options,
            outcomes: Vec::new(),
            refused_messages: Vec::new(),
            noted: 0,
            stopped: None,
            rots: false,
        };
        self.nodes.insert(id, node);
        self.open(id).unwrap();
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub fn replica(&self, id: u64) -> &Replica {
        self.nodes[&id].replica.as_ref().unwrap()
    }

    /// Starts the process of a node.
    pub fn open(&mut self, id: u64) -> Result<(), Error> {
        let once = self.once.clone();
        let node = self.node(id);
        assert!(node.replica.is_none());
        node.disk.set_stepped(false);
        node.applied = Applied::default();
        node.noted = 0;
        let applied = node.applied.clone();
        let machine = Recorder { applied, once, count: 0 };
        let disk = node.disk.mount();
        let opened = Replica::open(disk, Path::new(DIR), node.options.clone(), Box::new(machine));
        node.disk.set_stepped(true);
        let opened = opened?;
        let damage = opened.status().state_damage;
        assert!(damage.is_none() || node.rots, "the state of {id} is lost: {damage:?}");
        node.replica = Some(opened);
        node.stopped = None;
        Ok(())
    }

    /// Ends the process of a node: by a power cut, or only itself.
    pub fn crash(&mut self, id: u64, power_cut: bool) {
        self.note(id);
        let node = self.node(id);
        match power_cut {
            true => node.disk.power_cut(),
            false => node.disk.kill(),
        }
        node.replica = None;
        node.outcomes.clear();
        // A reader that asked a dead process will not be answered.
        self.queue.retain(|envelope| envelope.from.0 != id || power_cut);
    }

    pub fn reopen(&mut self, id: u64, power_cut: bool) {
        self.crash(id, power_cut);
        self.open(id).unwrap();
    }

    /// Cuts a node off from all others, or connects it again.
    pub fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// One event for one node.
    pub fn step(&mut self, id: u64, event: Event) {
        let mut output = Output::default();
        let node = self.node(id);
        let Some(replica) = &mut node.replica else { return };
        match replica.step(event, &mut output) {
            Ok(()) => {}
            Err(error @ Error::Message { .. }) => node.refused_messages.push(error),
            Err(error) => node.stopped = Some(error),
        }
        for envelope in output.messages {
            assert_eq!(envelope.from.0, id);
            let mut bytes = Vec::new();
            encode(&envelope, &mut bytes);
            self.queue.push_back(decode(&bytes).unwrap());
        }
        for outcome in output.outcomes {
            self.outcome(id, outcome);
        }
    }

    fn outcome(&mut self, id: u64, outcome: Outcome) {
        match &outcome {
            Outcome::Accepted { token, first, count, term } => {
                let commands = self.proposed[token].clone();
                assert_eq!(usize::try_from(*count).unwrap(), commands.len());
                let taken = (first.0..).zip(commands).map(|(index, command)| Taken {
                    index,
                    term: term.0,
                    command,
                });
                self.taken.insert(*token, taken.collect());
                self.waiting.insert(*token);
            }
            Outcome::RoleChanged { role: Role::Leader, term, .. } => {
                let before = self.leaders.insert(term.0, id);
                assert!(before.is_none_or(|before| before == id), "two leaders in term {term}");
            }
            Outcome::Readable { token, index } => {
                let needed = self.reads.remove(token).expect("a read is answered once");
                assert!(index.0 >= needed, "read {token} at {index} after {needed}: stale");
                assert!(self.replica(id).db().applied() >= *index);
                self.reads_done += 1;
            }
            Outcome::Refused { token, .. } => {
                self.reads.remove(token);
            }
            Outcome::Committed(index) => {
                self.note(id);
                self.acknowledge(id, *index);
            }
            Outcome::Overwritten { first, end, term: lost } => {
                for taken in self.taken.values().flatten() {
                    let is_here = (first.0..end.0).contains(&taken.index);
                    let stays = self.history.get(&taken.index).is_some_and(|(term, command)| {
                        (*term, command) == (taken.term, &taken.command)
                    });
                    let mine = self.leaders.get(&taken.term) == Some(&id) && taken.term == lost.0;
                    assert!(!(is_here && mine && stays), "{taken:?} was said to be overwritten");
                }
            }
            _ => {}
        }
        self.node(id).outcomes.push(outcome);
    }

    /// A proposer is told when an entry with its index and term is applied where it asked.
    fn acknowledge(&mut self, id: u64, applied: Index) {
        let history = &self.history;
        let mut done_now = Vec::new();
        for token in &self.waiting {
            let entries = &self.taken[token];
            if !entries.iter().all(|entry| self.leaders.get(&entry.term) == Some(&id)) {
                continue;
            }
            let done = entries.iter().all(|entry| {
                entry.index <= applied.0
                    && history.get(&entry.index).is_some_and(|(term, _)| *term == entry.term)
            });
            if done {
                done_now.push(*token);
                let last = entries.last().unwrap().index;
                self.acknowledged_index = self.acknowledged_index.max(last);
            }
        }
        for token in done_now {
            self.waiting.remove(&token);
            self.acknowledged.insert(token);
        }
    }

    /// Holds what a node has applied against what everybody has.
    pub fn note(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let applied = node.applied.lock().unwrap();
        let new: Vec<_> = applied.range(node.noted + 1..).map(|(i, s)| (*i, s.clone())).collect();
        drop(applied);
        node.noted = new.last().map_or(node.noted, |(index, _)| *index);
        for (index, seen) in new {
            let before = self.history.entry(index).or_insert_with(|| seen.clone());
            assert_eq!(*before, seen, "replica {id} at index {index}");
        }
    }

    /// Proposes commands at a node. Returns the token.
    pub fn propose(&mut self, id: u64, commands: &[&[u8]]) -> u64 {
        self.token += 1;
        let token = self.token;
        let entries = commands.iter().map(|bytes| command(bytes)).collect();
        let commands = commands.iter().map(|bytes| bytes.to_vec()).collect();
        self.proposed.insert(token, commands);
        self.step(id, Event::Propose { token, entries, session: None });
        token
    }

    /// Proposes one payload as it is. Returns the token.
    pub fn propose_payload(&mut self, id: u64, payload: Vec<u8>, session: Option<Request>) -> u64 {
        self.token += 1;
        let token = self.token;
        self.proposed.insert(token, vec![payload[32..].to_vec()]);
        self.step(id, Event::Propose { token, entries: vec![payload], session });
        token
    }

    pub fn read(&mut self, id: u64) -> u64 {
        self.token += 1;
        self.reads.insert(self.token, self.acknowledged_index);
        let token = self.token;
        self.step(id, Event::Read { token });
        token
    }

    pub fn refusal(&self, id: u64, token: u64) -> Option<Refusal> {
        self.nodes[&id].outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Refused { token: refused, reason } if *refused == token => {
                Some(reason.clone())
            }
            _ => None,
        })
    }

    /// Delivers every message that is under way now, by the network's manners.
    pub fn deliver(&mut self) {
        let mut batch: Vec<Envelope> = self.queue.drain(..).collect();
        if self.reordering > 0 {
            for at in 1..batch.len() {
                if self.random.chance(self.reordering) {
                    let other = self.random.index(at + 1);
                    batch.swap(at, other);
                }
            }
        }
        for envelope in batch {
            let pair = (envelope.from.0, envelope.to.0);
            if self.cut.contains(&pair) || self.random.chance(self.loss) {
                continue;
            }
            if self.random.chance(self.duplication) {
                self.queue.push_back(envelope.clone());
            }
            if self.nodes.contains_key(&pair.1) {
                self.step(pair.1, Event::Received(envelope));
            }
        }
    }

    /// Delivers the oldest message; what follows from it comes last.
    pub fn deliver_oldest(&mut self) {
        let mut rest = self.queue.split_off(self.queue.len().min(1));
        self.deliver();
        rest.append(&mut self.queue);
        self.queue = rest;
    }

    /// Delivers one message; what follows from it comes first.
    pub fn deliver_one(&mut self) {
        let rest = self.queue.split_off(self.queue.len().min(1));
        self.deliver();
        self.queue.extend(rest);
    }

    /// A tick for everybody whose clock runs, and some time for disks and network.
    pub fn round(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let chance = match id {
                _ if id == self.paused => 0,
                _ if id == self.slow => 300,
                _ => 1000,
            };
            if self.random.chance(chance) {
                self.step(id, Event::Tick);
            }
            if let Some(replica) = &self.nodes[&id].replica {
                let _ = replica.db().work();
            }
        }
        for _ in 0..3 {
            self.deliver();
            self.turn_disks();
        }
    }

    pub fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.round();
        }
    }

    /// Rounds until it is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        for _ in 0..2000 {
            if is_so(self) {
                return;
            }
            self.round();
        }
        for node in self.nodes.values() {
            println!("{}: {:?} {:?}", node.id, node.replica, node.stopped);
        }
        panic!("never: {what}");
    }

    /// The leader of the highest term, if it is connected to a majority.
    pub fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| {
            node.replica.as_ref().is_some_and(|replica| replica.status().role == Role::Leader)
        };
        let leaders = self.nodes.values().filter(leads);
        leaders.max_by_key(|node| node.replica.as_ref().unwrap().status().term).map(|node| node.id)
    }

    /// Waits for a leader that everybody open follows.
    pub fn elect(&mut self) -> u64 {
        self.until("a leader", |cluster| {
            cluster.leader().is_some_and(|leader| {
                let status = cluster.replica(leader).status();
                let follows = |node: &Node| {
                    node.replica.as_ref().is_none_or(|replica| {
                        let its = replica.status();
                        its.leader == Some(ReplicaId(leader)) && its.term == status.term
                    })
                };
                status.applied.0 > 0
                    && cluster.nodes.values().filter(|n| !cluster.is_cut(n.id)).all(follows)
            })
        });
        self.leader().unwrap()
    }

    fn is_cut(&self, id: u64) -> bool {
        self.cut.iter().any(|(from, _)| *from == id)
    }

    /// Waits until everybody open has applied the same, and holds the states against each other.
    pub fn converge(&mut self) {
        self.until("everybody has applied everything", |cluster| {
            let Some(leader) = cluster.leader() else { return false };
            let last = cluster.replica(leader).status().last;
            let open = cluster.nodes.values().filter_map(|node| node.replica.as_ref());
            open.into_iter().all(|replica| replica.status().applied == last)
        });
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.note(id);
            let Some(replica) = &self.nodes[&id].replica else { continue };
            let (applied, digest) = (replica.db().applied().0, replica.db().digest().unwrap());
            let before = *self.digests.entry(applied).or_insert(digest);
            assert_eq!(before, digest, "replica {id} at index {applied}");
        }
        self.check_acknowledged();
    }

    /// Everything that was acknowledged is there, at its index.
    pub fn check_acknowledged(&self) {
        for token in &self.acknowledged {
            for taken in &self.taken[token] {
                let found = self.history.get(&taken.index);
                // What stands in a session, or changes members, has something before the command.
                let is_there = found.is_some_and(|(term, command)| {
                    *term == taken.term && command.ends_with(&taken.command)
                });
                assert!(is_there, "acknowledged as {taken:?}, found {found:?}");
            }
        }
    }
}
