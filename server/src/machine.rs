//! The state machine of the server: executes logged commands and answers those who wait.
//!
//! Beside the clients' commands there are three of the server's own. Two keep house (see
//! [`crate::housekeeping`]): both decide what to do from the state and the entry's time alone, so that
//! proposing one late, twice or never changes no answer.
//!
//! - `SWEEP from`: deletes keys whose expiry has passed at the entry's time, in the order of their
//!   expiry, beginning at the expiry key `from`.
//! - `NODES id-last list`: who the nodes of the cluster are, and where (see [`crate::cluster::book`]).
//! - `RECLAIM from`: deletes what lies in a space that no database has any more, beginning at the data
//!   key `from`, which names the space.
//!
//! Each does a slice and leaves the rest to the next, which begins where the last one ended: what was
//! deleted leaves tombstones, and walking over all of them again and again would be quadratic.

use std::ops::Bound;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use strandline_engine::{
    Changes, Direction, Entry, EntryKind, Error, Index, Machine as EngineMachine, Range, Read,
    Result,
};
use strandline_replication::Sessions;

use crate::apply::{Apply, DATA, EXPIRY};
use crate::backup::feeds::Feeds;
use crate::cache::{self, Cache};
use crate::cluster::{Book, nodes};
use crate::command::{Handler, table};
use crate::databases::{self, Databases, Directory};
use crate::entry;
use crate::key;
use crate::refusal::Failure;
use crate::resp::{Args, Reply, Span};
use crate::submission::Answers;
use crate::value::Stored;

/// The opcode of `SWEEP`.
pub const OPCODE_SWEEP: u16 = 1024;
/// The opcode of `RECLAIM`.
pub const OPCODE_RECLAIM: u16 = 1025;
/// The opcode of `NODES`.
pub const OPCODE_NODES: u16 = 1026;

/// How many keys one slice of housekeeping deletes at most. Clients' commands wait for a slice: it
/// takes about a millisecond.
pub const SLICE_KEYS_MAX: usize = 512;
/// How many bytes of keys one slice deletes at most; keys can be large, a batch is bounded.
const SLICE_BYTES_MAX: usize = 1 << 20;

/// The answer to a write of which it is not known whether it will be there. No client retries on
/// this word.
pub const UNKNOWN_REPLY: &[u8] =
    b"-UNKNOWN the outcome of this write is not known: read before writing again\r\n";

/// What the machine shares with the sessions.
#[derive(Debug)]
pub struct Shared {
    /// Where the databases are, for readers.
    pub directory: Directory,
    /// What was read and written lately.
    pub cache: Cache,
    /// Who follows this node, and wants to know when there is more.
    pub feeds: Feeds,
    /// Why the store has stopped, if it has.
    pub stopped: OnceLock<String>,
    /// A book of nodes that was applied and nobody has taken yet.
    book: Mutex<Option<Book>>,
}

impl Shared {
    /// The newest book of nodes, once.
    pub fn take_book(&self) -> Option<Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_book(&self, book: &Book) {
        *self.book.lock().unwrap_or_else(PoisonError::into_inner) = Some(book.clone());
    }
}

impl Shared {
    /// Notes why the store has stopped; only the first reason is kept.
    pub fn stop(&self, error: &Error) {
        if self.stopped.set(error.to_string()).is_ok() {
            tracing::error!(%error, "the log has stopped; writes are refused, reads go on");
        }
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            directory: Directory::new(&Databases::default()),
            cache: Cache::new(),
            feeds: Feeds::default(),
            stopped: OnceLock::new(),
            book: Mutex::default(),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    /// Where the databases are, as of the last applied entry.
    databases: Databases,
    /// Whose requests are numbered, as of the last applied entry.
    sessions: Sessions,
    /// Who the nodes are, as of the last applied entry.
    book: Book,
    /// Whether that has changed since it was told.
    is_book_new: bool,
    /// Who waits for answers.
    answers: Answers,
    /// Brought up to date whenever applied entries become visible.
    shared: Arc<Shared>,
    /// What was written by entries that are not visible yet, in order.
    written: Vec<cache::Entry>,
    /// Memory to work in.
    scratch: Vec<u8>,
    /// Holds the places of the arguments of the command in execution.
    spans: Vec<Span>,
}

impl Machine {
    /// With all databases empty.
    pub fn new(answers: Answers, shared: Arc<Shared>) -> Self {
        Self {
            databases: Databases::default(),
            sessions: Sessions::default(),
            book: Book::default(),
            is_book_new: false,
            answers,
            shared,
            written: Vec::new(),
            scratch: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// Executes a command and writes its answer.
    fn execute(
        mut apply: Apply<'_, '_>,
        entry: &Entry<'_>,
        opcode: u16,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let done = match opcode {
            OPCODE_SWEEP => sweep(&mut apply, args).map_err(Failure::from),
            OPCODE_RECLAIM => reclaim(&mut apply, args).map_err(Failure::from),
            opcode => {
                let place = table::place_of_opcode(opcode).ok_or_else(|| unknown(entry, opcode))?;
                let command = &table::COMMANDS[place];
                let Handler::Write { apply: handler, .. } = command.handler else {
                    unreachable!("only writes have opcodes");
                };
                if !command.takes(args.len()) {
                    return Err(unknown(entry, opcode));
                }
                handler(&mut apply, args, reply)
            }
        };
        match done {
            Ok(()) => Ok(()),
            Err(Failure::Refused(refusal)) => {
                reply.error(&refusal.to_string());
                Ok(())
            }
            Err(Failure::Store(error)) => Err(error),
        }
    }
}

fn unknown(entry: &Entry<'_>, opcode: u16) -> Error {
    Error::Malformed {
        what: "command",
        offset: 0,
        reason: format!(
            "opcode {opcode} in database {} at index {}: a newer program wrote it",
            entry.header.database, entry.index
        ),
    }
}

impl EngineMachine for Machine {
    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        if entry.header.kind != EntryKind::COMMAND
            || usize::from(entry.header.database) >= crate::databases::DATABASE_COUNT
        {
            return Err(unknown(entry, 0));
        }
        let opcode = entry::decode(entry.command, &mut self.spans)?;
        let args = entry::args(entry.command, &self.spans);
        let (out, protocol) = self.answers.begin(entry.index, entry.header.term);
        let mut reply = Reply::new(out, protocol);
        if opcode == OPCODE_NODES {
            self.book = read_book(entry.index, args).ok_or_else(|| unknown(entry, opcode))?;
            self.is_book_new = true;
            reply.ok();
            self.answers.answered(entry.index);
            return Ok(());
        }
        let apply = Apply {
            changes,
            databases: &mut self.databases,
            cache: &self.shared.cache,
            written: &mut self.written,
            scratch: &mut self.scratch,
            sessions: &mut self.sessions,
            database: usize::from(entry.header.database),
            index: entry.index,
            time_ms: entry.header.time_ms,
        };
        Self::execute(apply, entry, opcode, args, &mut reply)?;
        self.answers.answered(entry.index);
        Ok(())
    }

    fn published(&mut self, _: Index) {
        self.shared.directory.publish(&self.databases);
        if std::mem::take(&mut self.is_book_new) {
            self.shared.put_book(&self.book);
        }
        for written in self.written.drain(..) {
            self.shared.cache.finish_write(written);
        }
        self.answers.deliver();
        self.shared.feeds.moved();
    }

    fn failed(&mut self, error: &Error) {
        self.shared.stop(error);
        self.answers.give_up(UNKNOWN_REPLY);
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = self.databases.encode();
        self.sessions.encode(&mut bytes);
        if self.book.index > 0 {
            bytes.extend_from_slice(&self.book.encode());
        }
        bytes
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let malformed = |reason: String| Error::Malformed {
            what: "state of the machine",
            offset: databases::STATE_LEN,
            reason,
        };
        let (databases, rest) = state.split_at(state.len().min(databases::STATE_LEN));
        self.databases = Databases::decode(databases)?;
        let (sessions, book) =
            Sessions::decode(rest).map_err(|error| malformed(error.to_string()))?;
        self.sessions = sessions;
        self.book = match book {
            [] => Book::default(),
            book => Book::decode(book)
                .ok_or_else(|| malformed("what follows the sessions is no book of nodes".into()))?,
        };
        if self.book.index > 0 {
            self.shared.put_book(&self.book);
        }
        // What was written and read so far belongs to another state.
        for written in self.written.drain(..) {
            self.shared.cache.finish_write(written);
        }
        self.shared.cache.clear();
        // In a running replica that is a snapshot from another leader: what waits here was accepted before,
        // and whoever is not told now would wait until a deadline.
        self.answers.give_up(UNKNOWN_REPLY);
        Ok(())
    }
}

/// The book of nodes that an entry brings; none if it makes no sense.
fn read_book(index: Index, args: Args<'_>) -> Option<Book> {
    let (id_last, list) = (args.get(1)?, args.get(2)?);
    let id_last = u64::from_le_bytes(id_last.try_into().ok()?);
    let list = String::from_utf8(list.to_vec()).ok()?;
    nodes::check_list(&list).ok()?;
    Some(Book { index: index.0, id_last, list })
}

/// The key that a housekeeping command carries, of so many bytes or more.
fn from_key(args: Args<'_>, len_min: usize) -> Result<Vec<u8>> {
    let key = args.get(1).filter(|key| key.len() >= len_min);
    key.map(<[u8]>::to_vec).ok_or_else(|| Error::Malformed {
        what: "housekeeping command",
        offset: 0,
        reason: "its key is missing".into(),
    })
}

/// Bounds one slice of housekeeping.
#[derive(Default)]
struct Slice {
    keys: usize,
    bytes: usize,
}

impl Slice {
    fn has_room_for(&mut self, key: &[u8]) -> bool {
        self.keys += 1;
        self.bytes += key.len();
        self.keys <= SLICE_KEYS_MAX && self.bytes <= SLICE_BYTES_MAX
    }
}

fn sweep(apply: &mut Apply<'_, '_>, args: Args<'_>) -> Result<()> {
    let range = Range {
        start: Bound::Included(from_key(args, 0)?),
        end: Bound::Excluded(key::expiry_key(apply.time_ms.saturating_add(1), &[])),
        direction: Direction::Forward,
    };
    let mut slice = Slice::default();
    let mut expired = Vec::new();
    for pair in apply.changes.range(EXPIRY, range) {
        let (expiry_key, _) = pair?;
        if !slice.has_room_for(&expiry_key) {
            break;
        }
        expired.push(expiry_key);
    }
    for expiry_key in expired {
        let (expire_ms, data_key) = key::split_expiry_key(&expiry_key);
        match apply.databases.in_space(key::space_of(data_key)) {
            Some(database) => {
                let place = apply.find_in(database, key::user_key(data_key))?;
                if place.stored_expire_ms() == Some(expire_ms) {
                    apply.delete(&place)?;
                } else {
                    debug_assert!(false, "an expiry belongs to a key that has it");
                    apply.changes.delete(EXPIRY, &expiry_key)?;
                }
            }
            // The key was flushed with its database.
            None => {
                apply.changes.delete(EXPIRY, &expiry_key)?;
                apply.changes.delete(DATA, data_key)?;
            }
        }
    }
    Ok(())
}

fn reclaim(apply: &mut Apply<'_, '_>, args: Args<'_>) -> Result<()> {
    let from = from_key(args, key::SPACE_LEN)?;
    let space = key::space_of(&from);
    if apply.databases.in_space(space).is_some() {
        return Ok(());
    }
    let mut range = Range::prefix(&key::space_prefix(space));
    range.start = Bound::Included(from);
    let mut slice = Slice::default();
    let mut dead = Vec::new();
    for pair in apply.changes.range(DATA, range) {
        let (data_key, value) = pair?;
        if !slice.has_room_for(&data_key) {
            break;
        }
        dead.push((data_key, Stored::decode(value)?.expire_ms()));
    }
    for (data_key, expire_ms) in dead {
        apply.changes.delete(DATA, &data_key)?;
        if let Some(expire_ms) = expire_ms {
            apply.changes.delete(EXPIRY, &key::expiry_key(expire_ms, &data_key))?;
        }
    }
    Ok(())
}

/// The first data key at or after `from` whose space belongs to no database; none if there is none.
///
/// # Errors
///
/// Those of the store.
pub fn dead_key(read: &dyn Read, databases: &Databases, from: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut start = from.to_vec();
    loop {
        let range = Range {
            start: Bound::Included(start),
            end: Bound::Unbounded,
            direction: Direction::Forward,
        };
        let Some(pair) = read.range(DATA, range).next() else { return Ok(None) };
        let (data_key, _) = pair?;
        let space = key::space_of(&data_key);
        if databases.in_space(space).is_none() {
            return Ok(Some(data_key));
        }
        let Some(next) = space.checked_add(1) else { return Ok(None) };
        start = key::space_prefix(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol;
    use crate::submission::{Mailbox, Run, Submissions};

    /// Who had proposed something to a leader that was deposed and got a snapshot waited until a deadline.
    /// And whoever read there was answered from a cache of what had been before it.
    #[test]
    fn a_snapshot_answers_who_waits_and_empties_the_cache() {
        let submissions = Arc::new(Submissions::default());
        let shared = Arc::new(Shared::default());
        shared.cache.set_len_max(1 << 20);
        let mut machine = Machine::new(Answers::new(submissions.clone()), shared.clone());
        let data_key = key::data_key(0, b"k");
        shared.cache.begin_write(&data_key);
        shared.cache.finish_write(cache::Entry::new(&data_key, None));
        assert!(matches!(shared.cache.find(&data_key), cache::Found::Hit(None)));
        let mailbox = Arc::new(Mailbox::default());
        submissions.lock().push_back(Run {
            first: Index(7),
            term: 3,
            count: 2,
            answered: 0,
            protocol: Protocol::Resp2,
            session: 1,
            number: 1,
            cost: 0,
            replies: Vec::new(),
            mailbox: mailbox.clone(),
        });
        let state = machine.state();
        machine.restore(&state).unwrap();
        assert!(matches!(shared.cache.find(&data_key), cache::Found::Miss(_)));
        let mut runs = Vec::new();
        mailbox.take(&mut runs);
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].replies, UNKNOWN_REPLY.repeat(2));
    }
}
