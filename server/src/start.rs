//! Starting a node: the parts, in the order in which each needs those before it.
//!
//! Settings are checked and ports are bound before the store is opened, so that the usual mistakes
//! are told at once; connections are accepted when everything stands.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use strandline_engine::DbOptions;
use strandline_wal::disk::Rung;

use crate::auth;
use crate::config::{Config, ConfigError};
use crate::event_loop::{EventLoop, Post};
use crate::server::Server;
use crate::store::Store;
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
}

/// Starts a node with these settings.
///
/// # Errors
///
/// If a setting cannot work, an address is taken, or the store cannot be opened.
pub fn start(config: Config) -> Result<Node> {
    let options = DbOptions { rung: parse_rung(config.get("rung")), ..DbOptions::default() };
    start_with(config, |dir| Store::open(dir, options))
}

/// Starts a node whose store is opened by `open`: for tests on simulated disks.
///
/// # Errors
///
/// As for [`start`].
pub fn start_with(
    config: Config,
    open: impl FnOnce(&Path) -> strandline_engine::Result<(Store, Vec<JoinHandle<()>>)>,
) -> Result<Node> {
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
    drop(runtime);
    let (store, committing) = open(Path::new(config.get("dir")))?;
    tracing::info!(dir = config.get("dir"), rung = %store.rung(), "the store is open");
    let threads = match config.size("io-threads") {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1),
        threads => threads,
    };
    let server = Arc::new(Server::new(store, config));
    let bound = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
    server.set_addresses(bound);
    let mut node = Node { server, serving: Vec::new(), committing, housekeeping: None };
    if let Err(error) = node.spawn(listeners, threads) {
        node.server.shutdown.ask();
        // The first error is the one to tell.
        let _ = node.finish();
        return Err(Error::System(error));
    }
    Ok(node)
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
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            self.serving.push(thread.spawn(move || EventLoop::run(server, post))?);
        }
        for listener in listeners {
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

    /// Stops the node: clients first, then the store.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable, or a thread had panicked.
    pub fn finish(self) -> Result<()> {
        self.server.shutdown.ask();
        let mut first_error = None;
        for thread in self.serving {
            let name = thread.thread().name().unwrap_or("?").to_owned();
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(Error::System(error))),
                Err(_) => first_error = first_error.or(Some(Error::Panicked(name))),
            }
        }
        if self.housekeeping.is_some_and(|thread| thread.join().is_err()) {
            first_error = first_error.or(Some(Error::Panicked("housekeeping".into())));
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
