//! The thread on which the replica lives: everything that happens to it, one thing after the other.
//!
//! ```text
//! sessions  --- proposals, reads ---+                  +--> peers: messages, forwards
//! peers     --- frames -------------+--> inputs --> Replica
//! the log   --- durable moved ------+       ^          +--> sessions: answers, reads
//! the clock --- a tick --------------------+
//! ```
//!
//! A round takes all inputs that are there, steps the replica once for what they have in common, and
//! then sends and answers: so a busy replica works in large pieces. What is accepted is registered
//! under the index that it is going to have, before the replica can apply it.
//!
//! On a follower, writes are forwarded to the leader. A forward that surely was not sent is refused
//! with a word that clients retry; one that was sent is answered by the leader, or not at all, and
//! then the session calls its outcome unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use strandline_engine::{EntryHeader, Index};
use strandline_replication::{
    Error, Event, Outcome, Output, Refusal, Replica, ReplicaId, Role, Term, decode_shared, encode,
};
use tokio::sync::oneshot;

use super::answer::refusal_text;
use super::forward::{Answer, Forward, Forwards};
use super::group::{Command, Group, Input, Proposal};
use super::health::{self, Health};
use super::members::Shelf;
use super::question::{Mark, Questions};
use super::{Book, Frame, Peers};
use crate::apply::keyspaces_missing;
use crate::clock;
use crate::resp::Reply;
use crate::submission::{Mailbox, Run, Submissions};

/// The length of a tick.
pub const TICK: Duration = Duration::from_millis(10);
/// Inputs of one round at the most: time must pass for the replica even when it is flooded.
const ROUND_MAX: usize = 4096;
/// See the module's documentation.
pub struct Driver {
    pub(super) replica: Replica,
    pub(super) group: Arc<Group>,
    pub(super) inputs: Receiver<Input>,
    pub(super) peers: Peers,
    /// Where the book of nodes is kept.
    pub(super) shelf: Shelf,
    /// Where accepted runs are registered.
    pub(super) submissions: Arc<Submissions>,
    /// Takes the answers of runs that other nodes forwarded.
    remote: Arc<Mailbox>,
    /// Runs that were forwarded.
    forwarded: Forwards,
    /// Questions to the leader.
    pub(super) questions: Questions,
    /// Reads that wait for the next round.
    new_reads: Vec<oneshot::Sender<Result<(), String>>>,
    /// Reads under way, by token.
    reads: BTreeMap<u64, Vec<oneshot::Sender<Result<(), String>>>>,
    /// Changes of membership under way, by token.
    pub(super) commands: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    /// The last token or id given.
    last_token: u64,
    /// In which term this leader has proposed what the server's state needs.
    prepared_in: Term,
    pub(super) role: Role,
    /// How this node does.
    pub(super) health: Health,
    output: Output,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Driver").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl Driver {
    /// Of a replica that was just opened.
    pub fn new(
        replica: Replica,
        group: Arc<Group>,
        inputs: Receiver<Input>,
        peers: Peers,
        shelf: Shelf,
        submissions: Arc<Submissions>,
        health: Health,
    ) -> Self {
        let role = replica.status().role;
        group.post(replica.status());
        Self {
            replica,
            group,
            inputs,
            peers,
            shelf,
            submissions,
            remote: Arc::default(),
            forwarded: Forwards::default(),
            questions: Questions::default(),
            new_reads: Vec::new(),
            reads: BTreeMap::new(),
            commands: BTreeMap::new(),
            last_token: 0,
            prepared_in: Term(0),
            role,
            health,
            output: Output::default(),
        }
    }

    /// Runs until it is told to stop.
    pub fn run(mut self) {
        health::note_opening(&self.replica);
        let mut next_tick = Instant::now() + TICK;
        loop {
            let wait = next_tick.saturating_duration_since(Instant::now());
            match self.inputs.recv_timeout(wait) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut is_stopping = false;
            for _ in 0..ROUND_MAX {
                match self.inputs.try_recv() {
                    Ok(Input::Stop) => is_stopping = true,
                    Ok(input) => self.take(input),
                    Err(_) => break,
                }
            }
            self.finish_round(&mut next_tick);
            if is_stopping {
                break;
            }
        }
        self.hand_over();
    }

    pub(super) fn finish_round(&mut self, next_tick: &mut Instant) {
        self.begin_reads();
        let now = Instant::now();
        let is_tick = now >= *next_tick;
        if is_tick {
            // A process that was stopped for a while has missed time, not gained it.
            *next_tick = now + TICK;
            if let Some(age_us_max) = self.group.take_age_wanted() {
                self.step(Event::KeepFresh { age_us_max });
            }
            self.step(Event::Tick);
            let leader = self.group.status().and_then(|status| status.leader);
            self.forwarded.forget(now, leader, |to| self.peers.is_connected(to));
            self.watch(now);
        } else {
            self.step(Event::LogMoved);
        }
        if let Some(book) = self.shelf.machine.take_book() {
            self.take_book(book);
        }
        self.prepare();
        self.answer_remote();
        self.group.set_fresh(self.replica.fresh_us());
        if is_tick {
            let status = self.replica.status();
            self.health.note_state(&status);
            self.group.post(status);
        }
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Propose(proposal) => self.propose(proposal),
            Input::Read(sender) => self.new_reads.push(sender),
            Input::Question(mark, sender) => self.ask(mark, sender),
            Input::Frame(from, frame) => {
                self.group.taken(&frame);
                self.receive(from, frame);
            }
            Input::Command(command, sender) => self.command(command, sender),
            Input::Lost(peer) => self.step(Event::Lost(peer)),
            // What has become durable is looked at in every round.
            Input::LogMoved | Input::Stop => {}
        }
    }

    pub(super) fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Proposes a run here, or forwards it to the leader.
    fn propose(&mut self, proposal: Proposal) {
        let Proposal { payloads, run } = proposal;
        let status = self.group.status();
        let leader = status.as_ref().and_then(|status| status.leader);
        if self.role != Role::Leader
            && let Some(leader) = leader
            && leader != self.group.own
        {
            return self.forward(leader, payloads, run);
        }
        if self.role == Role::Leader && self.prepared_in != self.term() {
            return self.refuse(run, &Refusal::Overloaded);
        }
        let token = self.token();
        let first = Index(self.replica.db().log().last().0 + 1);
        let mut offered = Output::default();
        let failed = self.replica.offer(token, payloads, None, &mut offered);
        match offered.outcomes.pop() {
            Some(Outcome::Accepted { first: accepted, term, .. }) => {
                assert_eq!(accepted, first, "this thread alone appends to the log");
                if let Some(mut run) = run {
                    run.first = accepted;
                    run.term = term.0;
                    self.submissions.lock().push_back(run);
                }
            }
            Some(Outcome::Refused { reason, .. }) => {
                self.health.refused(&reason);
                self.refuse(run, &reason);
            }
            _ => self.refuse(run, &Refusal::Stopped),
        }
        self.note_failure(failed);
    }

    fn term(&self) -> Term {
        self.replica.hard_state().term
    }

    fn forward(&mut self, leader: ReplicaId, payloads: Vec<Vec<u8>>, run: Option<Run>) {
        // Nobody forwards for others twice, and housekeeping is the leader's own.
        let Some(run) = run else { return };
        if Arc::ptr_eq(&run.mailbox, &self.remote) {
            return self.refuse(Some(run), &Refusal::NotLeader { leader: None });
        }
        let id = self.token();
        let forward = Forward { id, protocol: run.protocol, payloads };
        if self.peers.send(leader, Frame::Forward(forward.encode())) {
            self.forwarded.insert(id, run, leader);
        } else {
            self.refuse(Some(run), &Refusal::NotLeader { leader: Some(leader) });
        }
    }

    /// Answers a run of which nothing was proposed.
    fn refuse(&self, run: Option<Run>, reason: &Refusal) {
        let Some(run) = run else { return };
        self.answer(run, refusal_text(reason).as_bytes());
    }

    fn answer(&self, mut run: Run, text: &[u8]) {
        if Arc::ptr_eq(&run.mailbox, &self.remote) {
            let answer = Answer { id: run.number, mark: Mark::default(), outcome: Err(text) };
            self.peers.send(ReplicaId(run.session), Frame::ForwardAnswer(answer.encode()));
            return;
        }
        run.replies.clear();
        let text = String::from_utf8_lossy(text);
        for _ in 0..run.count {
            Reply::new(&mut run.replies, run.protocol).error(&text);
        }
        Mailbox::deliver(run);
    }

    fn receive(&mut self, from: ReplicaId, frame: Frame) {
        match frame {
            Frame::Replica(bytes) => match decode_shared(&bytes.into()) {
                // Who speaks is known from the link, not from what is said.
                Ok(envelope) if envelope.from == from => self.step(Event::Received(envelope)),
                Ok(envelope) => {
                    tracing::warn!(%from, claimed = %envelope.from, "a message in another's name");
                }
                Err(error) => tracing::warn!(%from, %error, "a message that cannot be read"),
            },
            Frame::Forward(bytes) => match Forward::decode(&bytes) {
                Some(forward) => self.take_forward(from, forward),
                None => tracing::warn!(%from, "a forward that cannot be read"),
            },
            Frame::ForwardAnswer(bytes) => match Answer::decode(&bytes) {
                Some(answer) => self.take_answer(&answer),
                None => tracing::warn!(%from, "an answer that cannot be read"),
            },
            Frame::Book(bytes) => match Book::decode(&bytes) {
                Some(book) => self.take_book(book),
                None => tracing::warn!(%from, "a list of nodes that cannot be read"),
            },
            Frame::Question(bytes) => self.take_question(from, &bytes),
            Frame::QuestionAnswer(bytes) => self.take_question_answer(from, &bytes),
            Frame::Status(_) => {}
        }
    }

    fn take_forward(&mut self, from: ReplicaId, forward: Forward) {
        let mut payloads = forward.payloads;
        // Time is the leader's (D4).
        let now_ms = clock::now_ms();
        let stamped =
            payloads.iter_mut().try_for_each(|entry| EntryHeader::stamp_time(entry, now_ms));
        let run = Run {
            first: Index(0),
            term: 0,
            count: u64::try_from(payloads.len()).unwrap_or(u64::MAX),
            answered: 0,
            protocol: forward.protocol,
            session: from.0,
            number: forward.id,
            cost: 0,
            replies: Vec::new(),
            mailbox: self.remote.clone(),
        };
        match stamped {
            Ok(()) => self.propose(Proposal { payloads, run: Some(run) }),
            Err(error) => {
                self.refuse(Some(run), &Refusal::Invalid { reason: error.to_string() });
            }
        }
    }

    fn take_answer(&mut self, answer: &Answer<'_>) {
        let Some(mut run) = self.forwarded.take(answer.id) else { return };
        match answer.outcome {
            Ok(replies) => {
                run.first = Index((answer.mark.index.0 + 1).saturating_sub(run.count));
                run.term = answer.mark.term;
                run.replies.clear();
                run.replies.extend_from_slice(replies);
                Mailbox::deliver(run);
            }
            Err(reason) => self.answer(run, reason),
        }
    }

    /// Sends the answers of runs that other nodes forwarded.
    fn answer_remote(&self) {
        let mut runs = Vec::new();
        self.remote.take(&mut runs);
        for run in runs {
            let (id, mark) = (run.number, run.mark());
            let answer = Answer { id, mark, outcome: Ok(&run.replies) };
            self.peers.send(ReplicaId(run.session), Frame::ForwardAnswer(answer.encode()));
        }
    }

    /// One question to the quorum serves all reads that wait.
    fn begin_reads(&mut self) {
        if self.new_reads.is_empty() {
            return;
        }
        let token = self.token();
        self.reads.insert(token, std::mem::take(&mut self.new_reads));
        self.step(Event::Read { token });
    }

    fn command(&mut self, command: Command, sender: oneshot::Sender<Result<(), String>>) {
        if self.role != Role::Leader {
            let leader = self.group.status().and_then(|status| status.leader);
            let nodes = self.group.nodes();
            let text = match leader.and_then(|leader| nodes.get(leader)) {
                Some(node) => format!("READONLY node {} leads: ask {}", node.id, node.address),
                None => refusal_text(&Refusal::NotLeader { leader: None }),
            };
            let _ = sender.send(Err(text));
            return;
        }
        match command {
            Command::Transfer(to) => {
                self.step(Event::Transfer { to });
                let _ = sender.send(Ok(()));
            }
            Command::StepDown => {
                let sent = match self.transfer_to_successor() {
                    true => Ok(()),
                    false => Err("NOREPLICAS no other node is up to date".to_owned()),
                };
                let _ = sender.send(sent);
            }
            Command::Add(node) => self.add(&node, sender),
            Command::Promote(id) => self.promote(id, sender),
            Command::Remove { id, force } => self.remove(id, force, sender),
        }
    }

    /// What a new leader proposes before it takes anything from clients.
    fn prepare(&mut self) {
        if self.role != Role::Leader || self.prepared_in == self.term() {
            return;
        }
        let entries = keyspaces_missing(self.replica.db());
        if !entries.is_empty() {
            let token = self.token();
            let mut offered = Output::default();
            let failed = self.replica.offer(token, entries, None, &mut offered);
            self.note_failure(failed);
            if !matches!(offered.outcomes.first(), Some(Outcome::Accepted { .. })) {
                return;
            }
        }
        self.prepared_in = self.term();
    }

    pub(super) fn step(&mut self, event: Event) {
        let mut output = std::mem::take(&mut self.output);
        self.replica.tell_time(clock::steady_us());
        let failed = self.replica.step(event, &mut output);
        self.note_failure(failed);
        self.send(&output);
        for outcome in output.outcomes.drain(..) {
            self.take_outcome(outcome);
        }
        output.clear();
        self.output = output;
    }

    pub(super) fn note_failure(&self, result: strandline_replication::Result<()>) {
        match result {
            Ok(()) | Err(Error::Stopped { .. }) => {}
            Err(error @ Error::Message { .. }) => {
                tracing::debug!(%error, "a peer's message was refused");
            }
            Err(error) => tracing::error!(
                %error,
                "the replica has stopped; others take over; restart it when the reason is mended"
            ),
        }
    }

    fn send(&self, output: &Output) {
        for envelope in &output.messages {
            let mut bytes = Vec::new();
            encode(envelope, &mut bytes);
            // What is lost is sent again when the peer has been heard.
            self.peers.send(envelope.to, Frame::Replica(bytes));
        }
    }

    fn take_outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Readable { token, .. } => {
                for sender in self.reads.remove(&token).unwrap_or_default() {
                    let _ = sender.send(Ok(()));
                }
            }
            Outcome::Refused { token, reason } => {
                let text = refusal_text(&reason);
                for sender in self.reads.remove(&token).unwrap_or_default() {
                    let _ = sender.send(Err(text.clone()));
                }
                if let Some(sender) = self.commands.remove(&token) {
                    let _ = sender.send(Err(text));
                }
            }
            Outcome::Accepted { token, .. } => {
                if let Some(sender) = self.commands.remove(&token) {
                    let _ = sender.send(Ok(()));
                }
            }
            Outcome::RoleChanged { role, term, leader } => {
                self.role = role;
                tracing::info!(?role, term = term.0, leader = leader.map(|id| id.0), "new role");
                self.group.post(self.replica.status());
            }
            // Applied entries answer for themselves, and a restored state for those that it replaced; the board tells the watermarks.
            Outcome::Overwritten { .. }
            | Outcome::Unknown { .. }
            | Outcome::Committed(_)
            | Outcome::Everywhere(_) => {}
        }
    }
}
