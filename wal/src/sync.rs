//! What `waiters.rs` needs of the system. The models in `wal/models/` put the types of loom in its place.

pub(crate) use rustix::thread::futex;
pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
pub(crate) use std::thread::{Thread, current, park};
pub(crate) use std::thread_local;
