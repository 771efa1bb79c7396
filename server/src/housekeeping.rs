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
use crate::machine::{OPCODE_RECLAIM, OPCODE_SWEEP, SLICE_KEYS_MAX, dead_key};
use crate::server::Server;

/// How often to look: expired keys are hidden at once, this is about their memory.
const PERIOD: Duration = Duration::from_millis(100);
/// How often expired keys are looked for from the beginning: a clock that was set back may have left
/// some before the place where the last slice began.
const FULL_PERIOD: Duration = Duration::from_secs(60);
/// How often writes that were acknowledged from memory are made durable.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Keeps house until the server is asked to stop.
pub fn run(server: &Arc<Server>) {
    let mut places = Places::default();
    let mut is_log_short = false;
    let (mut full, mut synced) = (Instant::now(), Instant::now());
    while !server.shutdown.is_asked() {
        std::thread::sleep(PERIOD);
        server.refresh_gate();
        keep_log(server, &mut is_log_short);
        if full.elapsed() > FULL_PERIOD {
            full = Instant::now();
            places.expired.clear();
        }
        if synced.elapsed() > SYNC_PERIOD && server.store.durability() == Durability::Memory {
            synced = Instant::now();
            server.store.request_sync();
        }
        // A full disk or a stopped log: deletes will be possible later, or never again.
        if let Err(error) = places.work(server) {
            tracing::debug!(%error, "housekeeping was put off");
        }
    }
}

/// How many bytes of log are kept for backups that lag or are away; one that needs more gets a copy of
/// the whole state. The disk must not fill because a backup is gone.
const KEPT_LEN_MAX: u64 = 1 << 30;

/// Keeps the part of the log that backups still need, within bounds; `is_short` is whether they need
/// more, which is told once.
fn keep_log(server: &Server, is_short: &mut bool) {
    if server.store.group().is_some() {
        return;
    }
    let (feeds, db) = (&server.store.shared().feeds, server.store.db());
    let Some(needed) = feeds.needed() else { return db.keep_from(None) };
    let stats = db.log().stats();
    let segments = u64::try_from(stats.segments_in_use).unwrap_or(u64::MAX);
    if segments.saturating_mul(db.log().segment_size()) <= KEPT_LEN_MAX {
        *is_short = false;
        return db.keep_from(Some(needed));
    }
    if !std::mem::replace(is_short, true) {
        tracing::warn!(%needed, "a backup lags by more log than is kept: it will get a copy");
    }
    feeds.forget_absent();
    db.keep_from(None);
}

/// Where the last slices began: nothing is left before.
#[derive(Default)]
struct Places {
    /// In keyspace `expiry`.
    expired: Vec<u8>,
    /// In keyspace `data`; none once nothing was found.
    dead: Option<Vec<u8>>,
    /// Where the databases were when dead keys were last looked for.
    spaces: Option<[u32; DATABASE_COUNT]>,
}

impl Places {
    fn work(&mut self, server: &Server) -> Result<()> {
        while !server.shutdown.is_asked() {
            let begun = Instant::now();
            let expires = server.live.active_expire.load(Ordering::Relaxed);
            let swept = expires && self.sweep(server)?;
            let reclaimed = self.reclaim(server)?;
            if !swept && !reclaimed {
                break;
            }
            // Clients have the log and the processor for as long as the slices had it.
            std::thread::sleep(begun.elapsed().min(PERIOD));
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
            start: Bound::Included(self.expired.clone()),
            end: Bound::Excluded(key::expiry_key(now_ms.saturating_add(1), &[])),
            direction: Direction::Forward,
        };
        let view = server.store.view();
        let mut expired = view.range(EXPIRY, range);
        let Some(first) = expired.next() else { return Ok(false) };
        let (first, _) = first?;
        let more = expired.take(SLICE_KEYS_MAX - 1).filter(|pair| pair.is_ok()).count();
        server.store.keep_house(OPCODE_SWEEP, &first)?;
        let count = u64::try_from(more + 1).unwrap_or(0);
        server.stats.expired_keys.fetch_add(count, Ordering::Relaxed);
        self.expired = first;
        Ok(true)
    }

    /// Begins at the first space that died since the last time; at the first time with all.
    fn take_over(&mut self, spaces: [u32; DATABASE_COUNT]) {
        let begin = match self.spaces.replace(spaces) {
            None => Some(Vec::new()),
            Some(before) => {
                let died = before.into_iter().filter(|space| !spaces.contains(space));
                died.min().map(key::space_prefix)
            }
        };
        if let Some(begin) = begin {
            let dead = self.dead.take();
            self.dead = Some(dead.map_or(begin.clone(), |dead| dead.min(begin)));
        }
    }

    /// Deletes a slice of what lies in dead spaces; false if there is nothing.
    fn reclaim(&mut self, server: &Server) -> Result<bool> {
        let directory = &server.store.shared().directory;
        let spaces: [u32; DATABASE_COUNT] =
            std::array::from_fn(|number| directory.get(number).space);
        self.take_over(spaces);
        let Some(from) = &self.dead else { return Ok(false) };
        let mut databases = Databases::default();
        for (number, space) in spaces.into_iter().enumerate() {
            databases.get_mut(number).space = space;
        }
        self.dead = dead_key(&server.store.view(), &databases, from)?;
        match &self.dead {
            Some(dead) => server.store.keep_house(OPCODE_RECLAIM, dead).map(|()| true),
            None => Ok(false),
        }
    }
}
