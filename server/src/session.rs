//! One connection: requests in, replies out, in order.
//!
//! The loop reads what is there, executes every complete request, and writes the replies in one go.
//! Reads are answered at once, from a view taken for the batch. Consecutive writes are collected
//! and proposed as one run, whose answers are waited for together: before anything else is
//! executed, so that a client sees its own writes, and before the batch ends.
//!
//! Backpressure needs no queue: a session reads nothing more while its replies are not taken or
//! its writes are not answered, and a run waits for room among the writes in flight before it is
//! proposed. A client that does not take its replies for long is disconnected.
//!
//! After a write was proposed it is answered, whatever happens: with its reply, or as unknown once
//! the server's deadline has passed or the log has stopped. The connection is not closed instead.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use strandline_engine::{BATCH_LEN_MAX, EntryHeader, EntryKind, Index, KEY_LEN_MAX, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::clock::{self, Randomness};
use crate::command::{Command, Handler, Next, table};
use crate::entry;
use crate::event_loop::Slot;
use crate::key::USER_KEY_LEN_MAX;
use crate::machine::UNKNOWN_REPLY;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Limits, Parsed, Parser, Protocol, Reply};
use crate::server::{PERMIT_LEN, Server};
use crate::slot::slot_of;
use crate::stats::{SlowCommand, SlowLog};
use crate::store;
use crate::submission::{Mailbox, Run};
use crate::value::PAYLOAD_LEN_MAX;

/// Room for what is read at once.
const READ_LEN: usize = 16 << 10;
/// Replies are written out when there are so many bytes of them: with one reply more this is the
/// bound of the output buffer.
const OUTPUT_LEN_MAX: usize = 256 << 10;
/// A run is proposed when it has so many writes, or so many bytes.
const RUN_COUNT_MAX: usize = 1024;
const RUN_LEN_MAX: usize = 1 << 20;
/// Buffers above this are given back when they are empty.
const KEPT_LEN_MAX: usize = 256 << 10;
/// How long a paused command sleeps before it looks again.
const PAUSE_SLICE: Duration = Duration::from_millis(5);
/// What one operation of a batch costs beyond its keys and values, at most: two prefixes and two
/// headers of operations, rounded up.
const OPERATION_LEN: usize = 100;

/// Whether a client wants replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// All of them.
    #[default]
    On,
    /// None.
    Off,
    /// Not the next one.
    SkipNext,
}

/// What a session remembers of its client.
#[derive(Debug, Default)]
pub struct State {
    /// Its database.
    pub database: usize,
    /// The version of the protocol that it speaks.
    pub protocol: Protocol,
    /// Whether it has given the password.
    pub is_authenticated: bool,
    /// Whether it wants replies.
    pub reply_mode: ReplyMode,
}

/// What a session command works on.
pub struct Connection<'a> {
    /// What all share.
    pub server: &'a Server,
    /// The client, as the server knows it.
    pub client: &'a Client,
    /// What the session remembers.
    pub state: &'a mut State,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is answered, or collected.
    Done,
    /// It must be taken again after the run is answered.
    RunFirst,
    /// It is collected, and the run is to be proposed.
    DoneThenRun,
    /// It must be taken again after a pause.
    Paused,
    /// It is answered, and there is more to do.
    Next(Next),
}

/// Writes that are collected to be proposed together.
#[derive(Debug, Default)]
struct Collected {
    /// Their entries, one after the other.
    entries: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// Takes their replies.
    replies: Vec<u8>,
}

/// See the module's documentation.
pub struct Session {
    server: Arc<Server>,
    mailbox: Arc<Mailbox>,
    client: Arc<Client>,
    slot: Rc<Slot>,
    stream: TcpStream,
    state: State,
    parser: Parser,
    /// What was received; requests before `taken` are done.
    input: Vec<u8>,
    taken: usize,
    /// Replies that are not sent yet.
    output: Vec<u8>,
    collected: Collected,
    /// The number of the last run.
    run_number: u64,
    /// Taken by the first read of a batch, dropped before a run and at the end of the batch.
    view: Option<View>,
    /// The time of the batch.
    now_ms: u64,
    randomness: Randomness,
    scratch: Vec<u8>,
}

impl Session {
    /// A session with a client that has just connected.
    pub fn new(
        server: Arc<Server>,
        mailbox: Arc<Mailbox>,
        client: Arc<Client>,
        slot: Rc<Slot>,
        stream: TcpStream,
    ) -> Self {
        let state = State { is_authenticated: !server.needs_password(), ..State::default() };
        Self {
            server,
            mailbox,
            client,
            slot,
            stream,
            state,
            parser: Parser::new(),
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
            collected: Collected::default(),
            run_number: 0,
            view: None,
            now_ms: 0,
            randomness: Randomness::new(),
            scratch: Vec::new(),
        }
    }

    /// Serves the client until either side ends it.
    pub async fn run(mut self) {
        loop {
            self.slot.idle.set(true);
            match self.receive().await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(client = self.client.id, %error, "connection lost");
                    return;
                }
            }
            self.slot.idle.set(false);
            let goes_on = self.take_batch().await;
            if self.send().await.is_err() || !goes_on || self.server.shutdown.is_asked() {
                return;
            }
        }
    }

    async fn receive(&mut self) -> std::io::Result<usize> {
        if self.input.capacity() - self.input.len() < READ_LEN / 2 {
            // Doubles for a large request: as fast as its bytes arrive, not as it announces.
            self.input.reserve(READ_LEN.max(self.input.len()));
        }
        let len = self.stream.read_buf(&mut self.input).await?;
        let len_sum = u64::try_from(len).unwrap_or(u64::MAX);
        self.server.stats.input_bytes.fetch_add(len_sum, Ordering::Relaxed);
        Ok(len)
    }

    /// Sends all replies.
    async fn send(&mut self) -> std::io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let len = u64::try_from(self.output.len()).unwrap_or(u64::MAX);
        self.server.stats.output_bytes.fetch_add(len, Ordering::Relaxed);
        // Most replies fit into the socket's buffer: the timer is only set up for those that do not.
        let sent = match self.stream.try_write(&self.output) {
            Ok(sent) => sent,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < self.output.len() {
            let rest = &self.output[sent..];
            let stalled = self.server.stall_timeout();
            tokio::time::timeout(stalled, self.stream.write_all(rest))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        }
        self.output.clear();
        if self.output.capacity() > KEPT_LEN_MAX {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Executes every complete request that has been received; false to close the connection.
    async fn take_batch(&mut self) -> bool {
        self.now_ms = clock::now_ms();
        self.client.active_ms.store(self.now_ms, Ordering::Relaxed);
        let mut goes_on = true;
        while goes_on {
            let limits = match self.state.is_authenticated {
                true => Limits::AFTER_AUTH,
                false => Limits::BEFORE_AUTH,
            };
            let len = match self.parser.parse(&self.input[self.taken..], &limits) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Nothing(len)) => {
                    self.taken += len;
                    self.parser.reset();
                    continue;
                }
                Ok(Parsed::Request(len)) => len,
                Err(error) => {
                    self.finish_run().await;
                    self.answer_error(&format!("ERR Protocol error: {error}"));
                    goes_on = false;
                    break;
                }
            };
            let step = self.step();
            match step {
                Step::RunFirst => {
                    self.finish_run().await;
                    continue;
                }
                Step::Paused => {
                    self.finish_run().await;
                    if self.send().await.is_err() {
                        return false;
                    }
                    tokio::time::sleep(PAUSE_SLICE).await;
                    self.now_ms = clock::now_ms();
                    continue;
                }
                Step::Done => {}
                Step::DoneThenRun => self.finish_run().await,
                Step::Next(next) => goes_on = self.go_on(next).await,
            }
            self.taken += len;
            self.parser.reset();
            if self.output.len() > OUTPUT_LEN_MAX && self.send().await.is_err() {
                return false;
            }
        }
        self.finish_run().await;
        self.view = None;
        self.input.drain(..self.taken);
        self.taken = 0;
        if self.input.is_empty() && self.input.capacity() > KEPT_LEN_MAX {
            self.input = Vec::new();
        }
        goes_on
    }

    /// What a session command asked for beyond its reply.
    async fn go_on(&mut self, next: Next) -> bool {
        match next {
            Next::Continue => true,
            Next::Close => false,
            Next::Sleep(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.now_ms = clock::now_ms();
                true
            }
            Next::Sync => {
                self.server.store.request_sync();
                while !self.server.store.is_synced() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                true
            }
            Next::Shutdown => {
                self.server.shutdown.ask();
                false
            }
        }
    }

    /// Executes or collects the request that was just parsed.
    fn step(&mut self) -> Step {
        let args = self.parser.args(&self.input[self.taken..]);
        let is_collecting = !self.collected.ends.is_empty();
        let Some(place) = table::place_of(args.at(0)) else {
            if is_collecting {
                return Step::RunFirst;
            }
            let text = match self.state.is_authenticated {
                true => unknown_command(args),
                false => NO_AUTH.to_owned(),
            };
            return self.refuse(&text);
        };
        let command = &table::COMMANDS[place];
        if is_collecting && !command.is_write() {
            return Step::RunFirst;
        }
        if let Err(refusal) = admit(command, args, &self.state) {
            if is_collecting {
                return Step::RunFirst;
            }
            self.server.stats.commands[place].rejected.fetch_add(1, Ordering::Relaxed);
            return self.refuse(&refusal.to_string());
        }
        if self.server.is_paused(command.is_write()) && command.name != "client" {
            return Step::Paused;
        }
        self.client.last_command.store(place + 1, Ordering::Relaxed);
        self.server.stats.commands[place].calls.fetch_add(1, Ordering::Relaxed);
        match command.handler {
            Handler::Write { opcode, .. } => self.collect(opcode, command),
            Handler::Read(_) | Handler::Session(_) => self.execute(place),
        }
    }

    /// Adds the current request to the writes that are proposed together.
    fn collect(&mut self, opcode: u16, command: &Command) -> Step {
        let args = self.parser.args(&self.input[self.taken..]);
        let slot = command.key_places(args.len()).next().map_or(0, |place| slot_of(args.at(place)));
        let header = EntryHeader {
            kind: EntryKind::COMMAND,
            database: u16::try_from(self.state.database).expect("there are 16 databases"),
            slot,
            time_ms: self.now_ms,
            seed: self.randomness.draw(),
        };
        entry::encode(&mut self.collected.entries, &header, opcode, args.from(1));
        self.collected.ends.push(self.collected.entries.len());
        let is_full = self.collected.ends.len() >= RUN_COUNT_MAX
            || self.collected.entries.len() >= RUN_LEN_MAX
            || self.state.reply_mode == ReplyMode::SkipNext;
        if is_full { Step::DoneThenRun } else { Step::Done }
    }

    /// Executes a read or a session command.
    fn execute(&mut self, place: usize) -> Step {
        let command = &table::COMMANDS[place];
        let args = self.parser.args(&self.input[self.taken..]);
        let before = self.output.len();
        let started = Instant::now();
        let mode = self.state.reply_mode;
        let mut reply = Reply::new(&mut self.output, self.state.protocol);
        let done = match command.handler {
            Handler::Read(handler) => {
                let mut reader = Reader {
                    view: self.view.get_or_insert_with(|| self.server.store.view()),
                    directory: &self.server.store.shared().directory,
                    database: self.state.database,
                    now_ms: self.now_ms,
                    seed: self.randomness.draw(),
                    scratch: &mut self.scratch,
                };
                handler(&mut reader, args, &mut reply).map(|()| Next::Continue)
            }
            Handler::Session(handler) => {
                let server = &*self.server;
                let state = &mut self.state;
                handler(&mut Connection { server, client: &self.client, state }, args, &mut reply)
            }
            Handler::Write { .. } => unreachable!("writes are collected"),
        };
        let next = match done {
            Ok(next) => next,
            Err(failure) => {
                self.output.truncate(before);
                let text = match failure {
                    Failure::Refused(refusal) => refusal.to_string(),
                    Failure::Store(error) => format!("ERR the store cannot be read: {error}"),
                };
                self.server.stats.errors.fetch_add(1, Ordering::Relaxed);
                Reply::new(&mut self.output, self.state.protocol).error(&text);
                Next::Continue
            }
        };
        if mode != ReplyMode::On {
            self.output.truncate(before);
            if mode == ReplyMode::SkipNext && self.state.reply_mode == ReplyMode::SkipNext {
                self.state.reply_mode = ReplyMode::On;
            }
        } else if self.state.reply_mode != ReplyMode::On {
            // `CLIENT REPLY OFF` and `SKIP` themselves get none either.
            self.output.truncate(before);
        }
        let elapsed = started.elapsed();
        self.count(place, elapsed);
        match next {
            Next::Continue => Step::Done,
            next => Step::Next(next),
        }
    }

    fn count(&self, place: usize, elapsed: Duration) {
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let stats = &self.server.stats;
        stats.commands[place].nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        let slower_than_us = self.server.live.slower_than_us.load(Ordering::Relaxed);
        let microseconds = nanoseconds / 1000;
        if u64::try_from(slower_than_us).is_ok_and(|limit| microseconds >= limit) {
            let args = self.parser.args(&self.input[self.taken..]);
            let command = SlowCommand {
                id: 0,
                time_s: self.now_ms / 1000,
                microseconds,
                arguments: SlowLog::shorten(args.from(0)),
                address: self.client.address.to_string(),
                name: self.client.identity().name.clone(),
            };
            stats.slow().push(command, self.server.live.slow_len_max.load(Ordering::Relaxed));
        }
    }

    /// Proposes what is collected, waits for it, and takes its replies.
    async fn finish_run(&mut self) {
        if self.collected.ends.is_empty() {
            return;
        }
        self.view = None;
        let count = self.collected.ends.len();
        let mut replies = self.propose().await;
        if self.state.reply_mode != ReplyMode::On {
            replies.clear();
            if self.state.reply_mode == ReplyMode::SkipNext {
                self.state.reply_mode = ReplyMode::On;
            }
        }
        debug_assert!(count > 0, "an empty run is not proposed");
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, &mut replies);
        } else {
            self.output.extend_from_slice(&replies);
        }
        replies.clear();
        if replies.capacity() <= KEPT_LEN_MAX {
            self.collected.replies = replies;
        }
        self.collected.entries.clear();
        if self.collected.entries.capacity() > 2 * RUN_LEN_MAX {
            self.collected.entries = Vec::new();
        }
        self.collected.ends.clear();
    }

    /// Proposes what is collected and returns the replies, one for each write.
    async fn propose(&mut self) -> Vec<u8> {
        let count = self.collected.ends.len();
        let kibibytes = self.collected.entries.len().div_ceil(PERMIT_LEN);
        // A single write may be larger than all the room there is: it waits for all of it.
        let room = self.server.permits();
        let cost = u32::try_from(kibibytes.min(room)).unwrap_or(u32::MAX);
        let permits = match self.server.in_flight.try_acquire_many(cost) {
            Ok(permits) => Ok(permits),
            Err(_) => self.server.in_flight.acquire_many(cost).await,
        };
        // The semaphore is never closed; were it so, going on would be right.
        if let Ok(permits) = permits {
            permits.forget();
        }
        self.run_number += 1;
        self.slot.expect(self.run_number);
        let run = Run {
            first: Index(0),
            count: u64::try_from(count).expect("a run is bounded"),
            answered: 0,
            protocol: self.state.protocol,
            session: self.client.id,
            number: self.run_number,
            cost,
            replies: std::mem::take(&mut self.collected.replies),
            mailbox: self.mailbox.clone(),
        };
        let submitted = {
            let mut start = 0;
            let entries = &self.collected.entries;
            let payloads: Vec<&[u8]> = self
                .collected
                .ends
                .iter()
                .map(|end| &entries[std::mem::replace(&mut start, *end)..*end])
                .collect();
            self.server.store.submit(&payloads, run)
        };
        if let Err(refused) = submitted {
            return self.refused(*refused, count);
        }
        match tokio::time::timeout(self.server.write_timeout(), self.slot.finished()).await {
            Ok(run) => run.replies,
            Err(_) => {
                let unknown = u64::try_from(count).unwrap_or(u64::MAX);
                self.server.stats.unknown_outcomes.fetch_add(unknown, Ordering::Relaxed);
                UNKNOWN_REPLY.repeat(count)
            }
        }
    }

    /// The replies of a run that was not proposed, or was registered before the proposal failed.
    fn refused(&self, refused: store::Refused, count: usize) -> Vec<u8> {
        let Some(run) = refused.run else { return UNKNOWN_REPLY.repeat(count) };
        self.server.in_flight.add_permits(usize::try_from(run.cost).expect("u32 fits"));
        let mut replies = run.replies;
        let text = store::refusal_text(&refused.error);
        for _ in 0..count {
            Reply::new(&mut replies, self.state.protocol).error(&text);
        }
        replies
    }

    /// Answers the current request with an error.
    fn refuse(&mut self, text: &str) -> Step {
        self.server.stats.errors.fetch_add(1, Ordering::Relaxed);
        if self.state.reply_mode == ReplyMode::On {
            self.answer_error(text);
        } else if self.state.reply_mode == ReplyMode::SkipNext {
            self.state.reply_mode = ReplyMode::On;
        }
        Step::Done
    }

    fn answer_error(&mut self, text: &str) {
        Reply::new(&mut self.output, self.state.protocol).error(text);
    }
}

const NO_AUTH: &str = "NOAUTH Authentication required.";

/// Whether a request may be executed, as far as that can be said without looking at the data.
fn admit(command: &Command, args: Args<'_>, state: &State) -> Result<(), Refusal> {
    if !state.is_authenticated && !command.flags.contains(&"no_auth") {
        return Err(Refusal::other(NO_AUTH));
    }
    if !command.takes(args.len()) {
        return Err(Refusal::Arity(command.name.to_owned()));
    }
    for place in command.key_places(args.len()) {
        let len = args.at(place).len();
        if len > USER_KEY_LEN_MAX {
            return Err(Refusal::KeyTooLong { len });
        }
    }
    let Handler::Write { check, .. } = command.handler else { return Ok(()) };
    // What a command writes is a batch, which is bounded: keys may be written twice, once for
    // their expiry.
    let (mut len, mut len_max) = (0, 0);
    for argument in args.from(1) {
        len += argument.len() + argument.len().min(KEY_LEN_MAX) + OPERATION_LEN;
        len_max = len_max.max(argument.len());
    }
    if len_max > PAYLOAD_LEN_MAX {
        return Err(Refusal::StringTooLong);
    }
    if len > BATCH_LEN_MAX {
        return Err(Refusal::CommandTooLarge);
    }
    check(args)
}

/// Redis' words for a command that does not exist: the beginning of each argument, up to a length.
fn unknown_command(args: Args<'_>) -> String {
    const LEN_MAX: usize = 128;
    let shown = |bytes: &[u8], len_max: usize| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(len_max)]).into_owned()
    };
    let mut arguments = String::new();
    for argument in args.from(1) {
        if arguments.len() >= LEN_MAX {
            break;
        }
        arguments.push_str(&format!("'{}' ", shown(argument, LEN_MAX - arguments.len())));
    }
    let name = shown(args.at(0), LEN_MAX);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}
