//! Entries of the log: the engine's header and batches, the server's commands.
//!
//! What is accepted is what would have been written. A store that meets any entry in its log says
//! what is wrong with it: it does not panic, and opening it again ends the same way.

use std::path::Path;
use std::sync::Arc;

use strandline_engine::{
    Batch, Changes, Db, DbOptions, Durability, ENTRY_HEADER_LEN, Entry, EntryKind, Index, Machine,
    Options, Result,
};
use strandline_server::entry as command;
use strandline_wal::disk::SimulatedDisk;

use crate::Choices;

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
            store(payload);
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
    let header = strandline_engine::EntryHeader::of_kind(EntryKind::COMMAND);
    command::encode(&mut again, &header, opcode, args.from(1));
    assert_eq!(&again[ENTRY_HEADER_LEN..], bytes, "a command as written");
}

fn encode_command(choices: &mut Choices<'_>) {
    let header = strandline_engine::EntryHeader {
        kind: EntryKind(choices.any()),
        database: choices.any(),
        slot: choices.any(),
        time_ms: choices.any(),
        seed: choices.any(),
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

/// A machine that takes every command for a batch: what the engine does not know is its own.
struct Anything;

impl Machine for Anything {
    fn apply(&mut self, entry: &Entry<'_>, changes: &mut Changes<'_>) -> Result<()> {
        changes.put_batch(entry.command)
    }
}

/// A store that finds the payload in its log.
fn store(payload: &[u8]) {
    let disk = SimulatedDisk::new(1);
    let open =
        || Db::open_with(Arc::clone(&disk) as _, Path::new("/s"), options(), Box::new(Anything));
    let db = open().expect("a new store opens");
    let is_applied = db
        .append(&[payload], Durability::Disk)
        .and_then(|index| db.wait(index).map(|()| index))
        .is_ok_and(|index| db.applied() == index);
    let digest = db.digest();
    let _ = db.close();
    drop(db);
    match open() {
        Ok(db) => {
            assert!(is_applied, "what could not be applied is not skipped");
            let digest = digest.expect("nothing is damaged");
            assert_eq!(db.digest().expect("nothing is damaged"), digest);
        }
        Err(_) => assert!(!is_applied, "what was applied is applied again"),
    }
}

fn options() -> DbOptions {
    DbOptions {
        wal: strandline_wal::Options {
            segment_size: 64 << 10,
            spares: 1,
            new_log_id: 7,
            ..strandline_wal::Options::default()
        },
        engine: Options { block_cache_size: 1 << 20, ..Options::default() },
        rung: None,
        background: false,
    }
}
