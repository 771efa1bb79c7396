//! What is deleted in the background, by entries of its own: expired keys, and the keys of databases
//! that were emptied.
//!
//! One thread looks, several times a second, whether there is anything to delete, and proposes
//! slices until there is not. Between two slices it leaves clients their turn. What a slice deletes
//! is decided when it is applied (see [`crate::machine`]).
//!
//! Left out: expiry by sampling. Keys are found in the order of their expiry, so that nothing that has
//! expired stays for long, however many keys there are.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use strandline_engine::{Direction, Durability, Range, Read, Result};

use crate::apply::EXPIRY;
use crate::clock;
use crate::databases::{DATABASE_COUNT, Databases};
use crate::key;
use crate::machine::{OPCODE_RECLAIM, OPCODE_SWEEP, dead_space};
use crate::server::Server;

/// How often to look: expired keys are hidden at once, this is about their memory.
const PERIOD: Duration = Duration::from_millis(100);
/// How often everything is looked at from the beginning: what lies before the place where the last
/// slice ended is found again only then.
const FULL_PERIOD: Duration = Duration::from_secs(60);
/// How often writes that were acknowledged from memory are made durable.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Keeps house until the server is asked to stop.
pub fn run(server: &Arc<Server>) {
    let mut sweeper = Sweeper { from_ms: 0, from_space: 0, spaces: [u32::MAX; DATABASE_COUNT] };
    let (mut full, mut synced) = (Instant::now(), Instant::now());
    while !server.shutdown.is_asked() {
        std::thread::sleep(PERIOD);
        if full.elapsed() > FULL_PERIOD {
            full = Instant::now();
            (sweeper.from_ms, sweeper.from_space) = (0, 0);
        }
        if synced.elapsed() > SYNC_PERIOD && server.store.durability() == Durability::Memory {
            synced = Instant::now();
            server.store.request_sync();
        }
        // A full disk or a stopped log: deletes will be possible later, or never again.
        if let Err(error) = sweeper.work(server) {
            tracing::debug!(%error, "housekeeping was put off");
        }
    }
}

/// Where the last slices ended.
struct Sweeper {
    /// Nothing that expires before this is left.
    from_ms: u64,
    /// Nothing is left in dead spaces before this.
    from_space: u32,
    /// Where the databases were when dead spaces were last looked for.
    spaces: [u32; DATABASE_COUNT],
}

impl Sweeper {
    fn work(&mut self, server: &Server) -> Result<()> {
        if server.live.active_expire.load(Ordering::Relaxed) {
            while self.sweep(server)? && !server.shutdown.is_asked() {
                std::thread::yield_now();
            }
        }
        while self.reclaim(server)? && !server.shutdown.is_asked() {
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Deletes a slice of the expired keys; false if there are none.
    fn sweep(&mut self, server: &Server) -> Result<bool> {
        let directory = &server.store.shared().directory;
        let expires: u64 = (0..DATABASE_COUNT).map(|number| directory.get(number).expires).sum();
        if expires == 0 {
            return Ok(false);
        }
        let now_ms = clock::now_ms();
        let range = Range {
            start: Bound::Included(key::expiry_key(self.from_ms, &[])),
            end: Bound::Excluded(key::expiry_key(now_ms.saturating_add(1), &[])),
            direction: Direction::Forward,
        };
        let view = server.store.view();
        let mut count = 0;
        let mut first_ms = None;
        for pair in view.range(EXPIRY, range).take(crate::machine::SLICE_KEYS_MAX) {
            let (expiry_key, _) = pair?;
            first_ms.get_or_insert(key::split_expiry_key(&expiry_key).0);
            count += 1;
        }
        let Some(first_ms) = first_ms else { return Ok(false) };
        server.store.keep_house(OPCODE_SWEEP, first_ms)?;
        server.stats.expired_keys.fetch_add(count, Ordering::Relaxed);
        // Everything before the first that was found is gone; it itself may be left in part.
        self.from_ms = first_ms;
        Ok(true)
    }

    /// Deletes a slice of what lies in dead spaces; false if there is nothing.
    fn reclaim(&mut self, server: &Server) -> Result<bool> {
        let directory = &server.store.shared().directory;
        let spaces: [u32; DATABASE_COUNT] =
            std::array::from_fn(|number| directory.get(number).space);
        if spaces != self.spaces {
            self.spaces = spaces;
            self.from_space = 0;
        } else if self.from_space == u32::MAX {
            return Ok(false);
        }
        let mut databases = Databases::default();
        for (number, space) in spaces.into_iter().enumerate() {
            databases.get_mut(number).space = space;
        }
        match dead_space(&server.store.view(), &databases, self.from_space)? {
            Some((space, _)) => {
                self.from_space = space;
                server.store.keep_house(OPCODE_RECLAIM, space.into())?;
                Ok(true)
            }
            None => {
                self.from_space = u32::MAX;
                Ok(false)
            }
        }
    }
}
