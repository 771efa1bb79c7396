//! The links to all other nodes: one thread that calls, is called, sends and receives.
//!
//! ```text
//!   send(to, frame) --> queue of `to` --> link that we dialled --> node `to`
//!   inbox(from, frame) <---------------- link that it dialled <--- node `from`
//! ```
//!
//! Each node dials every other one and sends over that connection, so there are two between each
//! pair, and nobody has to agree on who calls whom. A connection that ends is made again, after 10 ms
//! at first and half a second at last. Of two connections from one node the newer is kept: the older is
//! from a process that is gone.
//!
//! A frame that was queued arrives once, in order, or not at all: when a connection ends nobody knows
//! which of the last frames have arrived, and those that wait are dropped. Replicas send again what
//! matters; who forwards a request must be ready to hear nothing.
//!
//! Who the others are may change: [`Peers::update`] begins and ends links. The first frame of each link
//! is the book of nodes, if there is one, and a new book goes over all links at once.
//!
//! Assumes that the inbox does not block: while it does, no link lives.

mod answering;
mod complaints;
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use strandline_replication::ReplicaId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::book::Book;
use super::link::{Error, Frame, Identity, Link};
use super::nodes::{Node, Nodes};
use super::secret::Secret;
use crate::clock::Randomness;
use answering::Callers;
use complaints::{About, Complaints};
pub(super) use outgoing::Outgoing;
pub use outgoing::QUEUE_BYTES_MAX;

/// How long a call may take: several lost packets.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How long until the next call, at first: a node that restarts is called as soon as it listens.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And at last: a node that is down for a day costs next to nothing, and is back within a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long accepting pauses when the process has run out of file descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// How often to look whether everything has left.
const DRAIN_LOOK: Duration = Duration::from_millis(1);

/// Takes every frame that comes, with the node that it is from. Called on the thread of the links, so
/// it must not block.
pub type Inbox = Arc<dyn Fn(ReplicaId, Frame) + Send + Sync>;

/// By what nodes know each other.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What they share; none only where nobody else can reach them.
    pub secret: Option<Secret>,
}

/// The links to all other nodes.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues = self.shared.queues();
        let connected = queues.iter().filter(|(_, outgoing)| outgoing.is_open());
        out.debug_struct("Peers")
            .field("own", &self.shared.identity.own)
            .field("connected", &connected.map(|(id, _)| id.0).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What the thread of the links and those who send share.
struct Shared {
    identity: Identity,
    /// For each other node. Replaced as a whole, so that sending to one locks nothing of another.
    outgoing: RwLock<Arc<Queues>>,
    /// What each link begins with, if there is one.
    book: RwLock<Option<Book>>,
    complaints: Complaints,
    /// Told when a node's end of a link was closed.
    lost: OnceLock<Box<dyn Fn(ReplicaId) + Send + Sync>>,
    /// Told when the nodes have changed.
    changed: Notify,
    /// Told when the links are to end.
    stopping: Notify,
}

type Queues = BTreeMap<ReplicaId, Arc<Outgoing>>;

impl Shared {
    fn queues(&self) -> Arc<Queues> {
        self.outgoing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn book(&self) -> Option<Frame> {
        let book = self.book.read().unwrap_or_else(PoisonError::into_inner);
        book.as_ref().map(|book| Frame::Book(book.encode()))
    }
}

impl Peers {
    /// Binds the own peer port.
    ///
    /// # Errors
    ///
    /// If the port is taken or the address is not ours.
    pub fn bind(nodes: &Nodes) -> io::Result<std::net::TcpListener> {
        std::net::TcpListener::bind(nodes.own().peer_address.as_str())
    }

    /// Starts the thread of the links.
    ///
    /// # Errors
    ///
    /// If the nodes can be reached from other machines and there is no secret, or the system refuses a
    /// thread.
    pub fn start(
        nodes: Nodes,
        listener: std::net::TcpListener,
        security: Security,
        inbox: Inbox,
    ) -> io::Result<(Peers, JoinHandle<io::Result<()>>)> {
        if security.secret.is_none() && !nodes.is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the nodes of the cluster can be reached from other machines, and anybody could be \
                 one of them: give all of them the same --cluster-secret-file, or certificates: \
                 strandline cluster certificates",
            ));
        }
        Peers::start_as(Identity::new(&nodes, security.secret), &nodes, listener, inbox)
    }

    /// Starts the thread of links that go over TLS; a secret may be given beside it, and need not.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    #[cfg(feature = "tls")]
    pub fn start_with_tls(
        nodes: Nodes,
        listener: std::net::TcpListener,
        security: Security,
        tls: super::tls::Tls,
        inbox: Inbox,
    ) -> io::Result<(Peers, JoinHandle<io::Result<()>>)> {
        let identity = Identity { tls: Some(tls), ..Identity::new(&nodes, security.secret) };
        Peers::start_as(identity, &nodes, listener, inbox)
    }

    fn start_as(
        identity: Identity,
        nodes: &Nodes,
        listener: std::net::TcpListener,
        inbox: Inbox,
    ) -> io::Result<(Peers, JoinHandle<io::Result<()>>)> {
        listener.set_nonblocking(true)?;
        let queue = |node: &Node| (node.id, Arc::default());
        let shared = Arc::new(Shared {
            identity,
            outgoing: RwLock::new(Arc::new(nodes.others().map(queue).collect())),
            book: RwLock::default(),
            complaints: Complaints::default(),
            lost: OnceLock::new(),
            changed: Notify::new(),
            stopping: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let peers = Peers { shared: shared.clone() };
        let thread = std::thread::Builder::new().name("links".into()).spawn(move || {
            // However the thread ends: nobody may go on to queue frames that nobody sends.
            let closing = Closing(shared.clone());
            let ended = runtime.block_on(run(&shared, listener, &inbox));
            // A name that is being looked up must not hold up the end.
            runtime.shutdown_background();
            drop(closing);
            ended
        })?;
        Ok((peers, thread))
    }

    /// Queues a frame; never blocks. False if there is no connection to the node, its queue is full,
    /// or the frame is too long: then the frame is surely not sent. If true, it may be lost with the
    /// connection all the same.
    pub fn send(&self, to: ReplicaId, frame: Frame) -> bool {
        let queues = self.shared.outgoing.read().unwrap_or_else(PoisonError::into_inner);
        queues.get(&to).is_some_and(|outgoing| outgoing.push(frame))
    }

    /// Waits until all that is queued has left, so long at the most.
    pub fn drain(&self, within: Duration) {
        let began = std::time::Instant::now();
        let is_empty = || self.shared.queues().values().all(|outgoing| outgoing.is_drained());
        while !is_empty() && began.elapsed() < within {
            std::thread::sleep(DRAIN_LOOK);
        }
    }

    /// Whether there is a connection to the node, over which we send.
    pub fn is_connected(&self, to: ReplicaId) -> bool {
        self.shared.queues().get(&to).is_some_and(|outgoing| outgoing.is_open())
    }

    /// Has `lost` called, on the thread of the links, when a link has ended: the node at its other end
    /// has most likely ended too. At most once.
    pub fn set_lost_hook(&self, lost: Box<dyn Fn(ReplicaId) + Send + Sync>) {
        // The first one stays.
        let _ = self.shared.lost.set(lost);
    }

    /// Whether the nodes prove to each other who they are.
    pub fn is_protected(&self) -> bool {
        self.shared.identity.is_protected()
    }

    /// The nodes are these now, as this book says. Links to those that are gone end, links to those that
    /// are new or have moved begin, and all others are told.
    pub fn update(&self, nodes: Arc<Nodes>, book: Book) {
        let before = self.shared.queues();
        let old = self.shared.identity.nodes.get();
        let queue = |node: &Node| {
            let is_same = old.get(node.id) == Some(node);
            let kept = before.get(&node.id).filter(|_| is_same).cloned();
            (node.id, kept.unwrap_or_default())
        };
        let may_call = |node: &&Node| self.shared.identity.is_protected() || node.is_loopback();
        let queues: Queues = nodes.others().filter(may_call).map(queue).collect();
        let told = Frame::Book(book.encode());
        *self.shared.book.write().unwrap_or_else(PoisonError::into_inner) = Some(book);
        for outgoing in queues.values() {
            outgoing.push(told.clone());
        }
        self.shared.identity.nodes.set(nodes);
        *self.shared.outgoing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(queues);
        self.shared.changed.notify_one();
    }

    /// Ends all links, and the thread. What is queued may be lost.
    pub fn stop(&self) {
        self.shared.stopping.notify_one();
    }
}

/// Closes all queues when it is dropped.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.queues().values().for_each(|outgoing| outgoing.close());
    }
}

/// Calls all others and answers their calls, until told to stop.
async fn run(
    shared: &Arc<Shared>,
    listener: std::net::TcpListener,
    inbox: &Inbox,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut tasks = JoinSet::new();
    let mut calls = BTreeMap::new();
    let callers = Arc::new(Callers::default());
    call_all(shared, &mut tasks, &mut calls);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let number = callers.number();
                    let (shared, inbox) = (shared.clone(), inbox.clone());
                    let task = answering::answer(shared, callers.clone(), number, stream, inbox);
                    callers.admit(number, tasks.spawn(task));
                }
                Err(error) => {
                    tracing::warn!(%error, "a link could not be accepted");
                    sleep(EXHAUSTED_PAUSE).await;
                }
            },
            Some(ended) = tasks.join_next() => pass_on_panic(ended),
            () = shared.changed.notified() => {
                call_all(shared, &mut tasks, &mut calls);
                let nodes = shared.identity.nodes.get();
                callers.dismiss(|peer| !nodes.may_call(peer));
            }
            () = shared.stopping.notified() => return Ok(()),
        }
    }
}

/// The calls under way: to whom, into which queue.
type Calls = BTreeMap<ReplicaId, (Arc<Outgoing>, AbortHandle)>;

/// Begins a call for each queue that has none, and ends those whose queue is gone.
fn call_all(shared: &Arc<Shared>, tasks: &mut JoinSet<()>, calls: &mut Calls) {
    let queues = shared.queues();
    calls.retain(|peer, (queue, task)| {
        let is_kept = queues.get(peer).is_some_and(|kept| Arc::ptr_eq(kept, queue));
        if !is_kept {
            task.abort();
            queue.close();
        }
        is_kept
    });
    let nodes = shared.identity.nodes.get();
    for (peer, queue) in queues.iter() {
        if calls.contains_key(peer) {
            continue;
        }
        // A newer list may be without it already; then it is about to be told.
        let Some(node) = nodes.get(*peer).cloned() else { continue };
        let task = tasks.spawn(call(shared.clone(), node, queue.clone()));
        calls.insert(*peer, (queue.clone(), task));
    }
}

/// A bug must not end one link in silence: it ends the thread, and whoever joins it sees why.
fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Keeps a link to one node, for ever.
async fn call(shared: Arc<Shared>, node: Node, outgoing: Arc<Outgoing>) {
    let about = About::To(node.id);
    let mut randomness = Randomness::new();
    let mut pause = PAUSE_MIN;
    loop {
        let error = match connect(&shared.identity, &node).await {
            Ok(link) => {
                tracing::info!(peer = %node.id, address = node.peer_address, "linked");
                shared.complaints.settle(about);
                let began = Instant::now();
                outgoing.open();
                if let Some(book) = shared.book() {
                    outgoing.push(book);
                }
                let error = link.send_from(&outgoing).await;
                outgoing.close();
                if let Some(lost) = shared.lost.get() {
                    lost(node.id);
                }
                // A link that ends at once ends the next time too: no reason to hurry.
                if began.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
                error
            }
            Err(error) => error,
        };
        shared.complaints.tell(about, &error);
        sleep(jittered(pause, &mut randomness)).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

async fn connect(identity: &Identity, node: &Node) -> Result<Link, Error> {
    let operation = "connect";
    let stream = timeout(CONNECT_MAX, TcpStream::connect(node.peer_address.as_str())).await;
    let stream = stream
        .map_err(|_| Error::Late { operation })?
        .map_err(|source| Error::Io { operation, source })?;
    Link::dial(stream, identity, node.id).await
}

/// Between half and all of it, so that nodes that lost each other at once do not call at once.
fn jittered(pause: Duration, randomness: &mut Randomness) -> Duration {
    let share = u32::try_from(randomness.draw() % 512).expect("it is below 512");
    pause * (512 + share) / 1024
}
