//! The replica of this node, as everybody else in the process reaches it.
//!
//! The replica lives on a thread of its own (see [`driver`](super::driver)). What others want of it goes
//! into one channel; what they want to know of it stands on a board that the thread keeps up to date.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use strandline_replication::{ReplicaId, Status};
use tokio::sync::oneshot;

use super::Frame;
use super::nodes::{Node, Nodes};
use super::question::{Mark, Spread};
use crate::clock;
use crate::submission::Run;

/// Bytes of peers' frames that wait for the replica at the most. More are dropped, which costs the
/// peers a retry: a replica that cannot keep up must not run out of memory.
const FRAMES_LEN_MAX: usize = 256 << 20;

/// Something for the replica's thread.
#[derive(Debug)]
pub enum Input {
    /// Entries to be replicated.
    Propose(Proposal),
    /// A linearizable read: told when the state may be read.
    Read(oneshot::Sender<Result<(), String>>),
    /// How far the write at this mark has come; told nothing if nobody can tell now.
    Question(Mark, oneshot::Sender<Option<Spread>>),
    /// What a peer has sent.
    Frame(ReplicaId, Frame),
    /// A peer's end of a connection was closed.
    Lost(ReplicaId),
    /// The log's durable position has moved.
    LogMoved,
    /// Something an operator wants; told what became of it.
    Command(Command, oneshot::Sender<Result<(), String>>),
    /// The node stops.
    Stop,
}

/// What an operator wants of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Hand the lead to this node.
    Transfer(ReplicaId),
    /// Hand the lead to any node that is up to date.
    StepDown,
    /// Take a node in, or give one another address.
    Add(Node),
    /// Make a learner that has caught up a voter.
    Promote(ReplicaId),
    /// Remove a node.
    Remove {
        /// Which.
        id: ReplicaId,
        /// Whether no majority of the others has to be running.
        force: bool,
    },
}

/// Entries of one run.
#[derive(Debug)]
pub struct Proposal {
    /// Their payloads.
    pub payloads: Vec<Vec<u8>>,
    /// Who waits for the answers, if anybody does.
    pub run: Option<Run>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Group {
    inputs: Sender<Input>,
    /// This node.
    pub own: ReplicaId,
    /// Whether it votes and has no state.
    is_witness: bool,
    /// The nodes of the cluster, as far as they are known now.
    nodes: RwLock<Arc<Nodes>>,
    /// What is known of the replica.
    board: Mutex<Option<Arc<Status>>>,
    /// Bytes of frames in the channel.
    frames_len: AtomicUsize,
    /// Everything that was committed at this moment of the steady clock is in the state; 0: not known.
    fresh_us: AtomicU64,
    /// How old the state may become, if somebody has asked since the last tick; 0: nobody.
    age_us_wanted: AtomicU64,
    /// Reads that were answered from this node's state alone.
    stale_reads: AtomicU64,
}

impl Group {
    /// The two ends: for everybody, and for the replica's thread.
    pub fn new(nodes: Nodes) -> (Arc<Group>, Receiver<Input>) {
        let (inputs, received) = mpsc::channel();
        let group = Group {
            inputs,
            own: nodes.own,
            is_witness: nodes.own().is_witness,
            nodes: RwLock::new(Arc::new(nodes)),
            board: Mutex::default(),
            frames_len: AtomicUsize::new(0),
            fresh_us: AtomicU64::new(0),
            age_us_wanted: AtomicU64::new(0),
            stale_reads: AtomicU64::new(0),
        };
        (Arc::new(group), received)
    }

    /// Hands something over. What is sent after the thread has ended is dropped: whoever waits for an
    /// answer learns that from the answer's channel.
    pub fn send(&self, input: Input) {
        let _ = self.inputs.send(input);
    }

    /// Hands over what a peer has sent, if there is room.
    pub fn receive(&self, from: ReplicaId, frame: Frame) {
        let len = frame.body().len();
        if self.frames_len.fetch_add(len, Ordering::Relaxed) > FRAMES_LEN_MAX {
            self.frames_len.fetch_sub(len, Ordering::Relaxed);
            return;
        }
        self.send(Input::Frame(from, frame));
    }

    /// A frame has been taken out of the channel.
    pub(super) fn taken(&self, frame: &Frame) {
        self.frames_len.fetch_sub(frame.body().len(), Ordering::Relaxed);
    }

    /// Waits until the state may be read: everything that was acknowledged before the call is in it.
    ///
    /// # Errors
    ///
    /// The answer for the client, if no quorum confirms that.
    pub async fn readable(&self) -> Result<(), String> {
        if self.is_witness {
            return Err(WITNESS.into());
        }
        let (sender, receiver) = oneshot::channel();
        self.send(Input::Read(sender));
        receiver.await.unwrap_or_else(|_| Err(STOPPING.into()))
    }

    /// How far the write at `mark` has come, according to whoever leads; none if nobody can tell now.
    pub async fn spread(&self, mark: Mark) -> Option<Spread> {
        // The board is as old as a tick, and what is durable somewhere stays so.
        let known = self.status().and_then(|status| Spread::of(&status, mark));
        if known.is_some() {
            return known;
        }
        let (sender, receiver) = oneshot::channel();
        self.send(Input::Question(mark, sender));
        receiver.await.unwrap_or(None)
    }

    /// Whether the state may be read without asking anybody: it is proven to be no older than this. Has it
    /// kept so, for a while. No state is that of a witness, and none is no older than nothing.
    pub fn may_read_stale(&self, age_us_max: u64) -> bool {
        let is_fresh = self.age_us(age_us_max).is_some_and(|age_us| age_us <= age_us_max);
        self.stale_reads.fetch_add(u64::from(is_fresh), Ordering::Relaxed);
        is_fresh
    }

    /// How old the state may be at the most, if that is known. Has it kept from growing older than
    /// `age_us_max`, for a while.
    pub fn age_us(&self, age_us_max: u64) -> Option<u64> {
        if self.is_witness || age_us_max == 0 {
            return None;
        }
        self.age_us_wanted.store(age_us_max, Ordering::Relaxed);
        // The clock is read after the proof: the state is no older than it seems.
        let fresh_us = self.fresh_us.load(Ordering::Acquire);
        (fresh_us > 0).then(|| clock::steady_us().saturating_sub(fresh_us))
    }

    /// How many reads were answered from this node's state alone.
    pub fn stale_reads(&self) -> u64 {
        self.stale_reads.load(Ordering::Relaxed)
    }

    /// The state, as it may be read now, has everything that was committed at this moment.
    pub(super) fn set_fresh(&self, fresh_us: Option<u64>) {
        self.fresh_us.store(fresh_us.unwrap_or(0), Ordering::Release);
    }

    /// How old the state may become, if somebody has asked since this was called last.
    pub(super) fn take_age_wanted(&self) -> Option<u64> {
        Some(self.age_us_wanted.swap(0, Ordering::Relaxed)).filter(|age_us| *age_us > 0)
    }

    /// Asks for something, and waits for what becomes of it.
    ///
    /// # Errors
    ///
    /// Why it is not done.
    pub async fn command(&self, command: Command) -> Result<(), String> {
        let (sender, receiver) = oneshot::channel();
        self.send(Input::Command(command, sender));
        receiver.await.unwrap_or_else(|_| Err(STOPPING.into()))
    }

    /// What was last known of the replica; none before it has started.
    pub fn status(&self) -> Option<Arc<Status>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes of the cluster, as far as they are known now.
    pub fn nodes(&self) -> Arc<Nodes> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The nodes are these now.
    pub(super) fn set_nodes(&self, nodes: Arc<Nodes>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// Brings the board up to date.
    pub(super) fn post(&self, status: Status) {
        let status = Some(Arc::new(status));
        let old = std::mem::replace(
            &mut *self.board.lock().unwrap_or_else(PoisonError::into_inner),
            status,
        );
        drop(old);
    }

    /// Whether this node leads, as far as is known.
    pub fn is_leader(&self) -> bool {
        self.status().is_some_and(|status| status.leader == Some(status.id))
    }
}

/// The answer to a read that a witness is asked for.
const WITNESS: &str =
    "CLUSTERDOWN this node is a witness: it votes and holds no data; ask another node";
/// The answer to what comes too late.
const STOPPING: &str = "CLUSTERDOWN this node is stopping: nothing was done";
