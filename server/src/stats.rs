//! Counters of the server, and the log of slow commands.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::command::table::COMMANDS;

/// Counters of one command.
#[derive(Debug, Default)]
pub struct CommandStats {
    /// How often it was called.
    pub calls: AtomicU64,
    /// How long that took, in nanoseconds, without waiting for the disk.
    pub nanoseconds: AtomicU64,
    /// How often it was refused before it was executed.
    pub rejected: AtomicU64,
}

/// Counters since the start, or since `CONFIG RESETSTAT`.
#[derive(Debug)]
pub struct Stats {
    /// Accepted connections.
    pub connections: AtomicU64,
    /// Connections refused because there were too many.
    pub rejected_connections: AtomicU64,
    /// Reads of a key that was there.
    pub hits: AtomicU64,
    /// Reads of a key that was not.
    pub misses: AtomicU64,
    /// Bytes read from clients.
    pub input_bytes: AtomicU64,
    /// Bytes written to clients.
    pub output_bytes: AtomicU64,
    /// Keys deleted because they expired.
    pub expired_keys: AtomicU64,
    /// Error replies.
    pub errors: AtomicU64,
    /// Writes whose outcome was not known in time.
    pub unknown_outcomes: AtomicU64,
    /// By place in the table.
    pub commands: Vec<CommandStats>,
    /// The slowest commands.
    pub slow: Mutex<SlowLog>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            connections: AtomicU64::new(0),
            rejected_connections: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            input_bytes: AtomicU64::new(0),
            output_bytes: AtomicU64::new(0),
            expired_keys: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            unknown_outcomes: AtomicU64::new(0),
            commands: COMMANDS.iter().map(|_| CommandStats::default()).collect(),
            slow: Mutex::default(),
        }
    }
}

impl Stats {
    /// Sets all counters to zero.
    pub fn reset(&self) {
        let counters = [
            &self.connections,
            &self.rejected_connections,
            &self.hits,
            &self.misses,
            &self.input_bytes,
            &self.output_bytes,
            &self.expired_keys,
            &self.errors,
            &self.unknown_outcomes,
        ];
        let of_commands = self
            .commands
            .iter()
            .flat_map(|stats| [&stats.calls, &stats.nanoseconds, &stats.rejected]);
        for counter in counters.into_iter().chain(of_commands) {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// How many commands were called.
    pub fn calls(&self) -> u64 {
        self.commands.iter().map(|stats| stats.calls.load(Ordering::Relaxed)).sum()
    }

    /// The log of slow commands.
    pub fn slow(&self) -> MutexGuard<'_, SlowLog> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One slow command.
#[derive(Clone, Debug)]
pub struct SlowCommand {
    /// Counted from 0 and never used again.
    pub id: u64,
    /// When, in seconds since 1970.
    pub time_s: u64,
    /// How long it took, in microseconds.
    pub microseconds: u64,
    /// Its arguments, shortened.
    pub arguments: Vec<Vec<u8>>,
    /// The client's address.
    pub address: String,
    /// The client's name.
    pub name: String,
}

/// The slow commands, newest first.
#[derive(Debug, Default)]
pub struct SlowLog {
    entries: VecDeque<SlowCommand>,
    next_id: u64,
}

/// How many arguments of a slow command are kept, and how many bytes of each: Redis' numbers.
const SLOW_ARGUMENTS_MAX: usize = 32;
const SLOW_ARGUMENT_LEN_MAX: usize = 128;

impl SlowLog {
    /// Adds a command and forgets the oldest beyond `len_max`.
    pub fn push(&mut self, mut command: SlowCommand, len_max: usize) {
        command.id = self.next_id;
        self.next_id += 1;
        self.entries.push_front(command);
        self.entries.truncate(len_max);
    }

    /// The newest first.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &SlowCommand> {
        self.entries.iter()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// Arguments as they are kept: the first ones, and the beginning of each.
    pub fn shorten<'a>(arguments: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
        let count = arguments.len();
        let kept = if count > SLOW_ARGUMENTS_MAX { SLOW_ARGUMENTS_MAX - 1 } else { count };
        let mut short: Vec<Vec<u8>> = arguments
            .take(kept)
            .map(|argument| {
                let rest = argument.len().saturating_sub(SLOW_ARGUMENT_LEN_MAX);
                let mut bytes = argument[..argument.len() - rest].to_vec();
                if rest > 0 {
                    bytes.extend_from_slice(format!("... ({rest} more bytes)").as_bytes());
                }
                bytes
            })
            .collect();
        if kept < count {
            short.push(format!("... ({} more arguments)", count - kept).into_bytes());
        }
        short
    }
}
