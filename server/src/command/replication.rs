//! A node among others, as Redis' clients ask about it: its role, its replicas, handing over.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use strandline_replication::{Doubt, PeerStatus, ReplicaId, Role, Status};

use super::{Next, member, numbers, primary_backup};
use crate::backup::order::Wish;
use crate::backup::standing_file::Target;
use crate::cluster::group::Command;
use crate::cluster::nodes::{Node, Nodes};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::server::Server;
use crate::session::Connection;

type Result = std::result::Result<Next, Failure>;

/// `ROLE`
pub(super) fn role(connection: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if connection.server.store.group().is_none() {
        return primary_backup::role(connection.server, reply);
    }
    let applied = integer_of(connection.server.store.db().applied().0);
    let known = connection.server.store.group().and_then(|group| Some((group, group.status()?)));
    match known {
        Some((group, status)) if status.role != Role::Leader => {
            let nodes = group.nodes();
            let leader = status.leader.and_then(|leader| nodes.get(leader));
            let (host, port) = leader.map_or(("", 0), host_and_port);
            reply.array(5);
            reply.bulk(b"slave");
            reply.bulk(host.as_bytes());
            reply.integer(i64::from(port));
            reply.bulk(if leader.is_some() { b"connected" } else { b"connect" });
            reply.integer(applied);
        }
        known => {
            reply.array(3);
            reply.bulk(b"master");
            reply.integer(applied);
            let nodes = known.as_ref().map(|(group, _)| group.nodes());
            let replicas = match (&known, &nodes) {
                (Some((_, status)), Some(nodes)) => data(nodes, status),
                _ => Vec::new(),
            };
            reply.array(replicas.len());
            for (node, peer) in replicas {
                let (host, port) = host_and_port(node);
                reply.array(3);
                reply.bulk(host.as_bytes());
                reply.bulk(port.to_string().as_bytes());
                reply.bulk(peer.matched.to_string().as_bytes());
            }
        }
    }
    Ok(Next::Continue)
}

/// `REPLICAOF NO ONE | host port`: who follows whom is decided by the cluster.
pub(super) fn replicaof(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let wish = primary_backup::wish(args)?;
    let Some(group) = connection.server.store.group() else {
        return Ok(Next::Follow(wish));
    };
    let leader = group.status().and_then(|status| status.leader);
    let nodes = group.nodes();
    let leader = leader.and_then(|leader| nodes.get(leader));
    let own = group.own;
    let refusal = |text: String| Err(Refusal::Other(text.into()).into());
    let leads = leader.map_or("no node is known to lead".to_owned(), |node| {
        format!("node {} at {} leads", node.id, node.address)
    });
    let Wish::Follow { target, .. } = wish else {
        if leader.is_some_and(|leader| leader.id == own) {
            reply.simple("OK This node leads already");
            return Ok(Next::Continue);
        }
        return refusal(format!(
            "ERR the cluster elects who leads, and does so by itself when a leader dies: {leads}; to \
             hand the lead to this node type FAILOVER TO {} there",
            nodes.get(own).map_or(String::new(), |node| node.address.replace(':', " "))
        ));
    };
    let Some(asked) = nodes.all().find(|node| is_at(node, &target)) else {
        return refusal(format!("ERR {target} is no node of this cluster, and {leads}"));
    };
    match leader {
        _ if asked.is_witness => {
            refusal(format!("ERR node {} is a witness and never leads: {leads}", asked.id))
        }
        _ if asked.id == own => refusal("ERR this node cannot follow itself".into()),
        Some(leader) if leader.id == asked.id => {
            reply.simple("OK Already connected to specified master");
            Ok(Next::Continue)
        }
        // What is wished is that the other one leads and this one follows: without losing a write.
        Some(leader) if leader.id == own => Ok(Next::Command(Command::Transfer(asked.id))),
        _ => refusal(format!(
            "ERR the cluster elects who leads: {leads}; to change that type FAILOVER TO {} on the leader",
            asked.address.replace(':', " ")
        )),
    }
}

/// Whether this is where the node's clients reach it: all names of loopback are one.
fn is_at(node: &Node, target: &Target) -> bool {
    let (host, port) = host_and_port(node);
    let is_loopback = |host: &str| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|found| found.is_loopback())
    };
    let is_same = host.trim_matches(['[', ']']).eq_ignore_ascii_case(&target.host);
    port == target.port && (is_same || is_loopback(host) && is_loopback(&target.host))
}

/// `FAILOVER [TO host port] [TIMEOUT ms]`: hands the lead over without losing a write.
pub(super) fn failover(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let Some(group) = connection.server.store.group() else {
        return primary_backup::failover(args);
    };
    if args.is(1, "abort") {
        return Err(Refusal::other("ERR No failover in progress.").into());
    }
    if args.len() >= 4 && args.is(1, "to") {
        let address = format!(
            "{}:{}",
            String::from_utf8_lossy(args.at(2)),
            String::from_utf8_lossy(args.at(3))
        );
        let nodes = group.nodes();
        let node = nodes.all().find(|node| node.address == address);
        let Some(node) = node.filter(|node| !node.is_witness) else {
            return Err(
                Refusal::other("ERR FAILOVER target HOST and PORT is not a replica.").into()
            );
        };
        return Ok(Next::Command(Command::Transfer(node.id)));
    }
    let _ = reply;
    Ok(Next::Command(Command::StepDown))
}

/// `READONLY`: from now on reads may be answered from this node's state alone, as long as that is proven
/// to be no older than `stale-read-max-ms`. On a node that stands alone it changes nothing.
pub(super) fn readonly(
    connection: &mut Connection<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    connection.state.reads_stale = true;
    reply.ok();
    Ok(Next::Continue)
}

/// `READWRITE`: reads are as of now again.
pub(super) fn readwrite(
    connection: &mut Connection<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    connection.state.reads_stale = false;
    reply.ok();
    Ok(Next::Continue)
}

/// `WAIT replicas timeout`: how many replicas have all that this client was told is written.
pub(super) fn wait(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let wanted = numbers::integer(args.at(1))?;
    let timeout_ms = timeout(args.at(2))?;
    let _ = reply;
    refuse_backups(connection, "WAIT")?;
    let wanted = usize::try_from(wanted).unwrap_or(0);
    Ok(Next::Replicas { wanted, local: None, timeout_ms })
}

/// `WAITAOF local replicas timeout`: the same, and whether the disk of who leads has it.
pub(super) fn waitaof(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let local = numbers::integer(args.at(1))?;
    if !(0..=1).contains(&local) {
        return Err(Refusal::other("ERR value is out of range, must be between 0 and 1").into());
    }
    let wanted = numbers::integer(args.at(2))?;
    let timeout_ms = timeout(args.at(3))?;
    let _ = reply;
    refuse_backups(connection, "WAITAOF")?;
    let wanted = usize::try_from(wanted).unwrap_or(0);
    Ok(Next::Replicas { wanted, local: Some(local == 1), timeout_ms })
}

/// A backup takes no writes, so there is nothing to wait for.
fn refuse_backups(connection: &Connection<'_>, name: &str) -> std::result::Result<(), Refusal> {
    if connection.server.store.standing().follows().is_none() {
        return Ok(());
    }
    Err(Refusal::Other(
        format!(
            "ERR {name} cannot be used with replica instances. Please also note that since Redis 4.0 if a \
             replica is configured to be writable (which is not the default) writes to replicas are just \
             local and are not propagated."
        )
        .into(),
    ))
}

fn timeout(argument: &[u8]) -> std::result::Result<u64, Refusal> {
    let timeout = numbers::integer(argument)
        .map_err(|_| Refusal::other("ERR timeout is not an integer or out of range"))?;
    u64::try_from(timeout).map_err(|_| Refusal::other("ERR timeout is negative"))
}

fn integer_of(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn host_and_port(node: &Node) -> (&str, u16) {
    let (host, port) = node.address.rsplit_once(':').unwrap_or((&node.address, ""));
    (host, port.parse().unwrap_or(0))
}

/// The nodes that follow, and what their leader knows of them; no witnesses.
fn data<'a>(nodes: &'a Nodes, status: &Status) -> Vec<(&'a Node, PeerStatus)> {
    let peers = status.peers.iter();
    let known = peers.filter_map(|peer| Some((nodes.get(peer.id)?, peer.clone())));
    known.filter(|(node, _)| !node.is_witness).collect()
}

/// The section of `INFO`.
pub(super) fn info(server: &Server, out: &mut String) -> std::fmt::Result {
    if server.store.group().is_none() {
        return primary_backup::info(server, out);
    }
    let applied = server.store.db().applied();
    let known = server.store.group().and_then(|group| Some((group, group.status()?)));
    let nodes = known.as_ref().map(|(group, _)| group.nodes());
    let mut replicas = Vec::new();
    match &known {
        Some((group, status)) if status.role != Role::Leader => {
            let nodes = group.nodes();
            let leader = status.leader.and_then(|leader| nodes.get(leader));
            let (host, port) = leader.map_or(("", 0), host_and_port);
            let link = if leader.is_some() { "up" } else { "down" };
            write!(out, "role:slave\r\nmaster_host:{host}\r\nmaster_port:{port}\r\n")?;
            write!(out, "master_link_status:{link}\r\nmaster_last_io_seconds_ago:0\r\n")?;
            write!(out, "master_sync_in_progress:{}\r\n", u8::from(status.receiving.is_some()))?;
            if let Some(transfer) = status.receiving {
                let (received, all) = (transfer.bytes, transfer.bytes_total);
                write!(out, "master_sync_total_bytes:{all}\r\n")?;
                write!(out, "master_sync_read_bytes:{received}\r\n")?;
                write!(out, "master_sync_left_bytes:{}\r\n", all.saturating_sub(received))?;
            }
            write!(out, "slave_read_repl_offset:{applied}\r\n")?;
            write!(out, "slave_repl_offset:{applied}\r\nslave_priority:100\r\n")?;
            write!(out, "slave_read_only:1\r\nreplica_announced:1\r\n")?;
        }
        Some((_, status)) => {
            replicas = nodes.as_ref().map_or(Vec::new(), |nodes| data(nodes, status));
            write!(out, "role:master\r\n")?;
        }
        None => write!(out, "role:master\r\n")?,
    }
    write!(out, "connected_slaves:{}\r\n", replicas.iter().filter(|(_, p)| p.is_active).count())?;
    for (number, (node, peer)) in replicas.iter().enumerate() {
        let (host, port) = host_and_port(node);
        let state = match member::state(peer) {
            "snapshot" => "send_bulk",
            state => state,
        };
        let lag_s = peer.lag_ticks / TICKS_PER_SECOND;
        write!(out, "slave{number}:ip={host},port={port},state={state},offset={},", peer.matched)?;
        write!(out, "lag={lag_s},lag_entries={},lag_bytes={},", peer.lag_entries, peer.lag_bytes)?;
        write!(out, "lag_ms={}", peer.lag_ticks * (1000 / TICKS_PER_SECOND))?;
        if let Some(transfer) = peer.sending {
            let (sent, all) = (transfer.bytes, transfer.bytes_total);
            write!(out, ",snapshot_sent={sent},snapshot_bytes={all}")?;
        }
        write!(out, "\r\n")?;
    }
    write!(out, "master_failover_state:no-failover\r\n")?;
    write!(out, "master_replid:{}\r\nmaster_replid2:{}\r\n", server.run_id, "0".repeat(40))?;
    write!(out, "master_repl_offset:{applied}\r\nsecond_repl_offset:-1\r\n")?;
    write!(out, "repl_backlog_active:0\r\nrepl_backlog_size:1048576\r\n")?;
    write!(out, "repl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n")?;
    let Some((group, status)) = known else { return Ok(()) };
    let number = |id: Option<ReplicaId>| id.map_or(0, |id| id.0);
    write!(out, "cluster_id:{}\r\nnode_id:{}\r\n", group.nodes().group, group.own)?;
    write!(out, "leader_id:{}\r\n", number(status.leader))?;
    write!(out, "term:{}\r\ncommitted:{}\r\n", status.term, status.committed)?;
    write!(out, "everywhere:{}\r\napplied:{applied}\r\n", status.everywhere)?;
    write!(out, "durable:{}\r\nlast:{}\r\n", status.durable, status.last)?;
    write!(out, "first:{}\r\ndoubt:{}\r\n", status.first, doubt(status.doubt))?;
    write!(out, "state_damage:{}\r\n", status.state_damage.as_deref().unwrap_or("none"))?;
    write!(out, "states_replaced:{}\r\n", status.states_replaced)?;
    let age_us_max = server.live.stale_read_max_us.load(Ordering::Relaxed);
    // -1: it is not known yet; who asks has it found out.
    let age_ms = group.age_us(age_us_max).map_or(-1, |age_us| integer_of(age_us.div_ceil(1000)));
    write!(out, "stale_read_max_ms:{}\r\nstaleness_ms:{age_ms}\r\n", age_us_max / 1000)?;
    write!(out, "stale_reads:{}\r\nlease:{}\r\n", group.stale_reads(), u8::from(status.has_lease))?;
    write!(out, "lease_reads:{}\r\n", status.lease_reads)
}

/// What a replica cannot be sure of, in one word.
pub(super) fn doubt(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Nothing => "nothing",
        Doubt::Tail => "tail",
        Doubt::Everything => "everything",
    }
}

/// Ticks of the replica in a second; see [`TICK`](crate::cluster::driver::TICK).
const TICKS_PER_SECOND: u64 = 100;
const _: () = assert!(crate::cluster::driver::TICK.as_millis() == 10);
