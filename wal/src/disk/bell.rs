//! A descriptor that an event loop watches: rung when something has ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, epoll, eventfd};

use super::io_error;
use crate::Result;

/// An `eventfd` that never blocks: rung any number of times, it is silenced once. Clones are one bell.
#[derive(Clone, Debug)]
pub(super) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A silent bell. `dir` is for errors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the process may open no more descriptors.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let descriptor = eventfd(0, flags);
        let descriptor = descriptor.map_err(|error| io_error("eventfd", dir, 0, error.into()))?;
        Ok(Bell(Arc::new(descriptor)))
    }

    /// Makes the descriptor readable.
    #[expect(clippy::host_endian_bytes, reason = "the kernel takes the machine's own order")]
    pub(super) fn ring(&self) {
        // Only a counter that is nearly full refuses, and then the descriptor is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable.
    pub(super) fn silence(&self) {
        // It refuses when it was silent.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Several bells as one descriptor: one of others, which is not silenced here, and one of our own.
#[derive(Debug)]
pub(super) struct Bells {
    own: Bell,
    /// Watches both, and is readable while either rings.
    both: OwnedFd,
}

impl Bells {
    /// A bell beside the one whose descriptor is `other`. The owner of that one keeps it open for as long.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) if the process may open no more descriptors.
    pub(super) fn new(other: BorrowedFd<'_>) -> Result<Self> {
        let dir = Path::new("");
        let own = Bell::new(dir)?;
        let failed = |error: rustix::io::Errno| io_error("epoll", dir, 0, error.into());
        let both = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        for bell in [other, own.as_fd()] {
            let number = epoll::EventData::new_u64(0);
            epoll::add(&both, bell, number, epoll::EventFlags::IN).map_err(failed)?;
        }
        Ok(Self { own, both })
    }

    /// The bell of our own.
    pub(super) fn own(&self) -> &Bell {
        &self.own
    }
}

impl AsFd for Bells {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.both.as_fd()
    }
}
