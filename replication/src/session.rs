//! Exactly once: a request is executed once, however often it is proposed.
//!
//! A client opens a session: an entry, whose index names the session for ever. It numbers its requests
//! from 1. Each session remembers which of its latest numbers were executed; a request that was is
//! skipped, alike on every replica. Requests of a session may be under way together, and may be
//! executed in another order than they were numbered, within a window of 128.
//!
//! What is not known is not guessed: a request of a session that is not open any more, or one that is
//! too old for the window, is skipped as *expired*, and its client must find out by itself.
//!
//! The table is replicated state: it changes by entries only and travels with the state. It is
//! bounded; the session that was used least recently, counted in entries, makes room.
//!
//! ```text
//! entry header, kind SESSION
//! open:     | 1 |
//! request:  | 2 | kind of the command | session (8) | number (8) | command |
//! ```

use std::collections::{BTreeMap, BTreeSet};

use strandline_engine::{Entry, EntryHeader, EntryKind, Skipped};

use crate::{Error, Request, Result};

/// How many sessions are open at the most. At 40 bytes each the table stays far below what a machine's
/// state may take.
pub const SESSIONS_MAX: usize = 4096;

/// How many numbers of a session are remembered one by one: the highest, and those below it.
pub const SESSION_WINDOW: u64 = 128;
const WINDOW: u64 = SESSION_WINDOW;

const OPEN: u8 = 1;
const REQUEST: u8 = 2;
/// Bytes before the command of a request.
pub(crate) const REQUEST_LEN: usize = 18;
/// Bytes of a session in the state.
const SESSION_LEN: usize = 40;

/// What is known of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    /// The highest number executed; 0 if none.
    highest: u64,
    /// Bit `n` is set if `highest - n` was executed.
    window: u128,
    /// Index of the entry that used it last.
    used: u64,
}

/// All open sessions. A replica keeps such a table for the entries of its users; a machine that wants to
/// give a retry its first answer keeps one of its own.
///
/// ```
/// use strandline_engine::Skipped;
/// use strandline_replication::{Request, Sessions};
///
/// let mut sessions = Sessions::default();
/// assert_eq!(sessions.open(7), None);
/// let request = Request { session: 7, number: 1 };
/// assert_eq!(sessions.execute(8, request), None, "it is to be executed");
/// assert_eq!(sessions.execute(9, request), Some(Skipped::Repeated));
/// let unknown = Request { session: 6, number: 1 };
/// assert_eq!(sessions.execute(10, unknown), Some(Skipped::Expired));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    open: BTreeMap<u64, Session>,
    /// By last use.
    by_use: BTreeSet<(u64, u64)>,
}

/// What an entry of a session says.
pub(crate) enum SessionEntry<'a> {
    Open,
    Request { kind: EntryKind, request: Request, command: &'a [u8] },
}

/// The payload of an entry that opens a session; its index, once it is applied, is the session.
pub fn open_session_entry() -> Vec<u8> {
    let mut payload = EntryHeader::of_kind(EntryKind::SESSION).encode().to_vec();
    payload.push(OPEN);
    payload
}

/// The payload that executes `entry` as a request of a session.
pub(crate) fn wrap(entry: &Entry<'_>, request: Request) -> Vec<u8> {
    let header = EntryHeader { kind: EntryKind::SESSION, ..entry.header };
    let mut payload = Vec::with_capacity(header.encode().len() + REQUEST_LEN + entry.command.len());
    payload.extend_from_slice(&header.encode());
    payload.extend_from_slice(&[REQUEST, entry.header.kind.0]);
    payload.extend_from_slice(&request.session.to_le_bytes());
    payload.extend_from_slice(&request.number.to_le_bytes());
    payload.extend_from_slice(entry.command);
    payload
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word)
}

fn refused(reason: &str) -> Error {
    Error::Message { offset: 0, reason: reason.into() }
}

/// Decodes the command of an entry of kind `SESSION`.
pub(crate) fn decode_entry(command: &[u8]) -> Result<SessionEntry<'_>> {
    if command == [OPEN] {
        return Ok(SessionEntry::Open);
    }
    let Some((head, command)) = command.split_first_chunk::<REQUEST_LEN>() else {
        return Err(refused("an entry of a session is too short"));
    };
    let kind = EntryKind(head[1]);
    let may = kind == EntryKind::BATCH || kind >= EntryKind::COMMAND;
    if head[0] != REQUEST || !may {
        return Err(refused("an entry of a session has a tag or kind that is not known"));
    }
    let request = Request { session: word(&head[2..]), number: word(&head[10..]) };
    Ok(SessionEntry::Request { kind, request, command })
}

impl Sessions {
    /// The entry at `index` opens a session. Returns the one that has made room for it, if one had to.
    pub fn open(&mut self, index: u64) -> Option<u64> {
        self.open.insert(index, Session { highest: 0, window: 0, used: index });
        self.by_use.insert((index, index));
        if self.open.len() <= SESSIONS_MAX {
            return None;
        }
        let (_, least) = self.by_use.pop_first().expect("every session is listed");
        self.open.remove(&least);
        Some(least)
    }

    /// The highest number of a session that was executed, 0 if none was; none if it is not open.
    pub fn highest(&self, session: u64) -> Option<u64> {
        self.open.get(&session).map(|session| session.highest)
    }

    /// The entry at `index` is a request: says why it is not to be executed, or takes note that it is.
    pub fn execute(&mut self, index: u64, request: Request) -> Option<Skipped> {
        let Some(session) = self.open.get_mut(&request.session) else {
            return Some(Skipped::Expired);
        };
        if request.number == 0 {
            return Some(Skipped::Expired);
        }
        self.by_use.remove(&(session.used, request.session));
        self.by_use.insert((index, request.session));
        session.used = index;
        if request.number > session.highest {
            let shift = u32::try_from(request.number - session.highest).unwrap_or(u32::MAX);
            session.window = session.window.checked_shl(shift).unwrap_or(0) | 1;
            session.highest = request.number;
            return None;
        }
        let age = session.highest - request.number;
        if age >= WINDOW {
            return Some(Skipped::Expired);
        }
        let bit = 1 << age;
        if session.window & bit != 0 {
            return Some(Skipped::Repeated);
        }
        session.window |= bit;
        None
    }

    /// Appends it as bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.open.len()).expect("sessions are bounded");
        out.extend_from_slice(&count.to_le_bytes());
        for (id, session) in &self.open {
            for word in [*id, session.highest, session.used] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&session.window.to_le_bytes());
        }
    }

    /// What [`encode`](Sessions::encode) gave, and what follows it.
    ///
    /// # Errors
    ///
    /// If the bytes end too early.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let short = || refused("a table of sessions ends too early");
        let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let mut sessions = Sessions::default();
        for _ in 0..u32::from_le_bytes(*count) {
            let (bytes, after) = rest.split_first_chunk::<SESSION_LEN>().ok_or_else(short)?;
            let mut window = [0; 16];
            window.copy_from_slice(&bytes[24..]);
            let (id, highest, used) = (word(bytes), word(&bytes[8..]), word(&bytes[16..]));
            let window = u128::from_le_bytes(window);
            sessions.open.insert(id, Session { highest, window, used });
            sessions.by_use.insert((used, id));
            rest = after;
        }
        Ok((sessions, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: u64, number: u64) -> Request {
        Request { session, number }
    }

    #[test]
    fn each_number_is_executed_once_in_any_order_within_the_window() {
        let mut sessions = Sessions::default();
        sessions.open(7);
        for number in [1, 3, 2, 130] {
            assert_eq!(sessions.execute(8, request(7, number)), None, "{number}");
        }
        for number in [130, 3] {
            assert_eq!(sessions.execute(9, request(7, number)), Some(Skipped::Repeated));
        }
        assert_eq!(sessions.execute(9, request(7, 2)), Some(Skipped::Expired), "too old");
        assert_eq!(sessions.execute(9, request(7, 100)), None, "late, and new");
        assert_eq!(sessions.execute(9, request(8, 1)), Some(Skipped::Expired), "never opened");
        assert_eq!(sessions.execute(9, request(7, u64::MAX)), None);
        assert_eq!(sessions.execute(9, request(7, u64::MAX)), Some(Skipped::Repeated));
        let mut bytes = Vec::new();
        sessions.encode(&mut bytes);
        assert_eq!(Sessions::decode(&bytes).unwrap(), (sessions, &[][..]));
        assert!(Sessions::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn the_least_recently_used_session_makes_room() {
        let mut sessions = Sessions::default();
        let count = u64::try_from(SESSIONS_MAX).unwrap();
        assert!((1..=count).all(|index| sessions.open(index).is_none()));
        assert_eq!(sessions.execute(count + 1, request(1, 1)), None);
        assert_eq!(sessions.open(count + 2), Some(2));
        assert_eq!((sessions.highest(1), sessions.highest(2)), (Some(1), None));
        assert_eq!(sessions.execute(count + 3, request(1, 1)), Some(Skipped::Repeated));
        assert_eq!(sessions.execute(count + 3, request(2, 1)), Some(Skipped::Expired));
    }
}
