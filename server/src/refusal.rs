//! Why a command is not executed, in Redis' words.
//!
//! A [`Refusal`] is an answer like any other: the same on every replica, with nothing changed. It is
//! not an error of the server.

use std::borrow::Cow;
use std::fmt;

/// Why a command is not executed. Displayed with its code word, as it goes to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Options that do not fit together, or that do not exist.
    Syntax,
    /// Not a whole number of 64 bits.
    NotInteger,
    /// Not a floating point number.
    NotFloat,
    /// A result beyond 64 bits.
    Overflow,
    /// A result that is not finite.
    NanOrInfinity,
    /// A key that must exist does not.
    NoSuchKey,
    /// Too few or too many arguments; for the command of this name.
    Arity(String),
    /// An expiry that cannot be; for the command of this name.
    InvalidExpire(&'static str),
    /// No database has this number.
    DatabaseOutOfRange,
    /// A string would be too long.
    StringTooLong,
    /// A key is over the limit.
    KeyTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// All that a command writes at once is over the limit.
    CommandTooLarge,
    /// Any other reason, with its code word.
    Other(Cow<'static, str>),
}

impl Refusal {
    /// A reason that has no variant of its own, with its code word.
    pub const fn other(text: &'static str) -> Self {
        Refusal::Other(Cow::Borrowed(text))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => out.write_str("ERR syntax error"),
            Self::NotInteger => out.write_str("ERR value is not an integer or out of range"),
            Self::NotFloat => out.write_str("ERR value is not a valid float"),
            Self::Overflow => out.write_str("ERR increment or decrement would overflow"),
            Self::NanOrInfinity => out.write_str("ERR increment would produce NaN or Infinity"),
            Self::NoSuchKey => out.write_str("ERR no such key"),
            Self::Arity(name) => {
                write!(out, "ERR wrong number of arguments for '{name}' command")
            }
            Self::InvalidExpire(name) => write!(out, "ERR invalid expire time in '{name}' command"),
            Self::DatabaseOutOfRange => out.write_str("ERR DB index is out of range"),
            Self::StringTooLong => {
                out.write_str("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
            Self::KeyTooLong { len } => write!(
                out,
                "ERR a key of {len} bytes is over the limit of {} bytes",
                crate::key::USER_KEY_LEN_MAX
            ),
            Self::CommandTooLarge => write!(
                out,
                "ERR what the command writes is over the limit of {} bytes",
                strandline_engine::BATCH_LEN_MAX
            ),
            Self::Other(text) => out.write_str(text),
        }
    }
}

/// What ended a command early: a refusal, or an error of the store.
#[derive(Debug)]
pub enum Failure {
    /// An answer to the client.
    Refused(Refusal),
    /// The store cannot go on.
    Store(strandline_engine::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refused(refusal)
    }
}

impl From<strandline_engine::Error> for Failure {
    fn from(error: strandline_engine::Error) -> Self {
        Failure::Store(error)
    }
}
