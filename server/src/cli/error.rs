//! Why a verb of the command line could not do its work.
//!
//! The text is the one line that the user sees, so it says what to do. What was asked wrongly ends
//! with exit code 2, everything else with 3; a bad *answer* (lost writes, damage found) is no error
//! and has exit code 1.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code for an answer that is bad: lost writes, damage found.
pub(crate) const EXIT_BAD: u8 = 1;
/// Exit code for wrong usage.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Exit code for what could not run.
pub(crate) const EXIT_CANNOT: u8 = 3;

/// The result of a step of a verb.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a verb could not do its work.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The arguments make no sense together.
    Usage {
        /// What is wrong and what to say instead.
        reason: String,
    },
    /// A file or directory could not be used.
    Path {
        /// What was being done, such as `create directory`.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server process could not be started.
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server process ended, or did not say that it is ready in time.
    NotReady {
        /// What was seen instead.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// A process that writes for a benchmark ended before it had written all.
    EarlyEnd {
        /// What it said last.
        said: String,
    },
    /// A connection failed.
    Connection {
        /// To which address.
        address: String,
        /// How.
        source: io::Error,
    },
    /// The server answered what the protocol or the command does not allow.
    Answer {
        /// What was asked.
        asked: &'static str,
        /// What came back.
        found: String,
    },
    /// Something else said no, and why.
    Refused {
        /// The reason, which says what to do.
        reason: String,
    },
    /// A file or directory that is to be made is there, and is not overwritten.
    Occupied {
        /// Which.
        path: PathBuf,
        /// What was found in it; empty for a file.
        found: String,
    },
    /// A directory that is a node's already, or another refusal of its replica.
    Replica(strandline_replication::Error),
    /// The log said no.
    Log(strandline_wal::Error),
    /// The store said no.
    Store(strandline_engine::Error),
    /// The system did not tell what was asked.
    System {
        /// What was asked.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The user, or the system, asked us to end.
    Interrupted,
}

impl Error {
    /// The exit code that goes with it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Usage { .. } => EXIT_USAGE,
            _ => EXIT_CANNOT,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage { reason } | Error::Refused { reason } => out.write_str(reason),
            Error::Path { operation, path, source } => {
                write!(out, "cannot {operation} {}: {source}", path.display())
            }
            Error::Spawn { program, source } => {
                write!(out, "cannot start {}: {source}", program.display())
            }
            Error::NotReady { reason, log } if log.is_empty() => {
                write!(out, "the server did not become ready: {reason}")
            }
            Error::NotReady { reason, log } => {
                write!(out, "the server did not become ready: {reason}; it wrote: {log}")
            }
            Error::EarlyEnd { said } => {
                write!(out, "the process that writes ended early, after saying '{said}'")
            }
            Error::Connection { address, source } => {
                write!(out, "the connection to {address} failed: {source}; is the server running?")
            }
            Error::Answer { asked, found } => {
                write!(out, "the server answered {asked} with {found}")
            }
            Error::Occupied { path, found } if found.is_empty() => write!(
                out,
                "{} is there already, and is not overwritten: choose another --dir",
                path.display()
            ),
            Error::Occupied { path, found } => write!(
                out,
                "{} is not empty, it holds {found}: a new cluster begins with empty directories; choose \
                 another --dir",
                path.display()
            ),
            Error::Replica(error) => error.fmt(out),
            Error::Log(error @ strandline_wal::Error::SpareAbsent { .. }) => {
                write!(out, "{error}; name it with --log-spare-dir")
            }
            Error::Log(error) => error.fmt(out),
            Error::Store(error) => error.fmt(out),
            Error::System { what, source } => write!(out, "cannot find out {what}: {source}"),
            Error::Interrupted => out.write_str("interrupted; everything temporary was removed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<strandline_wal::Error> for Error {
    fn from(error: strandline_wal::Error) -> Error {
        Error::Log(error)
    }
}

impl From<strandline_replication::Error> for Error {
    fn from(error: strandline_replication::Error) -> Error {
        Error::Replica(error)
    }
}

impl From<strandline_engine::Error> for Error {
    fn from(error: strandline_engine::Error) -> Error {
        Error::Store(error)
    }
}

/// Turns the end of a verb into an exit code: `true` is a good answer, `false` a bad one, and an error
/// is told on standard error.
pub(crate) fn exit(verb: &str, outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_BAD),
        Err(error) => {
            eprintln!("strandline {verb}: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_2_and_everything_else_3() {
        assert_eq!(Error::Usage { reason: "say --nodes 1".into() }.exit_code(), EXIT_USAGE);
        assert_eq!(Error::Interrupted.exit_code(), EXIT_CANNOT);
        assert_eq!(Error::from(strandline_wal::Error::Closed).exit_code(), EXIT_CANNOT);
    }
}
