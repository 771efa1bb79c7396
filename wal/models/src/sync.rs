//! Loom's types, where the log has those of the system. A part of the log as the models compile it.

use std::sync::Arc;

pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering};
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use loom::thread::yield_now;
pub(crate) use loom::thread_local;

/// Parking as the standard library documents it: a token that is given before is not lost. Loom's own is,
/// if the thread is just blocked on a lock.
#[derive(Clone)]
pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

thread_local! {
    static THIS: Thread = Thread(Arc::new((Mutex::new(false), Condvar::new())));
}

pub(crate) fn current() -> Thread {
    THIS.with(Thread::clone)
}

pub(crate) fn park() {
    let Thread(this) = current();
    let mut token = this.0.lock().expect("nothing panics here");
    while !*token {
        token = this.1.wait(token).expect("nothing panics here");
    }
    *token = false;
}

impl Thread {
    pub(crate) fn unpark(&self) {
        *self.0.0.lock().expect("nothing panics here") = true;
        self.0.1.notify_one();
    }
}

/// The kernel compares the word and goes to sleep in one step, and whoever changes the word wakes.
pub(crate) mod futex {
    use super::{AtomicU32, Ordering};

    pub(crate) struct Flags;
    impl Flags {
        pub(crate) const PRIVATE: Flags = Flags;
    }

    pub(crate) fn wait(word: &AtomicU32, _: Flags, value: u32, _: Option<()>) -> Result<(), ()> {
        while word.load(Ordering::Relaxed) == value {
            loom::thread::yield_now();
        }
        Ok(())
    }

    pub(crate) fn wake(_: &AtomicU32, _: Flags, _: u32) -> Result<usize, ()> {
        Ok(0)
    }
}
