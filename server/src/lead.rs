//! Who makes a round's writes durable: the thread of sessions itself, or a commit thread.
//!
//! When all sessions of a thread have had their turn and the thread would sleep, what they have
//! appended goes to the disk. Handing that to a commit thread costs two wake-ups, there and back,
//! which is as much as a fast disk takes for a small group; and while the thread sits in the system
//! call, requests arrive that make the next group larger. So the thread leads itself, like the caller
//! of the embedded store (D11), as long as both are true:
//!
//! - the rounds are small: with much to apply, it is better that one thread applies while another
//!   one answers;
//! - the disk is fast: reads of the thread's other sessions wait meanwhile.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::Store;
use crate::submission::Mailbox;

/// The largest mean of bytes in a round for which the thread leads itself: about what 64 clients
/// write that wait for each answer.
const ROUND_LEN_MAX: u64 = 32 << 10;
/// Rounds over which the mean is taken, roughly.
const ROUNDS: u64 = 8;
/// How long a write may take; reads of the thread wait so long at the most, and once.
const WRITE_TIME_MAX: Duration = Duration::from_millis(1);
/// After a write that took longer, so many rounds are handed over before the thread tries again.
const ROUNDS_HANDED_OVER: u32 = 256;

/// What a thread of sessions remembers of its rounds. Only that thread uses it.
#[derive(Debug, Default)]
pub struct Lead {
    /// The mean of bytes in a round, lately.
    round_len: AtomicU64,
    /// How many rounds are still to be handed over because the disk was slow.
    handed_over: AtomicU32,
}

impl Lead {
    /// Has the round's writes made durable.
    pub fn end_round(&self, store: &Store, mailbox: &Mailbox) {
        let Some(wanted) = mailbox.take_wanted() else { return };
        let before = self.round_len.load(Ordering::Relaxed);
        let mean = (before * (ROUNDS - 1) + wanted.len.min(1 << 30)) / ROUNDS;
        self.round_len.store(mean, Ordering::Relaxed);
        let handed_over = self.handed_over.load(Ordering::Relaxed);
        if mean > ROUND_LEN_MAX || handed_over > 0 {
            self.handed_over.store(handed_over.saturating_sub(1), Ordering::Relaxed);
            store.request(wanted.last);
            return;
        }
        let started = Instant::now();
        let size_max = usize::try_from(ROUNDS * ROUND_LEN_MAX).unwrap_or(usize::MAX);
        if store.lead_once(wanted.last, size_max) && started.elapsed() > WRITE_TIME_MAX {
            self.handed_over.store(ROUNDS_HANDED_OVER, Ordering::Relaxed);
        }
    }
}
