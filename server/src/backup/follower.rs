//! The backup's thread: connects to the primary, decides whether it may follow, and takes the feed.
//!
//! ```text
//! own log is a prefix, and the primary's log goes back far enough      entries, from the next one on
//! own log is a prefix, and it does not                                 a copy of the whole state
//! own log is apart, and it holds no keys, or may be discarded          a copy of the whole state
//! own log is apart                                                     refused: stays readable, says why
//! ```
//!
//! Whatever ends the link, it is tried again: soon at first, then once a second.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strandline_engine::{Durability, Entry, EntryKind, Index};

use super::copy::Incoming;
use super::frame::{self, Frame};
use super::lineage::Relation;
use super::link::Link;
use super::standing::Order;
use super::standing_file::Target;
use super::upstream::{self, Hello, Upstream};
use crate::databases::DATABASE_COUNT;
use crate::server::Server;

/// How long until the next try, at first: a primary that restarts is found as soon as it listens.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// And at last.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a try has ended.
#[derive(Debug)]
pub enum Ended {
    /// The link.
    Link(upstream::Error),
    /// This node's store.
    Store(strandline_engine::Error),
    /// It would have to discard, or it makes no sense.
    Refused(String),
    /// Something else is wanted now.
    Changed,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Link(error) => error.fmt(out),
            Ended::Store(error) => write!(out, "this node's store: {error}"),
            Ended::Refused(text) => out.write_str(text),
            Ended::Changed => out.write_str("something else is wanted now"),
        }
    }
}

impl From<upstream::Error> for Ended {
    fn from(error: upstream::Error) -> Self {
        Ended::Link(error)
    }
}

impl From<strandline_engine::Error> for Ended {
    fn from(error: strandline_engine::Error) -> Self {
        Ended::Store(error)
    }
}

/// What this node is to do about a primary that has said who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Take the entries from this one on.
    Entries(Index),
    /// Take a copy of the whole state, as of a later entry than this: what is here is a part of it.
    Copy {
        /// The last entry here.
        last: Index,
    },
    /// Take a copy of the whole state, and discard what is here, which is nothing or may go.
    Discard,
}

/// Why this node does not follow a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It follows this node, or is it.
    Circle(String),
    /// This node would have to discard.
    Apart(String),
}

/// Whether any database has a key.
pub fn has_keys(server: &Server) -> bool {
    let directory = &server.store.shared().directory;
    (0..DATABASE_COUNT).any(|number| directory.get(number).keys > 0)
}

/// What to do about the primary at `target`, with a log that is at rest.
///
/// # Errors
///
/// Why this node does not follow it.
pub fn plan(
    server: &Server,
    target: &Target,
    hello: &Hello,
    may_discard: bool,
) -> Result<Plan, Refusal> {
    if hello.path.contains(&server.run_id) {
        return Err(Refusal::Circle(match hello.path.first() == Some(&server.run_id) {
            true => "this node is there itself: it cannot follow itself".to_owned(),
            false => format!(
                "the node at {target} follows this one: type REPLICAOF NO ONE there first, then its \
                 log goes on alone and this node can follow"
            ),
        }));
    }
    let last = Index(server.store.db().log().last().0);
    let standing = server.store.standing();
    match standing.lineage().relation(last, &hello.lineage, hello.last) {
        Relation::Prefix if last.0 + 1 >= hello.first.0 => Ok(Plan::Entries(Index(last.0 + 1))),
        Relation::Prefix => Ok(Plan::Copy { last }),
        Relation::Apart { .. } if may_discard || !has_keys(server) => Ok(Plan::Discard),
        Relation::Apart { common } => Err(Refusal::Apart(refusal(target, common, last, hello))),
    }
}

fn refusal(target: &Target, common: Index, last: Index, hello: &Hello) -> String {
    let what = match (common, hello.last) {
        (Index(0), Index(0)) => format!(
            "the node at {target} is empty and this one has data: it is new, or it has lost its disk"
        ),
        (Index(0), _) => format!(
            "the node at {target} has another history than this one: it began anew, or never was its \
             primary"
        ),
        _ => format!(
            "this node has entries {} to {last}, which the node at {target} has not",
            common.0 + 1
        ),
    };
    format!(
        "{what}. Nothing is discarded; reads are served. To keep this node's data, make it the primary: \
         REPLICAOF NO ONE. To give it up and take over the other's: REPLICAOF {} DISCARD",
        target.as_words()
    )
}

/// Follows whom it is told to, until the node stops.
pub fn run(server: &Arc<Server>) {
    let standing = server.store.standing();
    let (mut pause, mut epoch) = (PAUSE_MIN, u64::MAX);
    while let Some(order) = standing.wait_for_order() {
        if epoch != order.epoch {
            (epoch, pause) = (order.epoch, PAUSE_MIN);
        }
        let began = Instant::now();
        let ended = match follow(server, &order) {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        if matches!(ended, Ended::Changed) {
            continue;
        }
        let is_refused = matches!(ended, Ended::Refused(_));
        if standing.set_down(order.epoch, &ended.to_string(), is_refused) {
            tracing::warn!(primary = %order.target, "not following: {ended}");
        }
        server.refresh_gate();
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        standing.pause(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// Nothing follows from following: it ends only for a reason.
enum Never {}

fn follow(server: &Arc<Server>, order: &Order) -> Result<Never, Ended> {
    let (standing, db) = (server.store.standing(), server.store.db());
    let mut upstream = Upstream::connect(&order.target, &order.password)?;
    let hello = upstream.hello(&server.run_id)?;
    let handle = upstream.handle().map_err(upstream::Error::Lost)?;
    if !standing.connected(order.epoch, handle, &hello.path) {
        return Err(Ended::Changed);
    }
    // Only what is durable is compared and acknowledged.
    let last = Index(db.log().last().0);
    server.store.wait(last)?;
    let plan = plan(server, &order.target, &hello, order.may_discard);
    let plan =
        plan.map_err(|(Refusal::Circle(text) | Refusal::Apart(text))| Ended::Refused(text))?;
    match plan {
        Plan::Entries(from) => take_entries(server, order, &mut upstream, &hello, from),
        Plan::Copy { last } => take_copy(server, order, &mut upstream, last),
        Plan::Discard => {
            if has_keys(server) {
                tracing::warn!(primary = %order.target, "discarding this node's data, as told");
            }
            take_copy(server, order, &mut upstream, Index(0))
        }
    }
}

fn take_entries(
    server: &Arc<Server>,
    order: &Order,
    upstream: &mut Upstream,
    hello: &Hello,
    from: Index,
) -> Result<Never, Ended> {
    let (standing, db) = (server.store.standing(), server.store.db());
    let before = Index(from.0 - 1);
    let generation = standing.lineage().at(before).map_or(0, |generation| generation.id);
    let node = standing.node().unwrap_or(0);
    let port = server.addresses().first().map_or(0, std::net::SocketAddr::port);
    upstream.ask(&[
        "FOLLOW",
        "FROM",
        &frame::VERSION.to_string(),
        &format!("{node:032x}"),
        &port.to_string(),
        &from.to_string(),
        &format!("{generation:032x}"),
    ])?;
    tracing::info!(primary = %order.target, %from, "following");
    standing.heard(order.epoch, hello.last);
    server.refresh_gate();
    let mut ended = None;
    let result = upstream.take_frames(|stream, frame, more| {
        match take_frame(server, order, stream, frame, more) {
            Ok(()) => Ok(None),
            Err(Ended::Link(error)) => Err(error),
            Err(other) => {
                ended = Some(other);
                Ok(Some(()))
            }
        }
    });
    // What was appended is made durable even if nobody is told.
    server.store.request(Index(db.log().last().0));
    match (ended, result) {
        (Some(ended), _) => Err(ended),
        (None, Err(error)) if standing.is_current(order.epoch) => Err(error.into()),
        (None, _) => Err(Ended::Changed),
    }
}

fn take_frame(
    server: &Arc<Server>,
    order: &Order,
    stream: &mut TcpStream,
    frame: Frame<'_>,
    more: bool,
) -> Result<(), Ended> {
    let (standing, db) = (server.store.standing(), server.store.db());
    let malformed = |reason| Ended::Link(upstream::Error::Malformed(reason));
    match frame {
        Frame::Beat { durable } => standing.heard(order.epoch, durable),
        Frame::Generation(generation) => {
            let _appending = standing.appending();
            if !standing.is_current(order.epoch) {
                return Err(Ended::Changed);
            }
            if generation.first.0 != db.log().last().0 + 1 {
                return Err(malformed("a generation that does not begin here"));
            }
            standing.begin_generation(generation)?;
        }
        Frame::Entries { first, payloads } => {
            for (payload, at) in payloads.iter().zip(first.0..) {
                let entry = Entry::decode(Index(at), payload)?;
                let known =
                    [EntryKind::NOOP, EntryKind::BATCH, EntryKind::KEYSPACE, EntryKind::COMMAND];
                if !known.contains(&entry.header.kind) {
                    return Err(malformed("an entry of a kind that only a cluster has"));
                }
            }
            let _appending = standing.appending();
            if !standing.is_current(order.epoch) {
                return Err(Ended::Changed);
            }
            if first.0 != db.log().last().0 + 1 {
                return Err(malformed("entries that do not follow"));
            }
            let last = db.append(&payloads, Durability::Disk)?;
            let count = u64::try_from(payloads.len()).unwrap_or(u64::MAX);
            assert_eq!(last.0 + 1, first.0 + count, "on a backup this thread alone appends");
            server.store.request(last);
            standing.heard(order.epoch, last);
        }
        _ => return Err(malformed("a frame that does not belong here")),
    }
    if !more {
        let last = Index(db.log().last().0);
        server.store.wait(last)?;
        let mut bytes = Vec::new();
        Frame::Durable(last).encode(&mut bytes);
        std::io::Write::write_all(stream, &bytes).map_err(upstream::Error::Lost)?;
    }
    Ok(())
}

fn take_copy(
    server: &Arc<Server>,
    order: &Order,
    upstream: &mut Upstream,
    last: Index,
) -> Result<Never, Ended> {
    let (standing, db) = (server.store.standing(), server.store.db());
    let (disk, dir) = server.store.place();
    upstream.ask(&["FOLLOW", "COPY", &frame::VERSION.to_string()])?;
    tracing::info!(primary = %order.target, "taking over a whole state");
    let mut incoming: Option<Incoming> = None;
    let mut failed = None;
    let result = upstream.take_frames(|_, frame, _| {
        let done = match (frame, &mut incoming) {
            (Frame::Copy { index, lineage, files }, None) => {
                let group_dir = strandline_engine::group_dir(dir);
                Incoming::begin(disk.clone(), &group_dir, index, lineage, files)
                    .map(|begun| incoming = Some(begun))
                    .map(|()| false)
            }
            (Frame::Part { file, offset, bytes }, Some(incoming)) => {
                let written = incoming.write(file, offset, bytes);
                let link = Link::Copying(incoming.received, incoming.len());
                standing.set_link(order.epoch, link);
                written.map(|()| false)
            }
            (Frame::Copied, Some(_)) => Ok(true),
            (Frame::Beat { .. }, _) => Ok(false),
            _ => {
                return Err(upstream::Error::Malformed("a frame that does not belong in a copy"));
            }
        };
        match done {
            Ok(is_done) => Ok(is_done.then_some(())),
            Err(error) => {
                failed = Some(error);
                Ok(Some(()))
            }
        }
    });
    if !standing.is_current(order.epoch) {
        return Err(Ended::Changed);
    }
    result?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let Some(incoming) = incoming else {
        return Err(upstream::Error::Malformed("the end of a copy that never began").into());
    };
    let (index, lineage) = incoming.finish(db)?;
    if last > Index(0) && index <= last {
        return Err(upstream::Error::Malformed("a copy that is older than what is here").into());
    }
    if standing.stage(order.epoch, index, lineage)? {
        tracing::info!(%index, "a whole state has come: opening again with it");
        server.shutdown.ask_restart();
    }
    Err(Ended::Changed)
}
