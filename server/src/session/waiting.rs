//! What a session waits for beside its own writes: that the state may be read, that replicas have
//! caught up, that the disk has everything, that the cluster has done something.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Session;
use crate::backup::order;
use crate::clock;
use crate::cluster::question::{Mark, Spread};
use crate::command::Next;
use crate::resp::Reply;

/// The answer to a read that no majority has confirmed in time.
const UNCONFIRMED: &str =
    "CLUSTERDOWN no majority of the nodes answers in time: not read; try again";

/// The answer to how many have a write, where who leads is not known or does not answer.
const NOBODY_TELLS: &str =
    "CLUSTERDOWN no node that leads can be asked how many others have it: try again";

/// How long the leader may take to say how far a write has come.
const ASK_MAX: Duration = Duration::from_millis(250);

/// How often to look whether replicas have caught up.
const LOOK: Duration = Duration::from_millis(2);

impl Session {
    /// What a session command asked for beyond its reply.
    pub(super) async fn go_on(&mut self, next: Next) -> bool {
        match next {
            Next::Continue => true,
            Next::Close => false,
            Next::Sleep(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                self.now_ms = clock::now_ms();
                true
            }
            Next::Sync => {
                self.server.store.request_sync();
                while !self.server.store.is_synced() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                true
            }
            Next::Replicas { wanted, local, timeout_ms } => {
                match self.wait_for_replicas(wanted, local == Some(true), timeout_ms).await {
                    Some(spread) => {
                        let mut reply = Reply::new(&mut self.output, self.state.protocol);
                        if local.is_some() {
                            reply.array(2);
                            reply.integer(i64::from(spread.on_leader));
                        }
                        reply.count(spread.replicas);
                    }
                    None => self.answer_error(NOBODY_TELLS),
                }
                true
            }
            Next::Command(command) => {
                let done = match self.server.store.group() {
                    Some(group) => group.command(command).await,
                    None => Err("ERR this node stands alone".into()),
                };
                match done {
                    Ok(()) => Reply::new(&mut self.output, self.state.protocol).ok(),
                    Err(text) => self.answer_error(&text),
                }
                true
            }
            Next::Follow(wish) => {
                match order::obey(&self.server, wish).await {
                    Ok(text) => {
                        Reply::new(&mut self.output, self.state.protocol).simple(&text);
                    }
                    Err(text) => self.answer_error(&text),
                }
                true
            }
            Next::Feed(request) => {
                self.feed(request).await;
                false
            }
            Next::Shutdown => {
                self.server.shutdown.ask();
                false
            }
        }
    }

    /// Whether reads that arrived by now may be answered from this node's state: once for a batch.
    pub(super) async fn ask_readable(&self) -> std::result::Result<(), String> {
        let Some(group) = self.server.store.group() else { return Ok(()) };
        match tokio::time::timeout(self.server.write_timeout(), group.readable()).await {
            Ok(answer) => answer,
            Err(_) => Err(UNCONFIRMED.into()),
        }
    }

    /// Whether the client takes what is a little old, and this node's state is proven to be no older. If
    /// it is not, the read is answered as any other.
    pub(super) fn may_read_stale(&self) -> bool {
        if !self.state.reads_stale {
            return false;
        }
        let age_us_max = self.server.live.stale_read_max_us.load(Ordering::Relaxed);
        self.server.store.group().is_some_and(|group| group.may_read_stale(age_us_max))
    }

    /// Waits until so many replicas, and the leader if `on_leader`, have what is applied now and what
    /// this client has written, no longer than `timeout_ms` unless that is 0; returns who has. None if
    /// nobody who leads could be asked.
    async fn wait_for_replicas(
        &self,
        wanted: usize,
        on_leader: bool,
        timeout_ms: u64,
    ) -> Option<Spread> {
        let store = &self.server.store;
        // Backups are sent what is on disk.
        store.request_sync();
        let mark = self.mark.max(Mark { index: store.db().applied(), term: 0 });
        let deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms));
        let mut known = None;
        loop {
            known = self.spread(mark).await.or(known);
            let has_come =
                |spread: Spread| spread.replicas >= wanted && (spread.on_leader || !on_leader);
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if known.is_some_and(has_come) || is_late || self.server.shutdown.is_asked() {
                return known;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Who has everything up to `mark`; none if nobody can tell now.
    async fn spread(&self, mark: Mark) -> Option<Spread> {
        let store = &self.server.store;
        let Some(group) = store.group() else {
            let replicas = store.shared().feeds.having(mark.index);
            let on_leader = store.db().durable() >= mark.index;
            return Some(Spread { on_leader, replicas });
        };
        // A leader that is cut off does not answer: then another one is asked, as soon as there is one.
        tokio::time::timeout(ASK_MAX, group.spread(mark)).await.unwrap_or(None)
    }
}
