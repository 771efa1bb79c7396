//! A machine and a map instead of a server and a store: commands without sockets, threads and disks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use strandline_engine::{
    Batch, Changes, Direction, Entry, EntryHeader, EntryKind, Index, KeyspaceId,
    Machine as EngineMachine, Pair, Range, Read, Result, Value,
};

use super::{Handler, table};
use crate::apply::{ANSWERS, DATA, EXPIRY};
use crate::databases::{Databases, STATE_LEN};
use crate::entry;
use crate::machine::{Machine, OPCODE_RECLAIM, Shared, dead_key};
use crate::reader::{Reader, Source};
use crate::refusal::Failure;
use crate::resp::{Args, Parsed, Parser, Protocol, Reply};
use crate::submission::{Answers, Mailbox, Run, Submissions};

/// What the keyspaces hold.
#[derive(Clone, Default)]
pub(crate) struct Map(BTreeMap<(KeyspaceId, Vec<u8>), Value>);

impl Read for Map {
    fn get(&self, keyspace: KeyspaceId, key: &[u8]) -> Result<Option<Value>> {
        Ok(self.0.get(&(keyspace, key.to_vec())).cloned())
    }

    fn range<'a>(
        &'a self,
        keyspace: KeyspaceId,
        range: Range,
    ) -> Box<dyn Iterator<Item = Result<Pair>> + 'a> {
        let direction = range.direction;
        let pairs = self
            .0
            .range((
                Bound::Included((keyspace, Vec::new())),
                Bound::Excluded((KeyspaceId(keyspace.0 + 1), Vec::new())),
            ))
            .filter(move |((_, key), _)| range.contains(key))
            .map(|((_, key), value)| Ok((key.clone(), value.clone())));
        match direction {
            Direction::Forward => Box::new(pairs),
            Direction::Backward => Box::new(pairs.rev()),
        }
    }
}

/// See the module's documentation.
pub(crate) struct Fixture {
    pub(crate) map: Map,
    pub(crate) machine: Machine,
    pub(crate) shared: Arc<Shared>,
    submissions: Arc<Submissions>,
    mailbox: Arc<Mailbox>,
    last: u64,
    /// The clock; it stands still unless a test moves it.
    pub(crate) now_ms: u64,
    pub(crate) database: usize,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let submissions = Arc::new(Submissions::default());
        let shared = Arc::new(Shared::default());
        shared.cache.set_len_max(1 << 20);
        Self {
            map: Map::default(),
            machine: Machine::new(Answers::new(submissions.clone()), shared.clone()),
            shared,
            submissions,
            mailbox: Arc::default(),
            last: 0,
            now_ms: 1_700_000_000_000,
            database: 0,
        }
    }

    /// Executes an inline request; returns the reply as it is sent.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let mut parser = Parser::new();
        let bytes = format!("{line}\n").into_bytes();
        let parsed = parser.parse(&bytes, &crate::resp::Limits::AFTER_AUTH).unwrap();
        assert_eq!(parsed, Parsed::Request(bytes.len()), "{line}");
        let reply = self.execute(parser.args(&bytes));
        String::from_utf8_lossy(&reply).into_owned()
    }

    fn execute(&mut self, args: Args<'_>) -> Vec<u8> {
        let command = table::find(args.at(0)).unwrap();
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp2);
        let done = match command.handler {
            _ if !command.takes(args.len()) => {
                Err(crate::refusal::Refusal::Arity(command.name.into()).into())
            }
            Handler::Session(_) => panic!("{} needs a session", command.name),
            Handler::Read(handler) => {
                let mut scratch = Vec::new();
                let mut reader = Reader {
                    source: Source::View(&self.map),
                    directory: &self.shared.directory,
                    database: self.database,
                    now_ms: self.now_ms,
                    seed: self.last.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                    scratch: &mut scratch,
                };
                handler(&mut reader, args, &mut reply)
            }
            Handler::Write { opcode, check, .. } => match check(args) {
                Err(refusal) => Err(refusal.into()),
                Ok(()) => {
                    let replies = self.propose(opcode, args.from(1));
                    return replies;
                }
            },
        };
        match done {
            Ok(()) => {}
            Err(Failure::Refused(refusal)) => {
                out.clear();
                Reply::new(&mut out, Protocol::Resp2).error(&refusal.to_string());
            }
            Err(Failure::Store(error)) => panic!("{error}"),
        }
        out
    }

    /// Applies an entry and returns its answer.
    pub(crate) fn propose<'a>(
        &mut self,
        opcode: u16,
        arguments: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
    ) -> Vec<u8> {
        self.last += 1;
        let index = Index(self.last);
        self.submissions.lock().push_back(Run {
            first: index,
            term: 0,
            count: 1,
            answered: 0,
            protocol: Protocol::Resp2,
            session: 0,
            number: 0,
            cost: 0,
            replies: Vec::new(),
            mailbox: self.mailbox.clone(),
        });
        let header = EntryHeader {
            database: u16::try_from(self.database).unwrap(),
            time_ms: self.now_ms,
            ..EntryHeader::of_kind(EntryKind::COMMAND)
        };
        let mut payload = Vec::new();
        entry::encode(&mut payload, &header, opcode, arguments);
        let mut batch = Batch::new();
        let mut changes = Changes::new(&self.map, &mut batch);
        self.machine.apply(&Entry::decode(index, &payload).unwrap(), &mut changes).unwrap();
        for op in batch.ops() {
            let key = (op.keyspace, op.key.to_vec());
            match op.value {
                Some(value) => self.map.0.insert(key, value.to_vec().into()),
                None => self.map.0.remove(&key),
            };
        }
        self.machine.published(index);
        let mut runs = Vec::new();
        self.mailbox.take(&mut runs);
        assert_eq!(runs.len(), 1);
        runs.remove(0).replies
    }

    /// A slice of deleting what was flushed; false if there is nothing.
    pub(crate) fn reclaim(&mut self) -> bool {
        let databases = Databases::decode(&self.machine.state()[..STATE_LEN]).unwrap();
        let Some(from) = dead_key(&self.map, &databases, &[]).unwrap() else { return false };
        self.propose(OPCODE_RECLAIM, [&from[..]].into_iter());
        true
    }

    /// How many keys there are in all spaces, and how many expiries.
    pub(crate) fn stored(&self) -> (usize, usize) {
        let count = |wanted| self.map.0.keys().filter(|(keyspace, _)| *keyspace == wanted).count();
        (count(DATA), count(EXPIRY))
    }

    /// How many first answers are kept.
    pub(crate) fn answers(&self) -> usize {
        self.map.0.keys().filter(|(keyspace, _)| *keyspace == ANSWERS).count()
    }

    /// A `SCAN` of everything, in calls of `count`: the keys, in the order in which they came.
    pub(crate) fn scan_step(&mut self, cursor: &str, count: usize) -> (String, Vec<String>) {
        let reply = self.run(&format!("scan {cursor} count {count}"));
        let mut lines = reply.lines().filter(|line| !line.starts_with(['*', '$']));
        let next = lines.next().unwrap().to_owned();
        (next, lines.map(str::to_owned).collect())
    }
}
