//! The commands: one table of what there is, one file for each family of handlers.
//!
//! A command is one of three things.
//!
//! - A **read** answers from a view, in the session, at once.
//! - A **write** is checked in the session, as far as that is possible without looking at the data,
//!   so that what cannot succeed is refused before it is logged; then it is logged, and executed and
//!   answered when it is applied. Its check and its execution parse the same arguments with the same
//!   function.
//! - A **session** command is about the connection or the server and touches no data.

mod bits;
mod client_cmd;
mod command_cmd;
mod config_cmd;
mod connection;
mod counter;
mod expire;
mod float;
mod key;
mod lcs;
mod member;
mod numbers;
mod object;
mod pattern;
mod primary_backup;
pub mod replication;
mod scan;
mod server_cmd;
mod server_info;
mod strandline;
mod string;
mod string_set;
pub mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use pattern::matches as pattern_matches;

use std::fmt;

use crate::apply::Apply;
use crate::key::USER_KEY_LEN_MAX;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::Connection;

/// Executes a read command.
pub type ReadHandler =
    fn(&mut Reader<'_>, Args<'_>, &mut Reply<'_>) -> std::result::Result<(), Failure>;
/// Refuses a write command that cannot succeed.
pub type CheckHandler = fn(Args<'_>) -> std::result::Result<(), Refusal>;
/// Executes a write command. A handler that refuses has changed nothing.
pub type ApplyHandler =
    fn(&mut Apply<'_, '_>, Args<'_>, &mut Reply<'_>) -> std::result::Result<(), Failure>;
/// Executes a session command.
pub type SessionHandler =
    fn(&mut Connection<'_>, Args<'_>, &mut Reply<'_>) -> std::result::Result<Next, Failure>;

/// What the session does after a session command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Takes the next request.
    Continue,
    /// Sends the replies and closes the connection.
    Close,
    /// Sleeps for so many milliseconds, then goes on.
    Sleep(u64),
    /// Waits until all that was acknowledged is on disk, then goes on.
    Sync,
    /// Waits until so many replicas have everything, or the time is over (0: never), and answers with
    /// how many have.
    Replicas {
        /// How many.
        wanted: usize,
        /// Whether the leader's own disk is asked for as well, and must have it; part of the answer then.
        local: Option<bool>,
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Asks the cluster for something, and answers with what becomes of it.
    Command(crate::cluster::group::Command),
    /// Follows another node, or none any more, and answers with what becomes of it.
    Follow(crate::backup::order::Wish),
    /// Feeds a backup over this connection, until it ends.
    Feed(crate::backup::feeds::Request),
    /// Asks the server to stop.
    Shutdown,
}

/// How a command is executed.
#[derive(Clone, Copy)]
pub enum Handler {
    /// From a view.
    Read(ReadHandler),
    /// Through the log.
    Write {
        /// Names the command in log entries; part of the format.
        opcode: u16,
        /// What can be refused before it is logged.
        check: CheckHandler,
        /// What is done when it is applied.
        apply: ApplyHandler,
    },
    /// In the session.
    Session(SessionHandler),
}

impl fmt::Debug for Handler {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Handler::Read(_) => "Read",
            Handler::Write { .. } => "Write",
            Handler::Session(_) => "Session",
        })
    }
}

/// A command of the table.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// How many arguments, the name included; at least so many if negative.
    pub arity: i32,
    /// The flags of `COMMAND INFO`.
    pub flags: &'static [&'static str],
    /// The first key, the last one (negative: from the end) and the step between keys; zeros for none.
    pub keys: (i32, i32, i32),
    /// The group of `COMMAND DOCS`.
    pub group: &'static str,
    /// What it does.
    pub handler: Handler,
}

impl Command {
    /// Whether so many arguments, the name included, are right.
    pub fn takes(&self, count: usize) -> bool {
        let wanted = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// The places of the keys among `count` arguments.
    pub fn key_places(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.keys;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let last = if last < 0 { count + i64::from(last) } else { i64::from(last).min(count - 1) };
        let step = usize::try_from(step.max(1)).unwrap_or(1);
        let range = if first == 0 { 1..1 } else { i64::from(first)..last + 1 };
        range.step_by(step).filter_map(|place| usize::try_from(place).ok())
    }

    /// Refuses arguments of a wrong number, and keys that are too long.
    ///
    /// # Errors
    ///
    /// The answer for the client.
    pub fn check_shape(&self, args: Args<'_>) -> std::result::Result<(), Refusal> {
        if !self.takes(args.len()) {
            return Err(Refusal::Arity(self.name.to_owned()));
        }
        for place in self.key_places(args.len()) {
            let len = args.at(place).len();
            if len > USER_KEY_LEN_MAX {
                return Err(Refusal::KeyTooLong { len });
            }
        }
        Ok(())
    }

    /// Whether it goes through the log.
    pub fn is_write(&self) -> bool {
        matches!(self.handler, Handler::Write { .. })
    }
}
