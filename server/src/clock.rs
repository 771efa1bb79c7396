//! The only reader of the clock.
//!
//! Sessions ask once for each batch of requests and stamp what they propose with the answer. Nothing
//! below the sessions knows the time but from the entries (D4).

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 (UTC); 0 if the clock stands before that.
pub fn now_ms() -> u64 {
    now_us() / 1000
}

/// Microseconds since 1970 (UTC); 0 if the clock stands before that.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds of a clock that nobody sets, for spans between moments of this node alone: it goes on
/// while the system sleeps. That of a virtual machine stands still while the machine is suspended.
pub fn steady_us() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}

/// Randomness for entries and for sampling reads: the standard library's seed of each hasher, mixed
/// with a count. Not for secrets.
#[derive(Debug)]
pub struct Randomness {
    /// The state of a splitmix64 generator.
    state: u64,
}

impl Randomness {
    /// Seeded by the operating system.
    pub fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Self { state: seed }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

impl Default for Randomness {
    fn default() -> Self {
        Self::new()
    }
}
