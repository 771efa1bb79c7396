//! A node: a disk that lives on, and on it one replica after the other.
//!
//! The disk is the machine's; a replica is a process on it. A crash ends the process and all its
//! handles, and what is left on the disk is what the disk says. The next process is the node's next
//! *life*. A node whose disk was damaged may refuse to open; then it is *lost*, for good.
//!
//! A process does one thing after the other. While it is busy, paused, or waits for a sync outside of
//! the log, everything else waits for it: that is [`Node::ready_at`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use strandline_engine::{DbOptions, Index, KeyspaceId, Range, Read};
use strandline_replication::{
    Error, Event, LeaseOptions, Member, Options, Output, Replica, ReplicaId, Result,
};
use strandline_wal::canary;
use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk};

use crate::machine::{Feed, Note, Registers};
use crate::operation::{read_register, register_key};
use crate::simulation::Happening;
use crate::swarm::{Class, Swarm};
use crate::time::{Clock, Time};

/// Where a replica lives on its disk.
pub(crate) const DIR: &str = "/replica";

/// Keys and values, by key.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a node is doing.
#[derive(Debug)]
pub(crate) enum State {
    /// No process.
    Down,
    /// A process.
    Up(Box<Replica>),
    /// No process until somebody puts in another disk.
    Lost,
}

/// What is wrong with a node's disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// It has rotted, a write went astray, or it came back empty: what it holds may be refused.
    pub(crate) is_damaged: bool,
    /// It was replaced by an empty one.
    pub(crate) is_wiped: bool,
    /// Something was made to fail: the process may stop with an error.
    pub(crate) has_failed: bool,
    /// It is full just now.
    pub(crate) is_full: bool,
    /// How often its process has stopped with an error.
    pub(crate) stops: u32,
    /// How often in a row it could not be opened.
    pub(crate) refusals: u32,
}

/// A machine with a disk, and perhaps a replica.
#[derive(Debug)]
pub(crate) struct Node {
    /// Who its replica is.
    pub(crate) id: ReplicaId,
    /// The machine's disk.
    pub(crate) disk: Arc<SimulatedDisk>,
    /// What is wrong with it.
    pub(crate) health: Health,
    /// The process.
    pub(crate) state: State,
    /// How many processes there were.
    pub(crate) life: u64,
    /// Whether an earlier process has opened the replica: an empty directory is a loss then.
    pub(crate) has_existed: bool,
    /// Whether it was not among the first members, and waits to be added.
    pub(crate) is_joining: bool,
    /// Whether whoever runs it has put in an empty disk, and lets it begin with that.
    pub(crate) is_replaced: bool,
    /// What it takes for the time.
    pub(crate) clock: Clock,
    /// When the process goes on.
    pub(crate) ready_at: Time,
    /// How long it takes for anything, in microseconds.
    pub(crate) cost: u64,
    /// Least and most time of a durable write, in microseconds.
    pub(crate) latency: (u64, u64),
    /// The next durable write takes so much longer, in microseconds.
    pub(crate) hang: u64,
    /// Proposals that wait for being executed: by index and term, the token of the attempt.
    pub(crate) waiting: BTreeMap<(Index, u64), u64>,
    /// Reads that wait for being allowed: token and register.
    pub(crate) reads: BTreeMap<u64, u16>,
    /// Those among them that may be stale: whose they are, and at which index the state has to be.
    pub(crate) stale: BTreeMap<u64, (u64, Index)>,
    /// What waits for the process, oldest first.
    pub(crate) inbox: VecDeque<Happening>,
    /// Whether it is on the agenda that the process comes to that.
    pub(crate) has_wake: bool,
    /// Durable writes whose end is on the agenda.
    scheduled: BTreeSet<u64>,
    /// What the machine tells.
    feed: Feed,
    /// Draws its latencies.
    random: Random,
}

impl Node {
    /// A machine with an empty disk.
    pub(crate) fn new(id: ReplicaId, swarm: &Swarm) -> Self {
        let mut random = swarm.stream(&format!("node {id}"));
        let disk = new_disk(random.next_u64());
        let spread = swarm.clock_spread();
        let rate = 1000 - spread / 2 + random.below(spread + 1);
        Self {
            id,
            disk,
            health: Health::default(),
            state: State::Down,
            life: 0,
            has_existed: false,
            is_replaced: false,
            is_joining: false,
            clock: Clock::new(u32::try_from(rate).unwrap_or(1000)),
            ready_at: Time(0),
            cost: 20,
            latency: (50, 400),
            hang: 0,
            waiting: BTreeMap::new(),
            reads: BTreeMap::new(),
            stale: BTreeMap::new(),
            inbox: VecDeque::new(),
            has_wake: false,
            scheduled: BTreeSet::new(),
            feed: Feed::default(),
            random,
        }
    }

    /// Starts the next process.
    ///
    /// # Errors
    ///
    /// Of the replica; there is no process then.
    pub(crate) fn open(&mut self, swarm: &Swarm, members: &[Member]) -> Result<()> {
        assert!(matches!(self.state, State::Down), "a machine runs one process");
        self.life += 1;
        self.feed = Feed::default();
        let mut options = options(self.id, swarm, members);
        options.seed = self.random.next_u64();
        options.may_create = self.may_create();
        let machine = Box::new(Registers::new(self.feed.clone()));
        let replica = Replica::open(self.disk.mount(), Path::new(DIR), options, machine)?;
        self.has_existed = true;
        self.is_replaced = false;
        self.health.refusals = 0;
        self.health.is_wiped = false;
        self.state = State::Up(Box::new(replica));
        Ok(())
    }

    /// How late it is by the clock that the process counts with.
    pub(crate) fn now_us(&self, now: Time) -> u64 {
        match canary::is_on(canary::LEASE_BY_WALL_CLOCK) {
            true => self.clock.wall_ms(now) * 1000,
            false => self.clock.steady_us(now),
        }
    }

    /// Lets the process know how late it is.
    pub(crate) fn tell_time(&mut self, now: Time) {
        let now_us = self.now_us(now);
        if let State::Up(replica) = &mut self.state {
            replica.tell_time(now_us);
        }
    }

    /// Lets the process take an event; nothing happens if there is none.
    ///
    /// # Errors
    ///
    /// Of the replica.
    pub(crate) fn step(&mut self, event: Event, output: &mut Output) -> Result<()> {
        match &mut self.state {
            State::Up(replica) => match event {
                // As by a driver that takes in all that waits before it steps the replica.
                Event::Propose { token, entries, session } if !self.inbox.is_empty() => {
                    replica.offer(token, entries, session, output)
                }
                event => replica.step(event, output),
            },
            State::Down | State::Lost => Ok(()),
        }
    }

    /// Reads that the process has answered by a lease.
    pub(crate) fn lease_reads(&self) -> u64 {
        self.replica().map_or(0, Replica::lease_reads)
    }

    /// The running replica.
    pub(crate) fn replica(&self) -> Option<&Replica> {
        match &self.state {
            State::Up(replica) => Some(replica),
            State::Down | State::Lost => None,
        }
    }

    /// Whether a process runs.
    pub(crate) fn is_up(&self) -> bool {
        self.replica().is_some()
    }

    /// Ends the process, if there is one, and leaves the disk as after a power cut or a kill.
    pub(crate) fn crash(&mut self, fault: Fault) {
        if self.disk.restart().is_none() {
            match fault {
                Fault::PowerCut => self.disk.power_cut(),
                _ => self.disk.kill(),
            }
        }
        self.forget();
    }

    /// Ends the process in good order.
    ///
    /// # Errors
    ///
    /// Of the replica; the process has ended in any case.
    pub(crate) fn close(&mut self) -> Result<()> {
        let closed = match std::mem::replace(&mut self.state, State::Down) {
            State::Up(replica) => replica.close(),
            State::Down | State::Lost => Ok(()),
        };
        self.disk.kill();
        self.forget();
        closed
    }

    fn forget(&mut self) {
        if !matches!(self.state, State::Lost) {
            self.state = State::Down;
        }
        self.waiting.clear();
        self.reads.clear();
        self.stale.clear();
        self.scheduled.clear();
        self.inbox.clear();
        self.hang = 0;
        self.ready_at = Time(0);
    }

    /// The machine gets an empty disk in place of its own.
    pub(crate) fn wipe(&mut self) {
        self.crash(Fault::PowerCut);
        self.disk = new_disk(self.random.next_u64());
        self.health.is_damaged = true;
        self.health.is_wiped = true;
    }

    /// Whether a replica may begin with an empty disk.
    pub(crate) fn may_create(&self) -> bool {
        !self.has_existed || self.is_replaced
    }

    /// The machine gets an empty disk, with which the replica is to begin.
    pub(crate) fn replace(&mut self) {
        self.state = State::Down;
        self.wipe();
        self.health.stops = 0;
        self.is_replaced = true;
    }

    /// There will be no process any more.
    pub(crate) fn lose(&mut self) {
        self.forget();
        self.state = State::Lost;
    }

    /// What the machine has done since this was asked last.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.feed.take()
    }

    /// Durable writes that were submitted since this was asked last: id, and how long each takes.
    pub(crate) fn new_writes(&mut self) -> Vec<(u64, u64)> {
        let mut new = Vec::new();
        for flight in self.disk.in_flight() {
            if self.scheduled.insert(flight.id) {
                let (least, most) = self.latency;
                let span = least + self.random.below(most - least + 1);
                new.push((flight.id, span + std::mem::take(&mut self.hang)));
            }
        }
        new
    }

    /// A durable write ends, if it has not ended otherwise.
    pub(crate) fn complete(&mut self, write: u64) -> bool {
        self.scheduled.remove(&write);
        self.disk.complete_id(write)
    }

    /// How many syncs there were outside of the log.
    pub(crate) fn syncs(&self) -> u64 {
        let counters = self.disk.counters();
        counters.syncs + counters.directory_syncs
    }

    /// The value of a register, as it is now; 0 if it is not there.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn register(&self, key: u16) -> std::result::Result<u64, String> {
        let Some(replica) = self.replica() else { return Err("there is no process".into()) };
        let found = replica.db().get(KeyspaceId::DEFAULT, &register_key(key));
        match found.map_err(|error| error.to_string())? {
            None => Ok(0),
            Some(bytes) => read_register(&bytes).ok_or_else(|| "its bytes are damaged".to_owned()),
        }
    }

    /// The whole state, and the index up to which everything is in it.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub(crate) fn pairs(&self) -> strandline_engine::Result<(Index, Pairs)> {
        let Some(replica) = self.replica() else { return Ok((Index(0), Vec::new())) };
        let view = replica.db().view();
        let pairs = view.range(KeyspaceId::DEFAULT, Range::all());
        let pairs: strandline_engine::Result<Pairs> =
            pairs.map(|pair| pair.map(|(key, value)| (key, value.to_vec()))).collect();
        Ok((view.index(), pairs?))
    }
}

fn new_disk(seed: u64) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(seed);
    disk.set_stepped(true);
    disk
}

/// Whether an error says that the replica knows its disk to be damaged, or not to be its own.
pub(crate) fn is_detection(error: &Error) -> bool {
    matches!(error, Error::Identity { .. } | Error::Corruption { .. })
        || matches!(error, Error::Wal(_) | Error::Engine(_))
}

/// Whether something that belongs to its state could not be read, or is not what was written.
pub(crate) fn is_of_state(error: &Error) -> bool {
    use strandline_wal::Error as Damage;
    let Error::Engine(strandline_engine::Error::Wal(error)) = error else { return false };
    match error {
        Damage::Io { path, .. } | Damage::Corruption { path, .. } => {
            let is_state = path.parent().is_some_and(|dir| dir.ends_with("state"));
            is_state && (error.is_unreadable() || matches!(error, Damage::Corruption { .. }))
        }
        _ => false,
    }
}

/// How a replica runs in this swarm: small, so that a short run fills segments and tables.
fn options(id: ReplicaId, swarm: &Swarm, members: &[Member]) -> Options {
    let shape = &swarm.shape;
    let db = DbOptions {
        wal: strandline_wal::Options {
            segment_size: 64 << 10,
            spares: 1,
            group_size_max: 8 << 10,
            pending_size_max: 64 << 10,
            background: false,
            new_log_id: 1000 + id.0,
            compress: match swarm.strength(Class::CompressedLogs) {
                Some(strength) => strength > 500 || id.0 % 2 == 1,
                None => false,
            },
            ..strandline_wal::Options::default()
        },
        engine: strandline_engine::Options {
            memtable_size: shape.memtable_size,
            block_cache_size: 1 << 20,
            block_size: 1 << 10,
            table_size: 64 << 10,
            level_1_size: 256 << 10,
            ..strandline_engine::Options::default()
        },
        background: false,
        ..DbOptions::default()
    };
    let has_leases = swarm.strength(Class::Leases).is_some();
    let drift_per_mille = swarm.drift_per_mille();
    let is_small = swarm.strength(Class::SmallMessages).is_some();
    let in_flight = 5 - swarm.scaled(Class::SmallMessages, 1, 4);
    Options {
        id,
        members: members.to_vec(),
        election_ticks: shape.election_ticks,
        heartbeat_ticks: shape.heartbeat_ticks,
        lease: has_leases.then_some(LeaseOptions { tick_us: shape.tick, drift_per_mille }),
        quiet_ticks: if has_leases { shape.election_ticks } else { 0 },
        db,
        in_flight_messages_max: if is_small { u32::try_from(in_flight).unwrap_or(1) } else { 64 },
        message_len_max: if is_small { 1 } else { 16 << 10 },
        uncommitted_len_max: if is_small { 8 << 10 } else { 1 << 20 },
        retention_bytes_max: match swarm.strength(Class::SmallLogs) {
            Some(strength) => (256 << 10) - strength * 190 * 1024 / 1000,
            None => 64 << 20,
        },
        ..Options::default()
    }
}
