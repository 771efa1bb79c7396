//! Members that come and go, as the leader's driver sees to it.
//!
//! ```text
//! add:      book with the node -> learner (a witness votes at once) .... caught up -> voter
//! remove:   no member any more -> book without the node
//! ```
//!
//! Each step is an entry of the log, asked for by a command of its own, and asking twice is harmless: so
//! whoever steers (`strandline cluster add`) may stop, or lose the leader, and go on from what is there.
//! The book goes before the membership when a node is added, so that who knows of a member knows where
//! it is; and after it when one is removed.

use std::sync::Arc;

use strandline_engine::{EntryHeader, EntryKind};
use strandline_replication::{
    Event, Member, MemberRole, MembershipChange, Outcome, Output, PeerState, Refusal, ReplicaId,
    Status,
};
use strandline_wal::disk::Disk;
use tokio::sync::oneshot;

use super::answer::refusal_text;
use super::driver::Driver;
use super::nodes::{self, Node, Nodes};
use super::{Book, Peers};
use crate::clock;
use crate::entry;
use crate::machine::{OPCODE_NODES, Shared};

/// A learner that lacks no more entries than this is made a voter: at full load it never lacks none.
pub const LAG_ENTRIES_MAX: u64 = 4096;

/// Where a node keeps its book, and who else has to know it.
#[derive(Debug)]
pub struct Shelf {
    /// The disk of the node.
    pub disk: Arc<dyn Disk>,
    /// Its directory.
    pub dir: std::path::PathBuf,
    /// Where the machine puts books that were applied.
    pub machine: Arc<Shared>,
}

/// Who is told what becomes of a command.
pub(super) type Sender = oneshot::Sender<Result<(), String>>;

impl Driver {
    /// A book has come, from the log or from another node. The newer one counts.
    pub(super) fn take_book(&self, book: Book) {
        let Some(nodes) = self.group.nodes().after(&book) else { return };
        if let Err(error) = book.save(&*self.shelf.disk, &self.shelf.dir) {
            // It comes again from the others; without them it would not be of use.
            tracing::warn!(%error, "the list of nodes could not be saved");
        }
        tracing::info!(nodes = book.list, "the nodes of the cluster are these now");
        let nodes = Arc::new(nodes);
        self.group.set_nodes(nodes.clone());
        self.peers.update(nodes, book);
    }

    /// Takes a node in: as a learner, or as a witness.
    pub(super) fn add(&mut self, node: &Node, sender: Sender) {
        let nodes = self.group.nodes();
        let member = self.replica.status().membership.get(node.id);
        if let Err(reason) = may_add(node, &nodes, member, &self.peers) {
            let _ = sender.send(Err(reason));
            return;
        }
        if nodes.get(node.id) != Some(node) {
            let id_last = nodes.id_last.max(node.id.0);
            if let Err(reason) = self.propose_book(&nodes.list_with(Ok(node)), id_last) {
                let _ = sender.send(Err(reason));
                return;
            }
        }
        if member.is_some() {
            let _ = sender.send(Ok(()));
            return;
        }
        let role = if node.is_witness { MemberRole::Witness } else { MemberRole::Learner };
        self.change(MembershipChange::Set(Member { id: node.id, role }), sender);
    }

    /// Makes a learner that has caught up a voter.
    pub(super) fn promote(&mut self, id: ReplicaId, sender: Sender) {
        let status = self.replica.status();
        let reason = match status.membership.get(id).map(|member| member.role) {
            Some(MemberRole::Learner) => match status.peers.iter().find(|peer| peer.id == id) {
                Some(peer) if !peer.is_active => Some("does not answer"),
                Some(peer) if peer.state != PeerState::Replicating => Some("is being filled"),
                Some(peer) if peer.lag_entries > LAG_ENTRIES_MAX => Some("has not caught up"),
                Some(_) => None,
                None => Some("is not known to this leader yet"),
            },
            Some(_) => {
                let _ = sender.send(Ok(()));
                return;
            }
            None => Some("is no member: add it first"),
        };
        if let Some(reason) = reason {
            let _ = sender.send(Err(format!("TRYAGAIN node {id} {reason}: nothing was changed")));
            return;
        }
        self.change(MembershipChange::Set(Member { id, role: MemberRole::Voter }), sender);
    }

    /// Removes a node: first from the members, then from the book.
    pub(super) fn remove(&mut self, id: ReplicaId, force: bool, sender: Sender) {
        let status = self.replica.status();
        let nodes = self.group.nodes();
        if status.membership.contains(id) {
            if let Some(reason) = refuses_removal(&status, id, force) {
                let _ = sender.send(Err(reason));
                return;
            }
            return self.change(MembershipChange::Remove(id), sender);
        }
        if nodes.get(id).is_none() {
            let _ = sender.send(Err(format!("ERR node {id} is not of this cluster")));
            return;
        }
        let proposed = self.propose_book(&nodes.list_with(Err(id)), nodes.id_last);
        let _ = sender.send(proposed);
    }

    fn change(&mut self, change: MembershipChange, sender: Sender) {
        let token = self.token();
        self.commands.insert(token, sender);
        self.step(Event::ChangeMembership { token, changes: vec![change] });
    }

    fn propose_book(&mut self, list: &str, id_last: u64) -> Result<(), String> {
        let header =
            EntryHeader { time_ms: clock::now_ms(), ..EntryHeader::of_kind(EntryKind::COMMAND) };
        let mut payload = Vec::new();
        let arguments = [&id_last.to_le_bytes()[..], list.as_bytes()];
        entry::encode(&mut payload, &header, OPCODE_NODES, arguments.into_iter());
        let token = self.token();
        let mut offered = Output::default();
        let failed = self.replica.offer(token, vec![payload], None, &mut offered);
        self.note_failure(failed);
        match offered.outcomes.pop() {
            Some(Outcome::Accepted { .. }) => Ok(()),
            Some(Outcome::Refused { reason, .. }) => Err(refusal_text(&reason)),
            _ => Err(refusal_text(&Refusal::Stopped)),
        }
    }
}

/// Whether this node may be added, or given another address.
fn may_add(
    node: &Node,
    nodes: &Nodes,
    member: Option<Member>,
    peers: &Peers,
) -> Result<(), String> {
    let id = node.id;
    let known = nodes.get(id);
    if known.is_none() && id.0 <= nodes.id_last {
        let next = nodes.id_last + 1;
        return Err(format!(
            "ERR number {id} was used before: a node that was removed, or whose disk was replaced, comes \
             back under a new number; the next is {next}"
        ));
    }
    let was_witness = member.map(|member| member.role == MemberRole::Witness);
    if was_witness.is_some_and(|was| was != node.is_witness) {
        return Err(format!("ERR node {id} is a member already, and a witness stays what it is"));
    }
    if !node.is_loopback() && !peers.is_protected() {
        return Err(format!(
            "ERR node {id} can be reached from other machines, and anybody could be it: start all nodes \
             with --cluster-secret-file or TLS first"
        ));
    }
    nodes::check_list(&nodes.list_with(Ok(node))).map_err(|error| format!("ERR {error}"))
}

/// Why a member cannot go now, if it cannot.
fn refuses_removal(status: &Status, id: ReplicaId, force: bool) -> Option<String> {
    if id == status.id {
        return Some(format!("ERR node {id} leads: hand over first (FAILOVER), then remove it"));
    }
    let is_left = |member: &&Member| member.role.votes() && member.id != id;
    let left: Vec<ReplicaId> =
        status.membership.members.iter().filter(is_left).map(|member| member.id).collect();
    let is_up = |voter: &&ReplicaId| {
        **voter == status.id || status.peers.iter().any(|peer| peer.id == **voter && peer.is_active)
    };
    let up = left.iter().filter(is_up).count();
    (up <= left.len() / 2 && !force).then(|| {
        format!(
            "NOREPLICAS without node {id} only {up} of {} voters would be running: start the others, or \
             add nodes, first",
            left.len()
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use strandline_engine::Index;
    use strandline_replication::{Doubt, Membership, PeerStatus, Role, Term};

    use super::*;

    pub(in crate::cluster) fn status(voters: &[u64], active: &[u64]) -> Status {
        let members: Vec<Member> = voters
            .iter()
            .map(|id| Member { id: ReplicaId(*id), role: MemberRole::Voter })
            .collect();
        let peer = |id: &u64| PeerStatus {
            id: ReplicaId(*id),
            role: MemberRole::Voter,
            state: PeerState::Replicating,
            matched: Index(1),
            lag_entries: 0,
            lag_bytes: 0,
            lag_ticks: 0,
            is_active: active.contains(id),
            is_damaged: false,
            sending: None,
        };
        Status {
            is_wounded: false,
            state_damage: None,
            states_replaced: 0,
            damaged: 0,
            mended: 0,
            id: ReplicaId(1),
            role: Role::Leader,
            term: Term(1),
            leader: Some(ReplicaId(1)),
            committed: Index(1),
            everywhere: Index(1),
            applied: Index(1),
            last: Index(1),
            durable: Index(1),
            first: Index(1),
            doubt: Doubt::Nothing,
            membership: Membership::new(&members),
            peers: voters.iter().filter(|id| **id != 1).map(peer).collect(),
            has_lease: false,
            lease_reads: 0,
            receiving: None,
        }
    }

    #[test]
    fn who_would_take_the_majority_along_stays() {
        let refuses = |voters: &[u64], active: &[u64], id: u64| {
            refuses_removal(&status(voters, active), ReplicaId(id), false)
        };
        assert_eq!(refuses(&[1, 2, 3], &[2, 3], 3), None);
        assert_eq!(refuses(&[1, 2, 3], &[2], 3), None, "the one that is down goes");
        let found = refuses(&[1, 2, 3], &[2], 2).unwrap();
        assert!(found.contains("only 1 of 2 voters"), "{found}");
        assert_eq!(refuses_removal(&status(&[1, 2, 3], &[2]), ReplicaId(2), true), None);
        assert!(refuses(&[1, 2, 3], &[2, 3], 1).unwrap().contains("hand over first"));
        assert_eq!(refuses(&[1, 2], &[], 2), None, "one alone decides");
    }
}
