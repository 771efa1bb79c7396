//! What no sound peer sends is refused here, before the consensus sees it.
//!
//! The consensus is a crate that stops the process when an invariant is broken. A peer that is broken,
//! or of another mind about what is committed, must not be able to do that: its message is refused
//! with a reason, and nothing has changed. Messages that are merely late or lost and found again are
//! not refused: they are a network's business, and the consensus ignores them.

use std::collections::BTreeMap;

use strandline_engine::{ENTRY_HEADER_LEN, Entry, Index};

use crate::lease::QUIET_TICKS_MAX;
use crate::message::{Body, Envelope};
use crate::read::CONTEXT_LEN;
use crate::{Error, ReplicaId, Result, Term};

/// The largest term and index that are believed: what follows them can still be counted.
const NUMBER_MAX: u64 = 1 << 62;
/// The longest context of a read: ours are shorter.
const CONTEXT_LEN_MAX: usize = 64;

/// What a message is held against.
pub(crate) struct Facts {
    pub(crate) id: ReplicaId,
    pub(crate) group: u64,
    pub(crate) term: Term,
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) is_leader: bool,
    pub(crate) last: Index,
}

fn refused<T>(reason: String) -> Result<T> {
    Err(Error::Message { offset: 0, reason })
}

/// Whether a message may be taken.
///
/// # Errors
///
/// [`Error::Message`] says what is wrong with it.
pub(crate) fn validate(envelope: &Envelope, facts: &Facts) -> Result<()> {
    let Envelope { from, to, group, message } = envelope;
    if *group != facts.group || *to != facts.id {
        return refused(format!(
            "it is for replica {to} of group {group}, this is replica {} of group {}",
            facts.id, facts.group
        ));
    }
    if *from == facts.id || from.0 == 0 {
        return refused(format!("it says that it is from {from}"));
    }
    let term = message.term;
    if term.0 > NUMBER_MAX {
        return refused(format!("no group has reached term {term}"));
    }
    // Only who has not heard of any leader yet has no term, and such a one only asks.
    let may_have_none = matches!(message.body, Body::Probe { .. } | Body::ProbeAnswer { .. });
    if term.0 == 0 && !may_have_none {
        return refused("it has no term".into());
    }
    if numbers(&message.body).into_iter().any(|number| number > NUMBER_MAX) {
        return refused("no log has reached such an index or term".into());
    }
    let is_current = term == facts.term;
    match &message.body {
        Body::Append { previous, previous_term, entries, .. } => {
            check_leader(envelope, facts)?;
            check_entries(*previous, *previous_term, term, entries)
        }
        Body::Heartbeat { lease_ticks, .. } if *lease_ticks > QUIET_TICKS_MAX => {
            refused(format!("it wants others quiet for {lease_ticks} ticks"))
        }
        Body::Heartbeat { committed, context, .. } => {
            check_leader(envelope, facts)?;
            check_context(context)?;
            match *committed > facts.last && term >= facts.term {
                true => refused(format!(
                    "replica {from} believes that entry {committed} is here, and the log ends at {}",
                    facts.last
                )),
                false => Ok(()),
            }
        }
        Body::Appended { last, .. } if is_current && facts.is_leader && *last > facts.last => {
            refused(format!("entry {last} was never sent: the log ends at {}", facts.last))
        }
        Body::AppendRefused { previous, .. }
            if is_current && facts.is_leader && *previous > facts.last =>
        {
            refused(format!("entry {previous} was never sent: the log ends at {}", facts.last))
        }
        Body::TimeoutNow => match is_current && facts.leader != Some(*from) {
            true => refused(format!("replica {from} hands over what it does not lead")),
            false => Ok(()),
        },
        Body::HeartbeatAnswer { context, .. } => check_context(context),
        Body::ReadRequest { context } if context.len() > CONTEXT_LEN => {
            refused(format!("a read's context of {} bytes", context.len()))
        }
        Body::ReadAnswer { context, index } => {
            check_context(context)?;
            match is_current && *index > facts.last && facts.is_leader {
                true => refused("a leader answers reads, it is not answered".into()),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Whatever is counted in a message.
fn numbers(body: &Body) -> Vec<u64> {
    match body {
        Body::Append { previous, previous_term, committed, .. } => {
            vec![previous.0, previous_term.0, committed.0]
        }
        Body::Appended { last, committed } => vec![last.0, committed.0],
        Body::AppendRefused { previous, hint, hint_term, committed } => {
            vec![previous.0, hint.0, hint_term.0, committed.0]
        }
        Body::Heartbeat { committed, .. } | Body::HeartbeatAnswer { committed, .. } => {
            vec![committed.0]
        }
        Body::VoteRequest { last, last_term, committed, committed_term, .. } => {
            vec![last.0, last_term.0, committed.0, committed_term.0]
        }
        Body::VoteAnswer { committed, committed_term, .. } => vec![committed.0, committed_term.0],
        Body::ReadAnswer { index, .. } => vec![index.0],
        Body::Probe { last, .. } | Body::ProbeAnswer { last, .. } => vec![last.0],
        Body::RepairRequest { first, end, before_term, end_term, .. } => {
            vec![first.0, end.0, before_term.0, end_term.0]
        }
        Body::Repair { first, .. } => vec![first.0],
        Body::Snapshot(crate::SnapshotBody::Wanted { index }) => vec![index.0],
        Body::TimeoutNow | Body::ReadRequest { .. } | Body::Snapshot(_) => Vec::new(),
    }
}

/// A term has one leader.
fn check_leader(envelope: &Envelope, facts: &Facts) -> Result<()> {
    if envelope.message.term != facts.term {
        return Ok(());
    }
    match facts.leader {
        Some(leader) if leader != envelope.from => refused(format!(
            "replica {} leads term {}, and so does replica {leader}",
            envelope.from, facts.term
        )),
        _ => Ok(()),
    }
}

fn check_context(context: &[u8]) -> Result<()> {
    match context.len() > CONTEXT_LEN_MAX {
        true => refused(format!("a context of {} bytes", context.len())),
        false => Ok(()),
    }
}

/// Entries have headers, and terms that rise from the one before them to the leader's.
fn check_entries(
    previous: Index,
    previous_term: Term,
    leader_term: Term,
    entries: &[bytes::Bytes],
) -> Result<()> {
    if (previous.0 == 0) != (previous_term.0 == 0) {
        return refused(format!("entry {previous} with term {previous_term}"));
    }
    let mut term = previous_term.0;
    for (index, payload) in (previous.0 + 1..).zip(entries) {
        let entry = match Entry::decode(Index(index), payload) {
            Ok(entry) => entry,
            Err(error) => return refused(format!("entry {index}: {error}")),
        };
        debug_assert!(payload.len() >= ENTRY_HEADER_LEN, "it was decoded");
        if entry.header.term < term || entry.header.term > leader_term.0 || entry.header.term == 0 {
            return refused(format!(
                "entry {index} has term {} between {term} and {leader_term}",
                entry.header.term
            ));
        }
        term = entry.header.term;
    }
    Ok(())
}

/// Counts refusals by peer, for the status page.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<ReplicaId, u64>);

impl Refusals {
    pub(crate) fn count(&mut self, from: ReplicaId) {
        *self.0.entry(from).or_default() += 1;
        // Ids of strangers must not grow without bound.
        if self.0.len() > 64 {
            self.0.pop_first();
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
