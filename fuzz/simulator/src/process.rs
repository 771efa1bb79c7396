//! What processes do: one event in, and everything that follows from it.

use strandline_engine::{Index, Skipped, Worked};
use strandline_replication::{Error, Event, Outcome, ReplicaId, Role, decode, encode};
use strandline_wal::disk::simulated::Fault;

use crate::client::Reply;
use crate::machine::Note;
use crate::node::{State, is_detection, is_of_state};
use crate::simulation::{Happening, Simulation};
use crate::swarm::Class;
use crate::time::MILLISECOND;
use crate::violation::{Checker, Verdict, Violation};

/// How often a replica on a damaged disk may stop before it is given up.
const STOPS_MAX: u32 = 5;

/// How often a sound disk may be refused before that is a fault of the replica: the first time a
/// planned failure of the disk may be the reason.
const REFUSALS_MAX: u32 = 3;

/// How often an opening reads what is stored before it takes it for unreadable.
const READS: u64 = 2;

impl Simulation {
    /// Starts the next process of a node.
    pub(crate) fn opens(&mut self, id: ReplicaId) -> Verdict {
        if !matches!(self.nodes[&id].state, State::Down) {
            return Ok(());
        }
        let is_joining = self.nodes[&id].is_joining;
        let members = if is_joining { Vec::new() } else { self.members.clone() };
        let swarm = self.swarm.clone();
        let node = self.node(id);
        let faults = node.disk.counters().faults;
        let must_refuse = node.health.is_wiped && !node.may_create();
        let opened = node.open(&swarm, &members);
        let faults = node.disk.counters().faults - faults;
        let has_met_fault = faults > 0;
        self.tell(|| format!("{id} opens: {:?}", opened.as_ref().map(|_| "up")));
        match opened {
            Ok(()) if must_refuse => {
                let reason = format!("replica {id} opens an empty disk under its old identity");
                Err(Violation::new(Checker::Identity, reason))
            }
            Ok(()) if faults < READS && self.has_lost_its_state(id) => {
                let reason =
                    format!("the state of replica {id} is damaged although its disk is sound");
                Err(Violation::new(Checker::Opening, reason))
            }
            Ok(()) => {
                if self.has_lost_its_state(id) {
                    self.node(id).health.is_damaged = true;
                }
                let life = self.nodes[&id].life;
                let tick = self.nodes[&id].clock.span(self.swarm.shape.tick);
                let first = self.random.below(tick + 1);
                self.agenda.after(first, Happening::Tick { node: id, life });
                self.agenda.after(MILLISECOND, Happening::Work { node: id, life });
                self.read_notes(id)?;
                self.compare(id)?;
                self.process(id, Event::LogMoved)
            }
            Err(error) => self.refused_to_open(id, &error, has_met_fault),
        }
    }

    fn refused_to_open(&mut self, id: ReplicaId, error: &Error, has_met_fault: bool) -> Verdict {
        let delay = 20 * MILLISECOND + self.random.below(200 * MILLISECOND);
        let node = self.node(id);
        node.crash(Fault::Kill);
        let is_replaceable = self.swarm.strength(Class::Membership).is_none() && is_of_state(error);
        let node = self.node(id);
        if node.health.is_damaged && is_detection(error) && !has_met_fault {
            if is_replaceable {
                let reason =
                    format!("replica {id} does not open, and others have its state: {error}");
                return Err(Violation::new(Checker::Opening, reason));
            }
            self.lose(id);
            return Ok(());
        }
        if !has_met_fault && !node.health.is_full {
            node.health.refusals += 1;
        }
        if node.health.refusals > REFUSALS_MAX {
            let reason = format!("replica {id} does not open although its disk is sound: {error}");
            return Err(Violation::new(Checker::Opening, reason));
        }
        self.agenda.after(delay, Happening::Opens { node: id });
        Ok(())
    }

    /// A node's clock ticks.
    pub(crate) fn ticks(&mut self, id: ReplicaId, life: u64) -> Verdict {
        if self.nodes[&id].life != life || !self.nodes[&id].is_up() {
            return Ok(());
        }
        let tick = self.nodes[&id].clock.span(self.swarm.shape.tick);
        self.agenda.after(tick, Happening::Tick { node: id, life });
        self.process(id, Event::Tick)
    }

    /// A node flushes, compacts, and prepares segments.
    pub(crate) fn works(&mut self, id: ReplicaId, life: u64) -> Verdict {
        if self.nodes[&id].life != life {
            return Ok(());
        }
        let Some(replica) = self.nodes[&id].replica() else { return Ok(()) };
        let worked = replica.db().work();
        let span = match &worked {
            Ok(Worked::Done) => 2 * MILLISECOND,
            _ => 30 * MILLISECOND,
        };
        let late = self.swarm.scaled(Class::LateWork, 50 * MILLISECOND, 1000 * MILLISECOND);
        let span = span + self.random.below(late + span);
        self.agenda.after(span, Happening::Work { node: id, life });
        match worked {
            Err(error) if !error.is_full() && !self.has_damaged_state(id) => {
                self.stops(id, &error.to_string())
            }
            _ if self.nodes[&id].disk.is_down() => self.dies(id, "in background work"),
            _ => {
                self.schedule_writes(id);
                Ok(())
            }
        }
    }

    /// Bytes arrive.
    pub(crate) fn arrives(&mut self, from: ReplicaId, to: ReplicaId, bytes: &[u8]) -> Verdict {
        if self.network.is_cut(from, to) || !self.nodes[&to].is_up() {
            return Ok(());
        }
        match decode(bytes) {
            Ok(envelope) => self.process(to, Event::Received(envelope)),
            Err(_) => {
                self.figures.messages_refused += 1;
                Ok(())
            }
        }
    }

    /// A durable write ends, and the process hears of it.
    pub(crate) fn write_ends(&mut self, id: ReplicaId, life: u64, write: u64) -> Verdict {
        let node = self.node(id);
        if node.life != life || !node.is_up() {
            return Ok(());
        }
        node.complete(write);
        if node.disk.is_down() {
            return self.dies(id, "in a durable write");
        }
        self.process(id, Event::LogMoved)
    }

    /// One event for a process, and what follows from it.
    pub(crate) fn process(&mut self, id: ReplicaId, event: Event) -> Verdict {
        let mut output = std::mem::take(&mut self.output);
        output.clear();
        let now = self.agenda.now();
        let node = self.node(id);
        if !node.is_up() {
            self.output = output;
            return Ok(());
        }
        node.tell_time(now);
        let (syncs, by_lease) = (node.syncs(), node.lease_reads());
        let stepped = node.step(event, &mut output);
        let syncs = node.syncs() - syncs;
        let by_lease = node.lease_reads() - by_lease;
        let is_down = node.disk.is_down();
        self.figures.lease_reads += by_lease;
        // What it executed was committed, whatever became of the process since.
        self.accepted(id, &output.outcomes);
        self.read_notes(id)?;
        match stepped {
            _ if is_down => {
                self.output = output;
                return self.dies(id, "in a step");
            }
            Err(Error::Message { reason, .. }) => {
                self.tell(|| format!("{id} refuses a message: {reason}"));
                self.figures.messages_refused += 1;
            }
            Err(error) => {
                self.output = output;
                return self.stops(id, &error.to_string());
            }
            Ok(()) => {}
        }
        self.be_busy(id, syncs);
        for outcome in &output.outcomes {
            self.outcome(id, outcome)?;
        }
        let (ready_at, life) = (self.nodes[&id].ready_at, self.nodes[&id].life);
        for envelope in &output.messages {
            let mut bytes = Vec::new();
            encode(envelope, &mut bytes);
            self.hash = self.hash.bytes(&bytes);
            let to = envelope.to;
            if syncs > 0 && ready_at > self.agenda.now() {
                let departs = Happening::Departs { from: id, life, to, bytes };
                self.agenda.at(ready_at, departs);
            } else {
                self.send(id, to, bytes);
            }
        }
        self.output = output;
        self.schedule_writes(id);
        Ok(())
    }

    /// The process has been at work, and perhaps has waited for syncs outside of the log.
    fn be_busy(&mut self, id: ReplicaId, syncs: u64) {
        let now = self.agenda.now();
        let slow = self.swarm.scaled(Class::SlowSyncs, 500, 100 * MILLISECOND);
        let mut span = self.nodes[&id].cost;
        for _ in 0..syncs {
            span += 50 + self.random.below(slow + 100);
        }
        let node = self.node(id);
        node.ready_at = node.ready_at.max(now).after(span);
    }

    /// Hands bytes to the network.
    pub(crate) fn send(&mut self, from: ReplicaId, to: ReplicaId, bytes: Vec<u8>) {
        if !self.nodes.contains_key(&to) {
            return;
        }
        let now = self.agenda.now();
        for delivery in self.network.send(now, from, to, bytes) {
            let bytes = delivery.bytes;
            self.agenda.at(delivery.at, Happening::Arrives { from, to, bytes });
        }
    }

    fn schedule_writes(&mut self, id: ReplicaId) {
        let node = self.node(id);
        let life = node.life;
        for (write, span) in node.new_writes() {
            self.agenda.after(span, Happening::WriteEnds { node: id, life, write });
        }
    }

    /// Compares what machines have executed with the truth, and answers who waits for it.
    fn read_notes(&mut self, id: ReplicaId) -> Verdict {
        let notes = self.nodes[&id].notes();
        if notes.is_empty() {
            return Ok(());
        }
        let whose = format!("replica {id}");
        for note in notes {
            self.truth.note(&whose, &note)?;
            if let Note::Executed { chain, .. } = note {
                self.hash = self.hash.word(chain);
            }
            self.answer(id, &note);
        }
        let (now, last) = (self.agenda.now(), self.truth.last());
        if self.executed.last().is_none_or(|(_, index)| *index < last) {
            self.executed.push((now, last));
        }
        Ok(())
    }

    /// Answers who waits for what a machine has done.
    fn answer(&mut self, id: ReplicaId, note: &Note) {
        let (index, term) = match note {
            Note::Restored { .. } => {
                // A snapshot: what became of entries within it is not told.
                if self.nodes[&id].is_up() {
                    self.figures.snapshots += 1;
                }
                self.node(id).waiting.clear();
                return;
            }
            Note::Session { index, term }
            | Note::Skipped { index, term, .. }
            | Note::Executed { index, term, .. } => (*index, *term),
        };
        // Whoever was accepted here in another term has lost the place.
        let at = (index, 0)..=(index, u64::MAX);
        let waiting = self.nodes[&id].waiting.range(at).map(|(key, token)| (*key, *token));
        for ((_, accepted_in), token) in waiting.collect::<Vec<_>>() {
            let reply = match note {
                _ if accepted_in != term => Reply::Refused { leader: None },
                Note::Session { .. } if self.openings.contains(&token) => Reply::Opened(index.0),
                Note::Executed { answer, .. } => Reply::Executed(*answer),
                // A retry is answered as the request was; the truth knows it has been executed.
                Note::Skipped { operation, reason: Skipped::Repeated, .. } => {
                    let place = self.truth.place(operation.client, operation.number);
                    let executed = place.and_then(|place| self.truth.at(place));
                    executed.map_or(Reply::Expired, |executed| Reply::Executed(executed.answer))
                }
                Note::Skipped { .. } => Reply::Expired,
                Note::Session { .. } | Note::Restored { .. } => continue,
            };
            self.node(id).waiting.remove(&(index, accepted_in));
            self.reply(token, reply);
        }
    }

    /// Remembers who waits for which index, before anything there is executed.
    fn accepted(&mut self, id: ReplicaId, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if let Outcome::Accepted { token, first, term, .. } = outcome {
                self.node(id).waiting.insert((*first, term.0), *token);
            }
        }
    }

    fn outcome(&mut self, id: ReplicaId, outcome: &Outcome) -> Verdict {
        if !matches!(outcome, Outcome::Committed(_) | Outcome::Everywhere(_)) {
            self.tell(|| format!("{id} {outcome:?}"));
        }
        self.hash = match outcome {
            // By far the most.
            Outcome::Committed(index) => self.hash.word(1).word(index.0),
            Outcome::Everywhere(index) => self.hash.word(2).word(index.0),
            _ => self.hash.bytes(format!("{outcome:?}").as_bytes()),
        };
        match outcome {
            Outcome::Refused { token, reason } => self.refused(id, *token, reason),
            Outcome::Readable { token, .. } => return self.readable(id, *token),
            Outcome::Overwritten { first, end, term } => {
                self.overwritten(id, *first, *end, term.0);
            }
            Outcome::Unknown { first, end, term } => {
                // Its client is not told, and tries again when its patience ends.
                self.take_waiting(id, *first, *end, term.0);
            }
            Outcome::RoleChanged { role: Role::Leader, term, .. } => {
                self.coup_elected(id);
                return self.leaders.elected(*term, id, self.nodes[&id].life);
            }
            Outcome::Committed(index) => return self.committed(id, *index),
            _ => {}
        }
        Ok(())
    }

    fn overwritten(&mut self, id: ReplicaId, first: Index, end: Index, term: u64) {
        for token in self.take_waiting(id, first, end, term) {
            self.reply(token, Reply::Refused { leader: None });
        }
    }

    /// Attempts whose entries a replica accepted at these indexes in this term: nobody waits for them
    /// any more.
    fn take_waiting(&mut self, id: ReplicaId, first: Index, end: Index, term: u64) -> Vec<u64> {
        let waiting = &mut self.node(id).waiting;
        let there = waiting.range((first, 0)..(end, 0)).map(|(place, _)| *place);
        let places: Vec<(Index, u64)> = there.filter(|(_, of)| *of == term).collect();
        places.iter().filter_map(|place| waiting.remove(place)).collect()
    }

    /// Everything up to here is applied: nobody waits for it any more.
    fn committed(&mut self, id: ReplicaId, index: Index) -> Verdict {
        while let Some(((at, term), token)) = self.nodes[&id].waiting.first_key_value() {
            if *at > index {
                break;
            }
            let (at, term, token) = (*at, *term, *token);
            self.node(id).waiting.remove(&(at, term));
            self.unanswered(id, at, token)?;
        }
        Ok(())
    }

    /// A process stops by itself.
    pub(crate) fn stops(&mut self, id: ReplicaId, error: &str) -> Verdict {
        self.tell(|| format!("{id} stops: {error}"));
        self.figures.stops += 1;
        if self.nodes[&id].disk.is_down() {
            return self.dies(id, "while it stopped");
        }
        let health = self.nodes[&id].health.clone();
        if !health.has_failed && !health.is_damaged {
            let reason = format!("replica {id} stops although nothing failed: {error}");
            return Err(Violation::new(Checker::Opening, reason));
        }
        let fault = if self.random.chance(500) { Fault::PowerCut } else { Fault::Kill };
        self.node(id).health.stops += 1;
        if health.is_damaged && health.stops >= STOPS_MAX {
            // It knows of the damage and starts in vain: whoever runs it takes it away.
            self.node(id).crash(fault);
            self.lose(id);
            return Ok(());
        }
        self.crash(id, fault);
        Ok(())
    }

    /// A replica is not let in, or stops again and again, because of its disk: whoever runs it will put
    /// in an empty one.
    pub(crate) fn lose(&mut self, id: ReplicaId) {
        self.tell(|| format!("{id} is lost"));
        self.node(id).lose();
        self.figures.lost_replicas += 1;
        let span = 100 * MILLISECOND + self.random.below(3000 * MILLISECOND);
        self.agenda.after(span, Happening::Replaces { node: id });
    }

    /// A lost replica gets an empty disk, and begins anew: with its old name, which it may not know to
    /// be old.
    pub(crate) fn replaces(&mut self, id: ReplicaId) {
        self.node(id).replace();
        self.agenda.after(MILLISECOND, Happening::Opens { node: id });
    }

    /// A planned crash in the midst of an operation has taken the disk down.
    fn dies(&mut self, id: ReplicaId, when: &str) -> Verdict {
        self.tell(|| format!("{id} goes down {when}"));
        self.crash(id, Fault::Kill);
        Ok(())
    }

    /// Ends a process, and lets the next one begin after a while.
    pub(crate) fn crash(&mut self, id: ReplicaId, fault: Fault) {
        self.tell(|| format!("{id} ends: {fault:?}"));
        let replica = self.nodes[&id].replica();
        self.figures.states_replaced +=
            replica.map_or(0, |replica| replica.status().states_replaced);
        match fault {
            Fault::PowerCut => self.figures.power_cuts += 1,
            _ => self.figures.kills += 1,
        }
        self.node(id).crash(fault);
        let span = 5 * MILLISECOND + self.random.below(600 * MILLISECOND);
        self.agenda.after(span, Happening::Opens { node: id });
    }

    /// Compares a replica's whole state with the model.
    pub(crate) fn compare(&mut self, id: ReplicaId) -> Verdict {
        if !self.nodes[&id].is_up() {
            return Ok(());
        }
        match self.nodes[&id].pairs() {
            Ok((index, pairs)) => {
                self.figures.states_compared += 1;
                self.truth.compare(&format!("replica {id}"), index, &pairs)
            }
            // It has met damage in its state, and the leader's is going to take its place.
            Err(_) if self.has_damaged_state(id) => Ok(()),
            Err(error) => self.stops(id, &error.to_string()),
        }
    }

    /// Whether the state was opened damaged, and nothing was done to its disk: a bug must not be healed.
    fn has_lost_its_state(&self, id: ReplicaId) -> bool {
        let node = &self.nodes[&id];
        let damage = node.replica().and_then(|replica| replica.status().state_damage);
        damage.is_some() && !node.health.is_damaged
    }

    /// Whether a replica knows its state to be damaged.
    pub(crate) fn has_damaged_state(&self, id: ReplicaId) -> bool {
        let node = &self.nodes[&id];
        let knows = node.replica().is_some_and(|replica| replica.db().damage().is_some());
        knows && node.health.is_damaged && !node.disk.is_down()
    }
}
