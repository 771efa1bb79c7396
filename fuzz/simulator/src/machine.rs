//! The machine that every replica runs, and what it tells the simulator.
//!
//! It executes operations on registers and nothing else. Its small state is a chain: a hash over every
//! command that it has executed, with index, term and answer. Two replicas that have the same chain
//! have executed the same commands in the same order. What it does is told to the simulator through a
//! [`Feed`], which takes no part in what is done.

use std::sync::{Arc, Mutex, PoisonError};

use strandline_engine::{
    Changes, Entry, EntryKind, Error, Index, KeyspaceId, Machine, Read, Result, Skipped,
};

use crate::hash::Hash;
use crate::operation::{Action, Answer, Operation, read_register, register_key, register_value};

/// What a machine has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// It began from the state that was kept with the tables.
    Restored {
        /// The last command in it,
        index: Index,
        /// and the chain up to there.
        chain: u64,
    },
    /// An entry of a session comes by: to open it, or with a command of it, which follows.
    Session {
        /// Where the entry stands.
        index: Index,
        /// The reign in which it was proposed.
        term: u64,
    },
    /// It passed over a command.
    Skipped {
        /// Where the entry stands.
        index: Index,
        /// The reign in which it was proposed.
        term: u64,
        /// What it is.
        operation: Operation,
        /// Why.
        reason: Skipped,
    },
    /// It executed a command.
    Executed {
        /// Where the entry stands.
        index: Index,
        /// The reign in which it was proposed.
        term: u64,
        /// What it is.
        operation: Operation,
        /// What it answers.
        answer: Answer,
        /// The chain up to here.
        chain: u64,
    },
}

/// What one machine has done since this was last emptied.
#[derive(Clone, Debug, Default)]
pub struct Feed(Arc<Mutex<Vec<Note>>>);

impl Feed {
    /// Takes the notes out.
    pub fn take(&self) -> Vec<Note> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, note: Note) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }
}

/// Registers.
#[derive(Debug)]
pub struct Registers {
    /// The last command executed.
    index: Index,
    /// The hash over all commands executed.
    chain: u64,
    feed: Feed,
}

impl Registers {
    /// No commands yet.
    pub fn new(feed: Feed) -> Self {
        Self { index: Index(0), chain: 0, feed }
    }
}

/// The chain with one more command.
pub fn link(chain: u64, index: Index, term: u64, command: &[u8], answer: Answer) -> u64 {
    let hash = Hash::default().word(chain).word(index.0).word(term);
    hash.bytes(command).bytes(&answer.bytes()).get()
}

impl Machine for Registers {
    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        let Some(operation) = Operation::decode(entry.command) else {
            return Err(malformed("entry", format!("index {} holds no operation", entry.index)));
        };
        let keyspace = KeyspaceId::DEFAULT;
        let key = register_key(operation.action.key());
        let value = match operation.action {
            Action::Put { value, .. } => Ok(value),
            Action::Exchange { expected, value, .. } => {
                let found = match changes.get(keyspace, &key)? {
                    None => 0,
                    Some(bytes) => read_register(&bytes)
                        .ok_or_else(|| malformed("register", format!("{} bytes", bytes.len())))?,
                };
                if found == expected { Ok(value) } else { Err(found) }
            }
        };
        let answer = match value {
            Err(found) => Answer::Differs(found),
            Ok(0) => {
                changes.delete(keyspace, &key)?;
                Answer::Done
            }
            Ok(value) => {
                changes.put(keyspace, &key, &register_value(value, operation.padding))?;
                Answer::Done
            }
        };
        changes.put(keyspace, &operation.trace_key(), &answer.bytes())?;
        let (index, term) = (entry.index, entry.header.term);
        self.index = index;
        self.chain = link(self.chain, index, term, entry.command, answer);
        self.feed.add(Note::Executed { index, term, operation, answer, chain: self.chain });
        Ok(())
    }

    fn observe(&mut self, entry: &Entry<'_>) {
        if entry.header.kind == EntryKind::SESSION {
            let (index, term) = (entry.index, entry.header.term);
            self.feed.add(Note::Session { index, term });
        }
    }

    fn skipped(&mut self, entry: &Entry<'_>, reason: Skipped) {
        if let Some(operation) = Operation::decode(entry.command) {
            let (index, term) = (entry.index, entry.header.term);
            self.feed.add(Note::Skipped { index, term, operation, reason });
        }
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = self.index.0.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.chain.to_le_bytes());
        bytes
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let (index, chain) = match state.len() {
            0 => (0, 0),
            16 => {
                let (words, _) = state.as_chunks::<8>();
                (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
            }
            len => return Err(malformed("state of the machine", format!("{len} bytes"))),
        };
        (self.index, self.chain) = (Index(index), chain);
        self.feed.add(Note::Restored { index: self.index, chain });
        Ok(())
    }
}

fn malformed(what: &'static str, reason: String) -> Error {
    Error::Malformed { what, offset: 0, reason }
}
