//! An ordered, durable, checksummed sequence of records on one disk.
//!
//! [`Wal`] is the log. Threads append and [`wait`](Wal::wait); those who do not want to hold a thread
//! [`submit`](Wal::submit) and poll or are called back:
//!
//! ```
//! use strandline_wal::{Options, Wal, disk::RealDisk};
//! use std::{future::Future, pin::pin, sync::Arc, task::{Context, Poll, Wake, Waker}};
//!
//! # struct Unpark(std::thread::Thread);
//! # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark(); } }
//! # fn block_on<F: Future>(future: F) -> F::Output {
//! #     let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
//! #     let mut future = pin!(future);
//! #     loop {
//! #         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
//! #             Poll::Ready(output) => return output,
//! #             Poll::Pending => std::thread::park(),
//! #         }
//! #     }
//! # }
//! # let dir = std::env::temp_dir().join(format!("strandline-lib-{}", std::process::id()));
//! # let disk = Arc::new(RealDisk::open(&dir, None)?);
//! # let (wal, _) = Wal::open(disk, &dir, Options { segment_size: 1 << 20, ..Options::default() })?;
//! let work = async {
//!     let first = wal.submit(&[b"a record"])?; // taken, with its place; not durable yet
//!     let second = wal.submit(&[b"another"])?;
//!     second.await?; // both are on disk: durability has no gaps
//!     assert!(first.is_durable());
//!     strandline_wal::Result::Ok(())
//! };
//! block_on(work)?; // any executor
//! # wal.close()?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An event loop opens the log with [`Options::events`] and drives it by [`Wal::pump`] whenever
//! [`Wal::completion_fd`] is readable. `examples/futures.rs` runs a thousand writers on one thread.
//!
//! [`Options::encryption`] has groups encrypted at rest, by a [`Cipher`] of the program's own.
//!
//! A process with many logs opens them on one [`SharedDisk`](disk::SharedDisk): they share a
//! ring and the thread that prepares segments, fairly.

mod ahead;
pub mod canary;
mod closing;
mod core;
mod crew;
pub mod disk;
mod drive;
mod dump;
mod encoding;
mod envelope;
mod error;
mod examination;
mod footer;
pub mod frame;
mod group;
mod histogram;
mod housekeeping;
mod keyring;
mod mark;
mod notifier;
mod options;
mod pacing;
pub mod parts;
mod plan;
mod preparer;
mod proof;
mod reader;
pub mod record;
mod recovery;
mod repair;
mod retention;
mod salvage;
mod scan;
mod scrub;
mod segment;
mod space;
mod spare;
mod stats;
mod stepped;
mod survey;
mod sync;
mod ticket;
mod verify;
mod waiters;
mod wal;
mod walk;
mod window;

pub use dump::inspect_segment;
pub use error::{Error, Result};
pub use histogram::Histogram;
pub use housekeeping::Housekeeper;
pub use keyring::{Cipher, KeyId, Keyring, NONCE_LEN, TAG_LEN};
pub use options::Options;
pub use reader::{Reader, Records};
pub use recovery::{Recovery, Tail};
pub use repair::Repaired;
pub use salvage::{Positions, Salvage};
pub use scrub::{Damage, Scrub};
pub use segment::{SegmentHeader, SegmentId};
pub use space::Space;
pub use spare::{Moved, SpareDirectory, with_spare};
pub use stats::Stats;
pub use ticket::Ticket;
pub use verify::{Verification, verify};
pub use wal::{DurableHook, Wal};

/// A place in the local log: the number of a record, dense, counted from 1. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Positions after this one are never given, and are refused where they are read: so that
    /// counting on from one that was read cannot overflow.
    pub(crate) const MAX: Lsn = Lsn(u64::MAX / 2);

    /// The position after this one.
    ///
    /// # Panics
    ///
    /// At the end of all numbers, which a log does not reach in any lifetime.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0.checked_add(1).expect("2^64 records are never written"))
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}
