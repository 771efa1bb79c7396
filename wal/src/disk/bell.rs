//! A descriptor that an event loop watches: rung when something has ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

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
