//! What can go wrong in the engine.

use std::fmt;

/// The result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The log or the disk refused; see [`strandline_wal::Error`].
    Wal(strandline_wal::Error),
    /// A key is over [`KEY_LEN_MAX`](crate::KEY_LEN_MAX) or empty.
    KeyLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A value is over [`VALUE_LEN_MAX`](crate::VALUE_LEN_MAX).
    ValueLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A batch is over [`BATCH_LEN_MAX`](crate::BATCH_LEN_MAX).
    BatchLength {
        /// Its length in bytes.
        len: usize,
    },
    /// A batch or entry that was read is not well formed.
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// Offset in bytes within it.
        offset: usize,
        /// What was expected there and what was found.
        reason: String,
    },
    /// A keyspace that does not exist.
    UnknownKeyspace {
        /// Its number or name.
        keyspace: String,
    },
    /// A setting that cannot work.
    InvalidOption {
        /// Which, and why.
        reason: String,
    },
    /// Background work cannot go on and the backlog is at its bound: the write was refused before
    /// anything changed. It may succeed later.
    Stalled {
        /// The error of the background work.
        reason: String,
    },
    /// The store is a replica's: entries are proposed to the replica.
    Replicated,
    /// An entry could not be applied: the store has stopped, reads are still served.
    Stopped {
        /// The first error.
        reason: String,
    },
    /// A sync of the manifest failed: what is flushed or compacted cannot be installed any more.
    /// Reads go on, and writes as far as memory goes; open the store again.
    ReadOnly {
        /// The first error, as text.
        reason: String,
    },
    /// The store was closed.
    Closed,
}

impl Error {
    /// Whether the disk was full; the write was refused and may succeed later.
    pub fn is_full(&self) -> bool {
        matches!(self, Error::Wal(error) if error.is_full())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Wal(error) => error.fmt(out),
            Error::KeyLength { len } => {
                write!(out, "a key of {len} bytes: keys have 1 to {} bytes", crate::KEY_LEN_MAX)
            }
            Error::ValueLength { len } => write!(
                out,
                "a value of {len} bytes: values have at most {} bytes",
                crate::VALUE_LEN_MAX
            ),
            Error::BatchLength { len } => write!(
                out,
                "a batch of {len} bytes: batches have at most {} bytes",
                crate::BATCH_LEN_MAX
            ),
            Error::Malformed { what, offset, reason } => {
                write!(out, "a malformed {what} at byte {offset}: {reason}")
            }
            Error::UnknownKeyspace { keyspace } => write!(out, "there is no keyspace {keyspace}"),
            Error::InvalidOption { reason } => write!(out, "invalid option: {reason}"),
            Error::Stalled { reason } => write!(
                out,
                "the write was refused because tables cannot be written: {reason}; once that is \
                 mended, writes resume"
            ),
            Error::Replicated => {
                out.write_str("this store is a replica's: entries are proposed to the replica")
            }
            Error::Stopped { reason } => write!(
                out,
                "the store has stopped taking writes because an entry could not be applied: {reason}"
            ),
            Error::ReadOnly { reason } => write!(
                out,
                "the manifest takes no edits after a failed write ({reason}): nothing that was \
                 acknowledged is lost; check the disk, then open the store again"
            ),
            Error::Closed => write!(out, "the store is closed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Wal(error) => Some(error),
            _ => None,
        }
    }
}

impl From<strandline_wal::Error> for Error {
    fn from(error: strandline_wal::Error) -> Self {
        Error::Wal(error)
    }
}
