//! What a session waits for beside its own writes: that the state may be read, that replicas have
//! caught up, that the disk has everything, that the cluster has done something.

use std::time::{Duration, Instant};

use strandline_engine::Index;

use super::Session;
use crate::backup::order;
use crate::clock;
use crate::command::{Next, replication};
use crate::resp::Reply;

/// The answer to a read that no majority has confirmed in time.
const UNCONFIRMED: &str =
    "CLUSTERDOWN no majority of the nodes answers in time: not read; try again";

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
            Next::Replicas { wanted, timeout_ms } => {
                let count = self.wait_for_replicas(wanted, timeout_ms).await;
                let mut reply = Reply::new(&mut self.output, self.state.protocol);
                reply.integer(i64::try_from(count).unwrap_or(i64::MAX));
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

    /// Waits until so many replicas have what is applied now, no longer than `timeout_ms` unless that
    /// is 0; returns how many have.
    async fn wait_for_replicas(&self, wanted: usize, timeout_ms: u64) -> usize {
        let store = &self.server.store;
        // Backups are sent what is on disk.
        store.request_sync();
        let index = store.db().applied().0;
        let began = Instant::now();
        loop {
            let count = match store.group() {
                Some(group) => replication::replicas_with(group, index),
                None => store.shared().feeds.having(Index(index)),
            };
            let is_late = timeout_ms > 0 && began.elapsed() >= Duration::from_millis(timeout_ms);
            if count >= wanted || is_late || self.server.shutdown.is_asked() {
                return count;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
