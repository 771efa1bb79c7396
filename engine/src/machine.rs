//! Entries, and the machine that turns them into changes.
//!
//! An entry is what the log carries: a header that a reader can filter by, and a command. The
//! machine executes committed entries one after the other. It reads no clock, draws no randomness and
//! depends on no map's order: what would differ between replicas stands in the entry's header (D4).
//!
//! ```text
//! 0      1       2          4      6        8          16       24       32
//! +------+-------+----------+------+--------+----------+--------+--------+---------+
//! | kind | 0     | database | slot | 0      | time_ms  | seed   | term   | command |
//! +------+-------+----------+------+--------+----------+--------+--------+---------+
//! ```

use crate::{Changes, Error, Index, Result};

/// Bytes before the command.
pub const ENTRY_HEADER_LEN: usize = 32;

/// Where the time stands in a header.
const TIME_OFFSET: usize = 8;

/// Where the term stands in an encoded header.
const TERM_OFFSET: usize = 24;

/// What an entry's command is; the numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKind(pub u8);

impl EntryKind {
    /// Nothing to do.
    pub const NOOP: EntryKind = EntryKind(0);
    /// An encoded [`Batch`](crate::Batch).
    pub const BATCH: EntryKind = EntryKind(1);
    /// Creates or drops a keyspace; see `docs/format/entry.md`.
    pub const KEYSPACE: EntryKind = EntryKind(2);
    /// A change of who the members of the replication group are; see `docs/format/entry.md`.
    pub const MEMBERSHIP: EntryKind = EntryKind(3);
    /// Opens a session, or a command that is executed once in its session; see
    /// `docs/format/entry.md`. Executed by a replica.
    pub const SESSION: EntryKind = EntryKind(4);
    /// A command of the server.
    pub const COMMAND: EntryKind = EntryKind(16);
}

/// What a reader of the log can filter by without decoding the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// What the command is.
    pub kind: EntryKind,
    /// Which database of the server; 0 if there is only one.
    pub database: u16,
    /// Which hash slot; 0 if the database is not sharded.
    pub slot: u16,
    /// The leader's time when it proposed the entry, in milliseconds since 1970 (UTC).
    pub time_ms: u64,
    /// Randomness for the command, drawn by the leader.
    pub seed: u64,
    /// The reign in which a leader proposed the entry; 0 in a store that is not replicated. With the
    /// entry's index it tells a proposer whether this entry is the one it proposed.
    pub term: u64,
}

impl EntryHeader {
    /// A header of this kind with all else 0.
    pub fn of_kind(kind: EntryKind) -> Self {
        Self { kind, database: 0, slot: 0, time_ms: 0, seed: 0, term: 0 }
    }

    /// The bytes that precede the command.
    pub fn encode(&self) -> [u8; ENTRY_HEADER_LEN] {
        let mut bytes = [0; ENTRY_HEADER_LEN];
        bytes[0] = self.kind.0;
        bytes[2..4].copy_from_slice(&self.database.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.slot.to_le_bytes());
        bytes[TIME_OFFSET..16].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seed.to_le_bytes());
        bytes[TERM_OFFSET..].copy_from_slice(&self.term.to_le_bytes());
        bytes
    }

    /// Changes the time of an encoded entry: the leader's clock counts, whoever took the command.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the payload is shorter than a header.
    pub fn stamp_time(payload: &mut [u8], time_ms: u64) -> Result<()> {
        Self::stamp(payload, TIME_OFFSET, time_ms)
    }

    /// Fills in the term of an encoded entry: only the leader that proposes it knows the term.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if the payload is shorter than a header.
    pub fn stamp_term(payload: &mut [u8], term: u64) -> Result<()> {
        Self::stamp(payload, TERM_OFFSET, term)
    }

    fn stamp(payload: &mut [u8], offset: usize, word: u64) -> Result<()> {
        let len = payload.len();
        if len < ENTRY_HEADER_LEN {
            let reason = format!("{len} bytes where {ENTRY_HEADER_LEN} belong");
            return Err(Error::Malformed { what: "entry", offset: 0, reason });
        }
        payload[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

/// Why a committed entry is not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// It is a retry of a request that was executed.
    Repeated,
    /// Its session is not open (any more), or the request is too old for the session to know whether
    /// it was executed.
    Expired,
}

/// A committed entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its place in the log.
    pub index: Index,
    /// What can be filtered by.
    pub header: EntryHeader,
    /// The command.
    pub command: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Decodes the payload of a log record.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] if it is too short or a reserved byte is not zero.
    pub fn decode(index: Index, payload: &'a [u8]) -> Result<Self> {
        let malformed = |offset, reason: String| Error::Malformed { what: "entry", offset, reason };
        let Some((bytes, command)) = payload.split_first_chunk::<ENTRY_HEADER_LEN>() else {
            let reason = format!("{} bytes where {ENTRY_HEADER_LEN} belong", payload.len());
            return Err(malformed(0, reason));
        };
        for offset in [1, 6, 7] {
            if bytes[offset] != 0 {
                return Err(malformed(offset, "a reserved byte is not zero".into()));
            }
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u64_at = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let header = EntryHeader {
            kind: EntryKind(bytes[0]),
            database: u16_at(2),
            slot: u16_at(4),
            time_ms: u64_at(8),
            seed: u64_at(16),
            term: u64_at(TERM_OFFSET),
        };
        Ok(Entry { index, header, command })
    }

    /// Whether the engine can execute the command, for whoever proposes it: an entry that cannot be
    /// applied stops every replica. Commands of machines are theirs to check.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] says what is wrong.
    pub fn check(&self) -> Result<()> {
        match self.header.kind {
            EntryKind::BATCH => {
                crate::Batch::decode(self.command).try_for_each(|op| op.map(|_| ()))
            }
            EntryKind::KEYSPACE => crate::keyspace_entry::check(self.command),
            _ => Ok(()),
        }
    }
}

/// A deterministic state machine over the engine's keys.
///
/// The store calls [`apply`](Machine::apply) once for every committed entry, in the order of the log,
/// from one thread at a time; after a restart it calls [`restore`](Machine::restore) with the state
/// that belongs to the flushed part, and then `apply` again for the entries after it.
pub trait Machine: Send {
    /// Executes one entry: reads through `changes` and leaves there what it writes, which takes
    /// effect atomically at the entry's index.
    ///
    /// # Errors
    ///
    /// Only errors of the store itself (a damaged file, a failing disk). They stop the store: a
    /// command that cannot be executed is not an error but an answer, alike on every replica.
    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()>;

    /// An entry of any kind is about to be applied, those that the engine executes itself included;
    /// it comes before [`apply`](Machine::apply).
    fn observe(&mut self, _entry: &Entry<'_>) {}

    /// An entry is not executed, alike on every replica; [`apply`](Machine::apply) is not called.
    fn skipped(&mut self, _entry: &Entry<'_>, _reason: Skipped) {}

    /// The store has stopped: entries that were appended and not applied have an unknown outcome.
    fn failed(&mut self, _error: &Error) {}

    /// A small state of the machine's own (counters, not data: at most 1 MiB) as of the last applied
    /// entry; kept with every flush.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes back what [`state`](Machine::state) gave at the flushed index.
    ///
    /// # Errors
    ///
    /// If the bytes are not such a state.
    fn restore(&mut self, _state: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Everything applied so far, up to this index, is now visible to views: who waits for an answer
    /// may have it and will read their own writes. Called once after each run of applied entries.
    fn published(&mut self, _index: Index) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_decoded_as_it_was_encoded() {
        let header = EntryHeader {
            kind: EntryKind::COMMAND,
            database: 3,
            slot: 16383,
            time_ms: 1 << 40,
            seed: u64::MAX,
            term: 7,
        };
        let mut payload = header.encode().to_vec();
        payload.extend_from_slice(b"SET");
        let entry = Entry::decode(Index(9), &payload).unwrap();
        assert_eq!((entry.header, entry.command), (header, &b"SET"[..]));
        assert!(Entry::decode(Index(9), &payload[..31]).is_err());
        EntryHeader::stamp_term(&mut payload, 8).unwrap();
        let stamped = Entry::decode(Index(9), &payload).unwrap();
        assert_eq!(stamped.header, EntryHeader { term: 8, ..header });
        assert!(EntryHeader::stamp_term(&mut [0; 31], 8).is_err());
        payload[6] = 1;
        assert!(Entry::decode(Index(9), &payload).is_err());
    }
}
