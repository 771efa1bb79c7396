//! What a replica shows of itself.

use crate::consensus::Progress;
use crate::{Doubt, Index, MemberRole, Membership, Replica, ReplicaId, Term};

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes entries from a leader, and votes.
    Follower,
    /// Asks whether an election could be won, without disturbing anybody.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Takes proposals.
    Leader,
    /// Takes entries and does not vote.
    Learner,
}

/// A replica at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who it is.
    pub id: ReplicaId,
    /// What it does.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, as far as it knows.
    pub leader: Option<ReplicaId>,
    /// Durable on a majority.
    pub committed: Index,
    /// Durable on all voters, as far as a leader knows; elsewhere 0.
    pub everywhere: Index,
    /// Applied here.
    pub applied: Index,
    /// The last entry of its log.
    pub last: Index,
    /// Everything up to here is durable here.
    pub durable: Index,
    /// The first entry that its log still holds.
    pub first: Index,
    /// What it cannot be sure of: it does not vote until it has caught up.
    pub doubt: Doubt,
    /// Whether damage in its log keeps it from taking part until peers have mended it.
    pub is_wounded: bool,
    /// Damaged places of the log that are known and not mended.
    pub damaged: usize,
    /// Records of the log that were mended since it was opened.
    pub mended: u64,
    /// What is damaged of the state, until it has been replaced: nothing is read in it.
    pub state_damage: Option<String>,
    /// How often a damaged state was replaced since the replica was opened.
    pub states_replaced: u64,
    /// Who belongs to the group, as of the last applied entry.
    pub membership: Membership,
    /// Whether it leads and may answer reads alone.
    pub has_lease: bool,
    /// Reads that it has answered so.
    pub lease_reads: u64,
    /// What a leader knows of the others; elsewhere empty.
    pub peers: Vec<PeerStatus>,
    /// The snapshot that is being received.
    pub receiving: Option<Transfer>,
}

impl Status {
    /// Whom a leader hands over to: the voter that lacks least, of those that have answered lately and
    /// whose state is sound. A witness has nothing to lead with.
    pub fn successor(&self) -> Option<&PeerStatus> {
        let may_lead = |peer: &&PeerStatus| {
            peer.is_active && !peer.is_damaged && peer.role == MemberRole::Voter
        };
        self.peers.iter().filter(may_lead).max_by_key(|peer| peer.matched)
    }
}

/// How far a snapshot is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Files that are there, whole,
    pub files: u64,
    /// of so many.
    pub files_total: u64,
    /// Bytes that are there,
    pub bytes: u64,
    /// of so many.
    pub bytes_total: u64,
    /// How many of them were there before the transfer began, and are not sent; known to the receiver.
    pub bytes_reused: u64,
}

/// One peer as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who it is.
    pub id: ReplicaId,
    /// As what it belongs to the group.
    pub role: MemberRole,
    /// How it is fed.
    pub state: PeerState,
    /// Everything up to here is known to be durable there.
    pub matched: Index,
    /// How many entries it lacks.
    pub lag_entries: u64,
    /// How many bytes of entries it lacks, counted since this leader was elected.
    pub lag_bytes: u64,
    /// How long it has been lacking entries, in ticks.
    pub lag_ticks: u64,
    /// Whether it has answered within the last election time.
    pub is_active: bool,
    /// Whether its state is damaged and it has asked for another, which it has not got yet.
    pub is_damaged: bool,
    /// The snapshot that it is being sent.
    pub sending: Option<Transfer>,
}

/// How a leader feeds a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// One append at a time, to find where the logs agree.
    Probing,
    /// Many appends at a time.
    Replicating,
    /// A snapshot, because the log does not go back so far any more.
    Snapshotting,
}

impl Replica {
    /// Tells the time, in microseconds: before an event is handed over, and read after the event has
    /// come. By a clock that is never set, and that goes on while the system sleeps: on Linux
    /// `CLOCK_BOOTTIME`. [`Replica::fresh_us`] and
    /// leases need it.
    pub fn tell_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// Everything that was committed at this moment, by the clock of [`Replica::tell_time`], is in the
    /// state. None if that was never asked for: see [`Event::KeepFresh`](crate::Event::KeepFresh).
    pub fn fresh_us(&self) -> Option<u64> {
        self.reads.fresh_us().filter(|_| !self.is_damaged())
    }

    /// What the replica is, knows and lacks.
    pub fn status(&self) -> Status {
        let consensus = &self.consensus;
        let log = consensus.log();
        let membership = self.shared.lock().membership.clone();
        let last = log.last();
        let is_leader = consensus.is_leader();
        let peer = |peer: Progress| PeerStatus {
            id: peer.id,
            role: membership.get(peer.id).map_or(MemberRole::Voter, |member| member.role),
            state: peer.state,
            matched: Index(peer.matched),
            lag_entries: last.saturating_sub(peer.matched),
            lag_bytes: log.bytes_after(peer.matched),
            lag_ticks: self.watermarks.lag_ticks(peer.id),
            is_active: peer.is_active,
            is_damaged: self.sender.is_damaged(peer.id),
            sending: self.sender.progress(peer.id),
        };
        let others = consensus.progress().into_iter();
        let others = others.filter(|peer| is_leader && peer.id != self.options.id);
        Status {
            id: self.options.id,
            role: consensus.role(),
            term: consensus.term(),
            leader: consensus.leader(),
            committed: consensus.committed(),
            everywhere: if is_leader { self.watermarks.everywhere() } else { Index(0) },
            applied: self.db().applied(),
            last: Index(last),
            durable: Index(log.durable()),
            first: Index(log.first()),
            doubt: self.hard.get().doubt,
            peers: others.map(peer).collect(),
            is_wounded: self.mend.is_wounded(),
            damaged: self.db().log().damages().len(),
            mended: self.mend.mended(),
            state_damage: self.replacement.damage().map(str::to_owned),
            states_replaced: self.replacement.count(),
            has_lease: self.has_lease(),
            lease_reads: self.lease_reads(),
            receiving: self.receiver.progress(),
            membership,
        }
    }
}
