//! The log and the membership as the crate `raft` sees them.

use std::cell::Cell;

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Snapshot,
};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use crate::log::Log;
use crate::snapshot::Point;
use crate::{Member, MemberRole, Membership, MembershipChange, ReplicaId};

/// The log as the crate sees it.
pub(super) struct Store {
    pub(super) log: Log,
    /// The last entry that the crate has handed over. A proposal stands in the log before the crate
    /// hears of it, so that a full disk refuses it in time.
    pub(super) last: u64,
    pub(super) start: RaftState,
    /// What a peer that is too far behind can be given.
    pub(super) point: Option<Point>,
    /// The last peer for which there was none, or none that is new enough.
    pub(super) wanted: Cell<Option<ReplicaId>>,
}

/// A checkpoint as the crate knows it: where it is, not what is in it.
pub(super) fn snapshot(point: &Point) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.set_conf_state(conf_state(&point.membership));
    (metadata.index, metadata.term) = (point.index.0, point.term.0);
    snapshot
}

/// A membership as the crate keeps it.
pub(super) fn conf_state(membership: &Membership) -> ConfState {
    let mut state = ConfState::default();
    for member in &membership.members {
        let list = match member.role {
            MemberRole::Voter | MemberRole::Witness => &mut state.voters,
            MemberRole::Learner if membership.outgoing.contains(&member.id) => {
                &mut state.learners_next
            }
            MemberRole::Learner => &mut state.learners,
        };
        list.push(member.id.0);
    }
    state.voters_outgoing = membership.outgoing.iter().map(|id| id.0).collect();
    state.auto_leave = membership.is_joint();
    state
}

/// Changes as the crate makes them.
pub(super) fn conf_change(changes: &[MembershipChange]) -> ConfChangeV2 {
    let single = |change: &MembershipChange| {
        let (kind, id) = match change {
            MembershipChange::Set(Member { id, role }) if role.votes() => {
                (ConfChangeType::AddNode, id)
            }
            MembershipChange::Set(member) => (ConfChangeType::AddLearnerNode, &member.id),
            MembershipChange::Remove(id) => (ConfChangeType::RemoveNode, id),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id.0;
        single
    };
    let mut change = ConfChangeV2::default();
    change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
    change
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.start.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.log.first() {
            return Err(StorageError::Compacted.into());
        }
        if !context.can_async() {
            // Asked only for what the entries are: their bytes are applied from the log.
            return Ok((low..high).map(|index| self.outline(index)).collect());
        }
        let len_max = max_size.into().unwrap_or(u64::MAX);
        match self.log.entries(low, high, len_max) {
            Ok(payloads) if !payloads.is_empty() => {
                let entries = (low..).zip(payloads);
                Ok(entries.map(|(index, payload)| self.entry(index, payload)).collect())
            }
            // What cannot be read is as if it were trimmed: the peer is sent a snapshot instead.
            _ => Err(StorageError::Compacted.into()),
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.log.term(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let to = ReplicaId(to);
        let is_enough = |point: &&Point| {
            let leads_on = point.index.0 + 1 >= self.log.first();
            leads_on && point.index.0 >= request_index && point.membership.contains(to)
        };
        match self.point.as_ref().filter(is_enough) {
            Some(point) => Ok(snapshot(point)),
            None => {
                self.wanted.set(Some(to));
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

impl Store {
    /// An entry without its bytes.
    fn outline(&self, index: u64) -> Entry {
        self.entry(index, Bytes::new())
    }

    fn entry(&self, index: u64, data: Bytes) -> Entry {
        let term = self.log.term(index).expect("an entry that is there has a term");
        let mut entry = Entry { index, term, data, ..Entry::default() };
        if self.log.is_membership(index) {
            entry.set_entry_type(EntryType::EntryConfChangeV2);
        }
        entry
    }
}
