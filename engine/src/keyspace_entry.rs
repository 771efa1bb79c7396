//! The command of a KEYSPACE entry: create by name, or drop by number.
//!
//! ```text
//! 0     1          5
//! +-----+----------+------+
//! | tag | keyspace | name |
//! +-----+----------+------+
//! ```
//!
//! The tag is 1 to create (the number is 0: the engine gives it, alike on every replica) and 2 to drop
//! (the name is empty).

use crate::engine::Engine;
use crate::{ENTRY_HEADER_LEN, EntryHeader, EntryKind, Error, Index, KeyspaceId, Result};

const TAG_CREATE: u8 = 1;
const TAG_DROP: u8 = 2;

/// The longest name of a keyspace, in bytes.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// The entry that creates a keyspace, for whoever proposes entries.
///
/// # Errors
///
/// [`Error::InvalidOption`] if the name is empty or too long.
pub fn create(name: &str) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(Error::InvalidOption {
            reason: format!("a keyspace name of {} bytes: 1 to {NAME_LEN_MAX}", name.len()),
        });
    }
    Ok(encode(TAG_CREATE, KeyspaceId(0), name))
}

/// The entry that drops a keyspace, for whoever proposes entries.
pub fn drop(keyspace: KeyspaceId) -> Vec<u8> {
    encode(TAG_DROP, keyspace, "")
}

fn encode(tag: u8, keyspace: KeyspaceId, name: &str) -> Vec<u8> {
    let mut entry = Vec::with_capacity(ENTRY_HEADER_LEN + 5 + name.len());
    entry.extend_from_slice(&EntryHeader::of_kind(EntryKind::KEYSPACE).encode());
    entry.push(tag);
    entry.extend_from_slice(&keyspace.0.to_le_bytes());
    entry.extend_from_slice(name.as_bytes());
    entry
}

/// What a command says.
enum Decoded<'a> {
    Create(&'a str),
    Drop(KeyspaceId),
}

fn decode(command: &[u8]) -> Result<Decoded<'_>> {
    let malformed = |reason: &str| Error::Malformed {
        what: "keyspace entry",
        offset: 0,
        reason: reason.into(),
    };
    let Some((head, name)) = command.split_first_chunk::<5>() else {
        return Err(malformed("it is shorter than 5 bytes"));
    };
    let keyspace = KeyspaceId(u32::from_le_bytes([head[1], head[2], head[3], head[4]]));
    match head[0] {
        TAG_CREATE => {
            let name = std::str::from_utf8(name).map_err(|_| malformed("the name is no UTF-8"))?;
            match name.len() {
                1..=NAME_LEN_MAX => Ok(Decoded::Create(name)),
                _ => Err(malformed("the name has 1 to 255 bytes")),
            }
        }
        TAG_DROP => Ok(Decoded::Drop(keyspace)),
        _ => Err(malformed("its tag is neither 1 nor 2")),
    }
}

/// Whether the command can be executed.
pub(crate) fn check(command: &[u8]) -> Result<()> {
    decode(command).map(|_| ())
}

/// Executes the command.
pub(crate) fn apply(engine: &Engine, index: Index, command: &[u8]) -> Result<()> {
    match decode(command)? {
        Decoded::Create(name) => engine.create_keyspace(index, name).map(|_| ()),
        // Dropping what is not there any more is an answer, not an error: alike on every replica.
        Decoded::Drop(keyspace) => match engine.drop_keyspace(index, keyspace) {
            Err(Error::UnknownKeyspace { .. }) => Ok(()),
            dropped => dropped,
        },
    }
}
