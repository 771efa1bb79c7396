//! Clients: what they ask for, whom they ask, and when they try again.
//!
//! A client has one call at a time. It sends it to the node that it takes for the leader, waits, and
//! goes elsewhere if it is refused or nobody answers. What it may do after silence depends on whether
//! it has a session: with one it sends the same request again until it learns the outcome; without one
//! it leaves the outcome unknown, and goes on as a new client.

use strandline_replication::{ReplicaId, Request};
use strandline_wal::disk::simulated::Random;

use crate::history::{Asked, CallId};
use crate::operation::{Action, Answer, Operation};
use crate::swarm::{Class, Shape, Swarm};

/// What a node says to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing was done by this attempt, and nothing will be.
    Refused {
        /// Whom to ask instead, if that is known.
        leader: Option<ReplicaId>,
    },
    /// The write was executed.
    Executed(Answer),
    /// The write was passed over, and whether it was executed before is not known any more.
    Expired,
    /// The register's value.
    Found(u64),
    /// The session is open.
    Opened(u64),
}

/// A call under way.
#[derive(Clone, Debug)]
pub(crate) struct Ongoing {
    /// Its place in the history, and what is asked for; none to open a session.
    pub(crate) call: Option<(CallId, Asked)>,
    /// For writes.
    pub(crate) operation: Option<Operation>,
    /// Whether an attempt ended without an answer, so that the write may have been executed.
    pub(crate) is_unknown: bool,
    /// Names the attempt under way.
    pub(crate) token: u64,
    /// How many attempts there were.
    pub(crate) attempts: u32,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    /// Who it is. A client that gave up goes on under a new name.
    pub(crate) id: u64,
    /// Whether it uses sessions.
    pub(crate) has_sessions: bool,
    /// Its session, once it is open.
    pub(crate) session: Option<u64>,
    /// How many writes it has begun.
    pub(crate) number: u64,
    /// What it waits for.
    pub(crate) ongoing: Option<Ongoing>,
    /// Whom it asks next.
    pub(crate) target: ReplicaId,
    /// How long it waits for an answer, in microseconds.
    pub(crate) patience: u64,
    /// Writes that it has finished since all faults are over.
    pub(crate) finished: u64,
    /// What it last knew of the registers.
    known: Vec<u64>,
    random: Random,
}

impl Client {
    /// A client with nothing to do yet.
    pub(crate) fn new(id: u64, swarm: &Swarm) -> Self {
        let mut random = swarm.stream(&format!("client {id}"));
        let shape = &swarm.shape;
        Self {
            id,
            has_sessions: random.chance(shape.sessions),
            session: None,
            number: 0,
            ongoing: None,
            target: ReplicaId(1 + random.below(shape.replicas)),
            patience: 200_000 + random.below(1_000_000),
            finished: 0,
            known: vec![0; usize::from(shape.keys)],
            random,
        }
    }

    /// What to ask for next. `value` is one that nobody has written yet.
    pub(crate) fn choose(&mut self, swarm: &Swarm, value: u64, writes_only: bool) -> (Asked, u16) {
        let shape = &swarm.shape;
        let at = self.random.index(self.known.len());
        let key = u16::try_from(at).unwrap_or(0);
        let padding = self.padding(swarm);
        if !writes_only && self.random.chance(shape.reads) {
            let stale = swarm.chance(Class::StaleReads, 700);
            return match stale > 0 && self.random.chance(stale) {
                true => (Asked::Stale { key }, 0),
                false => (Asked::Read { key }, 0),
            };
        }
        if self.random.chance(shape.exchanges) {
            let expected = self.known[at];
            return (Asked::Write(Action::Exchange { key, expected, value }), padding);
        }
        let value = if self.random.chance(50) { 0 } else { value };
        (Asked::Write(Action::Put { key, value }), padding)
    }

    fn padding(&mut self, swarm: &Swarm) -> u16 {
        let most = swarm.scaled(Class::BigValues, 100, 4000);
        u16::try_from(self.random.below(most + 1)).unwrap_or(0)
    }

    /// The request by which a retry is known as such.
    pub(crate) fn request(&self, operation: &Operation) -> Option<Request> {
        self.session.map(|session| Request { session, number: operation.number })
    }

    /// Remembers what a register was.
    pub(crate) fn learn(&mut self, key: u16, value: u64) {
        self.known[usize::from(key)] = value;
    }

    /// Asks another node next: the one it was told, or any.
    pub(crate) fn turn(&mut self, told: Option<ReplicaId>, nodes: &[ReplicaId]) {
        let any = nodes[self.random.index(nodes.len())];
        self.target = match told {
            Some(leader) if nodes.contains(&leader) && !self.random.chance(50) => leader,
            _ => any,
        };
    }

    /// How long to think before the next operation, in microseconds.
    pub(crate) fn think(&mut self, shape: &Shape) -> u64 {
        self.random.below(shape.think + 1)
    }

    /// How long to wait before another attempt, in microseconds.
    pub(crate) fn pause(&mut self) -> u64 {
        1_000 + self.random.below(40_000)
    }

    /// How long a message takes from or to a node, in microseconds.
    pub(crate) fn distance(&mut self) -> u64 {
        100 + self.random.below(900)
    }

    /// Whether it gives up a write that was refused.
    pub(crate) fn gives_up(&mut self) -> bool {
        self.random.chance(150)
    }

    /// Goes on under a new name, because the outcome of a write was never learnt.
    pub(crate) fn rename(&mut self, id: u64) {
        (self.id, self.number, self.session, self.ongoing) = (id, 0, None, None);
    }
}
