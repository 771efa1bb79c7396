//! Goal: tables written by earlier programs stay readable, and this program still writes the same.
//!
//! Method: the committed files of each format version are opened, read, and dumped; the dump is
//! compared with the committed one. Raw tables are also written anew and compared byte for byte.
//! Compressed ones are not: another version of the compressor may well make other bytes.
//!
//! `cargo test -p strandline-engine table::golden_tests::write_missing -- --ignored` writes files
//! that are not there yet. It never writes over one: a changed dump needs a new format version.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;

use super::model_tests::{disk_with, empty_disk};
use super::{
    BlockCache, Compression, Table, TableId, TableMeta, TableOptions, TableWriter, file_name,
    inspect,
};
use crate::Index;
use crate::KeyspaceId;
use crate::key::{Cell, CellKind, full_key};

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/format/v1");

const GOLDEN: [(TableId, Compression, bool); 3] = [
    (TableId(1), Compression::None, true),
    (TableId(2), Compression::None, false),
    (TableId(3), Compression::Lz4, true),
];

fn path_of(id: TableId) -> std::path::PathBuf {
    Path::new("/t").join(file_name(id))
}

fn cells() -> Vec<(Vec<u8>, Index, CellKind, Vec<u8>)> {
    let mut cells = Vec::new();
    for number in 0..12_u64 {
        let key = full_key(KeyspaceId(1), format!("tide/{:03}", number * 7).as_bytes());
        if number % 4 == 1 {
            cells.push((key.clone(), Index(300 + number), CellKind::Delete, Vec::new()));
        }
        let value = format!("high water {number}, low water {number}").into_bytes();
        cells.push((key, Index(100 + number), CellKind::Put, value));
    }
    let key = full_key(KeyspaceId(2), &[0, 0xff]);
    cells.push((key.clone(), Index(u64::MAX), CellKind::Pointer, (0..24).collect()));
    cells.push((key, Index(1), CellKind::Put, vec![b'x'; 400]));
    cells.push((full_key(KeyspaceId(2), b"empty"), Index(2), CellKind::Put, Vec::new()));
    cells
}

fn written(id: TableId, compression: Compression, filters: bool) -> (TableMeta, Vec<u8>) {
    let simulated = empty_disk();
    let disk: Arc<dyn Disk> = Arc::clone(&simulated) as Arc<dyn Disk>;
    let options = TableOptions { block_size: 256, compression, filters, filter_bits_per_key: 10 };
    let mut writer = TableWriter::create(&disk, Path::new("/t"), id, &options).unwrap();
    for (key, index, kind, value) in &cells() {
        writer.add(Cell { key, index: *index, kind: *kind, value }).unwrap();
    }
    let meta = writer.finish().unwrap();
    (meta, simulated.visible_content(&path_of(id)).unwrap())
}

fn dumped(id: TableId, bytes: Vec<u8>) -> (Arc<dyn Disk>, String) {
    let disk = disk_with(&path_of(id), &bytes);
    let text = inspect(&disk, &path_of(id)).unwrap();
    (disk, text)
}

#[test]
fn committed_tables_are_read_and_raw_ones_written_alike() {
    for (id, compression, filters) in GOLDEN {
        let path = Path::new(DIR).join(file_name(id));
        let bytes = std::fs::read(&path).unwrap();
        let (mut meta, own) = written(id, compression, filters);
        if compression == Compression::None {
            assert!(own == bytes, "{} is written otherwise now", path.display());
        }
        let (disk, text) = dumped(id, bytes.clone());
        assert_eq!(text, std::fs::read_to_string(path.with_extension("txt")).unwrap());
        meta.size = u64::try_from(bytes.len()).unwrap();
        let table = Table::open(&disk, Path::new("/t"), meta, BlockCache::new(1 << 20)).unwrap();
        assert_eq!(table.verify().unwrap(), u64::try_from(cells().len()).unwrap());
        for (key, index, kind, value) in cells() {
            let found = table.get(&key, index).unwrap().unwrap();
            assert_eq!((found.index, found.kind), (index, kind));
            assert_eq!(*found.value, *value);
        }
    }
}

#[test]
#[ignore = "writes golden files that are missing"]
fn write_missing() {
    for (id, compression, filters) in GOLDEN {
        let path = Path::new(DIR).join(file_name(id));
        if !path.exists() {
            let (_, bytes) = written(id, compression, filters);
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(path.with_extension("txt"), dumped(id, bytes).1).unwrap();
        }
    }
}
