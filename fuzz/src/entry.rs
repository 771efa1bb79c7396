//! Entries of the log: the engine's header and batches, the server's commands.
//!
//! What is accepted is what would have been written. A store that meets any entry in its log says
//! what is wrong with it: it does not panic, and opening it again ends the same way.

use std::sync::{Arc, OnceLock};

use strandline_engine::{
    Batch, Durability, ENTRY_HEADER_LEN, Entry, EntryHeader, EntryKind, Index, Result,
};
use strandline_server::entry as command;
use strandline_wal::disk::SimulatedDisk;

use crate::{Choices, store};

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    match choices.below(4) {
        0 => batch(choices.rest()),
        1 => decode_command(choices.rest()),
        2 => encode_command(&mut choices),
        _ => {
            let payload = choices.rest();
            if let Ok(entry) = Entry::decode(Index(1), payload) {
                assert_eq!(
                    entry.header.encode(),
                    payload[..ENTRY_HEADER_LEN],
                    "a header as written"
                );
                batch(entry.command);
                decode_command(entry.command);
            }
            replayed(payload);
        }
    }
}

fn batch(bytes: &[u8]) {
    let ops: Result<Vec<_>> = Batch::decode(bytes).collect();
    let mut loaded = Batch::new();
    assert_eq!(loaded.load(bytes).is_ok(), ops.is_ok(), "loading is decoding");
    let Ok(ops) = ops else {
        assert!(loaded.is_empty(), "nothing is taken of what is malformed");
        return;
    };
    let mut made = Batch::new();
    for op in &ops {
        match op.value {
            Some(value) => made.put(op.keyspace, op.key, value),
            None => made.delete(op.keyspace, op.key),
        }
        .expect("what is decoded is within the limits");
        let value = op.value.unwrap_or_default();
        assert_eq!(&bytes[op.value_offset..op.value_offset + value.len()], value);
    }
    assert_eq!((made.encoded(), made.len()), (bytes, loaded.len()), "a batch as written");
    assert!(loaded.ops().eq(ops));
}

fn decode_command(bytes: &[u8]) {
    let mut spans = Vec::new();
    let Ok(opcode) = command::decode(bytes, &mut spans) else { return };
    let args = command::args(bytes, &spans);
    let mut again = Vec::new();
    let header = EntryHeader::of_kind(EntryKind::COMMAND);
    command::encode(&mut again, &header, opcode, args.from(1));
    assert_eq!(&again[ENTRY_HEADER_LEN..], bytes, "a command as written");
}

fn encode_command(choices: &mut Choices<'_>) {
    let header = EntryHeader {
        kind: EntryKind(choices.any()),
        database: choices.any(),
        slot: choices.any(),
        time_ms: choices.any(),
        seed: choices.any(),
        term: choices.any(),
    };
    let opcode: u16 = choices.any();
    let mut arguments: Vec<&[u8]> = Vec::new();
    while !choices.is_empty() {
        arguments.push(choices.bytes(20));
    }
    let mut bytes = Vec::new();
    command::encode(&mut bytes, &header, opcode, arguments.iter().copied());
    let entry = Entry::decode(Index(1), &bytes).expect("an entry that was just encoded");
    assert_eq!(entry.header, header);
    let mut spans = Vec::new();
    let found = command::decode(entry.command, &mut spans).expect("a command just encoded");
    assert_eq!(found, opcode);
    assert!(command::args(entry.command, &spans).from(1).eq(arguments));
}

/// A store that finds the payload in its log.
fn replayed(payload: &[u8]) {
    static NEW: OnceLock<Arc<SimulatedDisk>> = OnceLock::new();
    let new = NEW.get_or_init(|| {
        let disk = SimulatedDisk::new(1);
        drop(store::open(&disk).expect("a new store opens"));
        disk
    });
    let disk = new.fork(1);
    let db = store::open(&disk).expect("a new store opens");
    let is_applied = db
        .append(&[payload], Durability::Disk)
        .and_then(|index| db.wait(index).map(|()| index))
        .is_ok_and(|index| db.applied() == index);
    let digest = db.digest();
    let _ = db.close();
    drop(db);
    match store::open(&disk) {
        Ok(db) => {
            assert!(is_applied, "what could not be applied is not skipped");
            let digest = digest.expect("nothing is damaged");
            assert_eq!(db.digest().expect("nothing is damaged"), digest);
        }
        Err(_) => assert!(!is_applied, "what was applied is applied again"),
    }
}
