//! How a backup's link to its primary is, as it is shown.

use std::time::Instant;

use strandline_engine::Index;

/// How a backup's link to its primary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is not connected; why, once that is known.
    Down {
        /// Since when.
        since: Instant,
        /// Why.
        reason: String,
        /// Whether the primary answers, and its log is no continuation of this one.
        is_refused: bool,
    },
    /// A whole state is being taken over: bytes that have come, and in all.
    Copying(u64, u64),
    /// Entries come.
    Up {
        /// When the primary was last heard.
        heard: Instant,
        /// The last entry that is durable there, as far as is known.
        durable: Index,
    },
}

impl Link {
    /// It ends now, or has not begun.
    pub fn down(reason: impl Into<String>, is_refused: bool) -> Self {
        Link::Down { since: Instant::now(), reason: reason.into(), is_refused }
    }
}
