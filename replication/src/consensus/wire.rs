//! Messages and entries of the crate `raft`, as ours and back.

use bytes::Bytes;
use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{Entry, EntryType, Message as Raw, MessageType};
use strandline_engine::{EntryHeader, EntryKind, Index};

use super::Consensus;
use crate::message::{Body, Message, SnapshotBody, VoteKind};
use crate::{Membership, ReplicaId, Term};

/// The header and empty command of an entry that the crate makes by itself.
pub(super) fn made_entry(entry: &Entry) -> Bytes {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::NOOP,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::MEMBERSHIP,
    };
    let header = EntryHeader { term: entry.term, ..EntryHeader::of_kind(kind) };
    Bytes::copy_from_slice(&header.encode())
}

impl Consensus {
    /// A message as ours; none if it is one that is not sent.
    pub(super) fn encode(&self, mut raw: Raw) -> Option<(ReplicaId, Message)> {
        let (committed, committed_term) = (Index(raw.commit), Term(raw.commit_term));
        let context = raw.context.clone();
        let vote_kind = match raw.get_msg_type() {
            MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => {
                VoteKind::Pre
            }
            _ => VoteKind::Real,
        };
        let body = match raw.get_msg_type() {
            MessageType::MsgAppend => {
                let entries = raw.take_entries().into_iter().map(|entry| self.payload(entry));
                Body::Append {
                    previous: Index(raw.index),
                    previous_term: Term(raw.log_term),
                    committed,
                    entries: entries.collect::<Option<_>>()?,
                }
            }
            MessageType::MsgAppendResponse if raw.reject => Body::AppendRefused {
                previous: Index(raw.index),
                hint: Index(raw.reject_hint),
                hint_term: Term(raw.log_term),
                committed,
            },
            MessageType::MsgAppendResponse => Body::Appended { last: Index(raw.index), committed },
            // What is asked for is filled in by whoever sends it.
            MessageType::MsgHeartbeat => Body::Heartbeat { committed, context, lease_ticks: 0 },
            MessageType::MsgHeartbeatResponse => Body::HeartbeatAnswer { committed, context },
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Body::VoteRequest {
                kind: vote_kind,
                last: Index(raw.index),
                last_term: Term(raw.log_term),
                committed,
                committed_term,
                is_transfer: raw.context == CAMPAIGN_TRANSFER,
            },
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                Body::VoteAnswer {
                    kind: vote_kind,
                    granted: !raw.reject,
                    committed,
                    committed_term,
                    // Filled in by whoever sends it.
                    in_doubt: false,
                }
            }
            MessageType::MsgSnapshot => {
                let metadata = raw.get_snapshot().get_metadata();
                // What it consists of is filled in by whoever sends it.
                Body::Snapshot(SnapshotBody::Offer {
                    id: 0,
                    index: Index(metadata.index),
                    term: Term(metadata.term),
                    membership: Membership::default(),
                    files: Vec::new(),
                })
            }
            MessageType::MsgTimeoutNow => Body::TimeoutNow,
            MessageType::MsgReadIndex => {
                Body::ReadRequest { context: raw.take_entries().first()?.data.clone() }
            }
            MessageType::MsgReadIndexResp => Body::ReadAnswer {
                index: Index(raw.index),
                context: raw.take_entries().first()?.data.clone(),
            },
            _ => return None,
        };
        // A request to read has no term of its own in the crate.
        let term = if raw.term == 0 { self.node.raft.term } else { raw.term };
        Some((ReplicaId(raw.to), Message { term: Term(term), body }))
    }

    /// An entry's payload as it stands in the log.
    fn payload(&self, entry: Entry) -> Option<Bytes> {
        match (entry.get_entry_type(), entry.data.is_empty()) {
            (_, true) => Some(made_entry(&entry)),
            (EntryType::EntryNormal, false) => Some(entry.data),
            _ => self.log().entries(entry.index, entry.index + 1, 0).ok()?.into_iter().next(),
        }
    }

    /// A message as the crate's; none if it is not for it.
    pub(super) fn decode(&self, from: ReplicaId, message: Message) -> Option<Raw> {
        let mut raw = Raw { from: from.0, to: self.id, term: message.term.0, ..Raw::default() };
        let kind = match message.body {
            Body::Append { previous, previous_term, committed, entries } => {
                (raw.index, raw.log_term) = (previous.0, previous_term.0);
                raw.commit = committed.0;
                let entries = (previous.0 + 1..).zip(entries);
                raw.set_entries(entries.map(received).collect::<Vec<_>>().into());
                MessageType::MsgAppend
            }
            Body::Appended { last, committed } => {
                (raw.index, raw.commit) = (last.0, committed.0);
                MessageType::MsgAppendResponse
            }
            Body::AppendRefused { previous, hint, hint_term, committed } => {
                raw.reject = true;
                (raw.index, raw.commit) = (previous.0, committed.0);
                (raw.reject_hint, raw.log_term) = (hint.0, hint_term.0);
                MessageType::MsgAppendResponse
            }
            Body::Heartbeat { committed, context, .. } => {
                (raw.commit, raw.context) = (committed.0, context);
                MessageType::MsgHeartbeat
            }
            Body::HeartbeatAnswer { committed, context } => {
                (raw.commit, raw.context) = (committed.0, context);
                MessageType::MsgHeartbeatResponse
            }
            Body::VoteRequest { kind, last, last_term, committed, committed_term, is_transfer } => {
                (raw.index, raw.log_term) = (last.0, last_term.0);
                (raw.commit, raw.commit_term) = (committed.0, committed_term.0);
                if is_transfer {
                    raw.context = Bytes::from_static(CAMPAIGN_TRANSFER);
                }
                match kind {
                    VoteKind::Pre => MessageType::MsgRequestPreVote,
                    VoteKind::Real => MessageType::MsgRequestVote,
                }
            }
            Body::VoteAnswer { kind, granted, committed, committed_term, .. } => {
                raw.reject = !granted;
                (raw.commit, raw.commit_term) = (committed.0, committed_term.0);
                match kind {
                    VoteKind::Pre => MessageType::MsgRequestPreVoteResponse,
                    VoteKind::Real => MessageType::MsgRequestVoteResponse,
                }
            }
            Body::TimeoutNow => MessageType::MsgTimeoutNow,
            Body::ReadRequest { context } => {
                raw.term = 0;
                raw.set_entries(vec![Entry { data: context, ..Entry::default() }].into());
                MessageType::MsgReadIndex
            }
            Body::ReadAnswer { index, context } => {
                raw.index = index.0;
                raw.set_entries(vec![Entry { data: context, ..Entry::default() }].into());
                MessageType::MsgReadIndexResp
            }
            Body::Probe { .. }
            | Body::ProbeAnswer { .. }
            | Body::Snapshot(_)
            | Body::RepairRequest { .. }
            | Body::Repair { .. } => return None,
        };
        raw.set_msg_type(kind);
        Some(raw)
    }
}

/// An entry that a peer sent; its header was checked.
fn received((index, payload): (u64, Bytes)) -> Entry {
    let header = strandline_engine::Entry::decode(Index(index), &payload).map(|entry| entry.header);
    let header = header.expect("messages are validated before");
    let mut entry = Entry { index, term: header.term, data: payload, ..Entry::default() };
    if header.kind == EntryKind::MEMBERSHIP {
        entry.set_entry_type(EntryType::EntryConfChangeV2);
    }
    entry
}
