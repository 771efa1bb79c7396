//! A replica's settings.

use strandline_engine::DbOptions;

use crate::{Error, Member, MemberRole, ReplicaId, Result};

/// Settings of a [`Replica`](crate::Replica).
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this is. Kept on disk when the directory is new, and compared ever after.
    pub id: ReplicaId,
    /// The replication group; messages of others are refused. 1.
    pub group: u64,
    /// The first members, alike on all of them. Used only when the directory is new; later the
    /// members stand in the log. Empty for a replica that joins: it waits for a leader to add it.
    pub members: Vec<Member>,
    /// After this many ticks, up to twice as many, without a word from a leader a replica stands for
    /// election. 10.
    pub election_ticks: u32,
    /// A leader is heard at least once in so many ticks. 2: several may be lost before an election.
    pub heartbeat_ticks: u32,
    /// Has a leader answer reads without asking a quorum while nobody can have taken its place; none: it
    /// always asks. The driver tells the time then: see [`Replica::tell_time`](crate::Replica::tell_time).
    pub lease: Option<LeaseOptions>,
    /// For so many ticks after it was opened a replica neither votes nor stands for election, because it
    /// may have promised that before it fell: at least `election_ticks` wherever a leader may have leases. 0.
    pub quiet_ticks: u32,
    /// For election time-outs. Should differ between replicas.
    pub seed: u64,
    /// Settings of the store. That entries are committed only when told is set by the replica.
    pub db: DbOptions,
    /// How many appends to one peer may be unanswered. 256.
    pub in_flight_messages_max: u32,
    /// About how many bytes of entries one message carries. 1 MiB; a larger entry goes alone.
    pub message_len_max: u32,
    /// How many bytes of entries may be in the leader's log without being committed; more are refused
    /// as overloaded. 256 MiB.
    pub uncommitted_len_max: u64,
    /// How many bytes of log are kept for members that lag; one that needs more gets a snapshot.
    /// 1 GiB.
    pub retention_bytes_max: u64,
    /// A leader refuses proposals, as overloaded, while a voter that was in step lags by more than so many
    /// bytes of log: it waits for the slow, not for the dead. No limit by default, because with one the
    /// slowest sets the pace.
    pub lag_bytes_max: Option<u64>,
    /// How many bytes of snapshots are sent per tick. 4 MiB.
    pub snapshot_bytes_per_tick: u32,
    /// How many bytes of the log are verified per tick; 0 for none. 0.
    pub scrub_bytes_per_tick: u32,
    /// Whether this replica is a witness: it keeps a log and no state, votes, and never leads. Fixed for
    /// the life of a directory; its role in the membership says the same.
    pub is_witness: bool,
    /// Whether the directory may be empty although this identity has existed before. Set only by who
    /// knows that it has not: a new member of a group is given a new identity instead.
    pub may_create: bool,
}

/// What leases rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseOptions {
    /// How long a tick is, in microseconds. The drivers of all replicas give ticks at least so far apart,
    /// each by its own clock.
    pub tick_us: u64,
    /// By how many parts of a thousand the clocks of two replicas may differ in how fast they go.
    pub drift_per_mille: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            id: ReplicaId(0),
            group: 1,
            members: Vec::new(),
            election_ticks: 10,
            heartbeat_ticks: 2,
            lease: None,
            quiet_ticks: 0,
            seed: 0,
            db: DbOptions::default(),
            in_flight_messages_max: 256,
            message_len_max: 1 << 20,
            uncommitted_len_max: 256 << 20,
            retention_bytes_max: 1 << 30,
            lag_bytes_max: None,
            snapshot_bytes_per_tick: 4 << 20,
            scrub_bytes_per_tick: 0,
            is_witness: false,
            may_create: true,
        }
    }
}

/// The largest number of members: what a quorum costs grows with it.
const MEMBERS_MAX: usize = 32;

impl Options {
    /// How long a lease is, in microseconds; 0 if there are none.
    pub(crate) fn lease_len_us(&self) -> u64 {
        let Some(LeaseOptions { tick_us, drift_per_mille }) = self.lease else { return 0 };
        let quiet_us = tick_us.saturating_mul(u64::from(self.election_ticks.saturating_sub(1)));
        quiet_us / 1000 * (1000 - u64::from(drift_per_mille.min(1000)))
    }

    /// Whether these settings can work.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] names the first that cannot.
    pub fn validate(&self) -> Result<()> {
        let mut ids: Vec<u64> = self.members.iter().map(|member| member.id.0).collect();
        ids.sort_unstable();
        let distinct = ids.windows(2).all(|pair| pair[0] != pair[1]);
        let own = self.members.iter().find(|member| member.id == self.id);
        let is_witness = own.is_none_or(|own| (own.role == MemberRole::Witness) == self.is_witness);
        let checks = [
            (is_witness, "is_witness says what the members say"),
            (self.id.0 > 0, "id is not 0"),
            (ids.iter().all(|id| *id > 0), "the id of a member is not 0"),
            (distinct, "each member is named once"),
            (ids.len() <= MEMBERS_MAX, "members are 32 at most"),
            (self.heartbeat_ticks >= 1, "heartbeat_ticks is 1 or more"),
            (self.election_ticks > self.heartbeat_ticks, "election_ticks is over heartbeat_ticks"),
            (self.election_ticks <= 1 << 20, "election_ticks is 2^20 or less"),
            (self.in_flight_messages_max >= 1, "in_flight_messages_max is 1 or more"),
            (self.message_len_max >= 1, "message_len_max is 1 byte or more"),
            (
                self.uncommitted_len_max >= u64::from(self.message_len_max),
                "uncommitted_len_max is message_len_max or more",
            ),
            (
                self.lease.is_none() || self.quiet_ticks >= self.election_ticks,
                "with leases, quiet_ticks is election_ticks or more",
            ),
            (
                self.lease.is_none_or(|lease| lease.drift_per_mille < 1000),
                "drift_per_mille is under 1000",
            ),
            (self.snapshot_bytes_per_tick >= 1, "snapshot_bytes_per_tick is 1 byte or more"),
        ];
        match checks.iter().find(|(is_fine, _)| !is_fine) {
            Some((_, reason)) => Err(Error::InvalidOption { reason: (*reason).to_owned() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let member = |id| Member { id: ReplicaId(id), role: MemberRole::Voter };
        let fine = Options {
            id: ReplicaId(1),
            members: vec![member(1), member(2), member(3)],
            ..Options::default()
        };
        fine.validate().unwrap();
        let twice = Options { members: vec![member(1), member(1)], ..fine.clone() };
        assert!(twice.validate().unwrap_err().to_string().contains("once"));
        assert!(Options { id: ReplicaId(0), ..fine.clone() }.validate().is_err());
        assert!(Options { heartbeat_ticks: 10, ..fine.clone() }.validate().is_err());
        let lease = Some(LeaseOptions { tick_us: 10_000, drift_per_mille: 100 });
        let with = Options { lease, ..fine };
        assert!(with.validate().unwrap_err().to_string().contains("quiet_ticks"));
        Options { quiet_ticks: 10, ..with.clone() }.validate().unwrap();
        assert_eq!(with.lease_len_us(), 81_000, "nine ticks less a tenth");
    }
}
