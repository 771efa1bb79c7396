//! What clients did and were told, in the order in which it happened.
//!
//! A call begins when its client first sends it and ends when the client learns the outcome. Between
//! the two it takes place, once, at a moment that the checker has to find. A write whose outcome is
//! never learnt may take place at any later time, or never.

use crate::operation::Action;

/// Place of a call in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub usize);

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The value of a register.
    Read {
        /// Which one.
        key: u16,
    },
    /// The value of a register, as it was no longer ago than the run's bound.
    Stale {
        /// Which one.
        key: u16,
    },
    /// A change.
    Write(Action),
}

impl Asked {
    /// Which register it is about.
    pub fn key(self) -> u16 {
        match self {
            Asked::Read { key } | Asked::Stale { key } => key,
            Asked::Write(action) => action.key(),
        }
    }
}

/// What came of it, as far as the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: it may have happened, or happen yet.
    Unknown,
    /// It was not done, and never will be.
    Nothing,
    /// The register has this value; 0 if it is not there.
    Found(u64),
    /// The write was executed.
    Done,
    /// The exchange was executed and found this value, not the one it expected.
    Differs(u64),
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Whose it is.
    pub client: u64,
    /// The client's how manyth operation it is; 0 for reads.
    pub number: u64,
    /// What was asked for.
    pub asked: Asked,
    /// When it began: the how manyth beginning or end of a call this is.
    pub began: u64,
    /// When the outcome was learnt.
    pub ended: Option<u64>,
    /// What the client was told.
    pub told: Told,
}

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    calls: Vec<Call>,
    /// Beginnings and ends so far.
    moment: u64,
}

impl History {
    /// A call begins.
    pub fn begin(&mut self, client: u64, number: u64, asked: Asked) -> CallId {
        self.moment += 1;
        let (began, ended, told) = (self.moment, None, Told::Unknown);
        self.calls.push(Call { client, number, asked, began, ended, told });
        CallId(self.calls.len() - 1)
    }

    /// Its client learns the outcome.
    pub fn end(&mut self, call: CallId, told: Told) {
        self.moment += 1;
        let moment = self.moment;
        let call = &mut self.calls[call.0];
        assert!(call.ended.is_none(), "a call ends once");
        (call.ended, call.told) = (Some(moment), told);
    }

    /// A call.
    pub fn call(&self, call: CallId) -> &Call {
        &self.calls[call.0]
    }

    /// All calls by their beginning.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }
}
