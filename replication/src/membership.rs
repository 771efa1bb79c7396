//! Who belongs to a replication group.
//!
//! Membership is replicated state: it changes when an entry of kind `MEMBERSHIP` is applied, and is
//! kept with the state of the machine. A change of several members at once is joint: until the group
//! has left the joint membership by a second entry, of no changes, which the leader proposes by itself,
//! a quorum needs a majority of the voters before and a majority of the voters after.
//!
//! **Which membership counts.** A replica goes by what it has applied, not by what is in its log. That is
//! safe because no two replicas that could elect leaders, or commit entries, at the same time are more
//! than one change apart, and the quorums of neighbouring memberships intersect:
//!
//! - A leader proposes change k+1 only when it has applied change k: what it found in its log when it was
//!   elected, the first members and its own last change. So wherever change k+1 stands in a log, change k
//!   was committed, by a quorum of the membership before it.
//! - Each replica takes that for known when it opens (`Log::proven_committed`), for the committed index is
//!   not kept on disk and a replica opens with the membership of its flushed state. While it runs, the
//!   message that brings change k+1 also says that k is committed. And nobody stands for election before
//!   all changes known to be committed are applied.
//! - Suppose a candidate went by the membership after change j while change j+2 is committed. It was
//!   committed by a quorum of the membership after j+1, of which one has voted for the candidate. So the
//!   candidate's log, which is not behind, holds j+2, and it has applied j+1. That is a contradiction.

use crate::{Error, ReplicaId, Result};

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Who it is.
    pub id: ReplicaId,
    /// As what it belongs to the group.
    pub role: MemberRole,
}

/// As what a member belongs to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// Keeps log and state, votes and may lead.
    Voter,
    /// Keeps log and state, and does not vote.
    Learner,
    /// Votes and keeps a bounded log and no state; never leads.
    Witness,
}

/// A change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MembershipChange {
    /// Adds a member, or changes its role.
    Set(Member),
    /// Removes a member.
    Remove(ReplicaId),
}

/// All members at an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Members by ascending id, with the roles they have or are about to have.
    pub members: Vec<Member>,
    /// Voters and witnesses before a joint change that has not been left yet, ascending.
    pub outgoing: Vec<ReplicaId>,
}

const SET: u8 = 1;
const REMOVE: u8 = 2;
/// Bytes of one encoded change: tag, role, id.
const CHANGE_LEN: usize = 10;
/// How many changes one entry may carry.
pub(crate) const CHANGES_MAX: usize = 64;

impl MemberRole {
    fn tag(self) -> u8 {
        match self {
            MemberRole::Voter => 1,
            MemberRole::Learner => 2,
            MemberRole::Witness => 3,
        }
    }

    fn from_tag(tag: u8, offset: usize) -> Result<Self> {
        match tag {
            1 => Ok(MemberRole::Voter),
            2 => Ok(MemberRole::Learner),
            3 => Ok(MemberRole::Witness),
            _ => Err(malformed(offset, format!("no member has role {tag}"))),
        }
    }

    /// Whether it counts in a quorum.
    pub fn votes(self) -> bool {
        self != MemberRole::Learner
    }
}

/// What an entry of membership says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MembershipEntry {
    /// These were the first members. Proposed by the first leader, so that a replica that joins and
    /// reads the log from its beginning knows them too.
    Found(Vec<Member>),
    /// Makes these changes; none leaves a joint membership.
    Change(Vec<MembershipChange>),
}

const FOUND: u8 = 0xf0;

/// The command of an entry that names the first members.
pub(crate) fn encode_founders(members: &[Member]) -> Vec<u8> {
    let changes: Vec<_> = members.iter().copied().map(MembershipChange::Set).collect();
    let mut bytes = vec![FOUND];
    bytes.extend_from_slice(&encode_changes(&changes));
    bytes
}

/// Whether the command of an entry of membership changes something: the first members may be named
/// by several leaders, one after the other.
pub(crate) fn is_change(command: &[u8]) -> bool {
    command.first() != Some(&FOUND)
}

/// What the command of an entry of membership says.
pub(crate) fn decode_entry(command: &[u8]) -> Result<MembershipEntry> {
    let Some((&FOUND, rest)) = command.split_first() else {
        return Ok(MembershipEntry::Change(decode_changes(command)?));
    };
    let founder = |change| match change {
        MembershipChange::Set(member) => Ok(member),
        MembershipChange::Remove(_) => Err(malformed(1, "a founder is not removed".into())),
    };
    let members = decode_changes(rest)?.into_iter().map(founder).collect::<Result<_>>()?;
    Ok(MembershipEntry::Found(members))
}

fn malformed(offset: usize, reason: String) -> Error {
    Error::Message { offset, reason }
}

/// The command of an entry that makes these changes; empty to leave a joint membership.
pub(crate) fn encode_changes(changes: &[MembershipChange]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(changes.len() * CHANGE_LEN);
    for change in changes {
        let (tag, role, id) = match change {
            MembershipChange::Set(member) => (SET, member.role.tag(), member.id),
            MembershipChange::Remove(id) => (REMOVE, 0, *id),
        };
        bytes.extend_from_slice(&[tag, role]);
        bytes.extend_from_slice(&id.0.to_le_bytes());
    }
    bytes
}

/// The changes that the command of an entry makes.
pub(crate) fn decode_changes(command: &[u8]) -> Result<Vec<MembershipChange>> {
    let (chunks, rest) = command.as_chunks::<CHANGE_LEN>();
    if !rest.is_empty() || chunks.len() > CHANGES_MAX {
        let reason = format!("{} bytes are no list of membership changes", command.len());
        return Err(malformed(0, reason));
    }
    let decode = |(at, bytes): (usize, &[u8; CHANGE_LEN])| {
        let offset = at * CHANGE_LEN;
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[2..]);
        let id = ReplicaId(u64::from_le_bytes(id));
        if id.0 == 0 {
            return Err(malformed(offset + 2, "no replica has the id 0".into()));
        }
        match (bytes[0], bytes[1]) {
            (SET, role) => {
                let role = MemberRole::from_tag(role, offset + 1)?;
                Ok(MembershipChange::Set(Member { id, role }))
            }
            (REMOVE, 0) => Ok(MembershipChange::Remove(id)),
            (tag, _) => Err(malformed(offset, format!("no membership change has tag {tag}"))),
        }
    };
    chunks.iter().enumerate().map(decode).collect()
}

impl Membership {
    /// The first members of a group.
    pub fn new(members: &[Member]) -> Self {
        let mut members = members.to_vec();
        members.sort_unstable();
        Self { members, outgoing: Vec::new() }
    }

    /// The member of this name.
    pub fn get(&self, id: ReplicaId) -> Option<Member> {
        self.members.iter().find(|member| member.id == id).copied()
    }

    /// Whether this replica belongs to the group, or is about to leave it.
    pub fn contains(&self, id: ReplicaId) -> bool {
        self.get(id).is_some() || self.outgoing.contains(&id)
    }

    /// Whether a joint change has not been left yet.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Voters and witnesses, ascending.
    pub fn voters(&self) -> Vec<ReplicaId> {
        self.members.iter().filter(|member| member.role.votes()).map(|member| member.id).collect()
    }

    /// Whether this replica counts in a quorum.
    pub(crate) fn votes(&self, id: ReplicaId) -> bool {
        self.outgoing.contains(&id) || self.get(id).is_some_and(|member| member.role.votes())
    }

    /// Makes the changes of an applied entry. Several changes begin a joint membership; none ends it.
    pub(crate) fn apply(&mut self, changes: &[MembershipChange]) {
        if changes.is_empty() {
            self.outgoing.clear();
            return;
        }
        let before = self.voters();
        for change in changes {
            let id = match change {
                MembershipChange::Set(member) => member.id,
                MembershipChange::Remove(id) => *id,
            };
            self.members.retain(|member| member.id != id);
            if let MembershipChange::Set(member) = change {
                self.members.push(*member);
            }
        }
        self.members.sort_unstable();
        if changes.len() > 1 {
            self.outgoing = before;
        }
    }

    /// Why these changes cannot be made to this membership, if they cannot.
    pub(crate) fn refuses(&self, changes: &[MembershipChange]) -> Option<String> {
        if changes.is_empty() || changes.len() > CHANGES_MAX {
            return Some(format!("1 to {CHANGES_MAX} changes are made at a time"));
        }
        if self.is_joint() {
            return Some("another change is under way".into());
        }
        for change in changes {
            if let MembershipChange::Set(member) = change
                && let Some(before) = self.get(member.id)
                && (before.role == MemberRole::Witness) != (member.role == MemberRole::Witness)
            {
                return Some("a witness has no state, and does not become another member".into());
            }
        }
        let mut after = self.clone();
        after.apply(changes);
        let voters = after.members.iter().filter(|member| member.role == MemberRole::Voter).count();
        (voters == 0).then(|| "a group has at least one voter that keeps the state".into())
    }

    /// The members as bytes: counts, then members, then the outgoing voters.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let count = |len: usize| u16::try_from(len).expect("members are few").to_le_bytes();
        out.extend_from_slice(&count(self.members.len()));
        out.extend_from_slice(&count(self.outgoing.len()));
        for member in &self.members {
            out.push(member.role.tag());
            out.extend_from_slice(&member.id.0.to_le_bytes());
        }
        for id in &self.outgoing {
            out.extend_from_slice(&id.0.to_le_bytes());
        }
    }

    /// What [`encode`](Membership::encode) gave, from the front of `bytes`; and what follows it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let short = || malformed(0, "a list of members ends too early".into());
        let (counts, mut rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let count = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high]));
        let mut membership = Membership::default();
        for _ in 0..count(counts[0], counts[1]) {
            let (member, after) = rest.split_first_chunk::<9>().ok_or_else(short)?;
            let mut id = [0; 8];
            id.copy_from_slice(&member[1..]);
            let role = MemberRole::from_tag(member[0], 0)?;
            membership.members.push(Member { id: ReplicaId(u64::from_le_bytes(id)), role });
            rest = after;
        }
        for _ in 0..count(counts[2], counts[3]) {
            let (id, after) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            membership.outgoing.push(ReplicaId(u64::from_le_bytes(*id)));
            rest = after;
        }
        Ok((membership, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(id: u64) -> Member {
        Member { id: ReplicaId(id), role: MemberRole::Voter }
    }

    #[test]
    fn changes_and_members_come_back_and_cuts_are_refused() {
        let changes = vec![
            MembershipChange::Set(Member { id: ReplicaId(4), role: MemberRole::Witness }),
            MembershipChange::Remove(ReplicaId(1)),
        ];
        let bytes = encode_changes(&changes);
        assert_eq!(decode_changes(&bytes).unwrap(), changes);
        assert_eq!(decode_changes(&[]).unwrap(), []);
        assert!(decode_changes(&bytes[..bytes.len() - 1]).is_err());
        let found = decode_entry(&encode_founders(&[voter(1), voter(2)])).unwrap();
        assert_eq!(found, MembershipEntry::Found(vec![voter(1), voter(2)]));
        assert_eq!(decode_entry(&[]).unwrap(), MembershipEntry::Change(vec![]));
        let mut membership = Membership::new(&[voter(2), voter(1)]);
        membership.apply(&changes);
        let mut bytes = Vec::new();
        membership.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(Membership::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        bytes.push(9);
        assert_eq!(Membership::decode(&bytes).unwrap(), (membership, &[9][..]));
    }

    #[test]
    fn several_changes_are_joint_until_they_are_left() {
        let mut membership = Membership::new(&[voter(1), voter(2), voter(3)]);
        membership
            .apply(&[MembershipChange::Set(voter(4)), MembershipChange::Remove(ReplicaId(3))]);
        assert!(membership.is_joint() && membership.contains(ReplicaId(3)));
        assert!(membership.refuses(&[MembershipChange::Set(voter(5))]).is_some());
        membership.apply(&[]);
        assert_eq!(membership, Membership::new(&[voter(1), voter(2), voter(4)]));
        let all = [1, 2, 4].map(|id| MembershipChange::Remove(ReplicaId(id)));
        assert!(membership.refuses(&all).is_some());
    }
}
