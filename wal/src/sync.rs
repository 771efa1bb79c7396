//! What threads of the log meet at. The models in `wal/models/`, which compile this crate once more, put the
//! types of loom in its place, which takes the threads through every order.

#[cfg(not(models))]
mod system {
    pub(crate) use rustix::thread::futex;
    pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::{Thread, current, park, yield_now};
    pub(crate) use std::thread_local;
}

#[cfg(models)]
#[path = "../models/src/sync.rs"]
mod system;

pub(crate) use system::*;
