//! The same entries, in the same order, on every replica: the log of one store, replicated by Raft.
//!
//! A [`Replica`] is stepped: one [`Event`] in, and everything that follows from it out, in the one
//! legal order: persist, send, apply, reply. It has no clock, no thread and no socket, and draws no
//! randomness but from its seed, so that a simulator can step a whole cluster in one thread.
//!
//! ```text
//!   Propose  Received  Tick  LogMoved          messages        outcomes
//!      |        |       |       |                 ^               ^
//!      +--------+---+---+-------+                 |               |
//!                   v                             |               |
//!   Replica --> consensus (decides) --------------+               |
//!                   |                             |               |
//!                   +--> hard state (term, vote)  | after the     |
//!                   +--> log (entries) -----------+ sync          |
//!                   +--> committed --> Db applies them -----------+
//! ```
//!
//! The protocol is Raft with pre-votes, a leader that steps down when it hears from no quorum,
//! learners, joint changes of membership, and reads by read index (sections 3.6, 3.10, 4.3, 6.4,
//! 9.6 and 10.2.1 of Ongaro's dissertation). The decisions are those of the crate `raft`, which only
//! the module `consensus` knows. What is on disk and on the wire is ours.
//!
//! The pointers: `trimmed <= flushed <= applied <= committed`, `everywhere <= committed <= last`,
//! `durable <= last`; a replica counts itself in a quorum only up to its own `durable`.
//!
//! **Who promises what.** An entry is `Accepted` when it stands in the leader's log, and done when an
//! entry with its index *and its term* is applied. If another entry takes its place it is
//! `Overwritten` and will never be executed. If a snapshot takes the place of the state before, it is
//! `Unknown`. What was `Refused` was never proposed. Between accepted
//! and applied the outcome is unknown, and only a session makes a retry safe.
//!
//! **Beyond the first sketch of this interface**, for who builds against it: `Outcome::Overwritten` names the
//! term in which the entries were accepted; `Refusal::Invalid` refuses what can never be executed;
//! `Options` has `group`, `retention_bytes_max`, `snapshot_bytes_per_tick`, `is_witness` and `may_create`;
//! [`Replica::set_log_hook`] tells a driver of [`Event::LogMoved`]; the first leader of a new group is
//! elected by all founders together, see the module `rejoin`.

mod apply;
mod codec;
mod consensus;
mod error;
mod event;
mod hard_state;
mod joining;
mod lag;
mod lease;
mod log;
mod machine;
mod membership;
mod mend;
mod message;
mod open;
mod options;
mod proposal;
mod read;
mod refill;
mod rejoin;
mod replace;
mod replica;
mod session;
mod snapshot;
mod status;
mod terms;
mod validate;
mod watermark;

pub use codec::{ENVELOPE_HEADER_LEN, decode, decode_shared, encode, frame_len};
pub use error::{Error, Result};
pub use event::{Event, Outcome, Output, Refusal, Request};
pub use hard_state::{Doubt, HardState, inspect_hard_state};
pub use membership::{Member, MemberRole, Membership, MembershipChange};
pub use message::{Body, Envelope, FileOffer, Message, SnapshotBody, VoteKind};
pub use open::{identity, prepare};
pub use options::{LeaseOptions, Options};
pub use replica::Replica;
pub use session::{SESSION_WINDOW, SESSIONS_MAX, Sessions, open_session_entry};
pub use status::{PeerState, PeerStatus, Role, Status, Transfer};
pub use strandline_engine::Index;

/// Names a replica, for ever: a replaced disk is a new replica. Never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

/// A leader's reign. Only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl std::fmt::Display for ReplicaId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

impl std::fmt::Display for Term {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}
