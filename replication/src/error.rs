//! What can go wrong in a replica.

use std::fmt;
use std::path::PathBuf;

use crate::ReplicaId;

/// The result of an operation of a replica.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The state refused; see [`strandline_engine::Error`].
    Engine(strandline_engine::Error),
    /// The log or the disk refused; see [`strandline_wal::Error`].
    Wal(strandline_wal::Error),
    /// A setting that cannot work.
    InvalidOption {
        /// Which, and why.
        reason: String,
    },
    /// A message that is not well formed, or that no sound peer sends. Nothing has changed.
    Message {
        /// Offset in bytes, where it was being decoded.
        offset: usize,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file of the replica is damaged.
    Corruption {
        /// Which file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The directory belongs to another replica, or to another group, or to none while this identity
    /// is known to exist elsewhere.
    Identity {
        /// Who was expected and who was found.
        reason: String,
    },
    /// The directory was made a replica's before, and is not made another's.
    Formed {
        /// The file that says so.
        path: PathBuf,
        /// The replication group that it names.
        group: u64,
        /// The replica.
        id: ReplicaId,
    },
    /// The replica has stopped; reads of what is applied go on.
    Stopped {
        /// The first error.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Engine(error) => error.fmt(out),
            Error::Wal(error) => error.fmt(out),
            Error::InvalidOption { reason } => write!(out, "this setting cannot work: {reason}"),
            Error::Message { offset, reason } => {
                write!(out, "a message was refused at offset {offset}: {reason}")
            }
            Error::Corruption { path, reason } => {
                write!(out, "{} is damaged: {reason}", path.display())
            }
            Error::Identity { reason } => write!(out, "not this replica's directory: {reason}"),
            Error::Formed { path, group, id } => write!(
                out,
                "{} says that this is the directory of node {id} of cluster {group}: it is not overwritten; \
                 take another directory",
                path.display()
            ),
            Error::Stopped { reason } => {
                write!(out, "the replica has stopped, only reads go on: {reason}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Engine(error) => Some(error),
            Error::Wal(error) => Some(error),
            _ => None,
        }
    }
}

impl From<strandline_engine::Error> for Error {
    fn from(error: strandline_engine::Error) -> Self {
        Error::Engine(error)
    }
}

impl From<strandline_wal::Error> for Error {
    fn from(error: strandline_wal::Error) -> Self {
        Error::Wal(error)
    }
}
