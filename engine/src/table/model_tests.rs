//! Goal: a table answers every question as a `BTreeMap` with the same cells does.
//!
//! Method: random cells by seed (few distinct beginnings so that keys share much; several versions,
//! tombstones, pointers; long keys; values from nothing to several blocks), written with random
//! options, then random lookups and random cursor moves against the model. `STRANDLINE_SEED` replays
//! one seed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::simulated::SimulatedDisk;
use strandline_wal::disk::{Disk, OpenMode, RealDisk};

use super::{
    BlockCache, Compression, Table, TableCursor, TableId, TableMeta, TableOptions, TableWriter,
    file_name, inspect,
};
use crate::Index;
use crate::iter::Cursor;
use crate::key::{Cell, CellKind};

/// Cells in the engine's order.
pub(super) type Model = BTreeMap<(Vec<u8>, Reverse<Index>), (CellKind, Vec<u8>)>;

/// A generator of numbers that only depends on its seed (an xorshift with a multiplied output).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound
    }
    fn below_usize(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(u64::try_from(bound).unwrap())).unwrap()
    }
    fn byte(&mut self, bound: u64) -> u8 {
        u8::try_from(self.below(bound)).unwrap()
    }
    fn key(&mut self) -> Vec<u8> {
        let len = match self.below(40) {
            0 => self.below_usize(3_000),
            1 => 0,
            _ => self.below_usize(12),
        };
        let mut key = b"\0\0\0\x01user".to_vec();
        key.extend((0..len).map(|_| b"ab\xff"[self.below_usize(3)]));
        key
    }
    fn value(&mut self) -> Vec<u8> {
        let len = match self.below(30) {
            0 => self.below_usize(20_000),
            1..5 => 0,
            _ => self.below_usize(100),
        };
        let letters = if self.below(2) == 0 { 256 } else { 3 };
        (0..len).map(|_| self.byte(letters)).collect()
    }
    pub(super) fn model(&mut self, cells: u64) -> Model {
        let mut model = Model::new();
        while u64::try_from(model.len()).unwrap() < cells {
            let key = self.key();
            let versions =
                if self.below(20) == 0 { 1 + self.below(200) } else { 1 + self.below(3) };
            for _ in 0..versions {
                let index = match self.below(50) {
                    0 => Index(u64::MAX - self.below(3)),
                    _ => Index(self.below(1_000)),
                };
                let cell = match self.below(10) {
                    0..3 => (CellKind::Delete, Vec::new()),
                    3 => (CellKind::Pointer, vec![7; 24]),
                    _ => (CellKind::Put, self.value()),
                };
                model.insert((key.clone(), Reverse(index)), cell);
            }
        }
        model
    }
    fn options(&mut self) -> TableOptions {
        TableOptions {
            block_size: [1, 64, 512, 4096][self.below_usize(4)],
            compression: [Compression::None, Compression::Lz4][self.below_usize(2)],
            filters: self.below(4) > 0,
            ..TableOptions::default()
        }
    }
}

/// A disk with nothing but the directory `/t`.
pub(super) fn empty_disk() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(1);
    disk.create_dir_all(Path::new("/t")).unwrap();
    disk
}

/// A disk with one file in `/t`.
pub(super) fn disk_with(path: &Path, bytes: &[u8]) -> Arc<dyn Disk> {
    let disk = empty_disk();
    disk.open(path, OpenMode::Create).unwrap().write_at(bytes, 0).unwrap();
    disk
}

/// Writes the model's cells as table 5 in `/t`.
pub(super) fn write(disk: &Arc<dyn Disk>, model: &Model, options: &TableOptions) -> TableMeta {
    let mut writer = TableWriter::create(disk, Path::new("/t"), TableId(5), options).unwrap();
    for ((key, Reverse(index)), (kind, value)) in model {
        writer.add(Cell { key, index: *index, kind: *kind, value }).unwrap();
    }
    let estimate = writer.size_estimate();
    let meta = writer.finish().unwrap();
    assert!(estimate.abs_diff(meta.size) < 8_000 + meta.size / 4, "{estimate} for {}", meta.size);
    meta
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("STRANDLINE_SEED").ok().map(|seed| seed.parse().unwrap());
    let range = one.map_or(1..count + 1, |seed: u64| seed..seed + 1);
    range.inspect(|seed| println!("STRANDLINE_SEED={seed}"))
}

fn table_of(random: &mut Random, model: &Model) -> Arc<Table> {
    let disk: Arc<dyn Disk> = empty_disk();
    let options = random.options();
    println!("{} cells, {options:?}", model.len());
    let meta = write(&disk, model, &options);
    let cache = BlockCache::new([0, 10_000, 10 << 20][random.below_usize(3)]);
    Table::open(&disk, Path::new("/t"), meta, cache).unwrap()
}

#[test]
fn lookups_agree_with_a_map() {
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let cells = 1 + random.below(600);
        let model = random.model(cells);
        let table = table_of(&mut random, &model);
        assert_eq!(table.verify().unwrap(), u64::try_from(model.len()).unwrap());
        for round in 0..2_000 {
            let key = match round % 2 {
                0 => random.key(),
                _ => model.keys().nth(random.below_usize(model.len())).unwrap().0.clone(),
            };
            let at = Index([random.below(1_010), u64::MAX][random.below_usize(2)]);
            let found = table.get(&key, at).unwrap();
            let found = found.map(|found| (found.index, found.kind, found.value.to_vec()));
            let next = model.range((key.clone(), Reverse(at))..).next();
            let expected = next
                .filter(|((other, _), _)| *other == key)
                .map(|((_, index), (kind, value))| (index.0, *kind, value.clone()));
            assert_eq!(found, expected, "key {} at {at}", key.escape_ascii());
        }
    }
}

#[test]
fn cursors_agree_with_a_map_both_ways() {
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let cells = 1 + random.below(300);
        let model = random.model(cells);
        let table = table_of(&mut random, &model);
        let places: Vec<_> = model.keys().cloned().collect();
        let mut cursor = if seed % 2 == 0 { table.cursor() } else { table.cursor_past_cache() };
        let mut at: Option<usize> = None;
        for _ in 0..3_000 {
            let place = match random.below(2) {
                0 => (random.key(), Reverse(Index(random.below(1_010)))),
                _ => places[random.below_usize(places.len())].clone(),
            };
            let after = places.partition_point(|other| *other < place);
            match random.below(16) {
                0 => {
                    cursor.seek(&place.0, place.1.0).unwrap();
                    at = (after < places.len()).then_some(after);
                }
                1 => {
                    cursor.seek_before(&place.0, place.1.0).unwrap();
                    at = after.checked_sub(1);
                }
                2 if random.below(4) == 0 => {
                    cursor.first().unwrap();
                    at = Some(0);
                }
                3 if random.below(4) == 0 => {
                    cursor.last().unwrap();
                    at = Some(places.len() - 1);
                }
                4..10 => {
                    cursor.next().unwrap();
                    at = at.map(|at| at + 1).filter(|at| *at < places.len());
                }
                _ => {
                    cursor.prev().unwrap();
                    at = at.and_then(|at| at.checked_sub(1));
                }
            }
            let cell = cursor.cell();
            assert_eq!(cell.is_some(), at.is_some());
            if let (Some(cell), Some(at)) = (cell, at) {
                let (kind, value) = &model[&places[at]];
                assert_eq!((cell.key, Reverse(cell.index)), (&*places[at].0, places[at].1));
                assert_eq!((cell.kind, cell.value), (*kind, value.as_slice()));
                assert_eq!(*cursor.value(), **value);
            }
        }
    }
}

#[test]
fn a_whole_pass_gives_every_cell_once_each_way() {
    for seed in seeds(10) {
        let mut random = Random::new(seed);
        let model = random.model(1_000);
        let table = table_of(&mut random, &model);
        let mut cursor = table.cursor();
        cursor.next().unwrap();
        assert!(cursor.cell().is_none(), "a new cursor is off the end and stays there");
        cursor.first().unwrap();
        for (key, index) in model.keys() {
            let cell = cursor.cell().unwrap();
            assert_eq!((cell.key, Reverse(cell.index)), (key.as_slice(), *index));
            cursor.next().unwrap();
        }
        assert!(cursor.cell().is_none());
        cursor.last().unwrap();
        for (key, index) in model.keys().rev() {
            let cell = cursor.cell().unwrap();
            assert_eq!((cell.key, Reverse(cell.index)), (key.as_slice(), *index));
            cursor.prev().unwrap();
        }
        assert!(cursor.cell().is_none());
    }
}

#[test]
fn a_table_on_a_real_disk_is_read_through_its_map() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path(), None).unwrap());
    let model = Random::new(2).model(2_000);
    for (id, compression) in [(1, Compression::None), (2, Compression::Lz4)] {
        let options = TableOptions { compression, ..TableOptions::default() };
        let mut writer = TableWriter::create(&disk, dir.path(), TableId(id), &options).unwrap();
        for ((key, Reverse(index)), (kind, value)) in &model {
            writer.add(Cell { key, index: *index, kind: *kind, value }).unwrap();
        }
        let meta = writer.finish().unwrap();
        let table = Table::open(&disk, dir.path(), meta, BlockCache::new(1 << 20)).unwrap();
        table.verify().unwrap();
        let values: Vec<_> = model
            .keys()
            .map(|(key, Reverse(index))| table.get(key, *index).unwrap().unwrap().value)
            .collect();
        // Values keep what they share alive, and the system keeps what is mapped.
        drop(table);
        disk.remove(&dir.path().join(file_name(TableId(id)))).unwrap();
        for (value, (_, expected)) in values.iter().zip(model.values()) {
            assert_eq!(**value, **expected);
        }
    }
    std::fs::write(dir.path().join("empty"), b"").unwrap();
    assert!(inspect(&disk, &dir.path().join("empty")).is_err());
}

#[test]
fn tables_and_cursors_move_between_threads() {
    fn bears<T: Send + Sync>() {}
    bears::<Table>();
    bears::<TableCursor>();
    bears::<TableWriter>();
}

#[test]
fn an_unfinished_table_leaves_no_file_and_a_present_one_stays() {
    let disk: Arc<dyn Disk> = empty_disk();
    let create =
        || TableWriter::create(&disk, Path::new("/t"), TableId(5), &TableOptions::default());
    create().unwrap().abandon();
    assert!(disk.list(Path::new("/t")).unwrap().is_empty());
    drop(create().unwrap());
    assert!(disk.list(Path::new("/t")).unwrap().is_empty());
    write(&disk, &Random::new(1).model(3), &TableOptions::default());
    assert!(create().is_err());
    assert_eq!(disk.list(Path::new("/t")).unwrap(), ["0000000000000005.table"]);
}

#[test]
#[should_panic(expected = "ascending")]
fn cells_out_of_order_are_refused() {
    let disk: Arc<dyn Disk> = empty_disk();
    let options = TableOptions::default();
    let mut writer = TableWriter::create(&disk, Path::new("/t"), TableId(5), &options).unwrap();
    let cell = Cell { key: b"key", index: Index(4), kind: CellKind::Put, value: b"" };
    writer.add(cell).unwrap();
    writer.add(Cell { index: Index(5), ..cell }).unwrap();
}
