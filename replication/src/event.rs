//! What a replica is told, and what it says.

use crate::{Envelope, Index, MembershipChange, ReplicaId, Role, Term};

/// Something that happened to a replica.
#[derive(Clone, Debug)]
pub enum Event {
    /// A unit of logical time has passed. The driver chooses its length.
    Tick,
    /// A message from a peer, decoded and authenticated. It is validated before it has an effect.
    Received(Envelope),
    /// Entries to be replicated, all or none accepted.
    Propose {
        /// Comes back in the outcome.
        token: u64,
        /// Payloads: an encoded header, whose term is filled in here, and a command each.
        entries: Vec<Vec<u8>>,
        /// Makes a retry of the same request harmless.
        session: Option<Request>,
    },
    /// A linearizable read.
    Read {
        /// Comes back in the outcome.
        token: u64,
    },
    /// For a while the state is to be kept from growing older than this, so that it may be read here
    /// without asking anybody first: see [`Replica::fresh_us`](crate::Replica::fresh_us).
    KeepFresh {
        /// In microseconds.
        age_us_max: u64,
    },
    /// The log's durable position has moved, or the log has failed.
    LogMoved,
    /// A message to this peer could not be sent.
    Unreachable(ReplicaId),
    /// The peer's end of a connection was closed: its process has most likely ended. If it is the
    /// leader, there is no point in waiting for the election time-out.
    Lost(ReplicaId),
    /// Hand the leadership to this member.
    Transfer {
        /// The next leader.
        to: ReplicaId,
    },
    /// Change who the members are; jointly if there is more than one change.
    ChangeMembership {
        /// Comes back in the outcome.
        token: u64,
        /// What changes.
        changes: Vec<MembershipChange>,
    },
    /// Stand for election now.
    Campaign,
}

/// Names a request for ever, so that it is executed once however often it is proposed.
///
/// The first of several entries proposed together has this number, the next one the number after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The index of the entry that opened the session.
    pub session: u64,
    /// Counted by the client from 1.
    pub number: u64,
}

/// Filled by a step: messages to be sent, and what has been decided.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent now, in this order; any of them may be lost.
    pub messages: Vec<Envelope>,
    /// In the order in which they came to pass.
    pub outcomes: Vec<Outcome>,
}

impl Output {
    /// Empties it for the next step, and keeps its memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.outcomes.clear();
    }
}

/// Something that has been decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The entries stand in this leader's log. Each is done when an entry with its index and this
    /// term has been applied; its outcome is unknown until then.
    Accepted {
        /// Of the proposal.
        token: u64,
        /// Index of the first entry.
        first: Index,
        /// How many there are.
        count: u64,
        /// In which they were proposed.
        term: Term,
    },
    /// Nothing was proposed, and nothing read: it may be tried again.
    Refused {
        /// Of the proposal or the read.
        token: u64,
        /// Why.
        reason: Refusal,
    },
    /// A read of the state as it is now is linearizable.
    Readable {
        /// Of the read.
        token: u64,
        /// Everything up to here is applied.
        index: Index,
    },
    /// Accepted entries have lost their places to others: they will never be executed.
    Overwritten {
        /// The first of them.
        first: Index,
        /// The index after the last.
        end: Index,
        /// The term in which they were accepted: in a later one this replica may have accepted others
        /// at the same places.
        term: Term,
    },
    /// What became of accepted entries is not told here any more: a snapshot, which this replica got when
    /// others led, took the place of the state, and their answers, if they were executed, are not in it.
    Unknown {
        /// The first of them.
        first: Index,
        /// The index after the last.
        end: Index,
        /// The term in which they were accepted.
        term: Term,
    },
    /// This replica's role, term or leader has changed.
    RoleChanged {
        /// The role now.
        role: Role,
        /// The term now.
        term: Term,
        /// Who leads, if that is known.
        leader: Option<ReplicaId>,
    },
    /// Everything up to here is durable on a majority, and applied here.
    Committed(Index),
    /// Everything up to here is durable on all voters, as far as this leader knows.
    Everywhere(Index),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another replica leads, or none.
    NotLeader {
        /// Who, if that is known.
        leader: Option<ReplicaId>,
    },
    /// Too much is under way.
    Overloaded,
    /// The disk is full.
    Full,
    /// This replica takes no writes any more.
    Stopped,
    /// The state is damaged, and not yet replaced by a peer's.
    Damaged,
    /// No quorum answers.
    NoQuorum,
    /// The request itself cannot be executed, now or later.
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
}
