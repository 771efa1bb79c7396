//! Linearizable reads, without a write: by read index (section 6.4 of the dissertation).
//!
//! All reads that wait share one round. A round asks the leader up to where its log was committed when
//! it was asked, and the leader answers when a quorum has confirmed, *after* that, that it still
//! leads. A leader that has not yet committed an entry of its own term does not know what is committed:
//! its rounds begin after that. A read is done when the state is applied up to the index of its
//! round.
//!
//! **How old the state may be.** A round is also a proof: when the state is applied up to its index, everything
//! is in it that was committed when the round began, by the clock of who asked. So a replica knows of what
//! moment its state is at least, without comparing clocks; a driver that wants to read here within a bound
//! has rounds begun for that alone ([`Event::KeepFresh`](crate::Event::KeepFresh)).
//!
//! Each round has a context that no other round of any replica has, in this life or an earlier one: an
//! answer that was under way before a restart must not answer a later round. A leader also names each
//! request of a follower anew, by what it adds to the context: a request may come twice, and what
//! followers said when it came first must not confirm a round that has begun since.

use std::collections::VecDeque;

use bytes::Bytes;
use strandline_engine::Index;

use crate::{ReplicaId, Term};

/// How many reads wait at the most; more are refused.
pub(crate) const READS_MAX: usize = 1 << 16;

/// How long the context of a round is.
pub(crate) const CONTEXT_LEN: usize = 24;

/// For so many ticks a state is kept fresh that nobody asks for any more.
const KEEP_TICKS: u32 = 100;

/// A question that is under way.
#[derive(Debug)]
struct Round {
    tokens: Vec<u64>,
    /// For how long.
    ticks: u64,
    /// When it began.
    began: Began,
}

/// When a round began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    /// By this replica's own clock, in microseconds.
    pub(crate) at_us: u64,
    /// The term, if it was this replica that led then.
    pub(crate) led_in: Option<Term>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Who asks, and in which of its lives.
    identity: [u8; 16],
    /// The number of the last round.
    rounds: u64,
    /// Came after the round under way had begun.
    waiting: Vec<u64>,
    /// How many requests of others this replica has named.
    requests: u64,
    /// The round under way.
    round: Option<Round>,
    /// Answered, and waiting until the state is applied that far; and when each began.
    confirmed: VecDeque<(Index, Vec<u64>, u64)>,
    /// The state has everything that was committed then.
    fresh_us: Option<u64>,
    /// How old it may become, and for how many ticks more that is wanted.
    keep: Option<(u64, u32)>,
}

impl Reads {
    pub(crate) fn new(id: ReplicaId, openings: u64) -> Self {
        let mut identity = [0; 16];
        identity[..8].copy_from_slice(&id.0.to_le_bytes());
        identity[8..].copy_from_slice(&openings.to_le_bytes());
        let (waiting, round, confirmed) = (Vec::new(), None, VecDeque::new());
        let (fresh_us, keep) = (None, None);
        Self { identity, rounds: 0, requests: 0, waiting, round, confirmed, fresh_us, keep }
    }

    pub(crate) fn count(&self) -> usize {
        let confirmed: usize = self.confirmed.iter().map(|(_, tokens, _)| tokens.len()).sum();
        self.waiting.len() + confirmed + self.round.as_ref().map_or(0, |round| round.tokens.len())
    }

    pub(crate) fn push(&mut self, token: u64) {
        self.waiting.push(token);
    }

    fn context(&self) -> Vec<u8> {
        let mut context = self.identity.to_vec();
        context.extend_from_slice(&self.rounds.to_le_bytes());
        context
    }

    /// The state is to be no older than this, for a while.
    pub(crate) fn keep_fresh(&mut self, age_us_max: u64) {
        self.keep = Some((age_us_max, KEEP_TICKS));
    }

    /// The state has everything that was committed at this moment; none if nothing is known.
    pub(crate) fn fresh_us(&self) -> Option<u64> {
        self.fresh_us
    }

    /// Whether a round is due to keep the state fresh: early enough for several to be lost.
    pub(crate) fn is_ageing(&self, now_us: u64) -> bool {
        let is_old = |(age_us_max, _)| {
            self.fresh_us.is_none_or(|fresh_us| now_us.saturating_sub(fresh_us) >= age_us_max / 4)
        };
        self.keep.is_some_and(is_old)
    }

    /// Whether reads wait for a round to begin.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The context of another replica's request, with a name for this time that it has come.
    pub(crate) fn name(&mut self, context: &[u8]) -> Bytes {
        self.requests += 1;
        let name = [context, &self.identity, &self.requests.to_le_bytes()].concat();
        Bytes::from(name)
    }

    /// Begins a round for all that wait, if none is under way. Returns its context.
    pub(crate) fn begin(&mut self, began: Began) -> Option<Vec<u8>> {
        if self.round.is_some() {
            return None;
        }
        self.rounds += 1;
        self.round = Some(Round { tokens: std::mem::take(&mut self.waiting), ticks: 0, began });
        Some(self.context())
    }

    /// The reads that wait need no round: everything that is committed now is at or before `index`.
    /// Returns how many there are.
    pub(crate) fn answer(&mut self, index: Index, now_us: u64) -> usize {
        let tokens = std::mem::take(&mut self.waiting);
        let count = tokens.len();
        self.confirmed.push_back((index, tokens, now_us));
        count
    }

    /// A tick has passed. Returns the context of a round that has had no answer for a multiple of
    /// `patience`: it may have been lost.
    pub(crate) fn tick(&mut self, patience: u64) -> Option<Vec<u8>> {
        self.keep = match self.keep {
            Some((age_us_max, ticks)) if ticks > 1 => Some((age_us_max, ticks - 1)),
            _ => None,
        };
        let round = self.round.as_mut()?;
        round.ticks += 1;
        let is_due = round.ticks.is_multiple_of(patience);
        is_due.then(|| self.context())
    }

    /// A quorum has confirmed that everything committed at the beginning of this round is at or before
    /// `index`. Returns when that was, if it is the round under way.
    pub(crate) fn confirm(&mut self, index: Index, context: &[u8]) -> Option<Began> {
        if context != self.context() {
            return None;
        }
        let Round { tokens, began, .. } = self.round.take()?;
        self.confirmed.push_back((index, tokens, began.at_us));
        Some(began)
    }

    /// The reads that need no more than what is applied.
    pub(crate) fn take_readable(&mut self, applied: Index) -> Vec<u64> {
        let mut readable = Vec::new();
        let fresh_us = &mut self.fresh_us;
        self.confirmed.retain_mut(|(index, tokens, began_us)| {
            let is_readable = *index <= applied;
            if is_readable {
                readable.append(tokens);
                *fresh_us = (*fresh_us).max(Some(*began_us));
            }
            !is_readable
        });
        readable
    }

    /// All reads, confirmed or not: there is nothing to be read in.
    pub(crate) fn take_all(&mut self) -> Vec<u64> {
        let confirmed = std::mem::take(&mut self.confirmed);
        let mut all: Vec<u64> = confirmed.into_iter().flat_map(|(_, tokens, _)| tokens).collect();
        all.append(&mut self.take_unconfirmed());
        all
    }

    /// The reads that no quorum has confirmed, because there is another leader, or none. Those that are
    /// confirmed stay: what they wait for is committed.
    pub(crate) fn take_unconfirmed(&mut self) -> Vec<u64> {
        let mut tokens = self.round.take().map_or_else(Vec::new, |round| round.tokens);
        tokens.append(&mut self.waiting);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_us: u64) -> Began {
        Began { at_us, led_in: None }
    }

    #[test]
    fn a_round_takes_those_who_came_before_it_and_waits_for_the_state() {
        let mut reads = Reads::new(ReplicaId(1), 5);
        reads.push(10);
        let first = reads.begin(at(100)).unwrap();
        reads.push(11);
        assert!(reads.begin(at(110)).is_none(), "one round at a time");
        assert_eq!(reads.tick(2), None);
        assert_eq!(reads.tick(2), Some(first.clone()));
        assert_eq!(reads.confirm(Index(7), b"of another life"), None);
        assert_eq!(reads.confirm(Index(7), &first), Some(at(100)));
        assert_eq!(reads.take_readable(Index(6)), []);
        assert_eq!(reads.fresh_us(), None, "what was confirmed is not applied");
        assert_eq!(reads.take_readable(Index(7)), [10]);
        assert_eq!(reads.fresh_us(), Some(100), "from the question, not from the answer");
        let second = reads.begin(at(200)).unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.confirm(Index(8), &first), None);
        assert_eq!((reads.take_unconfirmed(), reads.count()), (vec![11], 0));
    }

    #[test]
    fn a_state_is_kept_fresh_for_as_long_as_somebody_asks() {
        let mut reads = Reads::new(ReplicaId(1), 5);
        assert!(!reads.is_ageing(1_000_000), "nobody has asked");
        reads.keep_fresh(400);
        assert!(reads.is_ageing(1_000_000), "nothing is known");
        let context = reads.begin(at(1_000_000)).unwrap();
        reads.confirm(Index(0), &context);
        reads.take_readable(Index(0));
        assert!(!reads.is_ageing(1_000_099));
        assert!(reads.is_ageing(1_000_100), "a quarter of the bound");
        for _ in 0..KEEP_TICKS {
            reads.tick(2);
        }
        assert!(!reads.is_ageing(2_000_000));
    }
}
