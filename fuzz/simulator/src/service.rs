//! What clients do, and how nodes serve them.

use strandline_engine::Index;
use strandline_replication::{Event, Refusal, ReplicaId, open_session_entry};

use crate::checkers::staleness::StaleRead;
use crate::client::{Ongoing, Reply};
use crate::history::{Asked, Told};
use crate::operation::{Action, Answer, Operation};
use crate::simulation::{Happening, Phase, Simulation};
use crate::swarm::Class;
use crate::time::{MILLISECOND, Time};
use crate::violation::{Checker, Verdict, Violation};

/// What a client sends to a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    /// The value of a register.
    Read { key: u16 },
    /// The same, as it was no longer ago than the run's bound.
    Stale { key: u16 },
    /// A session.
    Open,
    /// A write, and how a retry of it is known.
    Write { operation: Operation, session: Option<strandline_replication::Request> },
}

impl Simulation {
    /// A client thinks of something to do, or tries again.
    pub(crate) fn acts(&mut self, at: usize) -> Verdict {
        // An attempt is under way already.
        if self.clients[at].ongoing.as_ref().is_some_and(|ongoing| ongoing.token != 0) {
            return Ok(());
        }
        if self.clients[at].ongoing.is_none() {
            let is_settling = self.phase != Phase::Trouble;
            if is_settling && self.clients[at].finished > 0 {
                return Ok(());
            }
            let client = &mut self.clients[at];
            if client.has_sessions && client.session.is_none() {
                let (call, operation) = (None, None);
                let (is_unknown, token, attempts) = (false, 0, 0);
                client.ongoing = Some(Ongoing { call, operation, is_unknown, token, attempts });
                self.attempt(at);
                return Ok(());
            }
            self.values += 1;
            let (asked, padding) = client.choose(&self.swarm, self.values, is_settling);
            let mut operation = None;
            if let Asked::Write(action) = asked {
                client.number += 1;
                let (client, number) = (client.id, client.number);
                operation = Some(Operation { client, number, action, padding });
            }
            let number = operation.map_or(0, |operation| operation.number);
            let call = Some((self.history.begin(client.id, number, asked), asked));
            let (is_unknown, token, attempts) = (false, 0, 0);
            client.ongoing = Some(Ongoing { call, operation, is_unknown, token, attempts });
        }
        self.attempt(at);
        Ok(())
    }

    /// Sends the call under way once more, or for the first time.
    fn attempt(&mut self, at: usize) {
        self.tokens += 1;
        let token = self.tokens;
        let client = &mut self.clients[at];
        let Some(mut ongoing) = client.ongoing.take() else { return };
        ongoing.token = token;
        ongoing.attempts += 1;
        self.figures.retries += u64::from(ongoing.attempts > 1);
        let request = match (ongoing.call, ongoing.operation) {
            (None, _) => Request::Open,
            (Some((_, Asked::Stale { key })), None) => Request::Stale { key },
            (Some((_, asked)), None) => Request::Read { key: asked.key() },
            (Some(_), Some(operation)) => {
                Request::Write { operation, session: client.request(&operation) }
            }
        };
        client.ongoing = Some(ongoing);
        let (node, distance, patience) = (client.target, client.distance(), client.patience);
        self.attempts.insert(token, at);
        self.agenda.after(distance, Happening::Asked { node, client: at, token, request });
        self.agenda.after(patience, Happening::Expires { client: at, token });
    }

    /// A request arrives at a node.
    pub(crate) fn asked(
        &mut self,
        id: ReplicaId,
        client: usize,
        token: u64,
        request: Request,
    ) -> Verdict {
        if !self.nodes[&id].is_up() {
            let distance = self.clients[client].distance();
            let reply = Reply::Refused { leader: None };
            self.agenda.after(distance, Happening::Told { client, token, reply });
            return Ok(());
        }
        let time_ms = self.nodes[&id].clock.wall_ms(self.agenda.now());
        let event = match request {
            Request::Read { key } => {
                self.node(id).reads.insert(token, key);
                Event::Read { token }
            }
            Request::Stale { key } => return self.asked_stale(id, client, token, key),
            Request::Open => {
                self.openings.insert(token);
                Event::Propose { token, entries: vec![open_session_entry()], session: None }
            }
            Request::Write { operation, session } => {
                Event::Propose { token, entries: vec![operation.payload(time_ms)], session }
            }
        };
        self.process(id, event)
    }

    /// A node answers an attempt.
    pub(crate) fn reply(&mut self, token: u64, reply: Reply) {
        let Some(client) = self.attempts.remove(&token) else { return };
        if self.random.chance(self.swarm.chance(Class::LostReplies, 200))
            && self.phase == Phase::Trouble
        {
            return;
        }
        let distance = self.clients[client].distance();
        self.agenda.after(distance, Happening::Told { client, token, reply });
    }

    pub(crate) fn refused(&mut self, id: ReplicaId, token: u64, reason: &Refusal) {
        self.node(id).reads.remove(&token);
        self.node(id).stale.remove(&token);
        let leader = match reason {
            Refusal::NotLeader { leader } => *leader,
            _ => None,
        };
        self.reply(token, Reply::Refused { leader });
    }

    /// A read may be answered now.
    pub(crate) fn readable(&mut self, id: ReplicaId, token: u64) -> Verdict {
        let Some(key) = self.node(id).reads.remove(&token) else { return Ok(()) };
        match self.nodes[&id].register(key) {
            Ok(value) => {
                if let Some((client, least)) = self.node(id).stale.remove(&token) {
                    self.read_stale(id, client, key, value, least);
                }
                self.reply(token, Reply::Found(value));
                Ok(())
            }
            Err(_) if self.has_damaged_state(id) => {
                self.node(id).stale.remove(&token);
                self.reply(token, Reply::Refused { leader: None });
                Ok(())
            }
            Err(error) => self.stops(id, &error),
        }
    }

    /// A read that may be stale: answered at once if the state is known to be young enough.
    fn asked_stale(&mut self, id: ReplicaId, client: usize, token: u64, key: u16) -> Verdict {
        let age_us_max = self.swarm.age_max();
        self.process(id, Event::KeepFresh { age_us_max })?;
        let (now, who) = (self.agenda.now(), self.clients[client].id);
        let node = &self.nodes[&id];
        let Some(replica) = node.replica() else { return Ok(()) };
        let now_us = node.now_us(now);
        let fresh_us = replica.fresh_us();
        let is_fresh =
            fresh_us.is_some_and(|fresh_us| now_us.saturating_sub(fresh_us) <= age_us_max);
        let bound = if is_fresh { node.clock.span(age_us_max) + 5 } else { 0 };
        let least = self.executed_before(Time(now.0.saturating_sub(bound)));
        // Moments are rounded to whole microseconds, by either clock.
        self.tell(|| format!("{id} is asked for {key}, fresh {is_fresh}, least {least}"));
        self.node(id).reads.insert(token, key);
        self.node(id).stale.insert(token, (who, least));
        if is_fresh {
            self.figures.stale_reads += 1;
            return self.readable(id, token);
        }
        self.process(id, Event::Read { token })
    }

    fn read_stale(&mut self, node: ReplicaId, client: u64, key: u16, value: u64, least: Index) {
        let (life, most) = (self.nodes[&node].life, self.truth.last());
        self.stale.push(StaleRead { client, node, life, key, value, least, most });
    }

    /// The last command that anybody had executed then.
    fn executed_before(&self, time: Time) -> Index {
        let later = self.executed.partition_point(|(at, _)| *at <= time);
        later.checked_sub(1).map_or(Index(0), |at| self.executed[at].1)
    }

    /// Everything up to an index is applied, and nothing was heard of what was accepted there.
    pub(crate) fn unanswered(&mut self, id: ReplicaId, at: Index, token: u64) -> Verdict {
        let Some(client) = self.attempts.get(&token) else { return Ok(()) };
        let ongoing = self.clients[*client].ongoing.as_ref();
        // The client has given up on this attempt and will ignore whatever is said of it.
        if ongoing.is_none_or(|ongoing| ongoing.token != token) {
            return Ok(());
        }
        let reason = format!(
            "replica {id} has applied everything up to index {at}, where a request was accepted, and \
             it was neither executed nor passed over nor overwritten"
        );
        Err(Violation::new(Checker::Durability, reason))
    }

    /// A client hears an answer.
    pub(crate) fn told(&mut self, at: usize, token: u64, reply: Reply) -> Verdict {
        let Some(ongoing) = self.clients[at].ongoing.clone() else { return Ok(()) };
        if ongoing.token != token {
            return Ok(());
        }
        match reply {
            Reply::Refused { leader } => {
                let nodes: Vec<ReplicaId> = self.nodes.keys().copied().collect();
                let is_trouble = self.phase == Phase::Trouble;
                let client = &mut self.clients[at];
                client.turn(leader, &nodes);
                if is_trouble && !ongoing.is_unknown && ongoing.call.is_some() && client.gives_up()
                {
                    self.end(at, &ongoing, Told::Nothing);
                } else {
                    let pause = client.pause();
                    // Whatever is still said of this attempt comes too late.
                    self.silence(at);
                    self.agenda.after(pause, Happening::Acts { client: at });
                }
            }
            Reply::Executed(Answer::Done) => {
                if let Some((_, Asked::Write(action))) = ongoing.call {
                    let (Action::Put { key, value } | Action::Exchange { key, value, .. }) = action;
                    self.clients[at].learn(key, value);
                }
                self.end(at, &ongoing, Told::Done);
            }
            Reply::Executed(Answer::Differs(found)) => {
                if let Some((_, asked)) = ongoing.call {
                    self.clients[at].learn(asked.key(), found);
                }
                self.end(at, &ongoing, Told::Differs(found));
            }
            Reply::Found(value) => {
                if let Some((_, asked)) = ongoing.call {
                    self.clients[at].learn(asked.key(), value);
                }
                self.end(at, &ongoing, Told::Found(value));
            }
            Reply::Opened(session) => {
                self.figures.sessions += 1;
                self.clients[at].session = Some(session);
                self.clients[at].ongoing = None;
                self.agenda.after(1, Happening::Acts { client: at });
            }
            Reply::Expired => {
                self.give_up(at);
                self.agenda.after(1, Happening::Acts { client: at });
            }
        }
        Ok(())
    }

    fn silence(&mut self, at: usize) {
        if let Some(ongoing) = &mut self.clients[at].ongoing {
            ongoing.token = 0;
        }
    }

    /// A client's patience ends.
    pub(crate) fn expires(&mut self, at: usize, token: u64) -> Verdict {
        let Some(ongoing) = self.clients[at].ongoing.clone() else { return Ok(()) };
        if ongoing.token != token {
            return Ok(());
        }
        let nodes: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        let client = &mut self.clients[at];
        client.turn(None, &nodes);
        let pause = client.pause();
        let is_write = ongoing.operation.is_some();
        if is_write && client.session.is_none() {
            self.give_up(at);
        } else if let Some(ongoing) = &mut client.ongoing {
            ongoing.is_unknown = is_write;
            ongoing.token = 0;
        }
        self.agenda.after(pause, Happening::Acts { client: at });
        Ok(())
    }

    /// The outcome of a write will never be learnt.
    fn give_up(&mut self, at: usize) {
        self.figures.unknown += 1;
        self.names += 1;
        let name = self.names;
        self.clients[at].rename(name);
    }

    /// The outcome of a call is known.
    fn end(&mut self, at: usize, ongoing: &Ongoing, told: Told) {
        let Some((call, _)) = ongoing.call else { return };
        self.history.end(call, told);
        match told {
            Told::Done | Told::Differs(_) => self.figures.acknowledged += 1,
            Told::Found(_) => self.figures.reads += 1,
            Told::Nothing => self.figures.refused += 1,
            Told::Unknown => {}
        }
        let is_settling = self.phase != Phase::Trouble;
        let client = &mut self.clients[at];
        client.ongoing = None;
        let is_executed = matches!(told, Told::Done | Told::Differs(_));
        if is_settling && is_executed {
            client.finished += 1;
        }
        let think = client.think(&self.swarm.shape).max(MILLISECOND / 10);
        self.agenda.after(think, Happening::Acts { client: at });
    }
}
