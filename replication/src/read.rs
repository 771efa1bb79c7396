//! Linearizable reads, without a write: by read index (section 6.4 of the dissertation).
//!
//! All reads that wait share one round. A round asks the leader up to where its log was committed when
//! it was asked, and the leader answers when a quorum has confirmed, *after* that, that it still
//! leads. A leader that has not yet committed an entry of its own term does not know what is committed:
//! its rounds begin after that. A read is done when the state is applied up to the index of its
//! round.
//!
//! Each round has a context that no other round of any replica has, in this life or an earlier one: an
//! answer that was under way before a restart must not answer a later round.

use std::collections::VecDeque;

use strandline_engine::Index;

use crate::ReplicaId;

/// How many reads wait at the most; more are refused.
pub(crate) const READS_MAX: usize = 1 << 16;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Who asks, and in which of its lives.
    identity: [u8; 16],
    /// The number of the last round.
    rounds: u64,
    /// Came after the round under way had begun.
    waiting: Vec<u64>,
    /// The round under way, and for how many ticks.
    round: Option<(Vec<u64>, u64)>,
    /// Answered, and waiting until the state is applied that far.
    confirmed: VecDeque<(Index, Vec<u64>)>,
}

impl Reads {
    pub(crate) fn new(id: ReplicaId, openings: u64) -> Self {
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&id.0.to_le_bytes());
        identity[8..].copy_from_slice(&openings.to_le_bytes());
        let (waiting, round, confirmed) = (Vec::new(), None, VecDeque::new());
        Self { identity, rounds: 0, waiting, round, confirmed }
    }

    pub(crate) fn count(&self) -> usize {
        let confirmed: usize = self.confirmed.iter().map(|(_, tokens)| tokens.len()).sum();
        self.waiting.len() + confirmed + self.round.as_ref().map_or(0, |(tokens, _)| tokens.len())
    }

    pub(crate) fn push(&mut self, token: u64) {
        self.waiting.push(token);
    }

    fn context(&self) -> Vec<u8> {
        let mut context = self.identity.to_vec();
        context.extend_from_slice(&self.rounds.to_le_bytes());
        context
    }

    /// Begins a round for all that wait, if none is under way. Returns its context.
    pub(crate) fn begin(&mut self) -> Option<Vec<u8>> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.rounds += 1;
        self.round = Some((std::mem::take(&mut self.waiting), 0));
        Some(self.context())
    }

    /// A tick has passed. Returns the context of a round that has had no answer for a multiple of
    /// `patience`: it may have been lost.
    pub(crate) fn tick(&mut self, patience: u64) -> Option<Vec<u8>> {
        let (_, ticks) = self.round.as_mut()?;
        *ticks += 1;
        let is_due = ticks.is_multiple_of(patience);
        is_due.then(|| self.context())
    }

    /// A quorum has confirmed that everything committed at the beginning of this round is at or before
    /// `index`.
    pub(crate) fn confirm(&mut self, index: Index, context: &[u8]) {
        if context == self.context()
            && let Some((tokens, _)) = self.round.take()
        {
            self.confirmed.push_back((index, tokens));
        }
    }

    /// The reads that need no more than what is applied.
    pub(crate) fn take_readable(&mut self, applied: Index) -> Vec<u64> {
        let mut readable = Vec::new();
        self.confirmed.retain_mut(|(index, tokens)| {
            let is_readable = *index <= applied;
            if is_readable {
                readable.append(tokens);
            }
            !is_readable
        });
        readable
    }

    /// The reads that no quorum has confirmed, because there is another leader, or none. Those that are
    /// confirmed stay: what they wait for is committed.
    pub(crate) fn take_unconfirmed(&mut self) -> Vec<u64> {
        let mut tokens = self.round.take().map_or_else(Vec::new, |(tokens, _)| tokens);
        tokens.append(&mut self.waiting);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_those_who_came_before_it_and_waits_for_the_state() {
        let mut reads = Reads::new(ReplicaId(1), 5);
        reads.push(10);
        let first = reads.begin().unwrap();
        reads.push(11);
        assert!(reads.begin().is_none(), "one round at a time");
        assert_eq!(reads.tick(2), None);
        assert_eq!(reads.tick(2), Some(first.clone()));
        reads.confirm(Index(7), b"of another life");
        reads.confirm(Index(7), &first);
        assert_eq!(reads.take_readable(Index(6)), []);
        assert_eq!(reads.take_readable(Index(7)), [10]);
        let second = reads.begin().unwrap();
        assert_ne!(first, second);
        reads.confirm(Index(8), &first);
        assert_eq!((reads.take_unconfirmed(), reads.count()), (vec![11], 0));
    }
}
