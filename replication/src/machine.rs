//! The machine that a replica puts around its user's: it keeps what belongs to replication and must
//! travel with the state.
//!
//! That is, as of the last applied entry: the terms of the log, the members of the group, and the
//! table of sessions. All of it changes by entries only, so it is alike on every replica at an equal
//! index, and it is kept with every flush and in every snapshot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strandline_engine::{Changes, Entry, EntryHeader, EntryKind, Error, Index, Machine, Result};

use strandline_wal::canary;

use crate::Membership;
use crate::membership::{MembershipEntry, decode_entry};
use crate::session::{self, SessionEntry, Sessions};
use crate::terms::Terms;

/// What the replica and its machine share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Replicated>>);

/// The replicated state that is not the user's.
#[derive(Debug, Default)]
pub(crate) struct Replicated {
    /// Terms of the log up to the applied index.
    pub(crate) terms: Terms,
    /// Members at the applied index.
    pub(crate) membership: Membership,
    /// Whether the first members stand in the log.
    pub(crate) is_founded: bool,
    /// Requests that were executed.
    pub(crate) sessions: Sessions,
    /// Entries of membership that were applied and the consensus has not been told of. Not state.
    pub(crate) applied_changes: Vec<MembershipEntry>,
}

const STATE_VERSION: u8 = 1;

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Replicated> {
        // What was left behind by a panic is replaced whole when the replica is opened again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicated {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![STATE_VERSION, u8::from(self.is_founded)];
        self.terms.encode(&mut bytes);
        self.membership.encode(&mut bytes);
        if canary::is_on(canary::SESSIONS_NOT_IN_SNAPSHOT) {
            Sessions::default().encode(&mut bytes);
        } else {
            self.sessions.encode(&mut bytes);
        }
        bytes
    }

    /// Decodes a state; returns it and what follows it.
    pub(crate) fn decode(state: &[u8]) -> crate::Result<(Self, &[u8])> {
        let refused = |reason: &str| crate::Error::Message { offset: 0, reason: reason.into() };
        let Some(([version, is_founded], rest)) = state.split_first_chunk::<2>() else {
            return Err(refused("a replicated state ends too early"));
        };
        if *version != STATE_VERSION {
            return Err(refused("a replicated state of another version, or none"));
        }
        let (terms, rest) = Terms::decode(rest)?;
        let (membership, rest) = Membership::decode(rest)?;
        let (sessions, rest) = Sessions::decode(rest)?;
        let replicated = Replicated {
            terms,
            membership,
            sessions,
            is_founded: *is_founded == 1,
            applied_changes: Vec::new(),
        };
        Ok((replicated, rest))
    }

    fn change_membership(&mut self, entry: MembershipEntry) {
        match &entry {
            MembershipEntry::Found(members) if !self.is_founded => {
                self.membership = Membership::new(members);
                self.is_founded = true;
            }
            MembershipEntry::Found(_) => return,
            MembershipEntry::Change(changes) => self.membership.apply(changes),
        }
        self.applied_changes.push(entry);
    }
}

/// The machine around the user's.
pub(crate) struct ReplicatedMachine {
    inner: Box<dyn Machine>,
    shared: Shared,
    /// Whether this is a witness, which executes nothing.
    is_witness: bool,
}

impl ReplicatedMachine {
    pub(crate) fn new(inner: Box<dyn Machine>, shared: Shared, is_witness: bool) -> Self {
        Self { inner, shared, is_witness }
    }

    /// Opens a session, or executes the command of a request that was not executed yet.
    fn apply_session(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        let decoded =
            session::decode_entry(entry.command).map_err(|error| malformed(entry.index, &error))?;
        let (kind, request, command) = match decoded {
            SessionEntry::Open => {
                self.shared.lock().sessions.open(entry.index.0);
                return Ok(());
            }
            SessionEntry::Request { kind, request, command } => (kind, request, command),
        };
        let inner = Entry { header: EntryHeader { kind, ..entry.header }, command, ..*entry };
        let skipped = self.shared.lock().sessions.execute(entry.index.0, request);
        match skipped.filter(|_| !canary::is_on(canary::RETRY_APPLIED_TWICE)) {
            _ if self.is_witness => Ok(()),
            Some(reason) => {
                self.inner.skipped(&inner, reason);
                Ok(())
            }
            None if kind == EntryKind::BATCH => changes.put_batch(command),
            None => self.inner.apply(&inner, changes),
        }
    }
}

fn malformed(index: Index, error: &crate::Error) -> Error {
    Error::Malformed { what: "entry", offset: 0, reason: format!("at index {index}: {error}") }
}

impl Machine for ReplicatedMachine {
    fn observe(&mut self, entry: &Entry<'_>) {
        self.shared.lock().terms.push(entry.index.0, entry.header.term);
        self.inner.observe(entry);
    }

    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        if entry.header.kind == EntryKind::MEMBERSHIP {
            let decoded =
                decode_entry(entry.command).map_err(|error| malformed(entry.index, &error))?;
            self.shared.lock().change_membership(decoded);
            return Ok(());
        }
        if entry.header.kind == EntryKind::SESSION {
            return self.apply_session(entry, changes);
        }
        if self.is_witness {
            return Ok(());
        }
        self.inner.apply(entry, changes)
    }

    fn failed(&mut self, error: &Error) {
        self.inner.failed(error);
    }

    fn state(&self) -> Vec<u8> {
        let mut bytes = self.shared.lock().encode();
        if !self.is_witness {
            bytes.extend_from_slice(&self.inner.state());
        }
        bytes
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let (replicated, inner) = Replicated::decode(state).map_err(|error| Error::Malformed {
            what: "machine state",
            offset: 0,
            reason: format!("{error}: this directory is not a replica's"),
        })?;
        *self.shared.lock() = replicated;
        if self.is_witness {
            return Ok(());
        }
        self.inner.restore(inner)
    }

    fn published(&mut self, index: Index) {
        self.inner.published(index);
    }
}
