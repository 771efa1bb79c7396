//! Members come and go: whoever runs the cluster adds nodes, changes roles, and takes nodes away.
//!
//! A new member is a new node under a new name, which knows nobody until a leader adds it. What the
//! leader refuses is not asked again. A cluster keeps at least two voters, and grows to five members.

use strandline_replication::{Event, Member, MemberRole, MembershipChange, ReplicaId};

use crate::node::Node;
use crate::simulation::{Happening, Simulation};
use crate::swarm::Class;
use crate::time::MILLISECOND;
use crate::violation::Verdict;

/// More members than this make runs slow and nothing else.
const MEMBERS_MAX: usize = 5;
/// How many nodes a run may have in all.
const NODES_MAX: usize = 10;

impl Simulation {
    /// Whoever runs the cluster asks its leader for a change.
    pub(crate) fn change_members(&mut self) -> Verdict {
        let Some(leader) = self.leader() else { return Ok(()) };
        let Some(replica) = self.nodes[&leader].replica() else { return Ok(()) };
        if self.nodes[&leader].ready_at > self.agenda.now() {
            return Ok(());
        }
        let members = replica.status().membership.members;
        let changes = self.draw_changes(&members);
        if changes.is_empty() {
            return Ok(());
        }
        self.tell(|| format!("{leader} is asked for {changes:?}"));
        self.figures.membership_changes += 1;
        self.tokens += 1;
        let token = self.tokens;
        self.process(leader, Event::ChangeMembership { token, changes })
    }

    fn draw_changes(&mut self, members: &[Member]) -> Vec<MembershipChange> {
        let voters: Vec<ReplicaId> = members
            .iter()
            .filter(|member| member.role == MemberRole::Voter)
            .map(|member| member.id)
            .collect();
        let learners: Vec<ReplicaId> = members
            .iter()
            .filter(|member| member.role == MemberRole::Learner)
            .map(|member| member.id)
            .collect();
        let set = |id, role| MembershipChange::Set(Member { id, role });
        let random = self.streams.get_mut(&Class::Membership).expect("the class is on");
        let which = random.below(6);
        let pick = |random: &mut strandline_wal::disk::simulated::Random, ids: &[ReplicaId]| {
            if ids.is_empty() { None } else { Some(ids[random.index(ids.len())]) }
        };
        let voter = pick(random, &voters);
        let learner = pick(random, &learners);
        let may_grow = members.len() < MEMBERS_MAX && self.nodes.len() < NODES_MAX;
        match (which, voter, learner) {
            (0, _, _) if may_grow => vec![set(self.new_node(), MemberRole::Learner)],
            (1, _, _) if may_grow => vec![set(self.new_node(), MemberRole::Voter)],
            (2, _, Some(learner)) => vec![set(learner, MemberRole::Voter)],
            (3, Some(voter), _) if voters.len() > 2 => vec![MembershipChange::Remove(voter)],
            (3, _, Some(learner)) => vec![MembershipChange::Remove(learner)],
            // Some at once: jointly.
            (4, Some(voter), _) if self.nodes.len() < NODES_MAX => {
                let new = self.new_node();
                vec![set(new, MemberRole::Voter), MembershipChange::Remove(voter)]
            }
            (5, Some(_), _) if voters.len() > 2 && self.nodes.len() + 2 <= NODES_MAX => {
                let mut changes: Vec<MembershipChange> =
                    voters[1..].iter().map(|id| MembershipChange::Remove(*id)).collect();
                for _ in 1..voters.len().min(3) {
                    changes.push(set(self.new_node(), MemberRole::Voter));
                }
                changes
            }
            _ => Vec::new(),
        }
    }

    /// A machine with an empty disk, whose replica waits to be added.
    fn new_node(&mut self) -> ReplicaId {
        let last = self.nodes.keys().next_back().expect("a cluster has nodes");
        let id = ReplicaId(last.0 + 1);
        let mut node = Node::new(id, &self.swarm);
        node.is_joining = true;
        self.nodes.insert(id, node);
        let span = 1 + self.random.below(50 * MILLISECOND);
        self.agenda.after(span, Happening::Opens { node: id });
        id
    }
}
