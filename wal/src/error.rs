//! What can go wrong in a log, in words that a person on call can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// The result of an operation on a log or a disk.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Cheap to clone only through [`Error::duplicate`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    Io {
        /// What was being done, such as `write` or `sync`.
        operation: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// At which byte offset; 0 where none applies.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// Bytes that were durable are not what was written.
    Corruption {
        /// The damaged file.
        path: PathBuf,
        /// Offset in bytes of the damaged structure.
        offset: u64,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A file was written by a newer format version than this program knows.
    FormatVersion {
        /// The file.
        path: PathBuf,
        /// The newest format version known here.
        known: u16,
        /// The one found.
        found: u16,
    },
    /// Something behind a right checksum that this program does not know: it was written on purpose,
    /// by another program. Nothing was changed.
    Unknown {
        /// The file.
        path: PathBuf,
        /// Offset in bytes of what is not known.
        offset: u64,
        /// What this program knows there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A group is encrypted with a key that was not given. It is not damaged, and nothing was changed.
    KeyMissing {
        /// The segment's file.
        path: PathBuf,
        /// Offset of the group in bytes.
        offset: u64,
        /// The id of the key.
        key: u64,
    },
    /// A group is what was written, by its checksum, and does not decrypt: the key that was given under this
    /// id is another one, or the group was forged or put into another place. Nothing was changed.
    WrongTag {
        /// The segment's file.
        path: PathBuf,
        /// Offset of the group in bytes.
        offset: u64,
        /// The id of the key.
        key: u64,
    },
    /// Not a file of ours, or one of another log.
    Foreign {
        /// The file.
        path: PathBuf,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A log has a spare directory, and it was not given, or the one that was given does not hold the log's
    /// mark. Nothing was changed.
    SpareAbsent {
        /// The directory of the log.
        path: PathBuf,
        /// The log's identity.
        log_id: u64,
    },
    /// Another process, or another handle in this one, uses the directory.
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// No room for the write: it was refused before anything changed. Appends resume by themselves
    /// when there is room.
    Full {
        /// The directory of the log.
        path: PathBuf,
    },
    /// The log is as large as it may be: the write was refused before anything changed. Appends resume
    /// by themselves when it is trimmed.
    Capped {
        /// The directory of the log.
        path: PathBuf,
        /// How large it may be, in bytes.
        size_max: u64,
        /// The first position held.
        first: u64,
        /// The last one.
        last: u64,
        /// Segments that were trimmed and that readers may hold.
        held: usize,
    },
    /// A sync failed and the group could not be saved elsewhere, or the log was found unable to go
    /// on: every append returns this until the log is opened again.
    Poisoned {
        /// The first error, as text.
        reason: String,
    },
    /// A record is larger than the log takes.
    TooLarge {
        /// The size in bytes.
        size: usize,
        /// The largest allowed.
        size_max: usize,
    },
    /// A position that the log does not hold (any more, or yet).
    OutOfRange {
        /// The position asked for.
        lsn: u64,
        /// The first position held.
        first: u64,
        /// The last position held.
        last: u64,
    },
    /// Records offered for a repair are not those that stood there: nothing was changed.
    Mismatch {
        /// The position of the first one that cannot be right.
        lsn: u64,
        /// What is known of what stood there.
        expected: String,
        /// What was offered.
        found: String,
    },
    /// A setting that cannot work.
    InvalidOption {
        /// Which, and why.
        reason: String,
    },
    /// The log was closed.
    Closed,
}

impl Error {
    /// The same error again, for a second recipient. The `io::Error` inside keeps its kind and text.
    pub fn duplicate(&self) -> Error {
        match self {
            Error::Io { operation, path, offset, source } => Error::Io {
                operation,
                path: path.clone(),
                offset: *offset,
                source: match source.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(source.kind(), source.to_string()),
                },
            },
            Error::Corruption { path, offset, expected, found } => Error::Corruption {
                path: path.clone(),
                offset: *offset,
                expected: expected.clone(),
                found: found.clone(),
            },
            Error::FormatVersion { path, known, found } => {
                Error::FormatVersion { path: path.clone(), known: *known, found: *found }
            }
            Error::Unknown { path, offset, expected, found } => Error::Unknown {
                path: path.clone(),
                offset: *offset,
                expected: expected.clone(),
                found: found.clone(),
            },
            Error::Foreign { path, expected, found } => Error::Foreign {
                path: path.clone(),
                expected: expected.clone(),
                found: found.clone(),
            },
            Error::KeyMissing { path, offset, key } => {
                Error::KeyMissing { path: path.clone(), offset: *offset, key: *key }
            }
            Error::WrongTag { path, offset, key } => {
                Error::WrongTag { path: path.clone(), offset: *offset, key: *key }
            }
            Error::SpareAbsent { path, log_id } => {
                Error::SpareAbsent { path: path.clone(), log_id: *log_id }
            }
            Error::Locked { path } => Error::Locked { path: path.clone() },
            Error::Full { path } => Error::Full { path: path.clone() },
            Error::Capped { path, size_max, first, last, held } => Error::Capped {
                path: path.clone(),
                size_max: *size_max,
                first: *first,
                last: *last,
                held: *held,
            },
            Error::Poisoned { reason } => Error::Poisoned { reason: reason.clone() },
            Error::TooLarge { size, size_max } => {
                Error::TooLarge { size: *size, size_max: *size_max }
            }
            Error::OutOfRange { lsn, first, last } => {
                Error::OutOfRange { lsn: *lsn, first: *first, last: *last }
            }
            Error::Mismatch { lsn, expected, found } => {
                Error::Mismatch { lsn: *lsn, expected: expected.clone(), found: found.clone() }
            }
            Error::InvalidOption { reason } => Error::InvalidOption { reason: reason.clone() },
            Error::Closed => Error::Closed,
        }
    }

    /// Whether there was no room: on the disk, or in a log that is as large as it may be.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Full { .. } | Error::Capped { .. } => true,
            Error::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Whether something that is stored could not be read: a bad sector, or a file system that has lost
    /// its way to it. A write that failed is none.
    pub fn is_unreadable(&self) -> bool {
        let Error::Io { operation, source, .. } = self else { return false };
        matches!(*operation, "open" | "stat" | "map" | "read")
            && source.raw_os_error().map(Errno::from_raw_os_error).is_some_and(|errno| {
                // What the block layer says of a medium, and file systems of their checksums.
                matches!(
                    errno,
                    Errno::IO | Errno::NODATA | Errno::ILSEQ | Errno::BADMSG | Errno::UCLEAN
                )
            })
    }

    /// Whether a file or directory was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { operation, path, offset, source } => {
                let path = path.display();
                write!(out, "{operation} of {path} at offset {offset} failed: {source}")?;
                match self.is_unreadable() {
                    true => out.write_str(
                        "; what is stored there cannot be read: run `strandline verify` on the directory \
                         and restore what it names from a backup or a replica",
                    ),
                    false => Ok(()),
                }
            }
            Error::Corruption { path, offset, expected, found } => write!(
                out,
                "{} is damaged at offset {offset}: expected {expected}, found {found}; run \
                 `strandline verify` on the directory and restore what it names from a backup or a \
                 replica",
                path.display()
            ),
            Error::FormatVersion { path, known, found } => write!(
                out,
                "{} has format version {found}; this program reads up to {known}: use a newer one",
                path.display()
            ),
            Error::Unknown { path, offset, expected, found } => write!(
                out,
                "{} has something unknown at offset {offset}: expected {expected}, found {found}; \
                 it is not damaged: use the program that wrote it",
                path.display()
            ),
            Error::Foreign { path, expected, found } => write!(
                out,
                "{} does not belong here: expected {expected}, found {found}; move it away",
                path.display()
            ),
            Error::KeyMissing { path, offset, key } => write!(
                out,
                "{} is encrypted with key {key} at offset {offset}, and no such key was given: nothing is \
                 damaged and nothing was changed; open the log with a keyring that has it",
                path.display()
            ),
            Error::WrongTag { path, offset, key } => write!(
                out,
                "{} has a group at offset {offset} that key {key} does not open, although its checksum is \
                 right: nothing was changed; see whether another key has this id, and give the one it was \
                 written with; if that was it, the group was forged: restore it from a backup or a replica",
                path.display()
            ),
            Error::SpareAbsent { path, log_id } => write!(
                out,
                "the log in {} may go on in a spare directory, and without it may lack its end: open it \
                 together with the directory whose file SPARE names log {log_id:016x}",
                path.display()
            ),
            Error::Locked { path } => write!(
                out,
                "{} is locked: another process uses this directory; stop it or choose another",
                path.display()
            ),
            Error::Full { path } => write!(
                out,
                "no space for the log in {}: the write was refused; free space and writes resume",
                path.display()
            ),
            Error::Capped { path, size_max, first, last, held } => write!(
                out,
                "the log in {} has reached its largest size of {size_max} bytes: it holds the positions \
                 {first} to {last} and {held} trimmed segments; it goes on when whoever needs the oldest \
                 ones lets them be trimmed",
                path.display()
            ),
            Error::Poisoned { reason } => write!(
                out,
                "the log stopped after a failed write ({reason}): nothing after it was \
                 acknowledged; check the disk, then open the log again"
            ),
            Error::TooLarge { size, size_max } => {
                write!(out, "a record of {size} bytes is over the limit of {size_max} bytes")
            }
            Error::OutOfRange { lsn, first, last } => {
                write!(out, "position {lsn} is not in the log, which holds {first} to {last}")
            }
            Error::Mismatch { lsn, expected, found } => write!(
                out,
                "what was offered for position {lsn} is not what stood there: expected {expected}, \
                 found {found}; take it from another source"
            ),
            Error::InvalidOption { reason } => write!(out, "invalid option: {reason}"),
            Error::Closed => write!(out, "the log is closed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
