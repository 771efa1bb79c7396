//! The end of the log, taken from a replica that has it and may not lead.
//!
//! A replica in doubt of its tail is elected only if all voters vote for it, and nobody votes for one whose log ends
//! before its own. Who has the longest log stands itself, as a rule; a witness does not, nor a replica that is no
//! voter any more and is still taken for one. Where only such a one has the end of the log, nobody can be elected. So
//! after a long time without a leader whoever is in doubt of its tail asks for what follows it, as it asks for what is
//! damaged (module `mend`).
//!
//! What comes is what leaders have sent to the peer. It follows the same entry there as here, so with it this log is the
//! peer's, as if those messages had come here, too (log matching, Raft §5.3). Nothing is acknowledged by
//! that, and the doubt remains. The consensus knows nothing of it: it is taken up anew, as when the replica is
//! opened, and what comes for it meanwhile is as good as lost. Damage that is found then wounds the replica, as when
//! it is opened.

use bytes::Bytes;
use strandline_engine::{Entry, Index};

use crate::hard_state::HardState;
use crate::log::Appended;
use crate::replica::first_piece;
use crate::{Doubt, Replica, ReplicaId, Result, Term};

/// For so many election times a replica waits for a leader.
const PATIENCE_ELECTIONS: u64 = 20;

/// What is known of an end that others have.
#[derive(Debug, Default)]
pub(crate) struct Refill {
    /// Since a leader was known.
    leaderless: u64,
    /// Where the longest log ends that was heard of since.
    longest: Index,
    /// Whether the log holds entries that the consensus does not know.
    is_refilled: bool,
}

impl Refill {
    /// The log of a peer ends there.
    pub(crate) fn heard(&mut self, last: Index) {
        self.longest = self.longest.max(last);
    }

    pub(crate) fn is_refilled(&self) -> bool {
        self.is_refilled
    }
}

impl Replica {
    /// A tick has passed. What was taken is made known, once it is durable.
    pub(crate) fn refill_tick(&mut self) -> Result<()> {
        if self.consensus.leader().is_some() {
            (self.refill.leaderless, self.refill.longest) = (0, Index(0));
        }
        self.refill.leaderless += 1;
        let log = self.consensus.log();
        if !self.refill.is_refilled || !log.is_idle() {
            return Ok(());
        }
        let last = log.term(log.last()).map_or(Term(0), Term);
        let state = self.hard.get();
        if state.term < last {
            self.hard.save(HardState { term: last, vote: ReplicaId(0), ..state })?;
        }
        self.refill = Refill::default();
        // What was read when the replica was opened may have been damaged since.
        self.take_up()
    }

    /// The entries to ask for, from the first to before the end; none unless nobody has led for long.
    pub(crate) fn missing_tail(&self) -> Option<(u64, u64)> {
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        let log = self.consensus.log();
        let may = self.hard.get().doubt == Doubt::Tail
            && self.refill.leaderless > patience
            && !self.refill.is_refilled
            && !self.is_damaged()
            && self.stalled.is_none()
            && log.is_idle();
        let range = (log.last() + 1, self.refill.longest.0 + 1);
        (may && range.0 < range.1).then_some(range)
    }

    /// Takes entries that a peer has from `first` on, if they still belong there.
    pub(crate) fn refill(&mut self, first: u64, mut entries: Vec<Bytes>) -> Result<()> {
        let log = self.consensus.log();
        let mut term = log.term(first - 1).unwrap_or(0);
        let is_next = self.missing_tail().is_some_and(|(next, _)| next == first);
        for (index, entry) in (first..).zip(&entries) {
            let header = Entry::decode(Index(index), entry)?.header;
            if !is_next || header.term < term {
                return Ok(());
            }
            term = header.term;
        }
        while !entries.is_empty() {
            let count = first_piece(&entries, self.options.db.wal.segment_size / 4);
            match self.consensus.log_mut().append(&entries[..count])? {
                Appended::Done => drop(entries.drain(..count)),
                // The rest is asked for again.
                Appended::Wait | Appended::Full => break,
            }
            self.refill.is_refilled = true;
        }
        Ok(())
    }
}
