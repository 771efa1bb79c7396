//! Deliberate bugs, compiled in only with the feature `canary`, that the tests must find.
//!
//! A canary has the number of its row in `docs/canaries.md`. It is switched on for the whole process
//! with `switch_on`. Without the feature [`is_on`] is a constant `false` and costs nothing.

/// Whether canaries are compiled in. The server refuses to be built for release when they are.
pub const COMPILED: bool = cfg!(feature = "canary");

/// A leader counts itself before its own sync.
pub const LEADER_COUNTS_UNSYNCED: u8 = 1;
/// A follower acknowledges before its sync.
pub const FOLLOWER_ACKNOWLEDGES_UNSYNCED: u8 = 2;
/// A vote is not persisted.
pub const VOTE_NOT_PERSISTED: u8 = 3;
/// A vote is answered before its sync.
pub const VOTE_ANSWERED_BEFORE_SYNC: u8 = 4;
/// A term is not persisted.
pub const TERM_NOT_PERSISTED: u8 = 5;
/// No directory sync after creating a file.
pub const NO_DIRECTORY_SYNC_AFTER_CREATE: u8 = 6;
/// No directory sync after renaming the manifest.
pub const NO_DIRECTORY_SYNC_AFTER_RENAME: u8 = 7;
/// A conflicting suffix is not truncated.
pub const CONFLICT_NOT_TRUNCATED: u8 = 8;
/// The previous entry's term is not checked.
pub const PREVIOUS_TERM_NOT_CHECKED: u8 = 9;
/// An entry of an old term is committed by counting.
pub const OLD_TERM_COMMITTED_BY_COUNTING: u8 = 10;
/// Entries are applied before they are committed.
pub const APPLIED_BEFORE_COMMITTED: u8 = 11;
/// A snapshot is installed without a sync.
pub const SNAPSHOT_NOT_SYNCED: u8 = 12;
/// A snapshot says that it is newer than its data.
pub const SNAPSHOT_NEWER_THAN_DATA: u8 = 13;
/// The log is trimmed beyond the durable checkpoint.
pub const LOG_TRIMMED_TOO_FAR: u8 = 14;
/// A deposed leader reads.
pub const STALE_READ_ON_DEPOSED_LEADER: u8 = 15;
/// A leader reads before the first commit of its term.
pub const READ_BEFORE_FIRST_COMMIT: u8 = 16;
/// A read is answered before the state is applied that far.
pub const READ_BEFORE_APPLY: u8 = 17;
/// Corruption taken for a torn tail.
pub const CORRUPTION_TAKEN_FOR_TORN_TAIL: u8 = 18;
/// A sync error is ignored.
pub const SYNC_ERROR_IGNORED: u8 = 19;
/// A failed sync is retried and believed.
pub const SYNC_RETRIED_AND_BELIEVED: u8 = 20;
/// Recovery trusts the page cache.
pub const RECOVERY_TRUSTS_PAGE_CACHE: u8 = 21;
/// Old groups of a recycled segment are valid again.
pub const RECYCLED_GROUPS_VALID_AGAIN: u8 = 22;
/// Checksums are not verified.
pub const CHECKSUM_NOT_VERIFIED: u8 = 23;
/// A joint quorum is counted as one majority.
pub const JOINT_QUORUM_AS_ONE_MAJORITY: u8 = 24;
/// A replica with an empty disk votes under its old identity.
pub const EMPTY_DISK_VOTES: u8 = 25;
/// A retried request is applied twice.
pub const RETRY_APPLIED_TWICE: u8 = 26;
/// The table of sessions is missing from the snapshot.
pub const SESSIONS_NOT_IN_SNAPSHOT: u8 = 27;
/// An election is won by half the votes.
pub const ELECTION_BY_HALF: u8 = 28;
/// A lease is measured by a clock that jumps.
pub const LEASE_BY_WALL_CLOCK: u8 = 29;
/// Compaction drops the newest version, or a tombstone that is still needed.
pub const COMPACTION_DROPS_NEEDED: u8 = 30;
/// The checksum does not cover the position.
pub const POSITION_NOT_COVERED: u8 = 31;
/// A batch half written when the disk was full becomes visible.
pub const HALF_BATCH_VISIBLE: u8 = 32;
/// The durable watermark does not advance.
pub const WATERMARK_STANDS_STILL: u8 = 34;
/// Who was told to lead and came too late lies down where nobody is told alone.
pub const HEIR_LIES_IN_BUNK: u8 = 35;
/// Nobody is told to reap when the thread that did it leaves.
pub const REAPER_NOT_REPLACED: u8 = 36;
/// An append returns the log's last position, which may be another one's by then.
pub const PLACE_READ_LATE: u8 = 37;
/// A segment begins while writes to the one before it are in flight.
pub const SEGMENT_BEGINS_EARLY: u8 = 38;
/// What has become durable behind a gap is acknowledged.
pub const GAP_ACKNOWLEDGED: u8 = 39;
/// Nobody is woken to attend a shared queue when the thread that did it leaves.
pub const QUEUE_NOT_HANDED_ON: u8 = 40;
/// A lane of a shared queue that has more parked than one write loses its turn after the first.
pub const TURN_FORGOTTEN: u8 = 41;
/// Every life of a log has the same salt.
pub const SALT_NOT_DRAWN: u8 = 42;
/// What is committed is given to mend a log whose entry before the damage was never committed.
pub const MENDED_BEHIND_ANOTHER_TERM: u8 = 43;
/// A leader of long ago is believed by who has lost its disk since, and has heard nobody else.
pub const LEADER_BELIEVED_ALONE: u8 = 44;

#[cfg(feature = "canary")]
static ON: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether this canary is switched on.
#[cfg(feature = "canary")]
pub fn is_on(number: u8) -> bool {
    ON.load(std::sync::atomic::Ordering::Relaxed) == number
}

/// Whether this canary is switched on: never, in a build without canaries.
#[cfg(not(feature = "canary"))]
#[inline(always)]
pub const fn is_on(_number: u8) -> bool {
    false
}

/// Switches one canary on and all others off; 0 switches all off.
#[cfg(feature = "canary")]
pub fn switch_on(number: u8) {
    ON.store(number, std::sync::atomic::Ordering::Relaxed);
}
