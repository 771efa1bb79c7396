//! A write that a ring has: how it goes on after a transfer, and when it has ended.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::real_file::RealFile;
use super::transfer::{TRANSFER_MAX, no_progress, settled};
use super::{DurableWrite, io_error};
use crate::{Error, Result};

/// How often an entry that the kernel is too busy to take is offered again, each time after
/// [`PAUSE`], so that a lasting refusal is an error within 0.1 s; and how often a write that was
/// cancelled is made again.
pub(super) const ATTEMPTS_MAX: u32 = 100;

/// How long to pause when the kernel refuses for the moment.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// A write that the kernel has.
pub(super) struct Flight {
    pub(super) write: DurableWrite,
    /// How many of its bytes are durable.
    pub(super) done: usize,
    /// How often it was made again without progress.
    pub(super) attempts: u32,
}

impl Flight {
    /// A write of 8192 bytes at 4096, in a file that needs an alignment of 512.
    #[cfg(test)]
    pub(super) fn of_8192_bytes(dir: &Path) -> Flight {
        use super::real_file::{Access, SyncCall};
        use super::{Buffer, OpenMode, real_file};
        let access = Access { direct: false, alignment: 512, sync: SyncCall::Fdatasync };
        let file = real_file::open(&dir.join("log"), OpenMode::CreateLog, access).unwrap();
        let mut bytes = Buffer::with_capacity(8192);
        bytes.resize(8192);
        let write = DurableWrite { id: 3, file, offset: 4096, bytes: bytes.into() };
        Flight { write, done: 0, attempts: 0 }
    }

    /// Takes note of how a transfer of the rest ended: `Some` if the write has ended with it,
    /// `None` if what remains is to be started.
    pub(super) fn advance(&mut self, result: i32) -> Option<Result<()>> {
        let wanted = (self.write.bytes.len() - self.done).min(TRANSFER_MAX);
        let Ok(moved) = usize::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            let again = may_pass(&error) || error.raw_os_error() == Some(CANCELED);
            if again && self.attempts < ATTEMPTS_MAX {
                self.attempts += 1;
                return None;
            }
            return Some(Err(self.failed(error)));
        };
        let file = match RealFile::of(&self.write) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        let advance = settled(moved, wanted, file.alignment());
        if advance == 0 && wanted > 0 {
            return Some(Err(self.failed(no_progress(moved, wanted))));
        }
        self.done += advance;
        self.attempts = 0;
        (self.done == self.write.bytes.len()).then_some(Ok(()))
    }

    fn failed(&self, error: io::Error) -> Error {
        self.failed_at("write", error)
    }

    pub(super) fn failed_at(&self, operation: &'static str, error: io::Error) -> Error {
        let position =
            self.write.offset.saturating_add(u64::try_from(self.done).unwrap_or(u64::MAX));
        let path = RealFile::of(&self.write).map_or(Path::new(""), RealFile::path);
        io_error(operation, path, position, error)
    }
}

/// What a write ends with that the kernel gave up, as when the thread that submitted it ends.
pub(super) const CANCELED: i32 = rustix::io::Errno::CANCELED.raw_os_error();

/// Whether the same call may succeed if it is simply made again.
pub(super) fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock)
}

/// Makes a call again after a signal, and a bounded number of times while the kernel is busy.
pub(super) fn persist_while_busy(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut attempts = 0;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if may_pass(&error) && attempts < ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(ended: Option<Result<()>>) -> (u64, io::Error) {
        match ended {
            Some(Err(Error::Io { operation: "write", offset, source, .. })) => (offset, source),
            other => panic!("an error of a write was expected, not {other:?}"),
        }
    }

    #[test]
    fn a_short_write_goes_on_and_is_not_taken_for_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = Flight::of_8192_bytes(dir.path());
        assert!(flight.advance(5000).is_none());
        assert_eq!(flight.done, 4608, "the broken block is written again");
        assert!(flight.advance(3072).is_none());
        assert_eq!(flight.done, 7680);
        let (offset, error) = error_of(flight.advance(511));
        assert_eq!((offset, error.kind()), (4096 + 7680, io::ErrorKind::WriteZero));
        assert!(flight.advance(512).unwrap().is_ok());
    }

    #[test]
    fn a_cancelled_write_is_made_again_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = Flight::of_8192_bytes(dir.path());
        for _ in 0..ATTEMPTS_MAX {
            assert!(flight.advance(-CANCELED).is_none());
        }
        let (_, error) = error_of(flight.advance(-CANCELED));
        assert_eq!(error.raw_os_error(), Some(CANCELED));
    }

    #[test]
    fn an_error_of_the_disk_is_final_and_keeps_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let mut flight = Flight::of_8192_bytes(dir.path());
        assert!(flight.advance(4096).is_none());
        let full = rustix::io::Errno::NOSPC.raw_os_error();
        let (offset, error) = error_of(flight.advance(-full));
        assert_eq!((offset, error.kind()), (8192, io::ErrorKind::StorageFull));
    }
}
