//! Deliberate bugs, compiled in only with the feature `canary`, that the tests must find.
//!
//! A canary has the number of its row in `docs/canaries.md`. It is switched on for the whole process
//! with [`switch_on`]. Without the feature [`is_on`] is a constant `false` and costs nothing.

/// Whether canaries are compiled in. The server refuses to be built for release when they are.
pub const COMPILED: bool = cfg!(feature = "canary");

/// No directory sync after creating a file.
pub const NO_DIRECTORY_SYNC_AFTER_CREATE: u8 = 6;
/// No directory sync after renaming the manifest.
pub const NO_DIRECTORY_SYNC_AFTER_RENAME: u8 = 7;
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
/// Compaction drops the newest version, or a tombstone that is still needed.
pub const COMPACTION_DROPS_NEEDED: u8 = 30;
/// The checksum does not cover the position.
pub const POSITION_NOT_COVERED: u8 = 31;
/// A batch half written when the disk was full becomes visible.
pub const HALF_BATCH_VISIBLE: u8 = 32;
/// The durable watermark does not advance.
pub const WATERMARK_STANDS_STILL: u8 = 34;

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
