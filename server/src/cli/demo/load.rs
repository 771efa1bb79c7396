//! Writing and reading back: which keys, and who remembers what was acknowledged.
//!
//! Key and value follow from the number of a connection and the number of the write on it. So what a
//! connection has to remember, its [`Ledger`], is only which of its numbers were acknowledged: ranges,
//! and few of them, since replies come in order. Millions of writes take no memory to speak of.
//!
//! A number whose reply never came is in no range: the write may or may not have happened.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::client::{Connection, Reply};
use crate::cli::error::{Error, Result};
use crate::cli::fleet::{Fleet, Task};
use crate::cli::scratch;

/// Writes in flight per connection. With the number of connections this fills the log's groups.
const PIPELINE: u64 = 16;
/// Reads in flight per connection.
const READ_PIPELINE: u64 = 64;
/// Bytes of a value; a multiple of 8.
const VALUE_LEN: usize = 104;
/// How long to wait before connecting again to a server that is down.
const RECONNECT: Duration = Duration::from_millis(2);
/// How long to wait for replies before looking whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long the last replies may take once writing has been stopped.
const LAST_REPLIES: Duration = Duration::from_secs(30);

/// The key of a write.
fn key(connection: usize, number: u64) -> Vec<u8> {
    format!("demo:{connection}:{number}").into_bytes()
}

/// The value of a write: bytes of any kind that belong to this write alone.
fn value(connection: usize, number: u64) -> [u8; VALUE_LEN] {
    let connection = u64::try_from(connection).expect("there are few connections");
    let mut state = (connection << 48) ^ number;
    let mut value = [0; VALUE_LEN];
    for word in value.chunks_exact_mut(8) {
        // The mixing steps of splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    value
}

/// What the threads of a demo share.
#[derive(Debug)]
pub(crate) struct Course {
    /// Where the nodes are; writers go from one to the next when a connection breaks.
    addresses: Vec<SocketAddr>,
    acknowledged: AtomicU64,
    stopped: AtomicBool,
    killed: OnceLock<Instant>,
    /// When the first write after the kill was acknowledged.
    resumed: OnceLock<Instant>,
    /// The first error that the server answered.
    refusal: Mutex<Option<String>>,
}

impl Course {
    /// A course on the nodes at `addresses`, one at least.
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Course {
        Course {
            addresses,
            acknowledged: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            killed: OnceLock::new(),
            resumed: OnceLock::new(),
            refusal: Mutex::new(None),
        }
    }

    /// How many writes have been acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Notes that the server is killed now.
    pub(crate) fn kill(&self) -> Instant {
        *self.killed.get_or_init(Instant::now)
    }

    /// When writing went on after the kill, if it has.
    pub(crate) fn resumed(&self) -> Option<Instant> {
        self.resumed.get().copied()
    }

    /// Ends the writing.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The first error that the server answered, if any.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || scratch::check().is_err()
    }
}

/// What one connection has written.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    connection: usize,
    /// The number of the next write.
    next: u64,
    /// The number that the next reply belongs to.
    replied: u64,
    /// The numbers that were acknowledged, in order.
    acknowledged: Vec<Range<u64>>,
    /// The first number that was asked for after the kill.
    after_kill: Option<u64>,
    /// How many writes were refused with an error.
    refused: u64,
}

impl Ledger {
    /// An empty one.
    pub(crate) fn new(connection: usize) -> Ledger {
        Ledger {
            connection,
            next: 0,
            replied: 0,
            acknowledged: Vec::new(),
            after_kill: None,
            refused: 0,
        }
    }

    /// How many writes were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|range| range.end - range.start).sum()
    }

    /// How many writes were refused with an error.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes the next reply; returns whether its write was asked for after the kill.
    fn take(&mut self, is_ok: bool) -> bool {
        let number = self.replied;
        assert!(number < self.next, "a reply belongs to a write");
        self.replied += 1;
        if !is_ok {
            self.refused += 1;
            return false;
        }
        match self.acknowledged.last_mut() {
            Some(range) if range.end == number => range.end += 1,
            _ => self.acknowledged.push(number..number + 1),
        }
        self.after_kill.is_some_and(|first| number >= first)
    }

    /// Forgets the writes without a reply: nobody will ever answer them.
    fn give_up(&mut self) {
        self.replied = self.next;
    }
}

/// The writing side of one thread.
struct Writer<'a> {
    course: &'a Course,
    ledgers: Vec<Ledger>,
}

impl Task for Writer<'_> {
    fn ask(&mut self, connection: usize, out: &mut Connection) -> usize {
        if self.course.is_stopped() {
            return 0;
        }
        let ledger = &mut self.ledgers[connection];
        if ledger.after_kill.is_none() && self.course.killed.get().is_some() {
            ledger.after_kill = Some(ledger.next);
        }
        for number in ledger.next..ledger.next + PIPELINE {
            out.queue(&[
                b"SET",
                &key(ledger.connection, number),
                &value(ledger.connection, number),
            ]);
        }
        ledger.next += PIPELINE;
        usize::try_from(PIPELINE).expect("a window is small")
    }

    fn take(&mut self, connection: usize, reply: Reply) {
        let is_after_kill = self.ledgers[connection].take(reply.is_ok());
        if reply.is_ok() {
            self.course.acknowledged.fetch_add(1, Ordering::Relaxed);
            if is_after_kill {
                self.course.resumed.get_or_init(Instant::now);
            }
        } else {
            let mut refusal = self.course.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            refusal.get_or_insert_with(|| format!("{reply:?}"));
        }
    }
}

/// Writes until the course is stopped, through the death and return of the server, and returns what
/// was acknowledged.
pub(crate) fn write(course: &Course, ledgers: Vec<Ledger>) -> Vec<Ledger> {
    let first = ledgers.first().map_or(0, |ledger| ledger.connection / ledgers.len());
    let mut writer = Writer { course, ledgers };
    for attempt in first.. {
        if course.is_stopped() {
            break;
        }
        let address = course.addresses[attempt % course.addresses.len()];
        let Ok(mut fleet) = Fleet::open(address, writer.ledgers.len()) else {
            std::thread::sleep(RECONNECT);
            continue;
        };
        let mut stopped_at = None;
        loop {
            match fleet.round(&mut writer, LOOK) {
                Ok(0) if course.is_stopped() => break,
                Ok(_) if !course.is_stopped() => {}
                // The last replies are waited for, but not for ever.
                Ok(_) if stopped_at.get_or_insert_with(Instant::now).elapsed() < LAST_REPLIES => {}
                Ok(_) => break,
                Err(_) => {
                    fleet.drain(&mut writer);
                    break;
                }
            }
        }
        writer.ledgers.iter_mut().for_each(Ledger::give_up);
    }
    writer.ledgers
}

/// What reading back found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Check {
    /// Acknowledged writes that are there with their value.
    pub(crate) right: u64,
    /// Acknowledged writes that are not there.
    pub(crate) lost: u64,
    /// Acknowledged writes that are there with another value.
    pub(crate) wrong: u64,
}

/// The reading side of one thread.
struct Reader<'a> {
    ledgers: &'a [Ledger],
    /// Per ledger: the numbers still to be asked.
    open: Vec<std::iter::Flatten<std::vec::IntoIter<Range<u64>>>>,
    /// Per ledger: the numbers asked and not answered yet.
    asked: Vec<std::collections::VecDeque<u64>>,
    check: Check,
    /// An answer that is no value.
    odd: Option<Reply>,
}

impl Task for Reader<'_> {
    fn ask(&mut self, connection: usize, out: &mut Connection) -> usize {
        let window = usize::try_from(READ_PIPELINE).expect("a window is small");
        for number in self.open[connection].by_ref().take(window) {
            out.queue(&[b"GET", &key(self.ledgers[connection].connection, number)]);
            self.asked[connection].push_back(number);
        }
        self.asked[connection].len()
    }

    fn take(&mut self, connection: usize, reply: Reply) {
        let number = self.asked[connection].pop_front().expect("a reply belongs to a request");
        match reply {
            Reply::Bulk(found) if found == value(self.ledgers[connection].connection, number) => {
                self.check.right += 1;
            }
            Reply::Bulk(_) => self.check.wrong += 1,
            Reply::Null => self.check.lost += 1,
            odd => self.odd = Some(odd),
        }
    }
}

/// Reads every acknowledged write of `ledgers` and compares it; tells `progress` how many were read.
///
/// # Errors
///
/// If the server does not answer, or answers with anything but a value or none.
pub(crate) fn read_back(
    address: SocketAddr,
    ledgers: &[Ledger],
    progress: &dyn Fn(u64),
) -> Result<Check> {
    let broken = |source| Error::Connection { address: address.to_string(), source };
    let mut fleet = Fleet::open(address, ledgers.len()).map_err(broken)?;
    let mut reader = Reader {
        ledgers,
        open: ledgers
            .iter()
            .map(|ledger| ledger.acknowledged.clone().into_iter().flatten())
            .collect(),
        asked: vec![std::collections::VecDeque::new(); ledgers.len()],
        check: Check::default(),
        odd: None,
    };
    let mut told = 0;
    let total: u64 = ledgers.iter().map(Ledger::acknowledged).sum();
    loop {
        fleet.round(&mut reader, LOOK).map_err(broken)?;
        scratch::check()?;
        if let Some(odd) = reader.odd {
            return Err(Error::Answer { asked: "GET", found: format!("{odd:?}") });
        }
        let done = reader.check.right + reader.check.lost + reader.check.wrong;
        progress(done - told);
        told = done;
        if done == total {
            return Ok(reader.check);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_keeps_exactly_what_was_acknowledged() {
        let mut ledger = Ledger::new(3);
        ledger.next = 10;
        for is_ok in [true, true, false, true] {
            ledger.take(is_ok);
        }
        assert_eq!(ledger.acknowledged, vec![0..2, 3..4]);
        ledger.give_up();
        ledger.next += 1;
        ledger.take(true);
        assert_eq!(ledger.acknowledged, vec![0..2, 3..4, 10..11], "4 to 9 stay unknown");
        assert_eq!((ledger.acknowledged(), ledger.refused()), (4, 1));
    }

    #[test]
    fn values_belong_to_one_write() {
        let mut seen = std::collections::HashSet::new();
        for connection in 0..64 {
            for number in 0..100 {
                assert!(seen.insert(value(connection, number)), "{connection} {number}");
            }
        }
        assert_eq!(value(1, 2), value(1, 2));
    }
}
