//! What replicas say to each other.

use bytes::Bytes;

use crate::{Index, Membership, ReplicaId, Term};

/// A message with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who sends it.
    pub from: ReplicaId,
    /// Who is to receive it.
    pub to: ReplicaId,
    /// The replication group.
    pub group: u64,
    /// What it says.
    pub message: Message,
}

/// A message: the sender's term, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term; in a pre-vote the term it would stand in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A leader's entries.
    Append {
        /// The entries follow this one,
        previous: Index,
        /// which has this term.
        previous_term: Term,
        /// The leader's committed index.
        committed: Index,
        /// Payloads of log records, each with its term in its header.
        entries: Vec<Bytes>,
    },
    /// The entries up to here agree with the leader's, and are durable.
    Appended {
        /// The last of them.
        last: Index,
        /// The follower's committed index.
        committed: Index,
    },
    /// The entry before those in the append is missing or differs.
    AppendRefused {
        /// The one that was compared.
        previous: Index,
        /// Where the leader may try next,
        hint: Index,
        /// and the term of the entry there.
        hint_term: Term,
        /// The follower's committed index.
        committed: Index,
    },
    /// A leader is there.
    Heartbeat {
        /// What the follower may take as committed.
        committed: Index,
        /// Of a read that waits for a quorum.
        context: Bytes,
        /// For so many ticks whoever answers neither votes for another nor stands itself.
        lease_ticks: u32,
    },
    /// So is a follower.
    HeartbeatAnswer {
        /// The follower's committed index.
        committed: Index,
        /// As in the heartbeat.
        context: Bytes,
    },
    /// Asks for a vote.
    VoteRequest {
        /// Whether it counts.
        kind: VoteKind,
        /// The candidate's last entry,
        last: Index,
        /// and its term.
        last_term: Term,
        /// The candidate's committed index,
        committed: Index,
        /// and its term.
        committed_term: Term,
        /// Whether the leader itself handed over.
        is_transfer: bool,
    },
    /// Answers a request for a vote.
    VoteAnswer {
        /// Whether it counts.
        kind: VoteKind,
        /// Whether the vote was given.
        granted: bool,
        /// If not: the voter's committed index,
        committed: Index,
        /// and its term.
        committed_term: Term,
        /// Whether the voter may have lost what it promised: the vote counts only if all agree.
        in_doubt: bool,
    },
    /// Stand for election now: the leader hands over.
    TimeoutNow,
    /// A follower asks up to where it has to apply before it may read.
    ReadRequest {
        /// Comes back in the answer.
        context: Bytes,
    },
    /// Up to here.
    ReadAnswer {
        /// The index.
        index: Index,
        /// As in the request.
        context: Bytes,
    },
    /// A replica that may have lost something asks what the others know.
    Probe {
        /// Comes back in the answer.
        nonce: u64,
        /// Its last entry.
        last: Index,
    },
    /// What the other knows; the message's term is its term.
    ProbeAnswer {
        /// As in the probe.
        nonce: u64,
        /// Its last entry.
        last: Index,
        /// The members that it knows of.
        membership: Membership,
        /// Whether it leads,
        is_leader: bool,
        /// and was elected by all voters.
        is_unanimous: bool,
        /// Whether it knows all that it promised.
        is_sure: bool,
    },
    /// About a snapshot.
    Snapshot(SnapshotBody),
    /// Some entries are damaged: who has them?
    RepairRequest {
        /// From here,
        first: Index,
        /// to before this one,
        end: Index,
        /// The term of the entry before the first; 0 if that is not known.
        before_term: Term,
        /// The term of the one at `end`; 0 if nothing stands there.
        end_term: Term,
        /// Whether the log ends before the first, in doubt: what follows need not be committed.
        is_tail: bool,
    },
    /// Entries for who asked: those that stood there.
    Repair {
        /// The first of them.
        first: Index,
        /// As in an append; none if the sender cannot help.
        entries: Vec<Bytes>,
        /// Whether the sender leads,
        is_leader: bool,
        /// and has let go of what was asked for: only a snapshot can help.
        is_trimmed: bool,
    },
}

/// Whether a vote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VoteKind {
    /// It only asks whether the real vote could be won; nobody changes term.
    Pre,
    /// It counts.
    Real,
}

/// The conversation by which a checkpoint reaches a replica that the log cannot bring up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotBody {
    /// The leader has a checkpoint for the follower.
    Offer {
        /// Names the checkpoint in what follows.
        id: u64,
        /// Everything up to here is in it.
        index: Index,
        /// The term of the entry there.
        term: Term,
        /// The members at that index.
        membership: Membership,
        /// The files that make it up, with what a manifest needs to know of each.
        files: Vec<FileOffer>,
    },
    /// The follower wants a part of a file.
    Fetch {
        /// Of the checkpoint.
        id: u64,
        /// Place in the list of files.
        file: u32,
        /// From here,
        offset: u64,
        /// so many bytes.
        len: u32,
    },
    /// A part of a file.
    Chunk {
        /// Of the checkpoint.
        id: u64,
        /// Place in the list of files.
        file: u32,
        /// From here.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The follower has installed it; or cannot.
    Done {
        /// Of the checkpoint.
        id: u64,
        /// Whether it is installed.
        installed: bool,
    },
    /// The sender's state is damaged: it wants a checkpoint from the leader.
    Wanted {
        /// That has everything up to here.
        index: Index,
    },
    /// The leader no longer has it.
    Gone {
        /// Of the checkpoint.
        id: u64,
    },
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOffer {
    /// Its name in the directory of the state.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// CRC-32 over all of it.
    pub checksum: u32,
}
