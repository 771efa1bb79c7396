//! Leases: a leader that answers reads without asking anybody, because nobody can have taken its place.
//!
//! A leader with leases says in each heartbeat for how many ticks of its own who takes it must stay
//! *quiet*: neither vote for another nor stand itself, whatever it believes of the leader. When a
//! quorum has answered heartbeats that were sent after some moment, there is no other leader until one
//! of that quorum has counted to its end. So the leader's *lease* runs from that moment.
//!
//! ```text
//! leader    |-- asks ---------------- lease ----------------|         (its clock, from the question)
//! follower       |-- takes it ------------- quiet ----------------|   (its ticks, from the message)
//! ```
//!
//! The lease is shorter than the silence by one tick, because a follower's first tick may come at
//! once, and by the bound on drift: clocks may go at different rates, and by no more than that. Nothing
//! else is asked of clocks; they are not compared, and what shows the time of day has no part in it.
//!
//! | what could bring a second leader | why it does not |
//! |---|---|
//! | a follower believes that the leader is gone, or is told to stand | it is quiet, and does neither |
//! | it has crashed, and forgotten that it is quiet | whoever is opened is quiet at first, for as long |
//! | the leader hands over: others may vote at once | it has no lease any more in that term, from before it says so |
//! | members change, and another quorum elects | no lease while a change is under way; afterwards from new rounds |
//! | the leader's process stands still | the clock goes on, and is read after the question has come |
//!
//! A leader asks anew when half of its lease is over and somebody reads: under load no read waits.

use crate::message::{Body, Message};
use crate::read::Began;
use crate::{Options, Output, Replica, ReplicaId, Term};

/// The largest number of ticks for which a peer is believed that it wants others quiet.
pub(crate) const QUIET_TICKS_MAX: u32 = 1 << 20;

/// Both sides of leases.
#[derive(Debug)]
pub(crate) struct Lease {
    /// How long a lease is, in microseconds; 0: there are none.
    len_us: u64,
    /// For how many ticks who takes a heartbeat has to be quiet.
    asks_ticks: u32,
    /// For so many ticks more this replica neither votes nor stands.
    quiet_ticks: u32,
    /// In which term the lease is, and until when.
    until: Option<(Term, u64)>,
    /// Rounds that began before this do not count.
    not_before_us: u64,
    /// The term in which this leader has begun to hand over: there is no lease in it any more.
    given_up_in: Term,
    /// Reads that were answered without asking.
    reads: u64,
}

impl Lease {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            len_us: options.lease_len_us(),
            asks_ticks: options.lease.map_or(0, |_| options.election_ticks),
            quiet_ticks: options.quiet_ticks,
            until: None,
            not_before_us: 0,
            given_up_in: Term(0),
            reads: 0,
        }
    }

    /// What a heartbeat asks for.
    pub(crate) fn asks_ticks(&self) -> u32 {
        self.asks_ticks
    }

    /// Whether this replica neither votes nor stands for election.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet_ticks > 0
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self) {
        self.quiet_ticks = self.quiet_ticks.saturating_sub(1);
    }

    /// The leader hands over in this term.
    pub(crate) fn give_up(&mut self, term: Term) {
        (self.until, self.given_up_in) = (None, term);
    }

    /// Other members decide from now on.
    pub(crate) fn members_changed(&mut self, now_us: u64) {
        (self.until, self.not_before_us) = (None, now_us);
    }

    /// How many reads were answered without asking anybody.
    pub(crate) fn reads(&self) -> u64 {
        self.reads
    }
}

impl Replica {
    /// A quorum has answered a round.
    pub(crate) fn take_lease(&mut self, began: Option<Began>) {
        let Some(Began { at_us, led_in: Some(term) }) = began else { return };
        let is_of_now = self.consensus.is_leader() && self.consensus.term() == term;
        let lease = &mut self.lease;
        if !is_of_now || lease.len_us == 0 || lease.given_up_in == term {
            return;
        }
        if at_us >= lease.not_before_us {
            let until_us = at_us.saturating_add(lease.len_us);
            lease.until = lease.until.max(Some((term, until_us)));
        }
    }

    /// How much of its lease this leader has left, in microseconds, if it has one.
    fn lease_left_us(&self) -> Option<u64> {
        let (term, until_us) = self.lease.until?;
        let is_of_now = self.consensus.is_leader() && self.consensus.term() == term;
        let knows_all = self.consensus.has_committed_in_term();
        if !is_of_now || !knows_all || self.consensus.has_pending_change() {
            return None;
        }
        until_us.checked_sub(self.now_us).filter(|left_us| *left_us > 0)
    }

    /// Whether this replica leads, and nobody can have taken its place.
    pub fn has_lease(&self) -> bool {
        self.lease_left_us().is_some()
    }

    /// How many reads this replica has answered by a lease, its followers' included.
    pub fn lease_reads(&self) -> u64 {
        self.lease.reads()
    }

    /// Answers all reads that wait, if this replica has a lease. Whether a round is to begin all the
    /// same: because there is no lease, or little of it.
    pub(crate) fn read_by_lease(&mut self) -> bool {
        let Some(left_us) = self.lease_left_us() else { return true };
        let count = self.reads.answer(self.consensus.committed(), self.now_us);
        self.lease.reads += u64::try_from(count).expect("a length fits 64 bits");
        left_us < self.lease.len_us / 2
    }

    /// What leases have to do with a message: whether it is dealt with.
    pub(crate) fn lease_takes(
        &mut self,
        from: ReplicaId,
        message: &Message,
        output: &mut Output,
    ) -> bool {
        let term = self.consensus.term();
        match &message.body {
            // An answer may follow: what it promises is kept from before it is given.
            Body::Heartbeat { lease_ticks, .. } if message.term >= term => {
                self.lease.quiet_ticks = self.lease.quiet_ticks.max(*lease_ticks);
                false
            }
            // Who stands because the leader has handed over may be voted for: there is no lease then.
            Body::VoteRequest { is_transfer: false, .. } => self.lease.is_quiet(),
            Body::ReadRequest { context } if self.has_lease() => {
                self.lease.reads += 1;
                let (index, context) = (self.consensus.committed(), context.clone());
                let body = Body::ReadAnswer { index, context };
                self.post(from, Message { term, body }, output);
                true
            }
            _ => false,
        }
    }
}
