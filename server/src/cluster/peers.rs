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
//! Assumes that the inbox does not block: while it does, no link lives.

mod answering;
mod complaints;
mod outgoing;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use strandline_replication::ReplicaId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

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

/// Takes every frame that comes, with the node that it is from. Called on the thread of the links, so
/// it must not block.
pub type Inbox = Arc<dyn Fn(ReplicaId, Frame) + Send + Sync>;

/// By what nodes know each other.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What they share; none only where nobody else can reach them.
    pub secret: Option<Secret>,
    /// Certificates, which make the links secret too.
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::Tls>,
}

impl Security {
    /// By this secret, if there is one.
    pub fn new(secret: Option<Secret>) -> Security {
        Security {
            secret,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Whether a stranger is told from a node.
    fn is_proven(&self) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return true;
        }
        self.secret.is_some()
    }
}

/// The links to all other nodes.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = self.shared.outgoing.iter().filter(|(_, outgoing)| outgoing.is_open());
        out.debug_struct("Peers")
            .field("own", &self.shared.identity.own)
            .field("connected", &connected.map(|(id, _)| id.0).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What the thread of the links and those who send share.
struct Shared {
    identity: Identity,
    /// For each other node. Never changed, so that sending to one locks nothing of another.
    outgoing: BTreeMap<ReplicaId, Outgoing>,
    complaints: Complaints,
    /// Told when the links are to end.
    stopping: Notify,
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
        if !security.is_proven() && !nodes.is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the nodes of the cluster can be reached from other machines, and anybody could be \
                 one of them: give all of them the same --cluster-secret-file",
            ));
        }
        listener.set_nonblocking(true)?;
        let others: Vec<Node> = nodes.others().cloned().collect();
        let shared = Arc::new(Shared {
            identity: Identity {
                own: nodes.own,
                group: nodes.group,
                others: others.iter().map(|node| node.id).collect(),
                secret: security.secret,
                #[cfg(feature = "tls")]
                tls: security.tls,
            },
            outgoing: others.iter().map(|node| (node.id, Outgoing::default())).collect(),
            complaints: Complaints::default(),
            stopping: Notify::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let peers = Peers { shared: shared.clone() };
        let thread = std::thread::Builder::new().name("links".into()).spawn(move || {
            // However the thread ends: nobody may go on to queue frames that nobody sends.
            let closing = Closing(shared.clone());
            let ended = runtime.block_on(run(&shared, others, listener, &inbox));
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
        self.shared.outgoing.get(&to).is_some_and(|outgoing| outgoing.push(frame))
    }

    /// Whether there is a connection to the node, over which we send.
    pub fn is_connected(&self, to: ReplicaId) -> bool {
        self.shared.outgoing.get(&to).is_some_and(Outgoing::is_open)
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
        self.0.outgoing.values().for_each(Outgoing::close);
    }
}

/// Calls all others and answers their calls, until told to stop.
async fn run(
    shared: &Arc<Shared>,
    others: Vec<Node>,
    listener: std::net::TcpListener,
    inbox: &Inbox,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut tasks = JoinSet::new();
    for node in others {
        tasks.spawn(call(shared.clone(), node));
    }
    let callers = Arc::new(Callers::default());
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
            () = shared.stopping.notified() => return Ok(()),
        }
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
async fn call(shared: Arc<Shared>, node: Node) {
    let about = About::To(node.id);
    let outgoing = shared.outgoing.get(&node.id).expect("there is a queue for each other node");
    let mut randomness = Randomness::new();
    let mut pause = PAUSE_MIN;
    loop {
        let error = match connect(&shared.identity, &node).await {
            Ok(link) => {
                tracing::info!(peer = %node.id, address = node.peer_address, "linked");
                shared.complaints.settle(about);
                let began = Instant::now();
                outgoing.open();
                let error = link.send_from(outgoing).await;
                outgoing.close();
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
