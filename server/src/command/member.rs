//! `MEMBER`: the nodes of the cluster, and how they come and go. `strandline cluster` speaks it.
//!
//! ```text
//! MEMBER LIST                              one line for each node
//! MEMBER ADD ID=HOST:PORT@PEERPORT[+witness]
//! MEMBER PROMOTE ID                        a learner that has caught up votes
//! MEMBER REMOVE ID [FORCE]
//! ```
//!
//! All but `LIST` are for the leader, and are answered when the change stands in its log: `LIST` shows when
//! it has come to pass. Asking twice is harmless.

use std::fmt::Write;

use strandline_replication::{MemberRole, PeerState, PeerStatus, ReplicaId, Role, Status};

use super::Next;
use crate::cluster::driver::TICK;
use crate::cluster::group::Command;
use crate::cluster::nodes::{Node, Nodes};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::Connection;

/// `MEMBER LIST | ADD node | PROMOTE id | REMOVE id [FORCE]`
pub(super) fn member(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<Next, Failure> {
    let Some(group) = connection.server.store.group() else {
        return Err(Refusal::other("ERR this node stands alone: it has no cluster").into());
    };
    if args.is(1, "list") && args.len() == 2 {
        let nodes = group.nodes();
        let lines = group.status().map_or(Vec::new(), |status| lines(&nodes, &status));
        reply.array(lines.len());
        lines.iter().for_each(|line| reply.bulk(line.as_bytes()));
        return Ok(Next::Continue);
    }
    let command = match args.len() {
        3 if args.is(1, "add") => {
            let node = Node::parse(&String::from_utf8_lossy(args.at(2)));
            Command::Add(node.map_err(|error| Refusal::Other(format!("ERR {error}").into()))?)
        }
        3 if args.is(1, "promote") => Command::Promote(id(args.at(2))?),
        3 if args.is(1, "remove") => Command::Remove { id: id(args.at(2))?, force: false },
        4 if args.is(1, "remove") && args.is(3, "force") => {
            Command::Remove { id: id(args.at(2))?, force: true }
        }
        _ => {
            let text = "ERR MEMBER LIST | ADD ID=HOST:PORT@PEERPORT[+witness] | PROMOTE ID | REMOVE \
                        ID [FORCE]";
            return Err(Refusal::other(text).into());
        }
    };
    Ok(Next::Command(command))
}

fn id(argument: &[u8]) -> Result<ReplicaId, Refusal> {
    let id = std::str::from_utf8(argument).ok().and_then(|text| text.parse().ok());
    match id {
        Some(id) if id > 0 => Ok(ReplicaId(id)),
        _ => Err(Refusal::other("ERR a node's number is 1 or more")),
    }
}

/// One line for each node, of members and of those that are known: `name=value,...`.
fn lines(nodes: &Nodes, status: &Status) -> Vec<String> {
    let mut ids: Vec<ReplicaId> = nodes.all().map(|node| node.id).collect();
    ids.extend(status.membership.members.iter().map(|member| member.id));
    ids.sort_unstable();
    ids.dedup();
    let line = |id: &ReplicaId| {
        let peer = status.peers.iter().find(|peer| peer.id == *id);
        line(*id, nodes.get(*id), status, peer)
    };
    ids.iter().map(line).collect()
}

fn line(id: ReplicaId, node: Option<&Node>, status: &Status, peer: Option<&PeerStatus>) -> String {
    let (address, peer_address) =
        node.map_or(("", ""), |node| (node.address.as_str(), node.peer_address.as_str()));
    let role = match status.membership.get(id).map(|member| member.role) {
        Some(MemberRole::Voter) => "voter",
        Some(MemberRole::Learner) => "learner",
        Some(MemberRole::Witness) => "witness",
        None if status.membership.contains(id) => "leaving",
        None => "none",
    };
    let leads = u8::from(status.leader == Some(id));
    let mut line =
        format!("id={id},address={address},peer_address={peer_address},role={role},leads={leads}");
    // Writing to a string does not fail.
    if id == status.id && status.role == Role::Leader {
        let _ = write!(line, ",state=online,matched={},lag_entries=0,lag_bytes=0", status.durable);
        let _ = write!(line, ",lag_ms=0");
    }
    if let Some(peer) = peer {
        let lag_ms = peer.lag_ticks.saturating_mul(u64::try_from(TICK.as_millis()).unwrap_or(1));
        let _ = write!(line, ",state={},matched={}", state(peer), peer.matched);
        let _ = write!(line, ",lag_entries={},lag_bytes={}", peer.lag_entries, peer.lag_bytes);
        let _ = write!(line, ",lag_ms={lag_ms},state_damaged={}", u8::from(peer.is_damaged));
        if let Some(transfer) = peer.sending {
            let (sent, all) = (transfer.bytes, transfer.bytes_total);
            let _ = write!(line, ",snapshot_sent={sent},snapshot_bytes={all}");
        }
    }
    if id == status.id {
        let _ = write!(line, ",doubt={}", super::replication::doubt(status.doubt));
        let _ = write!(line, ",state_damaged={}", u8::from(status.state_damage.is_some()));
        if let Some(transfer) = status.receiving {
            let (received, all) = (transfer.bytes, transfer.bytes_total);
            let reused = transfer.bytes_reused;
            let _ = write!(line, ",snapshot_received={received},snapshot_bytes={all}");
            let _ = write!(line, ",snapshot_reused={reused}");
        }
    }
    line
}

/// How its leader reaches a peer, in one word.
pub(super) fn state(peer: &PeerStatus) -> &'static str {
    match (peer.is_active, peer.state) {
        (false, _) => "offline",
        (true, PeerState::Snapshotting) => "snapshot",
        (true, _) => "online",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read() {
        assert_eq!(id(b"7").ok(), Some(ReplicaId(7)));
        assert!(id(b"0").is_err() && id(b"x").is_err());
    }
}
