//! Who follows this node, and how far each of them is.
//!
//! What a feed is told by its backup stands here, for `WAIT`, `INFO`, `ROLE` and `min-replicas-to-write`. A
//! backup that has gone is remembered for a while: as long as its place is, the log is kept for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use strandline_engine::Index;
use tokio::sync::Notify;

/// How many backups are remembered at the most; when one more comes, the one that has been away longest
/// is forgotten.
pub const FEEDS_MAX: usize = 64;

/// A node that follows this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Which node.
    pub node: u128,
    /// Where it comes from.
    pub host: String,
    /// Where its clients reach it.
    pub port: u16,
    /// Everything up to here is durable there.
    pub durable: Index,
    /// When it said so.
    pub heard: Instant,
    /// The connection that feeds it; none while it is away.
    connection: Option<u64>,
}

impl Feed {
    /// Whether it is connected.
    pub fn is_online(&self) -> bool {
        self.connection.is_some()
    }
}

/// What a backup asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Entries, from one on.
    Entries {
        /// Which node it is.
        node: u128,
        /// Where its clients reach it.
        port: u16,
        /// The first one that it lacks.
        from: Index,
        /// The generation of the entry before.
        generation: u128,
    },
    /// A copy of the whole state.
    Copy,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Feeds {
    list: Mutex<Vec<Feed>>,
    /// How many are connected, for who asks often.
    online: AtomicUsize,
    /// Woken when there is more to send.
    moved: Notify,
}

impl Feeds {
    fn lock(&self) -> MutexGuard<'_, Vec<Feed>> {
        // What this lock guards is whole at every step.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are remembered, in the order in which they first came.
    pub fn all(&self) -> Vec<Feed> {
        self.lock().clone()
    }

    /// A backup has connected, over the connection of this number. An older connection of the same node
    /// is of a process that is gone.
    pub fn begin(&self, connection: u64, node: u128, host: String, port: u16, durable: Index) {
        let mut list = self.lock();
        let feed =
            Feed { node, host, port, durable, heard: Instant::now(), connection: Some(connection) };
        match list.iter_mut().find(|other| other.node == node) {
            Some(other) => *other = feed,
            None => {
                if list.len() >= FEEDS_MAX
                    && let Some(oldest) = away_longest(&list)
                {
                    list.remove(oldest);
                }
                list.push(feed);
            }
        }
        self.recount(&list);
    }

    /// What a backup has acknowledged; false if another connection has taken its place.
    pub fn heard(&self, connection: u64, durable: Index) -> bool {
        let mut list = self.lock();
        let Some(feed) = list.iter_mut().find(|feed| feed.connection == Some(connection)) else {
            return false;
        };
        feed.durable = feed.durable.max(durable);
        feed.heard = Instant::now();
        true
    }

    /// The connection has ended.
    pub fn end(&self, connection: u64) {
        let mut list = self.lock();
        for feed in list.iter_mut().filter(|feed| feed.connection == Some(connection)) {
            feed.connection = None;
        }
        self.recount(&list);
    }

    /// Forgets those that are away.
    pub fn forget_absent(&self) {
        self.lock().retain(Feed::is_online);
    }

    fn recount(&self, list: &[Feed]) {
        let online = list.iter().filter(|feed| feed.is_online()).count();
        self.online.store(online, Ordering::Release);
    }

    /// How many have everything up to `index` on their disks.
    pub fn having(&self, index: Index) -> usize {
        self.lock().iter().filter(|feed| feed.is_online() && feed.durable >= index).count()
    }

    /// How many are connected and were heard within `lag_max`.
    pub fn lively(&self, lag_max: Duration) -> usize {
        let is_lively = |feed: &&Feed| feed.is_online() && feed.heard.elapsed() <= lag_max;
        self.lock().iter().filter(is_lively).count()
    }

    /// The first entry that one of them lacks; none if nobody is remembered.
    pub fn needed(&self) -> Option<Index> {
        self.lock().iter().map(|feed| Index(feed.durable.0 + 1)).min()
    }

    /// More has become durable. Costs next to nothing while nobody follows.
    pub fn moved(&self) {
        if self.online.load(Ordering::Acquire) > 0 {
            self.moved.notify_waiters();
        }
    }

    /// What is woken by [`moved`](Feeds::moved).
    pub fn notify(&self) -> &Notify {
        &self.moved
    }
}

/// The place of the one that has been away longest; none if all are here.
fn away_longest(list: &[Feed]) -> Option<usize> {
    let away = list.iter().enumerate().filter(|(_, feed)| !feed.is_online());
    away.min_by_key(|(_, feed)| feed.heard).map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(feeds: &Feeds, connection: u64, node: u128, durable: u64) {
        feeds.begin(connection, node, "h".into(), 1, Index(durable));
    }

    #[test]
    fn who_is_away_does_not_count_and_is_waited_for() {
        let feeds = Feeds::default();
        assert_eq!(feeds.needed(), None);
        begin(&feeds, 1, 100, 5);
        begin(&feeds, 2, 200, 9);
        assert_eq!((feeds.having(Index(5)), feeds.having(Index(6))), (2, 1));
        assert!(feeds.heard(1, Index(7)));
        assert_eq!(feeds.needed(), Some(Index(8)));
        feeds.end(1);
        assert_eq!(feeds.having(Index(1)), 1);
        assert_eq!(feeds.needed(), Some(Index(8)), "its place is kept");
        // It comes back over another connection; the old one does not speak for it any more.
        begin(&feeds, 3, 100, 7);
        begin(&feeds, 4, 100, 8);
        assert!(!feeds.heard(3, Index(50)));
        feeds.end(3);
        assert_eq!(feeds.having(Index(8)), 2);
        assert_eq!(feeds.lively(Duration::from_secs(60)), 2);
        feeds.end(4);
        feeds.forget_absent();
        assert_eq!(feeds.all().len(), 1);
    }

    #[test]
    fn room_is_made_by_who_has_been_away_longest() {
        let feeds = Feeds::default();
        for number in 0..FEEDS_MAX {
            let number = u64::try_from(number).unwrap();
            begin(&feeds, number, u128::from(number) + 1, number);
            feeds.end(number);
        }
        begin(&feeds, 1000, 1000, 0);
        let all = feeds.all();
        assert_eq!(all.len(), FEEDS_MAX);
        assert!(all.iter().all(|feed| feed.node != 1));
    }
}
