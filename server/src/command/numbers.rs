//! Numbers in arguments.

use crate::refusal::Refusal;
use crate::resp::parse_integer;

/// A whole number of 64 bits.
pub(super) fn integer(bytes: &[u8]) -> Result<i64, Refusal> {
    parse_integer(bytes).ok_or(Refusal::NotInteger)
}

/// A database's number.
pub(super) fn database(bytes: &[u8]) -> Result<usize, Refusal> {
    usize::try_from(integer(bytes)?)
        .ok()
        .filter(|number| *number < crate::databases::DATABASE_COUNT)
        .ok_or(Refusal::DatabaseOutOfRange)
}
