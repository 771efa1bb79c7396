//! What can go wrong while stores are compared.
//!
//! The stores have error types of their own; here only who failed at what matters, so each is kept
//! as the source of one variant.

use std::fmt;
use std::path::PathBuf;

/// A comparison that could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A store refused or failed.
    Store {
        /// Which store.
        name: &'static str,
        /// What it was asked to do.
        operation: &'static str,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file, directory or process of the comparison itself failed.
    Io {
        /// What was done.
        operation: &'static str,
        /// To which file, directory or program.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server did not answer in time.
    NotReady {
        /// Which server.
        name: &'static str,
        /// Its last lines of output, which mostly say why.
        output: String,
    },
    /// The load generator printed something else than a table of results.
    Unreadable {
        /// What it printed.
        output: String,
    },
}

impl Error {
    /// For `map_err`: an error of the store `name`.
    pub fn store<E>(name: &'static str, operation: &'static str) -> impl FnOnce(E) -> Error
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Error::Store { name, operation, source: source.into() }
    }

    /// For `map_err`: an error of the system.
    pub fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { operation, path: path.into(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Store { name, operation, source } => {
                write!(out, "{name} could not {operation}: {source}")
            }
            Error::Io { operation, path, source } => {
                write!(out, "could not {operation} {}: {source}", path.display())
            }
            Error::NotReady { name, output } => {
                write!(out, "{name} does not answer; it printed: {}", output.trim())
            }
            Error::Unreadable { output } => {
                write!(out, "redis-benchmark printed no results: {output}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Store { source, .. } => Some(source.as_ref()),
            Error::Io { source, .. } => Some(source),
            Error::NotReady { .. } | Error::Unreadable { .. } => None,
        }
    }
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;
