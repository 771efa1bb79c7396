//! Reading a table whose file holds anything.
//!
//! An input is either the file, or says which cells a table is made of and what happens to it then.
//! Lookups and walks give what was written or an error, and whoever verifies the table is told of any
//! damage. A table that verifies, forged or not, answers alike whichever way it is asked.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use strandline_engine::fuzzing::{Cell, Table, Walk, table_name, write_table};
use strandline_engine::{Compression, Index, Result, inspect_table};
use strandline_wal::disk::{Disk, SimulatedDisk};

use crate::damage::{Damage, edit};
use crate::segment::replace;
use crate::{Choices, seal};

const DIR: &str = "/t";

/// Cells that a walk visits at most: a forged block may hold very many in few bytes.
const STEPS_MAX: usize = 3000;

/// Where a cell lies in the order.
type Place = (Vec<u8>, Reverse<Index>);

/// What a table holds, in the engine's order.
type Model = BTreeMap<Place, Option<Vec<u8>>>;

/// See the module's documentation.
pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let memory = SimulatedDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::clone(&memory) as _;
    disk.create_dir_all(Path::new(DIR)).expect("a new disk takes all");
    if choices.once_in(4) {
        let is_sealed = choices.any::<bool>();
        let mut file = choices.rest().to_vec();
        if is_sealed {
            seal::table(&mut file);
        }
        let id = file.get(16..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        let id = u64::from_le_bytes(id);
        replace(&memory, &path(id), &file);
        visit(&disk, id, &mut Choices::new(&file));
        return;
    }
    let model = cells(&mut choices);
    let path = path(1);
    write(&disk, &model, &mut choices);
    let mut file = memory.visible_content(&path).expect("it was just written");
    let damage = edit(&mut choices, &mut file, 256, seal::table);
    replace(&memory, &path, &file);
    let table = visit(&disk, 1, &mut choices);
    if damage == Damage::Forged {
        return;
    }
    let Some((table, is_sound)) = table else {
        assert_ne!(damage, Damage::None, "a good table opens");
        return;
    };
    assert_eq!(is_sound, damage == Damage::None, "whoever verifies is told");
    compare(&table, &model, is_sound);
}

fn path(id: u64) -> std::path::PathBuf {
    Path::new(DIR).join(table_name(id))
}

fn cells(choices: &mut Choices<'_>) -> Model {
    let mut model = Model::new();
    let beginnings: [&[u8]; 4] =
        [b"\0\0\0\0", b"\0\0\0\0user:", b"\0\0\0\x01", b"\0\0\0\x01user:12345"];
    for _ in 0..=choices.below(48) {
        let mut key = choices.pick(&beginnings).to_vec();
        key.extend_from_slice(choices.bytes(6));
        if choices.once_in(32) {
            key.resize(key.len() + choices.below(5000), b'k');
        }
        let index = Index(u64::from(choices.any::<u8>()) + 1);
        let len = if choices.once_in(16) { choices.below(9000) } else { choices.below(40) };
        let byte = choices.any();
        let value = (!choices.once_in(4)).then(|| vec![byte; len]);
        model.insert((key, Reverse(index)), value);
    }
    model
}

fn write(disk: &Arc<dyn Disk>, model: &Model, choices: &mut Choices<'_>) {
    let cells: Vec<Cell> = model.iter().map(cell_of).collect();
    let block_size = choices.pick(&[64, 300, 4096]);
    let compression = choices.pick(&[Compression::None, Compression::Lz4]);
    let options = (block_size, compression, choices.any::<bool>());
    write_table(disk, Path::new(DIR), 1, &cells, options).expect("a disk without faults");
}

fn cell_of(((key, index), value): (&Place, &Option<Vec<u8>>)) -> Cell {
    Cell { key: key.clone(), index: index.0, value: value.clone() }
}

/// Does with the table what can be done; whether it verifies is returned with it.
fn visit(disk: &Arc<dyn Disk>, id: u64, choices: &mut Choices<'_>) -> Option<(Table, bool)> {
    let described = inspect_table(disk, &path(id));
    let table = Table::open(disk, Path::new(DIR), id).ok()?;
    assert!(described.is_ok_and(|text| !text.is_empty()), "what opens can be described");
    let verified = table.verify();
    let forward = walk(&table, Walk::first, Walk::forward);
    let backward = walk(&table, Walk::last, Walk::back);
    for _ in 0..choices.below(16) {
        let (key, index) = (choices.bytes(12), Index(choices.below(300).try_into().unwrap_or(0)));
        let _ = table.get(key, index);
        let mut at = table.cursor();
        let _ = at.seek(key, index).and_then(|()| at.back()).and_then(|()| at.forward());
        let _ = at.seek_before(key, index).and_then(|()| at.forward());
    }
    let Ok(count) = verified else { return Some((table, false)) };
    let forward = forward.expect("a table that verifies can be read");
    let mut backward = backward.expect("a table that verifies can be read");
    if forward.len() < STEPS_MAX {
        backward.reverse();
        assert!(forward == backward, "both ways lead over the same cells");
        assert_eq!(u64::try_from(forward.len()).ok(), Some(count));
    }
    for cell in &forward {
        let found = table.get(&cell.key, cell.index).expect("a table that verifies can be read");
        assert_eq!(found.as_ref(), Some(cell), "a cell is found");
    }
    Some((table, true))
}

fn walk(
    table: &Table,
    start: fn(&mut Walk) -> Result<()>,
    step: fn(&mut Walk) -> Result<()>,
) -> Result<Vec<Cell>> {
    let mut at = table.cursor();
    let mut cells = Vec::new();
    start(&mut at)?;
    while let Some(cell) = at.cell().filter(|_| cells.len() < STEPS_MAX) {
        cells.push(cell);
        if let Err(error) = step(&mut at) {
            assert!(at.cell().is_none(), "after an error a cursor is off the end");
            return Err(error);
        }
    }
    Ok(cells)
}

/// What is read is what was written; of a sound table, all of it.
fn compare(table: &Table, model: &Model, is_sound: bool) {
    let cells: Vec<Cell> = model.iter().map(cell_of).collect();
    match walk(table, Walk::first, Walk::forward) {
        Ok(found) => assert!(found == cells, "a walk shows other cells than were written"),
        Err(_) => assert!(!is_sound),
    }
    for (key, Reverse(index)) in model.keys() {
        for at in [index.0 - 1, index.0, index.0 + 1, u64::MAX].map(Index) {
            let expected = model.range((key.clone(), Reverse(at))..).next();
            let expected = expected.filter(|((other, _), _)| other == key).map(cell_of);
            match table.get(key, at) {
                Ok(found) => assert_eq!(found, expected, "a lookup"),
                Err(_) => assert!(!is_sound),
            }
            let mut cursor = table.cursor();
            let sought = cursor.seek(key, at).map(|()| cursor.cell());
            let before = cursor.seek_before(key, at).map(|()| cursor.cell());
            let place = (key.clone(), Reverse(at));
            let after = model.range(place.clone()..).next().map(cell_of);
            let last = model.range(..place).next_back().map(cell_of);
            for (found, expected) in [(sought, after), (before, last)] {
                match found {
                    Ok(found) => assert_eq!(found, expected, "a cursor"),
                    Err(_) => assert!(!is_sound),
                }
            }
        }
    }
}
