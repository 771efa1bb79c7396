//! The only file that knows the crate `raft`. What leaves it is ours.
//!
//! The crate decides; it keeps no files and sends nothing. It is stepped by the replica, and gives
//! back a [`Ready`]: what is to be saved, appended, sent and committed. Persistence is asynchronous:
//! a `Ready` is taken out of the crate's hands at once, and reported with its number when it is durable.
//!
//! It panics on messages that break its invariants. So what peers send is validated before it comes
//! here (module `validate`), and what this replica does is checked here.
//!
//! Entries: the crate's `data` is the payload of our log record, whole, except where the crate itself
//! makes an entry (nothing, to open a term; an empty change, to leave a joint membership) or reads it (a
//! change of membership that is proposed). Those are turned into ours when they go to the log, and
//! what goes to peers is taken from the log.

use bytes::Bytes;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
    Message as Raw, MessageType, Snapshot,
};
use raft::{
    CAMPAIGN_TRANSFER, Config, GetEntriesContext, ProgressState, RaftState, RawNode, StateRole,
    Storage, StorageError,
};
use strandline_engine::{EntryHeader, EntryKind, Index};

use crate::log::Log;
use crate::message::{Body, Message, VoteKind};
use crate::{
    Error, Member, MemberRole, Membership, MembershipChange, Options, PeerState, ReplicaId, Result,
    Role, Term,
};

/// What the crate wants done, in this order: save, append, send, and when all of it is durable send
/// the rest and report the number.
pub(crate) struct Ready {
    /// The crate's own.
    inner: raft::Ready,
    pub(crate) number: u64,
    /// Term and vote to be saved.
    pub(crate) hard: Option<(Term, ReplicaId)>,
    /// Entries of the log, the first one's index first; those already in the log are left out.
    pub(crate) first: u64,
    pub(crate) entries: Vec<Bytes>,
    /// Whether messages may go before the entries are durable.
    pub(crate) sends_now: bool,
    /// Everything up to here is committed and may be applied.
    pub(crate) committed: Option<Index>,
    /// Reads that a quorum has confirmed: their contexts, and up to where to apply first.
    pub(crate) reads: Vec<(Index, Vec<u8>)>,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) id: ReplicaId,
    pub(crate) votes: bool,
    pub(crate) matched: u64,
    pub(crate) state: PeerState,
    pub(crate) is_active: bool,
}

/// See the module's documentation.
pub(crate) struct Consensus {
    node: RawNode<Store>,
    id: u64,
    seed: u64,
    election_ticks: u64,
}

/// The log as the crate sees it.
struct Store {
    log: Log,
    /// The last entry that the crate has handed over. A proposal stands in the log before the crate
    /// hears of it, so that a full disk refuses it in time.
    last: u64,
    start: RaftState,
}

fn conf_state(membership: &Membership) -> ConfState {
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

fn conf_change(changes: &[MembershipChange]) -> ConfChangeV2 {
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

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
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

/// The header and empty command of an entry that the crate makes by itself.
fn made_entry(entry: &Entry) -> Bytes {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::NOOP,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::MEMBERSHIP,
    };
    let header = EntryHeader { term: entry.term, ..EntryHeader::of_kind(kind) };
    Bytes::copy_from_slice(&header.encode())
}

/// Where election time-outs come from: the same for the same seed, term and role, and different for
/// candidates whose votes were split.
fn draw(seed: u64, term: u64, role: StateRole) -> u64 {
    let role = match role {
        StateRole::Follower => 0,
        StateRole::PreCandidate => 1,
        StateRole::Candidate => 2,
        StateRole::Leader => 3,
    };
    let mut mixed = seed ^ term.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (role << 56);
    for multiplier in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(multiplier);
    }
    mixed ^ (mixed >> 31)
}

fn to_usize(ticks: u32) -> usize {
    usize::try_from(ticks).expect("a count of ticks fits memory sizes")
}

fn broken(error: &raft::Error) -> Error {
    Error::Stopped { reason: format!("the consensus refused what it must take: {error}") }
}

impl Consensus {
    /// Takes up where the replica was: its log, its hard state, and the membership at the applied index.
    pub(crate) fn open(
        options: &Options,
        log: Log,
        hard: (Term, ReplicaId),
        membership: &Membership,
    ) -> Result<Self> {
        let applied = log.db().applied().0;
        let config = Config {
            id: options.id.0,
            election_tick: to_usize(options.election_ticks),
            heartbeat_tick: to_usize(options.heartbeat_ticks),
            applied,
            max_size_per_msg: u64::from(options.message_len_max),
            max_inflight_msgs: to_usize(options.in_flight_messages_max),
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        // What is applied was committed; the rest is learnt from a leader.
        let (term, vote) = (hard.0.0, hard.1.0);
        let hard_state = HardState { term, vote, commit: applied, ..HardState::default() };
        let start = RaftState::new(hard_state, conf_state(membership));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let last = log.last();
        let node = RawNode::new(&config, Store { log, last, start }, &logger)
            .map_err(|error| Error::InvalidOption { reason: error.to_string() })?;
        let election_ticks = u64::from(options.election_ticks);
        let mut consensus = Self { node, id: options.id.0, seed: options.seed, election_ticks };
        consensus.settle();
        Ok(consensus)
    }

    /// After every call into the crate: replaces the election time-out it has drawn.
    fn settle(&mut self) {
        let raft = &mut self.node.raft;
        let more = draw(self.seed, raft.term, raft.state) % self.election_ticks;
        let ticks = usize::try_from(self.election_ticks + more).expect("ticks are bounded");
        raft.set_randomized_election_timeout(ticks);
    }

    pub(crate) fn log(&self) -> &Log {
        &self.node.store().log
    }

    pub(crate) fn log_mut(&mut self) -> &mut Log {
        &mut self.node.mut_store().log
    }

    pub(crate) fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let leader = self.node.raft.leader_id;
        (leader != 0).then_some(ReplicaId(leader))
    }

    pub(crate) fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Follower if !self.node.raft.promotable() => Role::Learner,
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub(crate) fn committed(&self) -> Index {
        Index(self.node.raft.raft_log.committed)
    }

    /// Whether an entry of this leader's own term is committed: what was committed before is, too.
    pub(crate) fn has_committed_in_term(&self) -> bool {
        self.node.raft.commit_to_current_term()
    }

    pub(crate) fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Whether a change of membership may not be applied yet.
    pub(crate) fn has_pending_change(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Whether this replica alone decides.
    pub(crate) fn is_alone(&self) -> bool {
        let voters = self.node.raft.prs().conf().voters();
        voters.ids().iter().eq([self.id])
    }

    /// All members with what is known of them, by ascending id; meaningful in a leader only.
    pub(crate) fn progress(&self) -> Vec<Progress> {
        let tracker = self.node.raft.prs();
        let mut all: Vec<Progress> = tracker
            .iter()
            .map(|(id, progress)| Progress {
                id: ReplicaId(*id),
                votes: tracker.conf().voters().contains(*id),
                matched: progress.matched,
                state: match progress.state {
                    ProgressState::Probe => PeerState::Probing,
                    ProgressState::Replicate => PeerState::Replicating,
                    ProgressState::Snapshot => PeerState::Snapshotting,
                },
                is_active: progress.recent_active,
            })
            .collect();
        all.sort_by_key(|progress| progress.id);
        all
    }

    pub(crate) fn tick(&mut self) {
        self.node.tick();
        self.settle();
    }

    pub(crate) fn campaign(&mut self) {
        // Refused only where it is not allowed, and then nothing has changed.
        let _ = self.node.campaign();
        self.settle();
    }

    pub(crate) fn transfer(&mut self, to: ReplicaId) {
        self.node.transfer_leader(to.0);
        self.settle();
    }

    pub(crate) fn unreachable(&mut self, id: ReplicaId) {
        self.node.report_unreachable(id.0);
        self.settle();
    }

    /// Gives the leadership up, because this replica is a member no more.
    pub(crate) fn step_down(&mut self) {
        let term = self.node.raft.term;
        self.node.raft.become_follower(term, 0);
        self.settle();
    }

    /// Asks up to where a read has to wait.
    pub(crate) fn read(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
        self.settle();
    }

    /// Takes a message that was validated.
    pub(crate) fn receive(&mut self, from: ReplicaId, message: Message) -> Result<()> {
        let Some(raw) = self.decode(from, message) else { return Ok(()) };
        let result = self.node.step(raw);
        self.settle();
        match result {
            // Answers of peers that are members no more, and what came too late.
            Ok(()) | Err(raft::Error::StepPeerNotFound | raft::Error::ProposalDropped) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Proposes entries that stand at the log's end already. It must be a leader, and free to propose.
    pub(crate) fn propose(
        &mut self,
        payloads: &[Bytes],
        changes: Option<&[MembershipChange]>,
    ) -> Result<()> {
        assert!(self.is_leader() && !self.is_transferring(), "only a leader proposes");
        let result = match changes {
            Some(changes) => self.node.propose_conf_change(Vec::new(), conf_change(changes)),
            None => {
                let entry = |payload: &Bytes| Entry { data: payload.clone(), ..Entry::default() };
                let mut proposal = Raw { from: self.id, ..Raw::default() };
                proposal.set_msg_type(MessageType::MsgPropose);
                proposal.set_entries(payloads.iter().map(entry).collect::<Vec<_>>().into());
                self.node.step(proposal)
            }
        };
        self.settle();
        result.map_err(|error| broken(&error))?;
        let (ours, theirs) = (self.log().last(), self.node.raft.raft_log.last_index());
        assert_eq!(ours, theirs, "what is proposed stands in the log at the same index");
        Ok(())
    }

    /// What is to be done, if anything is.
    pub(crate) fn next(&mut self) -> Option<Ready> {
        if !self.node.has_ready() {
            return None;
        }
        let mut inner = self.node.ready();
        let log = &self.node.store().log;
        let new =
            |entry: &&Entry| entry.index > log.last() || log.term(entry.index) != Some(entry.term);
        let known = inner.entries().iter().position(|entry| new(&entry));
        let fresh = known.map_or(&[][..], |at| &inner.entries()[at..]);
        let first = fresh.first().map_or(0, |entry| entry.index);
        let payload = |entry: &Entry| match entry.data.is_empty() {
            true => made_entry(entry),
            false => entry.data.clone(),
        };
        let entries = fresh.iter().map(payload).collect();
        let hard = inner.hs().map(|hard| (Term(hard.term), ReplicaId(hard.vote)));
        let committed = inner.committed_entries().last().map(|entry| Index(entry.index));
        let read = |state: raft::ReadState| (Index(state.index), state.request_ctx);
        let reads = inner.take_read_states().into_iter().map(read).collect();
        let sends_now = inner.persisted_messages().is_empty();
        let number = inner.number();
        Some(Ready { inner, number, hard, first, entries, sends_now, committed, reads })
    }

    /// The hard state is saved and the entries stand in the log, durable or not: the rest of the
    /// `Ready` is the replica's. Returns its messages.
    pub(crate) fn taken(&mut self, mut ready: Ready) -> Vec<(ReplicaId, Message)> {
        let mut raw = ready.inner.take_messages();
        raw.extend(ready.inner.take_persisted_messages());
        let messages = raw.into_iter().filter_map(|message| self.encode(message)).collect();
        let store = self.node.mut_store();
        store.last = store.log.last();
        self.node.advance_append_async(ready.inner);
        self.settle();
        messages
    }

    /// Everything up to the `Ready` of this number is durable.
    pub(crate) fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
        self.settle();
    }

    /// Everything up to this index is applied.
    pub(crate) fn applied(&mut self, index: Index) {
        self.node.mut_store().log.applied(index.0);
        self.node.advance_apply_to(index.0);
        self.settle();
    }

    /// An entry that changes the membership was applied.
    pub(crate) fn change(&mut self, changes: &[MembershipChange]) -> Result<()> {
        let changed = self.node.apply_conf_change(&conf_change(changes));
        self.settle();
        // Whoever proposes a change makes sure that it can be made: it is alike on all replicas.
        changed.map(|_| ()).map_err(|error| broken(&error))
    }

    /// A message as ours; none if it is one that is not sent.
    fn encode(&self, mut raw: Raw) -> Option<(ReplicaId, Message)> {
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
            MessageType::MsgHeartbeat => Body::Heartbeat { committed, context },
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
                }
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
    fn decode(&self, from: ReplicaId, message: Message) -> Option<Raw> {
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
            Body::Heartbeat { committed, context } => {
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
            Body::VoteAnswer { kind, granted, committed, committed_term } => {
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
            Body::Snapshot(_) => return None,
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
