//! Members that come, change and go.

use strandline_replication::{Event, Member, MemberRole, MembershipChange, ReplicaId};

use super::Cluster;

pub fn set(id: u64, role: MemberRole) -> MembershipChange {
    MembershipChange::Set(Member { id: ReplicaId(id), role })
}

impl Cluster {
    /// The leader proposes a change of members; returns its token.
    pub fn change(&mut self, changes: Vec<MembershipChange>) -> u64 {
        let leader = self.leader().unwrap();
        self.token += 1;
        let token = self.token;
        self.proposed.insert(token, vec![Vec::new()]);
        self.step(leader, Event::ChangeMembership { token, changes });
        token
    }
}
