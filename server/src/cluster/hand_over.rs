//! Giving the lead to another node: before this one stops, and when it cannot do its work.

use std::time::{Duration, Instant};

use strandline_replication::{Event, Role};

use super::driver::{Driver, TICK};

/// How long a leader that stops tries to hand over.
const HAND_OVER_MAX: Duration = Duration::from_millis(500);
/// How long who has handed over still answers those that have not heard of it.
const LAST_FORWARDS_MAX: Duration = Duration::from_millis(100);
/// How long the last answers may take to leave.
const DRAIN_MAX: Duration = Duration::from_millis(200);

impl Driver {
    /// Before the node stops: another one takes the lead, so that writes go on at once.
    pub(super) fn hand_over(&mut self) {
        let deadline = Instant::now() + HAND_OVER_MAX;
        // Ticks are never nearer to each other than promises are made of.
        let mut next_tick = Instant::now() + TICK;
        let mut asked = false;
        let lingers = match self.role {
            Role::Leader => LAST_FORWARDS_MAX,
            _ => Duration::ZERO,
        };
        let mut settled_at = None;
        // Who has lost the lead still learns what became of what it had taken, and answers. What the others
        // go on to forward, until they have heard who leads now, is refused: they would have to call it
        // unknown if it was lost with this process.
        while Instant::now() < deadline {
            if self.role != Role::Leader && self.submissions.lock().is_empty() {
                let since = *settled_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= lingers {
                    break;
                }
            }
            if !asked && self.role == Role::Leader {
                asked = self.transfer_to_successor();
            }
            if let Ok(input) = self.inputs.recv_timeout(TICK) {
                self.take(input);
            }
            self.finish_round(&mut next_tick);
        }
        self.peers.drain(DRAIN_MAX);
    }

    /// Hands the lead to the peer that lacks least; false if there is none.
    pub(super) fn transfer_to_successor(&mut self) -> bool {
        let successor = self.replica.status().successor().map(|peer| peer.id);
        let Some(to) = successor else { return false };
        self.step(Event::Transfer { to });
        true
    }
}
