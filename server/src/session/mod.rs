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

mod admission;
mod feeding;
mod proposal;
mod waiting;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use strandline_engine::View;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Client;
use crate::clock::{self, Randomness};
use crate::cluster::question::Mark;
use crate::command::{Handler, Next, table};
use crate::event_loop::Slot;
use crate::reader::{Reader, Source};
use crate::refusal::Failure;
use crate::resp::{Limits, Parsed, Parser, Protocol, Reply};
use crate::server::Server;
use crate::stats::{SlowCommand, SlowLog};
use crate::submission::Mailbox;
use proposal::Collected;

/// Room for what is read at once.
const READ_LEN: usize = 16 << 10;
/// Replies are written out when there are so many bytes of them: with one reply more this is the
/// bound of the output buffer.
const OUTPUT_LEN_MAX: usize = 256 << 10;
/// Buffers above this are given back when they are empty.
const KEPT_LEN_MAX: usize = 256 << 10;
/// How long a paused command sleeps before it looks again.
const PAUSE_SLICE: Duration = Duration::from_millis(5);

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
    /// Whether it takes what is a little old: `READONLY`.
    pub reads_stale: bool,
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
    /// It must be taken again when it is known whether the state may be read.
    AskFirst,
    /// It is answered, and there is more to do.
    Next(Next),
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
    /// Where the last write stands that was answered.
    mark: Mark,
    /// The number of the last run.
    run_number: u64,
    /// In a cluster, whether the batch's reads may be answered, once that was asked.
    readable: Option<std::result::Result<(), String>>,
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
            mark: Mark::default(),
            run_number: 0,
            readable: None,
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
            behind_the_others().await;
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
                Step::AskFirst => {
                    self.readable = Some(self.ask_readable().await);
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
        self.readable = None;
        self.input.drain(..self.taken);
        self.taken = 0;
        if self.input.is_empty() && self.input.capacity() > KEPT_LEN_MAX {
            self.input = Vec::new();
        }
        goes_on
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
                true => admission::unknown_command(args),
                false => admission::NO_AUTH.to_owned(),
            };
            return self.refuse(&text);
        };
        let command = &table::COMMANDS[place];
        if is_collecting && !command.is_write() {
            return Step::RunFirst;
        }
        if let Err(refusal) = admission::admit(command, args, &self.state) {
            if is_collecting {
                return Step::RunFirst;
            }
            self.server.stats.commands[place].rejected.fetch_add(1, Ordering::Relaxed);
            return self.refuse(&refusal.to_string());
        }
        let gate = self.server.store.standing().gate();
        if gate != 0
            && let Some(text) = admission::refused_now(command, gate)
        {
            if is_collecting {
                return Step::RunFirst;
            }
            self.server.stats.commands[place].rejected.fetch_add(1, Ordering::Relaxed);
            return self.refuse(text);
        }
        if self.server.is_paused(command.is_write()) && command.name != "client" {
            return Step::Paused;
        }
        self.client.last_command.store(place + 1, Ordering::Relaxed);
        self.server.stats.commands[place].calls.fetch_add(1, Ordering::Relaxed);
        match command.handler {
            Handler::Write { opcode, .. } => self.collect(opcode, command),
            Handler::Read(_) if self.server.store.group().is_some() => match self.readable.take() {
                None if self.may_read_stale() => self.execute(place),
                None => Step::AskFirst,
                Some(Ok(())) => {
                    self.readable = Some(Ok(()));
                    self.execute(place)
                }
                Some(Err(text)) => {
                    let step = self.refuse(&text);
                    self.readable = Some(Err(text));
                    step
                }
            },
            Handler::Read(_) | Handler::Session(_) => self.execute(place),
        }
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
                let store = &self.server.store;
                let source = if command.key_places(args.len()).count() == 1 {
                    // The value may be newer than the view: what follows must not be older.
                    self.view = None;
                    Source::Newest(store)
                } else {
                    Source::View(self.view.get_or_insert_with(|| store.view()))
                };
                let mut reader = Reader {
                    source,
                    directory: &store.shared().directory,
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
        // `CLIENT REPLY` itself is answered by what it has just chosen.
        match self.state.reply_mode {
            ReplyMode::On => {}
            ReplyMode::Off => self.output.truncate(before),
            ReplyMode::SkipNext => {
                self.output.truncate(before);
                if mode == ReplyMode::SkipNext {
                    self.state.reply_mode = ReplyMode::On;
                }
            }
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

/// Lets the other sessions of the thread that are ready go first.
///
/// Replies of many sessions then leave in one go. A client that waits for several of them, on another core,
/// is woken once and finds most of them there; woken for each, it costs this thread more than
/// all else that a read of memory needs.
async fn behind_the_others() {
    let mut has_waited = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
