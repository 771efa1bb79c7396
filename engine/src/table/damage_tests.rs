//! Goal: whatever happens to a table's bytes, a read gives what was written or an error.
//!
//! Method: a small table of several blocks; every byte changed in turn, every length cut in turn,
//! blocks swapped, files under other names. Then everything is asked of what is left.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;

use super::footer::HEADER_LEN;
use super::model_tests::{Model, Random, disk_with, empty_disk, write};
use super::trailer::{Extent, TRAILER_LEN};
use super::{BlockCache, Compression, Table, TableId, TableMeta, TableOptions, file_name, inspect};
use crate::iter::Cursor;
use crate::key::CellKind;
use crate::{Error, Index, Result};

fn path() -> std::path::PathBuf {
    Path::new("/t").join(file_name(TableId(5)))
}

fn small_table(options: &TableOptions) -> (Model, TableMeta, Vec<u8>) {
    let mut model = Model::new();
    let mut random = Random::new(3);
    for key in 0..12_u64 {
        for version in 0..1 + random.below(3) {
            let kind = if random.below(4) == 0 { CellKind::Delete } else { CellKind::Put };
            let len = if kind == CellKind::Put { random.below(40) } else { 0 };
            let value = vec![u8::try_from(key).unwrap(); usize::try_from(len).unwrap()];
            let key = format!("\0\0\0\x01key{}", key * 5).into_bytes();
            model.insert((key, Reverse(Index(10 + version))), (kind, value));
        }
    }
    let simulated = empty_disk();
    let disk: Arc<dyn Disk> = Arc::clone(&simulated) as Arc<dyn Disk>;
    let meta = write(&disk, &model, options);
    (model, meta, simulated.visible_content(&path()).unwrap())
}

fn opened(bytes: Vec<u8>, meta: &TableMeta) -> (Arc<dyn Disk>, Result<Arc<Table>>) {
    let disk = disk_with(&path(), &bytes);
    let table = Table::open(&disk, Path::new("/t"), meta.clone(), BlockCache::new(1 << 20));
    (disk, table)
}

/// Asks everything; returns whether an error was met. A wrong answer fails the test.
fn ask_everything(bytes: Vec<u8>, meta: &TableMeta, model: &Model) -> bool {
    let (disk, table) = opened(bytes, meta);
    // Whatever it says, it must not panic.
    let _ = inspect(&disk, &path());
    let Ok(table) = table else { return true };
    let mut refused = table.verify().is_err();
    for ((key, Reverse(index)), (kind, value)) in model {
        match table.get(key, *index) {
            Ok(found) => {
                let found = found.expect("a key that is there was not found");
                let answer = (found.index, found.kind, found.value.to_vec());
                assert_eq!(answer, (*index, *kind, value.clone()));
            }
            Err(_) => refused = true,
        }
        let mut other = key.clone();
        other.push(b'+');
        match table.get(&other, *index) {
            Ok(found) => assert!(found.is_none(), "a key that is not there was found"),
            Err(_) => refused = true,
        }
    }
    let mut cursor = table.cursor();
    let mut step = cursor.first();
    for ((key, Reverse(index)), (kind, value)) in model {
        if step.is_err() {
            assert!(cursor.cell().is_none(), "after an error the cursor is off the end");
            return true;
        }
        let cell = cursor.cell().expect("a pass over the cells ended early");
        let answer = (cell.key, cell.index, cell.kind, cell.value);
        assert_eq!(answer, (key.as_slice(), *index, *kind, value.as_slice()));
        step = cursor.next();
    }
    assert!(step.is_err() || cursor.cell().is_none());
    refused
}

fn all_options() -> impl Iterator<Item = TableOptions> {
    [Compression::None, Compression::Lz4].into_iter().flat_map(|compression| {
        [true, false].map(|filters| TableOptions {
            block_size: 150,
            compression,
            filters,
            ..TableOptions::default()
        })
    })
}

#[test]
fn every_changed_byte_is_noticed() {
    for options in all_options() {
        let (model, meta, bytes) = small_table(&options);
        assert!(!ask_everything(bytes.clone(), &meta, &model), "undamaged");
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                let noticed = ask_everything(damaged, &meta, &model);
                assert!(noticed, "byte {at} of {} ^ {change:#x}, {options:?}", bytes.len());
            }
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_noticed() {
    for options in all_options() {
        let (model, meta, bytes) = small_table(&options);
        for len in 0..bytes.len() {
            assert!(ask_everything(bytes[..len].to_vec(), &meta, &model), "cut at {len}");
            // What a file system may leave: the length without the data.
            let mut zeroed = bytes[..len].to_vec();
            zeroed.resize(bytes.len(), 0);
            if zeroed != bytes {
                assert!(ask_everything(zeroed, &meta, &model), "zeros from {len}");
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(ask_everything(longer, &meta, &model));
    }
}

/// The blocks of a table, as found by their checksums.
fn blocks(bytes: &[u8]) -> Vec<Extent> {
    let mut offset = u64::try_from(HEADER_LEN).unwrap();
    let mut found = Vec::new();
    while let Some(extent) = super::trailer::find(bytes, TableId(5), offset) {
        offset = extent.end().unwrap();
        found.push(extent);
    }
    found
}

#[test]
fn a_block_in_a_wrong_place_is_refused() {
    let mut model = Model::new();
    for key in 0..40_u8 {
        let cell = (CellKind::Put, vec![key; 50]);
        model.insert((vec![0, 0, 0, 1, key], Reverse(Index(7))), cell);
    }
    let options =
        TableOptions { block_size: 300, compression: Compression::None, ..TableOptions::default() };
    let simulated = empty_disk();
    let disk: Arc<dyn Disk> = Arc::clone(&simulated) as Arc<dyn Disk>;
    let meta = write(&disk, &model, &options);
    let bytes = simulated.visible_content(&path()).unwrap();
    let blocks = blocks(&bytes);
    let (first, second) = (blocks[1].range().unwrap(), blocks[2].range().unwrap());
    assert_eq!(first.len(), second.len(), "the test needs two blocks of one length");
    let mut swapped = bytes.clone();
    let len = first.len() + TRAILER_LEN;
    swapped.copy_within(second.start..second.start + len, first.start);
    swapped[second.start..second.start + len]
        .copy_from_slice(&bytes[first.start..first.start + len]);
    let (_, table) = opened(swapped, &meta);
    let table = table.unwrap();
    assert!(matches!(
        table.verify(),
        Err(Error::Wal(strandline_wal::Error::Corruption { offset, .. }))
            if offset == blocks[1].offset
    ));
    assert!(!ask_everything(bytes, &meta, &model));
}

#[test]
fn nonsense_under_right_checksums_is_no_panic() {
    // A checksum hides the decoders from the tests above. Here every byte of every section is
    // changed and the checksum made right again, as a writer's bug might: answers may then be wrong.
    for options in all_options() {
        let (model, meta, bytes) = small_table(&options);
        for extent in blocks(&bytes) {
            let range = extent.range().unwrap();
            for at in range.start..range.end + 8 {
                for change in [0x01, 0x10, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= change;
                    super::trailer::reseal(&mut damaged, TableId(5), extent);
                    let (disk, table) = opened(damaged, &meta);
                    let _ = inspect(&disk, &path());
                    let Ok(table) = table else { continue };
                    let _ = table.verify();
                    let (mut forward, mut backward) = (table.cursor(), table.cursor());
                    for (key, Reverse(index)) in model.keys() {
                        let _ = table.get(key, *index);
                        let _ = forward.seek(key, *index);
                        let _ = backward.seek_before(key, *index);
                    }
                    let _ = (forward.first(), backward.last());
                    for _ in 0..model.len() {
                        let _ = (forward.next(), backward.prev());
                        let _ = (forward.cell(), backward.cell().map(|_| backward.value()));
                    }
                }
            }
        }
    }
}

#[test]
fn another_table_under_this_name_is_foreign() {
    let (_, meta, bytes) = small_table(&TableOptions::default());
    let disk = disk_with(&Path::new("/t").join(file_name(TableId(6))), &bytes);
    let meta = TableMeta { id: TableId(6), written_as: TableId(6), ..meta };
    let refused = Table::open(&disk, Path::new("/t"), meta, BlockCache::new(0));
    assert!(matches!(refused, Err(Error::Wal(strandline_wal::Error::Foreign { .. }))));
}

#[test]
fn a_table_that_is_not_the_manifests_is_refused() {
    let (_, meta, bytes) = small_table(&TableOptions::default());
    let others = [
        TableMeta { cells: meta.cells + 1, ..meta.clone() },
        TableMeta { index_max: Index(99), ..meta.clone() },
        TableMeta { smallest: b"\0".to_vec(), ..meta.clone() },
        TableMeta { size: meta.size - 1, ..meta },
    ];
    for other in others {
        let (_, table) = opened(bytes.clone(), &other);
        assert!(matches!(table, Err(Error::Wal(strandline_wal::Error::Corruption { .. }))));
    }
}

#[test]
fn a_table_without_its_end_still_shows_its_cells() {
    for options in all_options() {
        let (model, meta, bytes) = small_table(&options);
        let (disk, _) = opened(bytes[..bytes.len() - 1].to_vec(), &meta);
        let text = inspect(&disk, &path()).unwrap();
        assert!(text.contains("DAMAGED"), "{text}");
        assert!(text.contains(&format!("{} cells read", model.len())), "{text}");
    }
}
