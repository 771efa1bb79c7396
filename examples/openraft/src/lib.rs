//! The log of `strandline-wal` as the log store of a program that uses openraft.
//!
//! [`LogStore`] implements openraft's `RaftLogStorage`: entries stand in the log, at position `index + 1`;
//! vote, committed and purged log id stand in a small file beside it that is replaced as a whole.
//!
//! ```text
//! append(entries, flushed) -> Wal::append_then -> readable from memory at once
//!                                   |
//!                             durable (a group, one sync for many callers)
//!                                   +-> hook -> flushed.log_io_completed(Ok)
//! ```
//!
//! What a user of the log can take from it:
//!
//! - **Nothing waits for the disk.** `append` returns when the entries have a place; openraft is told by
//!   its callback when they are durable, in order, and of all of them if the log stops. One thread leads the
//!   log; without it whoever waits would write.
//! - **What is not durable yet is read from memory.** The log's own readers show what is durable only, as a
//!   state machine must; openraft also wants to send what is still being written.
//! - **A truncation is durable with the next append that is.** A crash between them brings the
//!   dropped entries back, as if the leader's message had not arrived yet.
//! - **A purge is durable before it drops.** It is written down first; whole segments go when all their
//!   entries have been purged. A purge beyond the end (after a snapshot) begins the log anew there.
//! - **The state file is believed only with its checksum**: it has the framing of a record.
//!
//! ```
//! use std::io::Cursor; // the macro names it
//! use strandline_openraft::LogStore;
//! use strandline_wal::{Options, disk::RealDisk};
//! use std::sync::Arc;
//!
//! openraft::declare_raft_types!(pub Types: D = String, R = ());
//!
//! let dir = std::env::temp_dir().join(format!("strandline-openraft-{}", std::process::id()));
//! std::fs::create_dir_all(&dir)?;
//! let disk = Arc::new(RealDisk::open(&dir, None)?);
//! let options = Options { segment_size: 1 << 20, ..Options::default() };
//! let store = LogStore::<Types>::open(disk, &dir, options)?; // give it to openraft::Raft::new
//! drop(store);
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod log_store;
mod state;

pub use log_store::LogStore;
