//! The only module that knows the crate `raft`. What leaves it is ours.
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

mod store;
mod wire;

use std::cell::Cell;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState, Message as Raw, MessageType};
use raft::{Config, ProgressState, RaftState, RawNode, SnapshotStatus, StateRole};
use strandline_engine::Index;
use strandline_wal::canary;

use self::store::{Store, conf_change, conf_state, snapshot};
use self::wire::made_entry;
use crate::log::Log;
use crate::message::Message;
use crate::snapshot::Point;
use crate::{
    Error, Membership, MembershipChange, Options, PeerState, ReplicaId, Result, Role, Term,
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
    /// A snapshot, complete here, that is to become the state.
    pub(crate) snapshot: Option<Index>,
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
    /// Whether it votes and never stands.
    is_witness: bool,
    /// The leader of this term is believed to be gone: after so many ticks more than the least a
    /// replica stands for election.
    hurry: Option<(u64, u64)>,
}

/// How many ticks lie between replicas that stand for election because the leader is gone: the first one
/// has asked for votes, and saved its own, before the second one stands.
const HURRY_TICKS: u64 = 2;

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
        // What is applied was committed, and what the log proves; the rest is learnt from a leader.
        let (term, vote) = (hard.0.0, hard.1.0);
        let commit = log.proven_committed().unwrap_or(applied).max(applied);
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let start = RaftState::new(hard_state, conf_state(membership));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let last = log.last();
        let node = RawNode::new(
            &config,
            Store { log, last, start, point: None, wanted: Cell::default() },
            &logger,
        )
        .map_err(|error| Error::InvalidOption { reason: error.to_string() })?;
        let election_ticks = u64::from(options.election_ticks);
        let (id, seed, is_witness) = (options.id.0, options.seed, options.is_witness);
        let hurry = None;
        let mut consensus = Self { node, id, seed, election_ticks, is_witness, hurry };
        consensus.settle();
        Ok(consensus)
    }

    /// After every call into the crate: replaces the election time-out it has drawn.
    fn settle(&mut self) {
        self.sing();
        let raft = &mut self.node.raft;
        let hurry = self.hurry.filter(|(term, _)| {
            *term == raft.term && raft.state == StateRole::Follower && !self.is_witness
        });
        let more = match (self.is_witness, hurry) {
            (true, _) => self.election_ticks - 1,
            (false, Some((_, more))) => more,
            (false, None) => draw(self.seed, raft.term, raft.state) % self.election_ticks,
        };
        let ticks = usize::try_from(self.election_ticks + more).expect("ticks are bounded");
        raft.set_randomized_election_timeout(ticks);
    }

    /// The canaries that the crate itself has no place for.
    fn sing(&mut self) {
        let raft = &mut self.node.raft;
        if canary::is_on(canary::OLD_TERM_COMMITTED_BY_COUNTING) && raft.state == StateRole::Leader
        {
            let counted = raft.mut_prs().maximal_committed_index().0;
            let last = raft.raft_log.last_index();
            raft.raft_log.commit_to(counted.min(last));
        }
        let is_candidate = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
        let is_persisted = raft.raft_log.persisted == raft.raft_log.last_index();
        if canary::is_on(canary::ELECTION_BY_HALF) && is_candidate && is_persisted {
            let (granted, _, _) = raft.prs().tally_votes();
            let voters: Vec<u64> = raft.prs().conf().voters().ids().iter().collect();
            if 2 * granted + 1 >= voters.len() {
                voters.into_iter().for_each(|id| raft.mut_prs().record_vote(id, true));
                let is_pre = raft.state == StateRole::PreCandidate;
                let term = raft.term + u64::from(is_pre);
                let mut raw = Raw { from: self.id, to: self.id, term, ..Raw::default() };
                raw.set_msg_type(match is_pre {
                    true => MessageType::MsgRequestPreVoteResponse,
                    false => MessageType::MsgRequestVoteResponse,
                });
                let _ = raft.step(raw);
            }
        }
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

    /// Whether this replica is a voter, as far as it has applied.
    pub(crate) fn is_voter(&self) -> bool {
        self.node.raft.promotable()
    }

    /// Whether these decide, in each half of a joint membership.
    pub(crate) fn is_quorum(&self, ids: impl Iterator<Item = ReplicaId>) -> bool {
        self.node.raft.prs().has_quorum(&ids.map(|id| id.0).collect())
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

    pub(crate) fn tick(&mut self, may_stand: bool) {
        // Who does not stand comes to the end of its patience, so that it votes for another, and stays there.
        let raft = &self.node.raft;
        if (self.is_witness || !may_stand)
            && raft.election_elapsed + 1 >= raft.randomized_election_timeout()
        {
            return;
        }
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

    /// The leader is believed to be gone: others may be voted for, and soon this replica stands itself. One
    /// after the other, in the order of their names, so that they do not take each other's votes. If
    /// most replicas hear the leader they give no votes, and nothing has happened.
    pub(crate) fn suspect(&mut self) {
        let leader = self.node.raft.leader_id;
        let voters = self.progress().into_iter().filter(|peer| peer.votes);
        let before = voters.filter(|peer| peer.id.0 != leader && peer.id.0 < self.id).count();
        let more = HURRY_TICKS * (1 + u64::try_from(before).expect("members are few"));
        self.hurry = Some((self.node.raft.term, more.min(self.election_ticks - 1)));
        self.node.raft.election_elapsed =
            usize::try_from(self.election_ticks).expect("ticks are bounded");
        self.settle();
    }

    /// Takes up a term that this replica may have promised, and gives no vote in it.
    pub(crate) fn adopt(&mut self, term: Term) {
        let raft = &mut self.node.raft;
        if raft.term < term.0 {
            raft.become_follower(term.0, 0);
        }
        if raft.term == term.0 && raft.vote == 0 {
            raft.vote = self.id;
        }
        self.settle();
    }

    /// A peer's log ends there: what this leader knew of it beyond that is no longer so.
    pub(crate) fn forget_beyond(&mut self, id: ReplicaId, last: u64) {
        if let Some(progress) = self.node.raft.mut_prs().get_mut(id.0)
            && progress.matched > last
        {
            progress.matched = last;
            progress.become_probe();
        }
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
        if self.leader() == Some(from) {
            // It is not gone.
            self.hurry = None;
        }
        let Some(mut raw) = self.decode(from, message) else { return Ok(()) };
        if canary::is_on(canary::PREVIOUS_TERM_NOT_CHECKED)
            && raw.get_msg_type() == MessageType::MsgAppend
        {
            raw.log_term = self.log().term(raw.index).unwrap_or(raw.log_term);
        }
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
        let snapshot = inner.snapshot().get_metadata().index;
        let snapshot = (snapshot > 0).then_some(Index(snapshot));
        Some(Ready { inner, number, hard, first, entries, sends_now, snapshot, committed, reads })
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

    /// A snapshot is complete here. The consensus takes it, or has no use for it any more.
    pub(crate) fn snapshot(&mut self, from: ReplicaId, point: &Point) -> Result<()> {
        let mut raw = Raw { from: from.0, to: self.id, term: self.term().0, ..Raw::default() };
        raw.set_msg_type(MessageType::MsgSnapshot);
        raw.set_snapshot(snapshot(point));
        let result = self.node.step(raw);
        self.settle();
        result.map_err(|error| broken(&error))
    }

    /// A peer has installed a snapshot, or has not.
    pub(crate) fn report_snapshot(&mut self, id: ReplicaId, installed: bool) {
        let status = if installed { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(id.0, status);
        self.settle();
    }

    /// The peer that wants a snapshot newer than the one that is known.
    pub(crate) fn take_wanted(&self) -> Option<ReplicaId> {
        self.node.store().wanted.take()
    }

    pub(crate) fn set_point(&mut self, point: Point) {
        self.node.mut_store().point = Some(point);
    }

    /// Up to where the consensus knows that entries are applied.
    pub(crate) fn applied_index(&self) -> Index {
        Index(self.node.raft.raft_log.applied())
    }

    /// Everything up to this index is applied.
    pub(crate) fn applied(&mut self, index: Index) {
        self.node.mut_store().log.applied(index.0);
        self.node.advance_apply_to(index.0);
        self.settle();
    }

    /// An entry that changes the membership was applied.
    pub(crate) fn change(&mut self, changes: &[MembershipChange]) -> Result<()> {
        if canary::is_on(canary::JOINT_QUORUM_AS_ONE_MAJORITY) {
            for change in changes {
                let _ = self.node.apply_conf_change(&conf_change(std::slice::from_ref(change)));
            }
            return Ok(());
        }
        let changed = self.node.apply_conf_change(&conf_change(changes));
        self.settle();
        // Whoever proposes a change makes sure that it can be made: it is alike on all replicas.
        changed.map(|_| ()).map_err(|error| broken(&error))
    }
}
