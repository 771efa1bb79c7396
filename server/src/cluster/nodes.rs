//! The nodes of a cluster, as they stand on the command line.
//!
//! ```text
//! --node-id 1 --cluster '1=HOST:PORT@PEERPORT,2=HOST:PORT@PEERPORT,3=HOST:PORT@PEERPORT+witness'
//!                        | |    |    |                                                  |
//!                        | |    |    +- where the other nodes reach it                  +- votes, has no state
//!                        | |    +------ where clients reach it
//!                        | +----------- a name, an IPv4 address, or an IPv6 address in brackets
//!                        +------------- its id, for ever: a replaced disk is a new id
//! ```
//!
//! The list is the same on every node; only the own id differs. Names are not looked up here: they
//! are when a link is made, each time anew, so a node may move. Once members have been added or
//! removed, the cluster's own record of them, the [`Book`], takes the place of the list.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use strandline_replication::ReplicaId;

use super::book::Book;
use crate::auth;

/// The most nodes: each has a link to every other one, and a majority of more is no faster and hardly safer.
pub const NODES_MAX: usize = 32;
/// The cluster, and its one replication group, unless a setting names another.
pub const GROUP: u64 = 1;

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its replica.
    pub id: ReplicaId,
    /// `HOST:PORT` for clients.
    pub address: String,
    /// `HOST:PEERPORT` for the other nodes.
    pub peer_address: String,
    /// Whether it votes and keeps the recent log, but no state.
    pub is_witness: bool,
}

/// The nodes of the cluster, and which of them this one is.
///
/// ```
/// use strandline_replication::ReplicaId;
/// use strandline_server::cluster::Nodes;
///
/// let nodes = Nodes::parse(2, "1=a.example:6379@7379,2=[::1]:6379@7379,3=c.example:6379@7379+witness")?;
/// assert_eq!(nodes.own().peer_address, "[::1]:7379");
/// assert!(nodes.get(ReplicaId(3)).is_some_and(|node| node.is_witness));
/// assert_eq!(nodes.others().count(), 2);
/// # Ok::<(), strandline_server::cluster::nodes::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// This node.
    pub own: ReplicaId,
    /// The cluster that they form, which is also its replication group; part of what the ends of a link
    /// compare.
    pub group: u64,
    /// Of the book that the list is from; 0 if it is from the command line.
    pub index: u64,
    /// The highest id that a node ever had, as far as is known.
    pub id_last: u64,
    /// Invariant: in the order of ids, none twice, `own` among them.
    list: Vec<Node>,
}

impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, peer_port) = self.peer_address.rsplit_once(':').unwrap_or_default();
        let role = if self.is_witness { "+witness" } else { "" };
        write!(out, "{}={}@{peer_port}{role}", self.id, self.address)
    }
}

/// What is wrong with the list of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A part of the list cannot be read.
    Node {
        /// The part.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two nodes have the same id.
    SameId(ReplicaId),
    /// Two ports are at the same place.
    SameAddress(String),
    /// This node is not in the list.
    OwnMissing(ReplicaId),
    /// More than [`NODES_MAX`].
    TooMany(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Node { text, reason } => write!(
                out,
                "--cluster: in \"{text}\" {reason}; each node is ID=HOST:PORT@PEERPORT, with +witness \
                 after it if it keeps no state"
            ),
            Error::SameId(id) => {
                write!(out, "--cluster: two nodes have the id {id}; each node needs its own")
            }
            Error::SameAddress(address) => {
                write!(out, "--cluster: {address} is named twice; each port needs its own place")
            }
            Error::OwnMissing(id) => write!(
                out,
                "--cluster: node {id} is not in the list; name this node there too, or mend --node-id"
            ),
            Error::TooMany(count) => {
                write!(out, "--cluster: {count} nodes are listed, {NODES_MAX} at the most can be")
            }
        }
    }
}

impl std::error::Error for Error {}

impl Nodes {
    /// Reads `--node-id` and `--cluster`.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong and what to type instead.
    pub fn parse(own: u64, text: &str) -> Result<Nodes, Error> {
        let list = parse_list(text)?;
        let own = ReplicaId(own);
        if !list.iter().any(|node| node.id == own) {
            return Err(Error::OwnMissing(own));
        }
        let id_last = list.last().map_or(0, |node| node.id.0);
        Ok(Nodes { own, group: GROUP, index: 0, id_last, list })
    }

    /// These nodes after a newer book: its list, and this node as it was started. None if the book is
    /// not newer, or makes no sense.
    pub fn after(&self, book: &Book) -> Option<Nodes> {
        if book.index <= self.index {
            return None;
        }
        let mut list = parse_list(&book.list).ok()?;
        list.retain(|node| node.id != self.own);
        list.push(self.own().clone());
        list.sort_by_key(|node| node.id);
        let id_last = book.id_last.max(self.own.0);
        Some(Nodes { index: book.index, id_last, list, ..*self })
    }

    /// The list as on the command line, and `changed` in it: put into it, or taken out.
    pub fn list_with(&self, changed: Result<&Node, ReplicaId>) -> String {
        let id = changed.map_or_else(|id| id, |node| node.id);
        let mut list: Vec<&Node> = self.list.iter().filter(|node| node.id != id).collect();
        list.extend(changed);
        list.sort_by_key(|node| node.id);
        list.into_iter().map(Node::to_string).collect::<Vec<_>>().join(",")
    }

    /// Whether a node of this id may call: it is in the list, or newer than what is known here. One that
    /// was removed is neither. A node that joins knows nobody but itself, and lets itself be called.
    pub fn may_call(&self, id: ReplicaId) -> bool {
        let joins = self.index == 0 && self.list.len() == 1;
        id != self.own && (joins || self.get(id).is_some() || id.0 > self.id_last)
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> impl Iterator<Item = &Node> {
        self.list.iter()
    }

    /// All but this one.
    pub fn others(&self) -> impl Iterator<Item = &Node> {
        self.list.iter().filter(|node| node.id != self.own)
    }

    /// The node with this id.
    pub fn get(&self, id: ReplicaId) -> Option<&Node> {
        let place = self.list.binary_search_by_key(&id, |node| node.id).ok()?;
        Some(&self.list[place])
    }

    /// This node.
    ///
    /// # Panics
    ///
    /// If `own` has been changed to a node that is not in the list.
    pub fn own(&self) -> &Node {
        self.get(self.own).expect("parsing found the own id in the list")
    }

    /// Whether all of them are on this machine, so that nobody else can reach or hear them. A name
    /// other than `localhost` may lead anywhere, so it does not count.
    pub fn is_loopback(&self) -> bool {
        self.list.iter().all(Node::is_loopback)
    }
}

impl Node {
    /// Reads `ID=HOST:PORT@PEERPORT`, with `+witness` behind it for one that keeps no state.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong and what to type instead.
    pub fn parse(text: &str) -> Result<Node, Error> {
        parse_node(text).map_err(|reason| Error::Node { text: text.into(), reason })
    }

    /// Whether it is on this machine; see [`Nodes::is_loopback`].
    pub fn is_loopback(&self) -> bool {
        let (host, _) = self.peer_address.rsplit_once(':').expect("it was made with a port");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| !auth::is_public(address))
    }
}

/// Reads a list; its nodes in the order of their ids.
fn parse_list(text: &str) -> Result<Vec<Node>, Error> {
    let count = text.split(',').count();
    if count > NODES_MAX {
        return Err(Error::TooMany(count));
    }
    let mut list = text
        .split(',')
        .map(|part| Node::parse(part.trim()))
        .collect::<Result<Vec<Node>, Error>>()?;
    list.sort_by_key(|node| node.id);
    if let Some(pair) = list.windows(2).find(|pair| pair[0].id == pair[1].id) {
        return Err(Error::SameId(pair[0].id));
    }
    let mut addresses = BTreeSet::new();
    for address in list.iter().flat_map(|node| [&node.address, &node.peer_address]) {
        if !addresses.insert(address) {
            return Err(Error::SameAddress(address.clone()));
        }
    }
    Ok(list)
}

/// Whether these are the nodes of a cluster, as a book has them.
///
/// # Errors
///
/// As for [`Nodes::parse`].
pub fn check_list(text: &str) -> Result<(), Error> {
    parse_list(text).map(|_| ())
}

/// Reads `ID=HOST:PORT@PEERPORT+witness`, or says what is wrong with it.
fn parse_node(text: &str) -> Result<Node, &'static str> {
    let (id, place) = text.split_once('=').ok_or("there is no '='")?;
    let id = match id.trim().parse() {
        Ok(0) => return Err("the id is 0, and ids begin at 1"),
        Ok(id) => ReplicaId(id),
        Err(_) => return Err("the id is not a number"),
    };
    let (place, is_witness) = match place.split_once('+') {
        None => (place, false),
        Some((place, "witness")) => (place, true),
        Some(_) => return Err("what follows '+' is not \"witness\""),
    };
    let (address, peer_port) = place.split_once('@').ok_or("there is no '@' with the peer port")?;
    let (host, port) = address.rsplit_once(':').ok_or("there is no port after the host")?;
    let (port, peer_port) = (parse_port(port)?, parse_port(peer_port)?);
    check_host(host)?;
    Ok(Node {
        id,
        address: format!("{host}:{port}"),
        peer_address: format!("{host}:{peer_port}"),
        is_witness,
    })
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(0) => Err("a port is 0, and the others could not know which it becomes"),
        Ok(port) => Ok(port),
        Err(_) => Err("a port is not a number from 1 to 65535"),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or("a '[' is not closed")?;
        return match inner.parse::<Ipv6Addr>() {
            Ok(address) if address.is_unspecified() => Err(UNSPECIFIED),
            Ok(_) => Ok(()),
            Err(_) => Err("there is no IPv6 address in the brackets"),
        };
    }
    if host.contains(':') {
        return Err("an IPv6 address is not in brackets");
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !host.bytes().all(is_sound) {
        return Err("the host is neither a name nor an address");
    }
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(UNSPECIFIED),
        _ => Ok(()),
    }
}

const UNSPECIFIED: &str = "the host is every address of a machine, and the others need one of them";

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(own: u64, text: &str) -> String {
        Nodes::parse(own, text).unwrap_err().to_string()
    }

    #[test]
    fn a_list_is_read_whatever_its_order() {
        let text = "3=c:1@2+witness, 1=10.0.0.1:6379@7379,2=[fe80::1]:6379@7379";
        let nodes = Nodes::parse(1, text).unwrap();
        assert_eq!(nodes.all().map(|node| node.id.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(nodes.others().map(|node| node.id.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(nodes.own().address, "10.0.0.1:6379");
        assert_eq!(nodes.get(ReplicaId(2)).unwrap().peer_address, "[fe80::1]:7379");
        assert!(nodes.get(ReplicaId(3)).unwrap().is_witness);
        assert!(!nodes.own().is_witness);
        assert!(nodes.get(ReplicaId(4)).is_none());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, expected) in [
            ("", "no '='"),
            ("1=a:1@2,", "no '='"),
            ("0=a:1@2", "ids begin at 1"),
            ("x=a:1@2", "id is not a number"),
            ("-1=a:1@2", "id is not a number"),
            ("1=a:1", "no '@'"),
            ("1=a@2", "no port after the host"),
            ("1=a:0@2", "a port is 0"),
            ("1=a:1@65536", "from 1 to 65535"),
            ("1=a:1@2+wit", "not \"witness\""),
            ("1=:1@2", "host is missing"),
            ("1=::1:1@2", "not in brackets"),
            ("1=[::1:1@2", "not closed"),
            ("1=[::g]:1@2", "no IPv6 address"),
            ("1=0.0.0.0:1@2", "every address"),
            ("1=[::]:1@2", "every address"),
            ("1=a b:1@2", "neither a name nor an address"),
            ("1=a:1@2,1=b:1@2", "two nodes have the id 1"),
            ("1=a:1@2,2=a:1@3", "a:1 is named twice"),
            ("1=a:1@1", "a:1 is named twice"),
            ("2=a:1@2", "node 1 is not in the list"),
        ] {
            let found = reason(1, text);
            assert!(found.contains(expected), "{text}: {found}");
        }
        let many: Vec<String> = (1..=33).map(|id| format!("{id}=h{id}:1@2")).collect();
        assert!(reason(1, &many.join(",")).contains("33 nodes are listed"));
        Nodes::parse(1, &many[..32].join(",")).unwrap();
    }

    #[test]
    fn a_newer_book_takes_the_place_of_the_list() {
        let nodes = Nodes::parse(3, "1=a:1@2,2=b:1@2,3=c:1@2+witness").unwrap();
        let four = Node::parse("4=d:1@2").unwrap();
        let list = nodes.list_with(Ok(&four));
        assert_eq!(list, "1=a:1@2,2=b:1@2,3=c:1@2+witness,4=d:1@2");
        let book = Book { index: 7, id_last: 4, list };
        let with = nodes.after(&book).unwrap();
        assert_eq!(with.get(ReplicaId(4)), Some(&four));
        assert_eq!(with.after(&book), None, "it is not newer");
        assert!(!nodes.may_call(ReplicaId(3)) && nodes.may_call(ReplicaId(4)));
        let list = with.list_with(Err(ReplicaId(2)));
        let without = with.after(&Book { index: 9, id_last: 4, list }).unwrap();
        assert!(without.get(ReplicaId(2)).is_none() && !without.may_call(ReplicaId(2)));
        assert!(without.may_call(ReplicaId(5)), "it may be in a newer book");
        let removed = with.after(&Book { index: 9, id_last: 4, list: "1=a:1@2".into() }).unwrap();
        assert_eq!(removed.own().address, "c:1", "a node that was removed still knows itself");
    }

    #[test]
    fn loopback_is_all_of_them_or_none() {
        for (text, expected) in [
            ("1=127.0.0.1:1@2,2=[::1]:3@4,3=localhost:5@6", true),
            ("1=127.0.0.1:1@2,2=10.0.0.1:1@2", false),
            ("1=localhost.example:1@2", false),
        ] {
            assert_eq!(Nodes::parse(1, text).unwrap().is_loopback(), expected, "{text}");
        }
    }
}
