//! What clients ask for: operations on registers, as commands in entries.
//!
//! A register is a key whose value is a number; 0 is a register that is not there. Values are unique
//! over a run, so that a read tells which write it saw. A value is followed by padding, so that logs
//! and memtables fill up.
//!
//! Every executed operation leaves a trace in the state, under its client and number: the answer. So
//! the state itself tells which writes were executed.

use strandline_engine::{EntryHeader, EntryKind};

/// What an operation does to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets it; to 0: deletes it.
    Put {
        /// Which register.
        key: u16,
        /// To what.
        value: u64,
    },
    /// Sets it if it is as expected.
    Exchange {
        /// Which register.
        key: u16,
        /// What it has to be.
        expected: u64,
        /// To what.
        value: u64,
    },
}

impl Action {
    /// Which register it is about.
    pub fn key(self) -> u16 {
        match self {
            Action::Put { key, .. } | Action::Exchange { key, .. } => key,
        }
    }
}

/// A write by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Whose it is.
    pub client: u64,
    /// The client's how manyth it is.
    pub number: u64,
    /// What it does.
    pub action: Action,
    /// How many bytes of padding a value has.
    pub padding: u16,
}

const LEN: usize = 37;

impl Operation {
    /// The payload of an entry.
    pub fn payload(&self, time_ms: u64) -> Vec<u8> {
        let header = EntryHeader { time_ms, ..EntryHeader::of_kind(EntryKind::COMMAND) };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&self.command());
        bytes
    }

    /// The command alone.
    pub fn command(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LEN);
        let (tag, expected, value) = match self.action {
            Action::Put { value, .. } => (1, 0, value),
            Action::Exchange { expected, value, .. } => (2, expected, value),
        };
        bytes.push(tag);
        bytes.extend_from_slice(&self.action.key().to_le_bytes());
        bytes.extend_from_slice(&self.padding.to_le_bytes());
        for word in [expected, value, self.client, self.number] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The operation that stands in a command; none if it is not one.
    pub fn decode(command: &[u8]) -> Option<Operation> {
        let bytes: &[u8; LEN] = command.try_into().ok()?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let (key, padding) = (half(1), half(3));
        let (expected, value, client, number) = (word(5), word(13), word(21), word(29));
        let action = match bytes[0] {
            1 if expected == 0 => Action::Put { key, value },
            2 => Action::Exchange { key, expected, value },
            _ => return None,
        };
        Some(Operation { client, number, action, padding })
    }

    /// The key in the state under which the answer is found.
    pub fn trace_key(&self) -> Vec<u8> {
        trace_key(self.client, self.number)
    }
}

/// The key in the state of a register.
pub fn register_key(key: u16) -> Vec<u8> {
    format!("register/{key:05}").into_bytes()
}

/// The key in the state under which the answer to a client's operation is found.
pub fn trace_key(client: u64, number: u64) -> Vec<u8> {
    format!("trace/{client:08}/{number:08}").into_bytes()
}

/// The bytes of a register: the number, and padding that depends on it.
pub fn register_value(value: u64, padding: u16) -> Vec<u8> {
    let mut bytes = value.to_le_bytes().to_vec();
    let low = value.to_le_bytes()[0];
    bytes.resize(8 + usize::from(padding), low);
    bytes
}

/// The number in the bytes of a register.
pub fn read_register(bytes: &[u8]) -> Option<u64> {
    let (word, padding) = bytes.split_first_chunk::<8>()?;
    padding.iter().all(|byte| *byte == word[0]).then(|| u64::from_le_bytes(*word))
}

/// What an executed operation answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done.
    Done,
    /// The register was not as expected but this; nothing was changed.
    Differs(u64),
}

impl Answer {
    /// As it stands in the state.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Answer::Done => vec![1],
            Answer::Differs(found) => {
                let mut bytes = vec![2];
                bytes.extend_from_slice(&found.to_le_bytes());
                bytes
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_engine::{Entry, Index};

    #[test]
    fn operations_are_decoded_as_they_were_encoded() {
        let actions = [
            Action::Put { key: 7, value: u64::MAX },
            Action::Exchange { key: 65535, expected: 3, value: 4 },
        ];
        for action in actions {
            let operation = Operation { client: 1 << 40, number: 9, action, padding: 300 };
            let payload = operation.payload(5);
            let entry = Entry::decode(Index(1), &payload).unwrap();
            assert_eq!(entry.header.time_ms, 5);
            assert_eq!(Operation::decode(entry.command), Some(operation));
            assert_eq!(Operation::decode(&entry.command[1..]), None);
        }
    }

    #[test]
    fn registers_are_read_as_they_were_written_and_damage_shows() {
        let mut bytes = register_value(0x1234, 5);
        assert_eq!(read_register(&bytes), Some(0x1234));
        bytes[10] ^= 1;
        assert_eq!(read_register(&bytes), None);
    }
}
