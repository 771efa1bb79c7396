//! Starting a node: the parts, in the order in which each needs those before it.
//!
//! Settings are checked and ports are bound before the store is opened, so that the usual mistakes
//! are told at once; connections are accepted when everything stands.

mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use strandline_engine::{DbOptions, Index};
use strandline_replication::{LeaseOptions, Member, MemberRole};
use strandline_wal::SpareDirectory;
use strandline_wal::disk::{RealDisk, Rung};

use crate::auth;
use crate::backup::follower;
use crate::clock::Randomness;
use crate::cluster::driver::{Driver, TICK};
use crate::cluster::group::{Group, Input};
use crate::cluster::health::{Health, Limits};
use crate::cluster::members::Shelf;
use crate::cluster::{self, Book, Inbox, Nodes, Peers, Secret, Security};
use crate::config::{Config, ConfigError};
use crate::event_loop::{EventLoop, Post};
use crate::server::Server;
use crate::store::{Store, Undriven};
use crate::{housekeeping, listener};

/// Why a node does not run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A setting.
    Config(ConfigError),
    /// It would be open to everybody.
    Public(SocketAddr),
    /// An address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The nodes of the cluster.
    Cluster(cluster::nodes::Error),
    /// The secret of the cluster.
    Secret(cluster::secret::Error),
    /// TLS between the nodes.
    Tls(String),
    /// The address for peers cannot be listened on.
    Peers {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The replica.
    Replica(strandline_replication::Error),
    /// The store.
    Store(strandline_engine::Error),
    /// The system refused a thread or an event loop.
    System(std::io::Error),
    /// A thread ended in a panic.
    Panicked(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(error) => error.fmt(out),
            Error::Public(address) => write!(
                out,
                "{address} can be reached from other machines: set a password with --requirepass, \
                 listen on 127.0.0.1, or allow it with --insecure"
            ),
            Error::Listen { address, source } => write!(
                out,
                "cannot listen on {address}: {source}; stop what listens there or choose another \
                 port with --listen"
            ),
            Error::Cluster(error) => error.fmt(out),
            Error::Secret(error) => error.fmt(out),
            Error::Tls(reason) => out.write_str(reason),
            Error::Peers { address, source } => write!(
                out,
                "cannot listen on {address} for peers: {source}; stop what listens there or choose \
                 another port in --cluster, on all nodes"
            ),
            Error::Replica(error) => error.fmt(out),
            Error::Store(error) => error.fmt(out),
            Error::System(source) => write!(out, "the system refused: {source}"),
            Error::Panicked(name) => write!(out, "thread {name} panicked: report this as a bug"),
        }
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::Config(error)
    }
}

impl From<strandline_engine::Error> for Error {
    fn from(error: strandline_engine::Error) -> Self {
        Error::Store(error)
    }
}

/// The result of starting or stopping a node.
pub type Result<T> = std::result::Result<T, Error>;

/// A running node.
#[derive(Debug)]
pub struct Node {
    server: Arc<Server>,
    /// Those that serve clients: they end when the server is asked to stop.
    serving: Vec<JoinHandle<std::io::Result<()>>>,
    /// Those of the store: they end when it is closed.
    committing: Vec<JoinHandle<()>>,
    /// Keeps house; ends when the server is asked to stop.
    housekeeping: Option<JoinHandle<()>>,
    /// Follows a primary, when told to; ends when the store's standing does.
    follower: Option<JoinHandle<()>>,
    /// The sockets that it listens on, kept for who opens it again.
    listeners: Vec<std::net::TcpListener>,
    /// In a cluster: the replica and its links.
    replica: Option<RunningReplica>,
}

/// The threads of a replica.
#[derive(Debug)]
struct RunningReplica {
    group: Arc<Group>,
    driver: JoinHandle<()>,
    peers: Peers,
    links: JoinHandle<std::io::Result<()>>,
}

/// Starts a node with these settings.
///
/// # Errors
///
/// If a setting cannot work, an address is taken, or the store cannot be opened.
pub fn start(config: Config) -> Result<Node> {
    start_on(config, Vec::new())
}

/// Starts a node on sockets that listen already; on those of the settings if there are none.
fn start_on(config: Config, listeners: Vec<std::net::TcpListener>) -> Result<Node> {
    let rung = parse_rung(config.get("rung"));
    let options = DbOptions { rung, wal: log_options(&config, rung)?, ..DbOptions::default() };
    if config.get("cluster").is_empty() {
        let open = |dir: &Path| Ok(Opened::alone(Store::open(dir, options)?));
        return start_listening(config, listeners, open);
    }
    let id = u64::try_from(config.number("node-id")).unwrap_or(0);
    let mut nodes = Nodes::parse(id, config.get("cluster")).map_err(Error::Cluster)?;
    nodes.group = u64::try_from(config.number("cluster-id")).unwrap_or(cluster::nodes::GROUP);
    let secret = match config.get("cluster-secret-file") {
        "" => None,
        path => Some(Secret::load(Path::new(path)).map_err(Error::Secret)?),
    };
    let security = Security { secret };
    let tls = tls::load(&config)?;
    let listener = Peers::bind(&nodes)
        .map_err(|source| Error::Peers { address: nodes.own().peer_address.clone(), source })?;
    let joins = config.is_on("join");
    let options = strandline_replication::Options { db: options, ..limits(&config) };
    let health = Health::new(Limits::of(&config));
    let open =
        |dir: &Path| open_replica(dir, options, (nodes, joins), (security, tls), listener, health);
    start_listening(config, listeners, open)
}

/// How the log is kept.
fn log_options(config: &Config, rung: Option<Rung>) -> Result<strandline_wal::Options> {
    let compress = config.get("log-compression") == "lz4";
    let mut options = strandline_wal::Options { compress, ..strandline_wal::Options::default() };
    let dir = Path::new(config.get("log-spare-dir"));
    if !dir.as_os_str().is_empty() {
        let disk = RealDisk::open(dir, rung).map_err(strandline_engine::Error::from)?;
        options.spare = Some(SpareDirectory { disk: Arc::new(disk), dir: dir.to_path_buf() });
        options.stall_millis = u64::try_from(config.number("log-stall-ms")).unwrap_or(0);
    }
    Ok(options)
}

/// A store that is open, and the threads that it runs on.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    committing: Vec<JoinHandle<()>>,
    replica: Option<RunningReplica>,
}

impl Opened {
    /// A store that stands alone.
    pub fn alone((store, committing): (Store, Vec<JoinHandle<()>>)) -> Self {
        Self { store, committing, replica: None }
    }
}

/// After so many ticks without a word from a leader a follower stands for election: time for a busy
/// machine to be late in, and a third of a second at the most for writes to stand still.
const ELECTION_TICKS: u32 = 15;
const HEARTBEAT_TICKS: u32 = 3;

/// How much is kept for nodes that lag, and what is done about them.
fn limits(config: &Config) -> strandline_replication::Options {
    let bytes = |name| u64::try_from(config.size(name)).unwrap_or(u64::MAX);
    let ticks_per_second = u64::try_from(1000 / TICK.as_millis()).unwrap_or(1);
    let per_tick = |name| u32::try_from(bytes(name).div_ceil(ticks_per_second)).unwrap_or(u32::MAX);
    let drift = u32::try_from(config.number("lease-drift-per-mille")).unwrap_or(u32::MAX);
    let tick_us = u64::try_from(TICK.as_micros()).unwrap_or(u64::MAX);
    let lease = LeaseOptions { tick_us, drift_per_mille: drift };
    strandline_replication::Options {
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        lease: config.is_on("leases").then_some(lease),
        // Whatever is set here: another node may lead with leases.
        quiet_ticks: ELECTION_TICKS,
        retention_bytes_max: bytes("retention-bytes-max"),
        lag_bytes_max: Some(bytes("lag-bytes-max")).filter(|bound| *bound > 0),
        snapshot_bytes_per_tick: per_tick("snapshot-rate").max(1),
        scrub_bytes_per_tick: per_tick("scrub-rate"),
        ..strandline_replication::Options::default()
    }
}

fn open_replica(
    dir: &Path,
    options: strandline_replication::Options,
    (nodes, joins): (Nodes, bool),
    (security, tls): (Security, Option<tls::Tls>),
    listener: std::net::TcpListener,
    health: Health,
) -> Result<Opened> {
    let disk =
        Arc::new(RealDisk::open(dir, options.db.rung).map_err(strandline_engine::Error::from)?);
    let member = |node: &cluster::Node| Member {
        id: node.id,
        role: if node.is_witness { MemberRole::Witness } else { MemberRole::Voter },
    };
    // Who joins learns from the leader who the members are.
    let members = if joins { Vec::new() } else { nodes.all().map(member).collect() };
    let book = Book::load(&*disk, dir);
    let nodes = book.as_ref().and_then(|book| nodes.after(book)).unwrap_or(nodes);
    let options = strandline_replication::Options {
        id: nodes.own,
        group: nodes.group,
        is_witness: nodes.own().is_witness,
        members,
        seed: Randomness::new().draw(),
        ..options
    };
    let (store, committing, undriven) =
        Store::open_replica(disk.clone(), dir, options, nodes.clone()).map_err(Error::Replica)?;
    let Undriven { replica, group, inputs, submissions, machine } = undriven;
    if joins && replica.status().membership.members.is_empty() {
        let own = nodes.own();
        tracing::info!(
            "waits to be added: type strandline cluster add '{own}' --node HOST:PORT of any node"
        );
    }
    let status = replica.status();
    if status.is_wounded {
        let damaged = status.damaged;
        tracing::warn!(
            damaged,
            "this node is wounded: entries of its log are damaged that no table has; it takes no part \
             until the others have mended them"
        );
    }
    let received = group.clone();
    let inbox: Inbox = Arc::new(move |from, frame| received.receive(from, frame));
    let (peers, links) =
        tls::start(nodes.clone(), listener, security, tls, inbox).map_err(Error::System)?;
    if let Some(book) = book {
        peers.update(Arc::new(nodes), book);
    }
    let shelf = Shelf { disk, dir: dir.to_owned(), machine };
    let told = Arc::downgrade(&group);
    peers.set_lost_hook(Box::new(move |peer| {
        if let Some(group) = told.upgrade() {
            group.send(Input::Lost(peer));
        }
    }));
    let driver =
        Driver::new(replica, group.clone(), inputs, peers.clone(), shelf, submissions, health);
    let thread = std::thread::Builder::new().name("replica".into());
    let driver = thread.spawn(move || driver.run()).map_err(Error::System)?;
    let replica = Some(RunningReplica { group, driver, peers, links });
    Ok(Opened { store, committing, replica })
}

/// Starts a node whose store is opened by `open`: for tests on simulated disks.
///
/// # Errors
///
/// As for [`start`].
pub fn start_with(config: Config, open: impl FnOnce(&Path) -> Result<Opened>) -> Result<Node> {
    start_listening(config, Vec::new(), open)
}

fn start_listening(
    config: Config,
    mut listeners: Vec<std::net::TcpListener>,
    open: impl FnOnce(&Path) -> Result<Opened>,
) -> Result<Node> {
    if listeners.is_empty() {
        listeners = listen(&config)?;
    }
    let Opened { store, committing, replica } = open(Path::new(config.get("dir")))?;
    tracing::info!(dir = config.get("dir"), rung = %store.rung(), "the store is open");
    let threads = match config.size("io-threads") {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1),
        threads => threads,
    };
    let last = Index(store.db().log().last().0);
    let began = store.standing().begin(last, config.get("replicaof"), config.get("masterauth"));
    let server = Arc::new(Server::new(store, config));
    server.refresh_gate();
    let bound = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    server.set_addresses(bound);
    let mut node = Node {
        server,
        serving: Vec::new(),
        committing,
        housekeeping: None,
        follower: None,
        listeners: Vec::new(),
        replica,
    };
    let spawned = began
        .map_err(Error::Store)
        .and_then(|()| node.spawn(listeners, threads).map_err(Error::System));
    if let Err(error) = spawned {
        node.server.shutdown.ask();
        // The first error is the one to tell.
        let _ = node.finish();
        return Err(error);
    }
    Ok(node)
}

/// Binds the addresses of the settings.
fn listen(config: &Config) -> Result<Vec<std::net::TcpListener>> {
    let addresses = config.addresses()?;
    if config.get("requirepass").is_empty() {
        for address in addresses.iter().filter(|address| auth::is_public(address.ip())) {
            if !config.is_on("insecure") {
                return Err(Error::Public(*address));
            }
            tracing::warn!(%address, "listening without a password where others can connect");
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Error::System)?;
    let backlog = u32::try_from(config.number("tcp-backlog")).unwrap_or(511);
    let mut listeners = Vec::new();
    for address in addresses {
        let bound = {
            let _entered = runtime.enter();
            listener::bind(address, backlog)
        };
        listeners.push(bound.map_err(|source| Error::Listen { address, source })?);
    }
    Ok(listeners)
}

fn parse_rung(name: &str) -> Option<Rung> {
    let rungs = [
        Rung::IoUring,
        Rung::Pwritev2,
        Rung::DirectFdatasync,
        Rung::BufferedFdatasync,
        Rung::PortableFsync,
    ];
    rungs.into_iter().find(|rung| rung.name() == name)
}

impl Node {
    fn spawn(
        &mut self,
        listeners: Vec<std::net::TcpListener>,
        threads: usize,
    ) -> std::io::Result<()> {
        let posts: Vec<Arc<Post>> = (0..threads).map(|_| Arc::default()).collect();
        for (number, post) in posts.iter().enumerate() {
            let (server, post) = (self.server.clone(), post.clone());
            let bell = match server.store.driving() {
                Some(driving) if number == 0 => driving.bell()?,
                _ => None,
            };
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            self.serving.push(thread.spawn(move || EventLoop::run(server, post, bell))?);
        }
        for listener in listeners {
            self.listeners.push(listener.try_clone()?);
            let (server, posts) = (self.server.clone(), posts.clone());
            let thread = std::thread::Builder::new().name("listener".into());
            self.serving.push(thread.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(listener::accept(server, listener, posts))
            })?);
        }
        let server = self.server.clone();
        let thread = std::thread::Builder::new().name("housekeeping".into());
        self.housekeeping = Some(thread.spawn(move || housekeeping::run(&server))?);
        let server = self.server.clone();
        if server.store.group().is_none() {
            let thread = std::thread::Builder::new().name("follower".into());
            self.follower = Some(thread.spawn(move || follower::run(&server))?);
        }
        Ok(())
    }

    /// What all sessions share.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.server.addresses()
    }

    /// Stops the node and opens it again, on the same sockets and with the settings in force: who connects
    /// meanwhile waits.
    ///
    /// # Errors
    ///
    /// As for [`start`] and [`finish`](Node::finish).
    pub fn restart(mut self) -> Result<Node> {
        let listeners = std::mem::take(&mut self.listeners);
        let config = self.server.config().clone();
        self.finish()?;
        start_on(config, listeners)
    }

    /// Stops the node: clients first, then the store.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable, or a thread had panicked.
    pub fn finish(mut self) -> Result<()> {
        self.server.shutdown.ask();
        self.server.store.standing().stop();
        self.listeners.clear();
        let mut first_error = None;
        for thread in self.serving {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(Error::System(error))),
                Err(_) => first_error = first_error.or(Some(Error::Panicked(name))),
            }
        }
        if self.follower.is_some_and(|thread| thread.join().is_err()) {
            first_error = first_error.or(Some(Error::Panicked("follower".into())));
        }
        if self.housekeeping.is_some_and(|thread| thread.join().is_err()) {
            first_error = first_error.or(Some(Error::Panicked("housekeeping".into())));
        }
        if let Some(replica) = self.replica {
            // The lead is handed over before the store closes, so that others write on.
            replica.group.send(Input::Stop);
            if replica.driver.join().is_err() {
                first_error = first_error.or(Some(Error::Panicked("replica".into())));
            }
            replica.peers.stop();
            match replica.links.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(Error::System(error))),
                Err(_) => first_error = first_error.or(Some(Error::Panicked("links".into()))),
            }
        }
        let closed = self.server.store.close();
        for thread in self.committing {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            if thread.join().is_err() {
                first_error = first_error.or(Some(Error::Panicked(name)));
            }
        }
        match (first_error, closed) {
            (Some(error), _) => Err(error),
            (None, closed) => Ok(closed?),
        }
    }
}
