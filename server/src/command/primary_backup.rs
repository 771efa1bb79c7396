//! A node outside of a cluster: a primary, or the backup of one. See [`crate::backup`].

use std::fmt::Write;
use std::time::Duration;

use strandline_engine::Index;

use super::Next;
use crate::backup::feeds::{Feed, Request};
use crate::backup::frame;
use crate::backup::link::Link;
use crate::backup::order::Wish;
use crate::backup::standing_file::Target;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::server::Server;
use crate::session::Connection;

type Result<T = Next> = std::result::Result<T, Failure>;

fn text(args: Args<'_>, at: usize) -> String {
    String::from_utf8_lossy(args.get(at).unwrap_or_default()).into_owned()
}

/// What `REPLICAOF NO ONE` or `REPLICAOF host port [DISCARD]` wishes.
pub(super) fn wish(args: Args<'_>) -> std::result::Result<Wish, Refusal> {
    if args.is(1, "no") && args.is(2, "one") && args.len() == 3 {
        return Ok(Wish::Lead);
    }
    if args.len() > 4 || args.len() == 4 && !args.is(3, "discard") {
        return Err(Refusal::Syntax);
    }
    let target = Target::parse(&format!("{} {}", text(args, 1), text(args, 2)));
    let target = target.ok_or(Refusal::other("ERR Invalid master port"))?;
    Ok(Wish::Follow { target, may_discard: args.len() == 4 })
}

/// `FOLLOW HELLO version run-id`, `FOLLOW FROM version node port index generation`, `FOLLOW COPY version`:
/// what a backup says to its primary. See `docs/format/feed.md`.
pub(super) fn follow(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let server = connection.server;
    if server.store.group().is_some() {
        return Err(Refusal::other(
            "ERR this node is one of a cluster, which has no backups outside of it: add a node to it \
             instead",
        )
        .into());
    }
    let version = text(args, 2);
    if version != frame::VERSION.to_string() {
        let known = frame::VERSION;
        let text = format!("ERR version {version} of FOLLOW is not known here, {known} is");
        return Err(Refusal::Other(text.into()).into());
    }
    if args.is(1, "hello") && args.len() == 4 {
        let db = server.store.db();
        let mut path = vec![server.run_id.clone()];
        path.extend(server.store.standing().path());
        path.truncate(PATH_LEN_MAX);
        let (first, last) = (db.log().first(), db.durable());
        let lineage = server.store.standing().lineage().until(last).to_text();
        reply.bulk(
            format!(
                "path:{}\r\nfirst:{first}\r\nlast:{last}\r\nlineage:{lineage}\r\n",
                path.join(",")
            )
            .as_bytes(),
        );
        return Ok(Next::Continue);
    }
    if args.is(1, "from") && args.len() == 7 {
        let node = u128::from_str_radix(&text(args, 3), 16).ok();
        let port = text(args, 4).parse().ok();
        let from = text(args, 5).parse().ok().map(Index);
        let generation = u128::from_str_radix(&text(args, 6), 16).ok();
        if let (Some(node), Some(port), Some(from), Some(generation)) =
            (node, port, from, generation)
        {
            return Ok(Next::Feed(Request::Entries { node, port, from, generation }));
        }
    }
    if args.is(1, "copy") && args.len() == 3 {
        return Ok(Next::Feed(Request::Copy));
    }
    Err(Refusal::other("ERR FOLLOW is what backups say; type REPLICAOF host port on the backup")
        .into())
}

/// The longest chain of backups whose members know each other.
const PATH_LEN_MAX: usize = 16;

/// How long a backup may take to catch up, unless `FAILOVER` says otherwise.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// `FAILOVER [TO host port] [TIMEOUT ms]`: a planned change of sides.
pub(super) fn failover(args: Args<'_>) -> Result {
    let (mut to, mut timeout) = (None, CATCH_UP_MAX);
    let mut at = 1;
    while at < args.len() {
        match args.len() - at {
            3.. if args.is(at, "to") => {
                let words = format!("{} {}", text(args, at + 1), text(args, at + 2));
                to = Some(Target::parse(&words).ok_or(Refusal::other("ERR Invalid master port"))?);
                at += 3;
            }
            2.. if args.is(at, "timeout") => {
                let ms = text(args, at + 1).parse().ok().filter(|ms| *ms > 0);
                let ms = ms.ok_or(Refusal::other("ERR FAILOVER timeout must be greater than 0"))?;
                timeout = Duration::from_millis(ms);
                at += 2;
            }
            _ if args.is(at, "abort") => {
                return Err(Refusal::other("ERR No failover in progress.").into());
            }
            _ if args.is(at, "force") => {
                let text = "ERR FAILOVER FORCE is not here: it would leave acknowledged writes behind. On \
                            the backup type REPLICAOF NO ONE";
                return Err(Refusal::other(text).into());
            }
            _ => return Err(Refusal::Syntax.into()),
        }
    }
    Ok(Next::Follow(Wish::HandOver { to, timeout }))
}

/// `ROLE`
pub(super) fn role(server: &Server, reply: &mut Reply<'_>) -> Result {
    let standing = server.store.standing();
    let applied = integer(server.store.db().applied().0);
    let Some(target) = standing.follows() else {
        let feeds = online(server);
        reply.array(3);
        reply.bulk(b"master");
        reply.integer(applied);
        reply.array(feeds.len());
        for feed in feeds {
            reply.array(3);
            reply.bulk(feed.host.as_bytes());
            reply.bulk(feed.port.to_string().as_bytes());
            reply.bulk(feed.durable.to_string().as_bytes());
        }
        return Ok(Next::Continue);
    };
    reply.array(5);
    reply.bulk(b"slave");
    reply.bulk(target.host.as_bytes());
    reply.integer(i64::from(target.port));
    reply.bulk(match standing.link() {
        Link::Down { .. } => b"connect",
        Link::Copying(..) => b"sync",
        Link::Up { .. } => b"connected",
    });
    reply.integer(applied);
    Ok(Next::Continue)
}

fn online(server: &Server) -> Vec<Feed> {
    let mut feeds = server.store.shared().feeds.all();
    feeds.retain(Feed::is_online);
    feeds
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn seconds(time: Duration) -> u64 {
    time.as_secs()
}

/// The section `replication` of `INFO`.
pub(super) fn info(server: &Server, out: &mut String) -> std::fmt::Result {
    let (store, standing) = (&server.store, server.store.standing());
    let (applied, last) = (store.db().applied(), store.db().log().last());
    match standing.follows() {
        None => write!(out, "role:master\r\n")?,
        Some(target) => {
            write!(out, "role:slave\r\n")?;
            write!(out, "master_host:{}\r\nmaster_port:{}\r\n", target.host, target.port)?;
            write_link(&standing.link(), applied, out)?;
            write!(out, "slave_read_repl_offset:{applied}\r\nslave_repl_offset:{applied}\r\n")?;
            write!(out, "slave_priority:100\r\nslave_read_only:1\r\nreplica_announced:1\r\n")?;
        }
    }
    let feeds = online(server);
    write!(out, "connected_slaves:{}\r\n", feeds.len())?;
    let (wanted, lag_s) = (&server.live.replicas_min, &server.live.replica_lag_s);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    if wanted.load(relaxed) > 0 {
        let lively = store.shared().feeds.lively(Duration::from_secs(lag_s.load(relaxed)));
        write!(out, "min_slaves_good_slaves:{lively}\r\n")?;
    }
    for (number, feed) in feeds.iter().enumerate() {
        let (host, port, durable) = (&feed.host, feed.port, feed.durable);
        let lag = seconds(feed.heard.elapsed());
        let lag_entries = last.0.saturating_sub(durable.0);
        write!(out, "slave{number}:ip={host},port={port},state=online,offset={durable},")?;
        write!(out, "lag={lag},lag_entries={lag_entries}\r\n")?;
    }
    write!(out, "master_failover_state:no-failover\r\n")?;
    let lineage = standing.lineage();
    let mut newest = lineage.list().iter().rev();
    let (own, before) = (newest.next(), newest.next());
    let id = |id: Option<u128>| format!("{:040x}", id.unwrap_or(0));
    write!(out, "master_replid:{}\r\n", id(own.map(|own| own.id)))?;
    write!(out, "master_replid2:{}\r\n", id(before.map(|before| before.id)))?;
    write!(out, "master_repl_offset:{applied}\r\n")?;
    match before.and(own) {
        Some(own) => write!(out, "second_repl_offset:{}\r\n", own.first)?,
        None => write!(out, "second_repl_offset:-1\r\n")?,
    }
    write!(out, "repl_backlog_active:1\r\nrepl_backlog_size:1048576\r\n")?;
    write!(out, "repl_backlog_first_byte_offset:{}\r\n", store.db().log().first())?;
    write!(
        out,
        "repl_backlog_histlen:{}\r\n",
        (last.0 + 1).saturating_sub(store.db().log().first().0)
    )?;
    write!(out, "node:{:032x}\r\n", standing.node().unwrap_or(0))?;
    write!(out, "durable:{}\r\nlast:{last}\r\n", store.db().durable())
}

fn write_link(link: &Link, applied: Index, out: &mut String) -> std::fmt::Result {
    match link {
        Link::Up { heard, durable } => {
            write!(out, "master_link_status:up\r\n")?;
            write!(out, "master_last_io_seconds_ago:{}\r\n", seconds(heard.elapsed()))?;
            write!(out, "master_sync_in_progress:0\r\n")?;
            write!(out, "lag_entries:{}\r\n", durable.0.saturating_sub(applied.0))
        }
        Link::Copying(received, len) => {
            write!(out, "master_link_status:down\r\nmaster_last_io_seconds_ago:0\r\n")?;
            write!(out, "master_sync_in_progress:1\r\nmaster_sync_total_bytes:{len}\r\n")?;
            write!(out, "master_sync_read_bytes:{received}\r\n")?;
            write!(out, "master_sync_left_bytes:{}\r\n", len.saturating_sub(*received))
        }
        Link::Down { since, reason, is_refused } => {
            write!(out, "master_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n")?;
            write!(out, "master_sync_in_progress:0\r\n")?;
            write!(out, "master_link_down_since_seconds:{}\r\n", seconds(since.elapsed()))?;
            write!(out, "master_link_refused:{}\r\n", u8::from(*is_refused))?;
            write!(out, "master_link_error:{}\r\n", reason.replace(['\r', '\n'], " "))
        }
    }
}
