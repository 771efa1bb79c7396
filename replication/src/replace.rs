//! A damaged state, replaced by the leader's.
//!
//! A table or the manifest may be found damaged when the replica is opened, on a read, by a scrub that goes round, by a compaction, or
//! while an entry is applied. Then the replica is *damaged*: it applies nothing more, refuses reads and proposals,
//! stands for no election and hands over if it leads. Its log is sound, so it goes on
//! appending, acknowledging and voting. It asks the leader for a checkpoint
//! ([`SnapshotBody::Wanted`]), which comes as any other does (module `snapshot`): what is sound of its tables
//! and the same as the leader's is not sent.
//!
//! The consensus has no part in this: its own snapshots are for logs that lag, and who asks it for one
//! acknowledges nothing until it has come. If the log agrees with the checkpoint, it stays, the state is replaced
//! under it, and the consensus is taken up anew as when the replica is opened: the same term and vote, the
//! same log, and everything up to the checkpoint applied. Only a log that has nothing of what the
//! checkpoint leads up to is begun anew behind it, as after any snapshot.
//!
//! **The last resort.** If all others are in doubt of their tails, and only this replica has the end of the log, nobody else can be
//! elected. After a long time without a leader it stands all the same, if it knows the members: it replicates its
//! log, takes no proposals, and hands over as soon as another has it.
//!
//! Invariant: a state is replaced by one that is not before what was applied; the log holds everything
//! after it, or ends before it.
//!
//! Left out: a checkpoint of a follower, and a log that stops growing while no leader has one to give.

use strandline_engine::{Db, Index};

use crate::hard_state::HardStateFile;
use crate::machine::Shared;
use crate::message::SnapshotBody;
use crate::snapshot::Point;
use crate::{
    MemberRole, Membership, Options, Outcome, Output, Refusal, Replica, ReplicaId, Result, Role,
};

/// What is damaged, and what was done about it.
#[derive(Debug, Default)]
pub(crate) struct Replacement {
    /// What is damaged; none if nothing is.
    damage: Option<String>,
    /// Since it was found.
    ticks: u64,
    /// Bytes of tables that may be verified.
    credit: u64,
    /// Since a leader was known.
    leaderless: u64,
    /// Whether the members are not known, because the manifest that said who they are is lost.
    lacks_members: bool,
    /// How often a state was replaced.
    count: u64,
}

/// Tables are verified in steps of so many bytes.
const SCRUB_STEP_LEN: u64 = 64 << 10;
/// For so many election times a damaged replica waits for another to lead, and as a leader for one to
/// take over.
const PATIENCE_ELECTIONS: u64 = 20;

/// Whether a peer could have a state for replica `id`: one that was not filled yet knows of nobody.
fn has_source(membership: &Membership, id: ReplicaId) -> bool {
    let members = &membership.members;
    members.is_empty()
        || members.iter().any(|member| member.id != id && member.role != MemberRole::Witness)
}

impl Replacement {
    /// Of a store that was just opened, perhaps with a damaged state.
    ///
    /// # Errors
    ///
    /// The damage, if there is nobody who could replace the state.
    pub(crate) fn begin(
        db: &Db,
        hard: &HardStateFile,
        shared: &Shared,
        options: &Options,
    ) -> Result<Self> {
        let Some(damage) = db.damage() else { return Ok(Self::default()) };
        let mut shared = shared.lock();
        if !has_source(&shared.membership, options.id) {
            return Err(damage.into());
        }
        let before = db.flushed().0;
        if before > 0 && shared.terms.get(before).is_none() {
            // The manifest that knew it is lost. It is committed, so every leader to come has this entry, and
            // nothing rests on its term but who may be voted for: one that is too high errs on the safe side.
            let first = db.log().first();
            let mut reader = db.log().reader(first);
            let records = if first.0 == before + 1 { reader.next_records()? } else { None };
            let after = records.as_ref().and_then(|records| records.iter().next()?.ok());
            let term = after.and_then(|(lsn, record)| {
                let entry = strandline_engine::Entry::decode(Index(lsn.0), record.payload).ok()?;
                Some(entry.header.term)
            });
            shared.terms.push(before, term.unwrap_or(hard.get().term.0));
        }
        let lacks_members = db.machine_state().is_empty();
        Ok(Self { damage: Some(damage.to_string()), lacks_members, ..Self::default() })
    }

    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Another state has taken the place of what was there, damaged or not.
    pub(crate) fn done(&mut self) {
        let count = self.count + u64::from(self.damage.is_some());
        *self = Self { count, ..Self::default() };
    }
}

impl Replica {
    /// Whether the state is damaged, so that nothing is read in it or applied to it.
    pub(crate) fn is_damaged(&self) -> bool {
        self.replacement.damage.is_some()
    }

    /// Whether the damage lets this replica stand for election. What is not applied must not say who the members
    /// are, because as long as nothing is applied any number of changes may pass.
    pub(crate) fn may_stand_damaged(&self) -> bool {
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        !self.is_damaged()
            || self.replacement.leaderless > patience
                && !self.replacement.lacks_members
                && !self.consensus.log().has_changes()
    }

    /// Takes note of damage that was met, if a peer could replace the state.
    pub(crate) fn note_damage(&mut self, output: &mut Output) -> Result<()> {
        if self.is_damaged() {
            return Ok(());
        }
        let Some(damage) = self.db().damage() else { return Ok(()) };
        if !has_source(&self.shared.lock().membership, self.options.id) {
            return Ok(());
        }
        self.replacement.damage = Some(damage.to_string());
        self.replacement.ticks = 0;
        self.sender.clear();
        for token in self.reads.take_all() {
            output.outcomes.push(Outcome::Refused { token, reason: Refusal::Damaged });
        }
        if matches!(self.consensus.role(), Role::Candidate | Role::PreCandidate) {
            self.consensus.step_down();
        }
        Ok(())
    }

    /// Looks for damage that was met; hands over, or asks for a state.
    pub(crate) fn replacement_tick(&mut self, output: &mut Output) -> Result<()> {
        self.note_damage(output)?;
        if !self.is_damaged() {
            self.replacement.credit += u64::from(self.options.scrub_bytes_per_tick);
            if self.replacement.credit >= SCRUB_STEP_LEN {
                let len = std::mem::take(&mut self.replacement.credit);
                self.db().scrub_tables(len);
            }
            return Ok(());
        }
        self.replacement.leaderless = match self.consensus.leader() {
            Some(_) => 0,
            None => self.replacement.leaderless + 1,
        };
        let ticks = self.replacement.ticks;
        self.replacement.ticks += 1;
        if self.consensus.is_leader() {
            self.leave_the_lead(ticks);
            return Ok(());
        }
        let again = 2 * u64::from(self.options.heartbeat_ticks);
        if let Some(leader) = self.consensus.leader()
            && ticks.is_multiple_of(again)
            && !self.receiver.receives_from(leader)
        {
            let index = self.db().applied();
            self.say(leader, SnapshotBody::Wanted { index }, output);
        }
        Ok(())
    }

    /// Hands over to its [successor](crate::Status::successor); if nobody takes it, leads no more all the same.
    fn leave_the_lead(&mut self, ticks: u64) {
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        if ticks >= patience && self.stalled.is_none() {
            self.replacement.ticks = 0;
            self.lease.give_up(self.consensus.term());
            self.consensus.step_down();
            return;
        }
        if self.consensus.is_transferring() {
            return;
        }
        let successor = self.status().successor().map(|peer| peer.id);
        if let Some(successor) = successor {
            self.transfer(successor);
        }
    }

    /// Whether this checkpoint, which is complete here, replaces a damaged state and leaves the log.
    pub(crate) fn replaces_under_log(&self, point: &Point) -> bool {
        let agrees = point.index == self.db().applied()
            || self.consensus.log().term(point.index.0) == Some(point.term.0);
        self.is_damaged() && agrees
    }

    /// Replaces the state, as soon as the log is idle.
    pub(crate) fn replace_under_log(&mut self, index: Index, output: &mut Output) -> Result<()> {
        if !self.consensus.log().is_idle() || self.consensus.is_leader() {
            self.wait_for_log();
            return Ok(());
        }
        let Some((from, id, adoption)) = self.receiver.take_complete() else { return Ok(()) };
        self.db().install_under_log(&adoption)?;
        // The consensus learns of the members as they are now.
        self.shared.lock().applied_changes.clear();
        self.take_up()?;
        self.watermarks.restored(index, self.consensus.log(), output);
        self.receiver.clear()?;
        self.replacement.done();
        self.say(from, SnapshotBody::Done { id, installed: true }, output);
        Ok(())
    }
}
