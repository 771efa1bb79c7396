//! One run: what happens, in order of time, until it has ended well or a promise was broken.
//!
//! A run has three parts. In the first there is *trouble*: faults strike, clients work. Then everything
//! is mended, and each client finishes what it began and writes once more: the cluster must *settle*
//! within bounded time. Then all nodes lose power at once and settle once more; that is where lies come
//! to light. Last come the checks that need the whole history.
//!
//! This file holds what a run consists of, and the loop. What a process does is in `process.rs`, what
//! clients do in `service.rs`, what goes wrong in `nemesis.rs`, how it ends in `ending.rs`.

use std::collections::{BTreeMap, BTreeSet};

use strandline_engine::Index;
use strandline_replication::{Member, MemberRole, Output, ReplicaId};
use strandline_wal::disk::simulated::Random;

use crate::checkers::agreement::Truth;
use crate::checkers::election::Leaders;
use crate::checkers::staleness::StaleRead;
use crate::client::{Client, Reply};
use crate::coup::Coup;
use crate::figures::Figures;
use crate::hash::Hash;
use crate::history::History;
use crate::network::{Network, Weather};
use crate::node::Node;
use crate::service::Request;
use crate::swarm::{Class, Swarm};
use crate::time::{Agenda, MILLISECOND, SECOND, Time};
use crate::violation::{Checker, Verdict, Violation};

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A node's clock ticks.
    Tick { node: ReplicaId, life: u64 },
    /// A node does a slice of background work.
    Work { node: ReplicaId, life: u64 },
    /// Bytes arrive at a node.
    Arrives { from: ReplicaId, to: ReplicaId, bytes: Vec<u8> },
    /// Bytes leave a node that had to wait for a sync.
    Departs { from: ReplicaId, life: u64, to: ReplicaId, bytes: Vec<u8> },
    /// A node comes to what has waited for it.
    Wakes { node: ReplicaId },
    /// A durable write ends.
    WriteEnds { node: ReplicaId, life: u64, write: u64 },
    /// A lost replica gets an empty disk, and begins anew.
    Replaces { node: ReplicaId },
    /// A node starts its next process.
    Opens { node: ReplicaId },
    /// A client thinks of something to do, or tries again.
    Acts { client: usize },
    /// A client's request arrives at a node.
    Asked { node: ReplicaId, client: usize, token: u64, request: Request },
    /// A client hears an answer.
    Told { client: usize, token: u64, reply: Reply },
    /// A client's patience ends.
    Expires { client: usize, token: u64 },
    /// Something goes wrong.
    Strikes(Class),
    /// It is over.
    Passes(Class, Option<ReplicaId>),
    /// All trouble is over.
    TroubleEnds,
    /// A coup has not come further than this.
    CoupFails(Coup),
    /// A coup comes to its next stage.
    CoupGoesOn,
    /// A look at how far everything is.
    Looks,
}

/// What part of the run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults strike.
    Trouble,
    /// Everything is mended: until when the cluster has to settle.
    Settling { until: Time },
    /// After the power cut at the end: until when it has to settle again.
    LastSettling { until: Time },
    /// All is well.
    Over,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What it amounted to.
    pub figures: Figures,
    /// A number for everything that happened: equal for equal runs.
    pub hash: u64,
}

/// A run under way.
pub(crate) struct Simulation {
    pub(crate) swarm: Swarm,
    pub(crate) agenda: Agenda<Happening>,
    pub(crate) network: Network,
    pub(crate) nodes: BTreeMap<ReplicaId, Node>,
    /// The members that the cluster begins with.
    pub(crate) members: Vec<Member>,
    pub(crate) clients: Vec<Client>,
    pub(crate) history: History,
    pub(crate) truth: Truth,
    /// When the last command executed by anybody was which.
    pub(crate) executed: Vec<(Time, Index)>,
    /// Reads that might be stale, as they were answered.
    pub(crate) stale: Vec<StaleRead>,
    pub(crate) leaders: Leaders,
    pub(crate) figures: Figures,
    pub(crate) phase: Phase,
    /// How far a coup is.
    pub(crate) coup: Coup,
    /// Names attempts.
    pub(crate) tokens: u64,
    /// Whose attempt it is, while an answer may come.
    pub(crate) attempts: BTreeMap<u64, usize>,
    /// Attempts to open a session.
    pub(crate) openings: BTreeSet<u64>,
    /// Values written so far: each is used once.
    pub(crate) values: u64,
    /// Names of clients given so far.
    pub(crate) names: u64,
    /// For each class of faults, what it draws from.
    pub(crate) streams: BTreeMap<Class, Random>,
    /// What everything else draws from.
    pub(crate) random: Random,
    /// Everything so far.
    pub(crate) hash: Hash,
    /// Whether what happens is printed.
    pub(crate) is_told: bool,
    /// Filled by steps.
    pub(crate) output: Output,
}

/// How long the cluster has to settle once everything is mended. An election takes a second at the
/// most, a lost write of a client a second or two; a snapshot or a long log some more.
const SETTLES_WITHIN: u64 = 60 * SECOND;

/// More happenings than this in one run are a livelock: the usual is a hundredth of it.
const HAPPENINGS_MAX: u64 = 10_000_000;

/// How much may wait for a busy process before messages of its peers are lost.
const INBOX_MAX: usize = 1000;

/// Runs a swarm from its beginning to its end.
pub fn run(swarm: Swarm, is_told: bool) -> Ended {
    let mut simulation = Simulation::new(swarm, is_told);
    let violation = simulation.go().err();
    simulation.ended(violation)
}

impl Simulation {
    fn new(swarm: Swarm, is_told: bool) -> Self {
        let ids: Vec<ReplicaId> = (1..=swarm.shape.replicas).map(ReplicaId).collect();
        let member = |id: &ReplicaId| Member { id: *id, role: MemberRole::Voter };
        let clients: Vec<Client> =
            (1..).take(swarm.shape.clients).map(|id| Client::new(id, &swarm)).collect();
        let streams = swarm.classes().map(|class| (class, swarm.stream(class.name())));
        let mut simulation = Self {
            agenda: Agenda::default(),
            network: Network::new(weather(&swarm), swarm.stream("network")),
            nodes: ids.iter().map(|id| (*id, Node::new(*id, &swarm))).collect(),
            members: ids.iter().map(member).collect(),
            names: u64::try_from(clients.len()).unwrap_or(u64::MAX),
            clients,
            history: History::default(),
            truth: Truth::default(),
            executed: Vec::new(),
            stale: Vec::new(),
            leaders: Leaders::default(),
            figures: Figures { seeds: 1, ..Figures::default() },
            phase: Phase::Trouble,
            coup: Coup::None,
            tokens: 0,
            attempts: BTreeMap::new(),
            openings: BTreeSet::new(),
            values: 0,
            streams: streams.collect(),
            random: swarm.stream("run"),
            hash: Hash::default(),
            is_told,
            output: Output::default(),
            swarm,
        };
        for id in ids {
            let span = simulation.random.below(50 * MILLISECOND);
            simulation.agenda.after(span, Happening::Opens { node: id });
        }
        for client in 0..simulation.clients.len() {
            let span = simulation.random.below(500 * MILLISECOND);
            simulation.agenda.after(span, Happening::Acts { client });
        }
        simulation.begin_trouble();
        let trouble = simulation.swarm.shape.trouble;
        simulation.agenda.after(trouble, Happening::TroubleEnds);
        simulation.agenda.after(200 * MILLISECOND, Happening::Looks);
        simulation
    }

    fn go(&mut self) -> Verdict {
        while self.phase != Phase::Over {
            let Some(happening) = self.agenda.take_next() else {
                return Err(Violation::new(Checker::Liveness, "nothing happens any more"));
            };
            self.figures.events += 1;
            if self.figures.events > HAPPENINGS_MAX {
                let reason = format!("{HAPPENINGS_MAX} things have happened, and no end");
                return Err(Violation::new(Checker::Liveness, reason));
            }
            self.hash = self.hash.word(self.agenda.now().0);
            self.happen(happening)?;
        }
        self.check_history()
    }

    fn happen(&mut self, happening: Happening) -> Verdict {
        let now = self.agenda.now();
        let Some(id) = self.process_of(&happening) else { return self.perform(happening) };
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let is_busy = node.is_up() && (node.ready_at > now || !node.inbox.is_empty());
        if !is_busy {
            return self.perform(happening);
        }
        if node.inbox.len() < INBOX_MAX || !matches!(happening, Happening::Arrives { .. }) {
            node.inbox.push_back(happening);
        }
        self.wake_when_ready(id);
        Ok(())
    }

    /// Has a process that is busy or paused come to what waits for it.
    pub(crate) fn wake_when_ready(&mut self, id: ReplicaId) {
        let node = self.node(id);
        if !node.has_wake && !node.inbox.is_empty() {
            node.has_wake = true;
            let ready_at = node.ready_at;
            self.agenda.at(ready_at, Happening::Wakes { node: id });
        }
    }

    fn wakes(&mut self, id: ReplicaId) -> Verdict {
        let now = self.agenda.now();
        let node = self.node(id);
        node.has_wake = false;
        if !node.is_up() {
            node.inbox.clear();
        } else if node.ready_at <= now
            && let Some(happening) = node.inbox.pop_front()
        {
            self.perform(happening)?;
        }
        self.wake_when_ready(id);
        Ok(())
    }

    fn perform(&mut self, happening: Happening) -> Verdict {
        match happening {
            Happening::Wakes { node } => self.wakes(node),
            Happening::Tick { node, life } => self.ticks(node, life),
            Happening::Work { node, life } => self.works(node, life),
            Happening::Arrives { from, to, bytes } => self.arrives(from, to, &bytes),
            Happening::Departs { from, life, to, bytes } => {
                if self.nodes[&from].life == life && self.nodes[&from].is_up() {
                    self.send(from, to, bytes);
                }
                Ok(())
            }
            Happening::WriteEnds { node, life, write } => self.write_ends(node, life, write),
            Happening::Opens { node } => self.opens(node),
            Happening::Replaces { node } => {
                self.replaces(node);
                Ok(())
            }
            Happening::Acts { client } => self.acts(client),
            Happening::Asked { node, client, token, request } => {
                self.asked(node, client, token, request)
            }
            Happening::Told { client, token, reply } => self.told(client, token, reply),
            Happening::Expires { client, token } => self.expires(client, token),
            Happening::Strikes(class) => self.strikes(class),
            Happening::Passes(class, node) => {
                self.passes(class, node);
                Ok(())
            }
            Happening::TroubleEnds => self.trouble_ends(SETTLES_WITHIN),
            Happening::CoupFails(coup) => {
                self.coup_fails(coup);
                Ok(())
            }
            Happening::CoupGoesOn => self.coup_goes_on(),
            Happening::Looks => self.looks(SETTLES_WITHIN),
        }
    }

    /// Whose process it is that this happens to, and that may be busy.
    fn process_of(&self, happening: &Happening) -> Option<ReplicaId> {
        match happening {
            Happening::Tick { node, .. }
            | Happening::Work { node, .. }
            | Happening::WriteEnds { node, .. }
            | Happening::Asked { node, .. }
            | Happening::Arrives { to: node, .. } => Some(*node),
            _ => None,
        }
    }

    fn ended(mut self, violation: Option<Violation>) -> Ended {
        self.figures.simulated_us = self.agenda.now().0;
        self.figures.messages = self.network.counters.sent;
        self.figures.partitions = self.network.counters.cuts;
        self.figures.elections = u64::try_from(self.leaders.count()).unwrap_or(u64::MAX);
        let mut hash = self.hash;
        for node in self.nodes.values() {
            hash = hash.word(node.disk.event_hash());
        }
        for (name, figure) in self.figures.all() {
            hash = hash.bytes(name.as_bytes()).word(figure);
        }
        Ended { violation, figures: self.figures, hash: hash.get() }
    }

    /// Prints what happens, if anybody wants to know.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{} {}", self.agenda.now(), what());
        }
    }

    /// A node that exists.
    pub(crate) fn node(&mut self, id: ReplicaId) -> &mut Node {
        self.nodes.get_mut(&id).expect("nodes are never taken away")
    }

    /// The nodes with a process.
    pub(crate) fn running(&self) -> Vec<ReplicaId> {
        self.nodes.values().filter(|node| node.is_up()).map(|node| node.id).collect()
    }
}

/// What the network does in this swarm.
fn weather(swarm: &Swarm) -> Weather {
    let mut weather = Weather {
        loss: swarm.chance(Class::Loss, 300),
        duplicates: swarm.chance(Class::Duplicates, 200),
        garbling: swarm.chance(Class::Garbling, 50),
        reorders: swarm.strength(Class::Reordering).is_some(),
        ..Weather::FAIR
    };
    if swarm.strength(Class::Delay).is_some() {
        weather.delay_max = swarm.scaled(Class::Delay, MILLISECOND, 60 * MILLISECOND);
        weather.spikes = swarm.chance(Class::Delay, 30);
        weather.spike_max = swarm.scaled(Class::Delay, 50 * MILLISECOND, 3 * SECOND);
    }
    if weather.reorders {
        weather.delay_max = weather.delay_max.max(3 * MILLISECOND);
    }
    weather
}
