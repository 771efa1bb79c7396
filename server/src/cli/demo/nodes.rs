//! The nodes of a demo: started, found leading, killed, started again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli::client::{Connection, Reply};
use crate::cli::cluster;
use crate::cli::error::{Error, Result};
use crate::cli::node::Node;
use crate::cli::scratch::{self, Scratch};
use crate::config::Config;

/// How long the nodes may take to elect their first leader.
const ELECTION_MAX: Duration = Duration::from_secs(30);
/// How long one node may take to say whether it leads.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Nodes {
    /// In the order of their numbers; none while it is dead.
    list: Vec<Option<Node>>,
    addresses: Vec<SocketAddr>,
    /// The file of settings of each, if they are a cluster.
    configs: Vec<PathBuf>,
    dir: PathBuf,
    /// How many were started: each has a log of its own.
    started: usize,
}

impl Nodes {
    /// Starts so many nodes on empty directories. Several are a cluster that has a leader.
    pub(super) fn start(scratch: &Scratch, count: u32) -> Result<Nodes> {
        let count = usize::try_from(count).expect("there are few nodes");
        let addresses = free_addresses(2 * count)?;
        let (clients, peers) = addresses.split_at(count);
        let configs = match count {
            1 => Vec::new(),
            _ => form(scratch, clients, peers)?,
        };
        let mut nodes = Nodes {
            list: (0..count).map(|_| None).collect(),
            addresses: clients.to_vec(),
            configs,
            dir: scratch.path().to_path_buf(),
            started: 0,
        };
        for place in 0..count {
            nodes.restart(place)?;
        }
        nodes.leader()?;
        Ok(nodes)
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Starts a node on its directory.
    pub(super) fn restart(&mut self, place: usize) -> Result<()> {
        let dir = self.dir.join(format!("node-{}", place + 1));
        self.started += 1;
        let log = self.dir.join(format!("log-{}", self.started));
        let settings = match self.configs.get(place) {
            Some(config) => vec!["--config".to_owned(), config.display().to_string()],
            None => Vec::new(),
        };
        let node = Node::start(&dir, self.addresses[place], &settings, &log)?;
        self.list[place] = Some(node);
        Ok(())
    }

    /// Kills a node with SIGKILL.
    pub(super) fn kill(&mut self, place: usize) -> Result<()> {
        self.list[place].take().map_or(Ok(()), Node::kill)
    }

    /// The node that leads; a single one does.
    pub(super) fn leader(&self) -> Result<usize> {
        let began = Instant::now();
        while began.elapsed() < ELECTION_MAX {
            scratch::check()?;
            let leads = |place: &usize| self.list[*place].is_some() && self.leads(*place);
            if let Some(leader) = (0..self.list.len()).find(leads) {
                return Ok(leader);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let reason = format!("no leader was elected within {} s", ELECTION_MAX.as_secs());
        Err(Error::NotReady { reason, log: String::new() })
    }

    /// Waits until a node answers reads: one that was dead has to catch up first.
    pub(super) fn wait_until_readable(&self, place: usize) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < ELECTION_MAX {
            scratch::check()?;
            let answer = Connection::open(self.addresses[place], ANSWER_MAX)
                .and_then(|mut connection| connection.ask(&[b"GET", b"demo"]));
            if matches!(answer, Ok(Reply::Null)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let reason = format!("node {} answers no reads", place + 1);
        Err(Error::NotReady { reason, log: String::new() })
    }

    fn leads(&self, place: usize) -> bool {
        let answer = Connection::open(self.addresses[place], ANSWER_MAX)
            .and_then(|mut connection| connection.ask(&[b"INFO", b"replication"]));
        match answer {
            Ok(Reply::Bulk(text)) => String::from_utf8_lossy(&text).contains("role:master"),
            _ => false,
        }
    }
}

/// Prepares a cluster, as `cluster init` does; returns the file of settings of each node.
fn form(scratch: &Scratch, clients: &[SocketAddr], peers: &[SocketAddr]) -> Result<Vec<PathBuf>> {
    let pairs = clients.iter().zip(peers).zip(1..);
    let nodes: Vec<String> =
        pairs.map(|((client, peer), id)| format!("{id}={client}@{}", peer.port())).collect();
    let formed = cluster::form(cluster::Form {
        dir: scratch.path().to_path_buf(),
        nodes: nodes.join(","),
        settings: Config::default(),
        tls: false,
    })?;
    Ok(formed.nodes.into_iter().map(|node| node.config).collect())
}

/// Addresses on loopback that nobody uses now.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let taken = |source| Error::System { what: "a free port", source };
    let listeners = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(taken)?;
    listeners.iter().map(|listener| listener.local_addr().map_err(taken)).collect()
}
