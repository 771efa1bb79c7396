//! The inputs that a corpus begins with: valid files, and programs that do something of everything.

use strandline_engine::{Batch, EntryHeader, EntryKind, KeyspaceId};
use strandline_server::entry as command;
use strandline_wal::Lsn;
use strandline_wal::disk::simulated::Random;
use strandline_wal::frame::GroupHeader;
use strandline_wal::record::{Kind, encode_header, encode_in_parts};

/// The first inputs of a target.
///
/// # Panics
///
/// If there is no such target.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "record" => records(),
        "request" => requests(),
        "entry" => entries(),
        "segment" => segments(),
        "table" => tables(),
        "manifest" => manifests(),
        "log_model" | "store_model" => programs(24, 400),
        other => panic!("no target {other}"),
    }
}

/// Inputs of a target whose inputs are programs: noise is as good a program as any.
fn programs(count: usize, len: usize) -> Vec<Vec<u8>> {
    let program = |number: usize| {
        let seed = u64::try_from(number).expect("a small number");
        let mut input = vec![0; len * (number + 1) / count];
        Random::new(seed).fill(&mut input);
        input
    };
    (0..count).map(program).collect()
}

fn after(choices: &[u8], rest: &[u8]) -> Vec<u8> {
    [choices, rest].concat()
}

pub(crate) fn record(payload: &[u8]) -> Vec<u8> {
    after(&encode_header(Kind::ENTRY, payload), payload)
}

pub(crate) fn record_in_parts(payload: &[u8]) -> Vec<u8> {
    let (header, table) = encode_in_parts(Kind::ENTRY, payload);
    [&header, payload, &table].concat()
}

fn records() -> Vec<Vec<u8>> {
    let body = [record(b"first"), record(b""), record(&[7; 40])].concat();
    let header = GroupHeader {
        flags: 0,
        incarnation: 1,
        offset: 4096,
        first: Lsn(1),
        count: 3,
        body_len: u32::try_from(body.len()).expect("a short body"),
        durable: Lsn(0),
        chain: 0,
        body_crc: crc32fast::hash(&body),
    };
    let log_id = 7_u64;
    let group = [&log_id.to_le_bytes()[..], &header.encode(log_id), &body].concat();
    let mut segment = b"SLSG\x01\0\x02\0".to_vec();
    for word in [log_id, 1, 1, 0, 65536, 0, 0] {
        segment.extend_from_slice(&word.to_le_bytes());
    }
    let first_group = |file: Vec<u8>| {
        let len = u32::from_le_bytes(*file[4096 + 36..].first_chunk().expect("a whole segment"));
        let end = 4096 + 64 + usize::try_from(len).expect("a short body");
        after(&log_id.to_le_bytes(), &file[4096..end])
    };
    let compressed = first_group(crate::segment::compressed().first_segment());
    let encrypted = first_group(crate::segment::encrypted().first_segment());
    vec![
        after(&[0, 0], &body),
        after(&[0, 1], &body),
        after(&[1, 0], &group),
        after(&[1, 1], &group),
        after(&[2, 1], &segment),
        after(&[1, 0], &compressed),
        after(&[1, 1], &compressed),
        after(&[0, 1], &[record_in_parts(&[7; 70_000]), record(b"behind it")].concat()),
        after(&[1, 0], &encrypted),
        after(&[1, 1], &encrypted),
    ]
}

/// A short segment as it stands, one with a footer, and programs that damage the good logs.
fn segments() -> Vec<Vec<u8>> {
    let log = crate::segment::short();
    let file = log.first_segment();
    let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let mut inputs = vec![after(&[0, 0], &file[..end]), after(&[0, 1], &file[..end.min(4600)])];
    inputs.extend(programs(12, 60));
    let sealed = crate::segment::truncated().first_segment();
    inputs.extend([after(&[0, 0], &sealed), after(&[0, 1], &sealed)]);
    let compressed = crate::segment::compressed().first_segment();
    let end = compressed.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    inputs.extend([after(&[0, 0], &compressed[..end]), after(&[0, 1], &compressed[..end])]);
    // The last two of the good logs are the compressed one and the encrypted one.
    inputs.extend(programs(6, 60).into_iter().map(|program| after(&[5], &program)));
    let encrypted = crate::segment::encrypted().first_segment();
    let end = encrypted.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    inputs.extend([after(&[0, 0], &encrypted[..end]), after(&[0, 1], &encrypted[..end])]);
    inputs.extend(programs(6, 60).into_iter().map(|program| after(&[6], &program)));
    inputs
}

/// A table as it stands, and programs that make and damage one.
fn tables() -> Vec<Vec<u8>> {
    let file = crate::manifest::sample(".table");
    let mut inputs = vec![after(&[1, 0], &file), after(&[1, 1], &file)];
    inputs.extend(programs(16, 700));
    inputs
}

/// A manifest as it stands, and programs that damage a store.
fn manifests() -> Vec<Vec<u8>> {
    let file = crate::manifest::sample("MANIFEST-");
    let mut inputs = vec![after(&[0, 0], &file), after(&[0, 1], &file)];
    inputs.extend(programs(12, 60));
    inputs
}

fn requests() -> Vec<Vec<u8>> {
    let streams: [&[u8]; 6] = [
        b"*2\r\n$4\r\nECHO\r\n$5\r\na\r\nbc\r\n*0\r\nPING\r\n\r\n*-1\r\nset \"a b\" ''\n",
        b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$11\r\nhello world\r\n*1\r\n$4\r\nPING\r\n",
        b"set \"\\x41\\n\\\"q\" 'it\\'s' '\\n' ab\"cd\"\r\n",
        b"*3000000000\r\n",
        b"*1\r\n$16385\r\n",
        b"*1\r\n$-1\r\n",
    ];
    let choices: [&[u8]; 3] =
        [&[0, 3, 9, 2, 5, 0, 0], &[1, 0, 1, 1, 8, 0, 0], &[2, 4, 4, 4, 4, 0, 0]];
    let one_each = streams.iter().zip(choices.iter().cycle());
    let mut inputs: Vec<_> = one_each.map(|(stream, choices)| after(choices, stream)).collect();
    inputs.push(after(&[0, 1, 1, 1, 1, 1, 0xff, 0xff, 0, 2], b"get x\n"));
    inputs
}

fn entries() -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    let keyspace = KeyspaceId::DEFAULT;
    batch.put(keyspace, b"key", b"value").expect("within the limits");
    batch.delete(keyspace, b"other").expect("within the limits");
    let mut set = Vec::new();
    let header = EntryHeader::of_kind(EntryKind::COMMAND);
    command::encode(&mut set, &header, 1, [&b"key"[..], b"", b"value"].into_iter());
    let create = after(&EntryHeader::of_kind(EntryKind::KEYSPACE).encode(), b"\x01\0\0\0\0name");
    let drop = after(&EntryHeader::of_kind(EntryKind::KEYSPACE).encode(), b"\x02\x01\0\0\0");
    vec![
        after(&[0], batch.encoded()),
        after(&[1], &set[strandline_engine::ENTRY_HEADER_LEN..]),
        after(
            &[2],
            &[16, 1, 0, 2, 0, 9, 9, 9, 9, 9, 9, 9, 9, 1, 1, 1, 1, 1, 1, 1, 1, 7, 0, 3, 97, 98],
        ),
        after(&[3], batch.as_entry()),
        after(&[3], &set),
        after(&[3], &create),
        after(&[3], &drop),
        after(&[3], &EntryHeader::of_kind(EntryKind::NOOP).encode()),
    ]
}
