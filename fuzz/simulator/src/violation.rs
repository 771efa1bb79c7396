//! What a checker finds.

use std::fmt;

/// Who finds something. Each canary names the one that must catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Checker {
    /// Same index, same commands, same state: on all replicas, in all their lives.
    Agreement,
    /// One leader for each term.
    Election,
    /// Reads and writes of each register fit into one order that time allows.
    Linearizability,
    /// What a replica answers alone is no older than it may be.
    Staleness,
    /// What was acknowledged is there.
    Durability,
    /// What was refused, or lost its place, is not there.
    Refusal,
    /// No request is executed twice.
    ExactlyOnce,
    /// When all faults are over everything goes on in bounded time.
    Liveness,
    /// A replica whose disk was not damaged opens.
    Opening,
    /// A replica whose disk has lost everything is not let in under its old identity.
    Identity,
    /// Assertions within the code under test.
    Panic,
    /// The same seed, the same run.
    Repetition,
}

impl Checker {
    /// As it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Checker::Agreement => "agreement",
            Checker::Election => "election",
            Checker::Linearizability => "linearizability",
            Checker::Staleness => "staleness",
            Checker::Durability => "durability",
            Checker::Refusal => "refusal",
            Checker::ExactlyOnce => "exactly-once",
            Checker::Liveness => "liveness",
            Checker::Opening => "opening",
            Checker::Identity => "identity",
            Checker::Panic => "panic",
            Checker::Repetition => "repetition",
        }
    }
}

impl fmt::Display for Checker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub checker: Checker,
    /// What is wrong.
    pub reason: String,
}

impl Violation {
    /// A promise that was not kept.
    pub fn new(checker: Checker, reason: impl Into<String>) -> Self {
        Self { checker, reason: reason.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.checker, self.reason)
    }
}

/// What is not a violation.
pub type Verdict<T = ()> = std::result::Result<T, Violation>;
