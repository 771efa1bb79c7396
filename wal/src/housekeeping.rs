//! The log's own thread: it keeps spares ready, writes the footers of sealed segments and marks an idle
//! tail, off the commit path.
//!
//! It sleeps until it is told that there is something to do, and while a tail is unproven it looks
//! again after a while: idle means that nothing was appended for [`IDLE`].

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::wal::Shared;
use crate::{Error, Lsn, Result};

/// How long a log must be quiet before its tail is marked. Long against a sync, short against the
/// time in which a disk goes bad.
const IDLE: Duration = Duration::from_millis(20);

/// Starts the thread. It ends when the log is closed.
pub(crate) fn start(shared: &Arc<Shared>) -> Result<()> {
    let weak = Arc::downgrade(shared);
    let spawned = std::thread::Builder::new()
        .name("strandline-wal".into())
        .spawn(move || run(&weak))
        .map_err(|source| Error::Io {
            operation: "thread start",
            path: Default::default(),
            offset: 0,
            source,
        })?;
    let mut state = shared.lock();
    state.housekeeper = Some(spawned.thread().clone());
    state.tell_housekeeper();
    Ok(())
}

fn run(weak: &Weak<Shared>) {
    let mut seen = Lsn(0);
    loop {
        let wait = {
            let Some(shared) = weak.upgrade() else { return };
            let (closed, unproven, last) = {
                let mut state = shared.lock();
                state.housekeeping_told = false;
                state.housekeeper_watches = false;
                let core = &state.core;
                (core.failure().is_some(), core.is_unproven() || core.has_pending(), core.last())
            };
            if closed {
                return;
            }
            // Errors show where they matter: an append that finds no spare tries by itself.
            let _ = shared.prepare();
            shared.write_footers();
            if unproven && last == seen {
                let _ = shared.mark(false);
            }
            let again = unproven && last != seen;
            seen = last;
            shared.lock().housekeeper_watches = again;
            again
        };
        match wait {
            true => std::thread::park_timeout(IDLE),
            false => std::thread::park(),
        }
    }
}

impl Shared {
    /// Writes the footers that are due. They are not synced, and one that cannot be written is left out:
    /// nothing relies on them.
    pub(crate) fn write_footers(&self) {
        loop {
            let footer = {
                let mut state = self.lock();
                if state.core.failure().is_some() {
                    return;
                }
                state.core.next_footer()
            };
            let Some((footer, offset, file)) = footer else { return };
            if file.write_at(&footer.encode(), offset).is_ok() {
                self.lock().core.counters.footers += 1;
            }
        }
    }
}
