//! A bound on how far voters may lag, with back-pressure.
//!
//! With [`lag_bytes_max`](crate::Options::lag_bytes_max) set, a leader refuses proposals while a voter that
//! keeps up lags by more: it slows down to what that voter takes, instead of running away from it. Only a
//! voter that has been *in step* counts, so that neither a dead one nor one that is being brought up to
//! date stops the service:
//!
//! ```text
//!   lag <= half the bound ----> in step ----> gone for an election time, or sent a snapshot
//!                                  |                          |
//!                                  +-- lag > bound: refuse    +--> counts no more until it is in step again
//! ```
//!
//! Off by default: a majority sets the pace then, and what the slowest lacks is bounded by how much of
//! the log is kept for it.

use std::collections::BTreeSet;

use crate::consensus::{Consensus, Progress};
use crate::{PeerState, ReplicaId};

/// Which voters count. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    in_step: BTreeSet<ReplicaId>,
}

impl Lag {
    /// A tick has passed in a leader with this bound, or in somebody else.
    pub(crate) fn tick(&mut self, consensus: &Consensus, bound: Option<u64>) {
        let Some(bound) = bound.filter(|_| consensus.is_leader()) else {
            self.in_step.clear();
            return;
        };
        let voters: Vec<Progress> = consensus.progress().into_iter().filter(|p| p.votes).collect();
        self.in_step.retain(|id| voters.iter().any(|peer| peer.id == *id));
        for peer in voters {
            if !peer.is_active || peer.state == PeerState::Snapshotting {
                self.in_step.remove(&peer.id);
            } else if consensus.log().bytes_after(peer.matched) <= bound / 2 {
                self.in_step.insert(peer.id);
            }
        }
    }

    /// Whether the leader must wait for a voter.
    pub(crate) fn is_over(&self, consensus: &Consensus, bound: Option<u64>) -> bool {
        let Some(bound) = bound else { return false };
        let lags = |peer: &Progress| {
            self.in_step.contains(&peer.id) && consensus.log().bytes_after(peer.matched) > bound
        };
        consensus.progress().iter().any(lags)
    }
}
