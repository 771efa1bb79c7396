//! How a run ends: everything settles, loses power once more, settles again, and is compared.

use std::collections::{BTreeMap, BTreeSet};

use strandline_engine::Index;
use strandline_replication::ReplicaId;

use crate::checkers::{durability, linearizability, staleness};
use crate::node::Node;
use crate::simulation::{Happening, Phase, Simulation};
use crate::time::{MILLISECOND, SECOND, Time};
use crate::violation::{Checker, Verdict, Violation};

impl Simulation {
    /// A look at how far everything is.
    pub(crate) fn looks(&mut self, settles_within: u64) -> Verdict {
        self.agenda.after(100 * MILLISECOND, Happening::Looks);
        match self.phase {
            Phase::Trouble => {
                let running = self.running();
                if !running.is_empty() && self.random.chance(200) {
                    let id = running[self.random.index(running.len())];
                    self.compare(id)?;
                }
                Ok(())
            }
            Phase::Settling { until } => {
                if !self.is_settled(until)? {
                    self.help_the_wounded(until);
                    return Ok(());
                }
                self.compare_all()?;
                self.tell(|| "settled; the power goes once more".to_owned());
                self.blackout();
                for client in &mut self.clients {
                    client.finished = 0;
                }
                for client in 0..self.clients.len() {
                    self.agenda.after(MILLISECOND, Happening::Acts { client });
                }
                let until = self.agenda.now().after(settles_within);
                self.phase = Phase::LastSettling { until };
                Ok(())
            }
            Phase::LastSettling { until } => {
                if self.is_settled(until)? {
                    self.compare_all()?;
                    self.phase = Phase::Over;
                }
                Ok(())
            }
            Phase::Over => Ok(()),
        }
    }

    /// A replica that lacks a part of its log which nobody else has stays apart, and with another one in
    /// doubt of its tail nobody may lead. Whoever runs the cluster does what the manual says: puts an empty
    /// disk under it. It is damaged already, so no more is damaged then than before.
    fn help_the_wounded(&mut self, until: Time) {
        if until.since(self.agenda.now()) > 40 * SECOND || self.leader().is_some() {
            return;
        }
        let mut nodes = self.nodes.values().filter(|node| node.health.is_damaged);
        let is_wounded = |node: &&Node| {
            node.replica()
                .map(strandline_replication::Replica::status)
                .is_some_and(|status| status.is_wounded || status.state_damage.is_some())
        };
        if let Some(id) = nodes.find(is_wounded).map(|node| node.id) {
            self.lose(id);
        }
    }

    /// Whether every client has written once more, and every replica has executed everything.
    fn is_settled(&self, until: Time) -> Verdict<bool> {
        let waiting = self.clients.iter().filter(|client| client.finished == 0).count();
        let last = self.truth.last();
        let members = self.present_members();
        let behind: Vec<(ReplicaId, Index)> = self
            .nodes
            .values()
            .filter(|node| members.contains(&node.id))
            .map(|node| (node.id, node.replica().map_or(Index(0), |r| r.db().applied())))
            .filter(|(id, applied)| *applied < last || self.has_damaged_state(*id))
            .collect();
        if waiting == 0 && behind.is_empty() && !self.meets_damage() {
            return Ok(true);
        }
        if self.agenda.now() < until {
            return Ok(false);
        }
        let mut reason = format!(
            "all is mended for long, and {waiting} of {} clients still wait; the last command is \
             at index {last}",
            self.clients.len()
        );
        for node in self.nodes.values() {
            reason += &match node.replica() {
                None => format!("; {} is down", node.id),
                Some(replica) => {
                    let status = replica.status();
                    format!(
                        "; {} is {:?} in term {}, committed {}, applied {}, durable {}, last {}, {:?}",
                        node.id,
                        status.role,
                        status.term,
                        status.committed,
                        status.applied,
                        status.durable,
                        status.last,
                        status.doubt
                    )
                }
            };
        }
        let leader = self.leader().and_then(|id| self.nodes[&id].replica());
        for peer in leader.map(|replica| replica.status().peers).unwrap_or_default() {
            let (id, state, matched) = (peer.id, peer.state, peer.matched);
            let sending = peer.sending.map(|transfer| (transfer.bytes, transfer.bytes_total));
            reason +=
                &format!("; the leader has {id} as {state:?} at {matched}, sends {sending:?}");
        }
        Err(Violation::new(Checker::Liveness, reason))
    }

    /// Whether a disk was damaged where nobody has read since: then that state is replaced first.
    fn meets_damage(&self) -> bool {
        let damaged = self.nodes.values().filter(|node| node.health.is_damaged);
        damaged.into_iter().any(|node| node.pairs().is_err() && self.has_damaged_state(node.id))
    }

    /// The members as the leader has them. Whoever has been taken away may stay behind for ever.
    fn present_members(&self) -> BTreeSet<ReplicaId> {
        let leader = self.leader().and_then(|id| self.nodes[&id].replica());
        match leader.map(|replica| replica.status().membership) {
            Some(membership) => membership.members.iter().map(|member| member.id).collect(),
            None => self.nodes.keys().copied().collect(),
        }
    }

    /// Every replica has everything, the same everything, and all that was acknowledged.
    fn compare_all(&mut self) -> Verdict {
        durability::check_truth(&self.history, &self.truth)?;
        let members = self.present_members();
        let mut digests: BTreeMap<Index, (ReplicaId, u64)> = BTreeMap::new();
        for id in self.running() {
            self.compare(id)?;
            let node = &self.nodes[&id];
            let unreadable = |error| {
                let reason = format!("replica {id} cannot read its state: {error}");
                Violation::new(Checker::Durability, reason)
            };
            let (index, pairs) = node.pairs().map_err(unreadable)?;
            let who = format!("replica {id}");
            if members.contains(&id) {
                durability::check_state(&self.history, &who, &pairs.into_iter().collect())?;
            }
            let Some(replica) = node.replica() else { continue };
            let digest = replica.db().digest().map_err(unreadable)?;
            let (first, other) = *digests.entry(index).or_insert((id, digest));
            if other != digest {
                let reason = format!(
                    "at index {index} the digest of replica {id} is {digest:016x}, that of \
                     {first} {other:016x}"
                );
                return Err(Violation::new(Checker::Agreement, reason));
            }
        }
        Ok(())
    }

    /// The checks that need the whole history.
    pub(crate) fn check_history(&mut self) -> Verdict {
        durability::check_truth(&self.history, &self.truth)?;
        let checked = linearizability::check(&self.history)?;
        self.figures.operations_checked += checked.operations;
        self.figures.registers_checked += checked.registers;
        self.figures.inconclusive += checked.inconclusive;
        staleness::check(&self.stale, &self.truth)?;
        self.figures.executed = u64::try_from(self.truth.places().count()).unwrap_or(u64::MAX);
        Ok(())
    }
}
