//! Which tables to compact next: a pure function of the shape of a version.
//!
//! The level that is furthest over its target goes first. Level 0 counts its tables, because each of
//! them costs every lookup; the others count bytes. What level 0 holds goes down all at once, since
//! the cost is that of level 1 anyway; from the others goes the one table that has the least below
//! it, which is what keeps the bytes written per byte stored low.
//!
//! Two cheap ways go before that: tables of dropped keyspaces are removed without being read, and a
//! table with nothing below it moves down by an edit alone. Keys that arrive in order are never
//! rewritten.
//!
//! When flushes outrun compaction and level 1 has grown large, the tables of level 0 are first
//! merged among themselves, as a universal compaction does: lookups get cheaper at once, and level 1
//! is then rewritten once for all of them.

use crate::Options;
use crate::keyspace::Keyspaces;
use crate::manifest::LEVELS;
use crate::manifest::version::Shape;
use crate::memtable::keyspace_of;
use crate::table::{TableId, TableMeta};

/// Each level is this many times as large as the one above it.
const FAN_OUT: u64 = 10;
/// Tables of level 0 that one compaction takes at most. Bounds the space that it needs meanwhile.
const LEVEL_0_INPUTS_MAX: usize = 16;
/// From this many times the trigger on, level 0 may be merged within itself.
const ESCAPE_TRIGGERS: usize = 3;
/// Level 0 is merged within itself if level 1 is more than this many times as large as what would
/// go down to it.
const ESCAPE_RATIO: u64 = 4;
/// Fewer tables are not worth being merged within level 0.
const ESCAPE_TABLES_MIN: usize = 4;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Remove these tables; nothing in them can be read any more.
    Remove(Vec<(u8, TableId)>),
    /// Move this table one level down.
    Move {
        /// The level it is at.
        from: u8,
        /// Which.
        table: TableId,
    },
    /// Merge these tables.
    Merge(Inputs),
}

/// What to merge, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The tables, with their level.
    pub tables: Vec<(u8, TableId)>,
    /// The level that the outcome goes to.
    pub to: u8,
}

/// The most urgent task, if there is any.
pub(crate) fn pick(shape: &Shape<'_>, keyspaces: &Keyspaces, options: &Options) -> Option<Task> {
    if keyspaces.has_dropped() {
        let dropped = dropped_tables(shape, keyspaces);
        if !dropped.is_empty() {
            return Some(Task::Remove(dropped));
        }
    }
    let (level, score) = most_urgent(shape, options);
    if score < SCORE_DUE {
        return None;
    }
    if level == 0 {
        return Some(pick_level_0(shape, options));
    }
    let (table, below) = least_below(&shape[level], &shape[level + 1])?;
    let from = level_number(level);
    if below.is_empty() {
        return Some(Task::Move { from, table: table.id });
    }
    let below = below.iter().map(|table| (from + 1, table.id));
    let tables = std::iter::once((from, table.id)).chain(below).collect();
    Some(Task::Merge(Inputs { tables, to: from + 1 }))
}

/// Bytes by which the levels are over their targets.
pub(crate) fn debt(bytes: &[u64; LEVELS], options: &Options) -> u64 {
    let over = |level: usize| bytes[level].saturating_sub(target(level, options));
    (1..LEVELS - 1).map(over).sum()
}

/// A level is due from this score on, in thousandths of its target.
const SCORE_DUE: u64 = 1000;

fn most_urgent(shape: &Shape<'_>, options: &Options) -> (usize, u64) {
    let trigger = u64::try_from(options.level_0_trigger).unwrap_or(u64::MAX);
    let count = u64::try_from(shape[0].len()).unwrap_or(u64::MAX);
    let mut most = (0, count.saturating_mul(SCORE_DUE) / trigger);
    for (level, tables) in shape.iter().enumerate().take(LEVELS - 1).skip(1) {
        let score =
            u128::from(size(tables)) * u128::from(SCORE_DUE) / u128::from(target(level, options));
        let score = u64::try_from(score).unwrap_or(u64::MAX);
        if score > most.1 {
            most = (level, score);
        }
    }
    most
}

fn target(level: usize, options: &Options) -> u64 {
    (1..level).fold(options.level_1_size, |size, _| size.saturating_mul(FAN_OUT))
}

fn size(tables: &[&TableMeta]) -> u64 {
    tables.iter().map(|table| table.size).sum()
}

fn level_number(level: usize) -> u8 {
    u8::try_from(level).expect("levels are few")
}

/// Tables that hold one dropped keyspace and nothing else.
fn dropped_tables(shape: &Shape<'_>, keyspaces: &Keyspaces) -> Vec<(u8, TableId)> {
    let is_dropped = |table: &TableMeta| {
        let keyspace = keyspace_of(&table.smallest);
        keyspace == keyspace_of(&table.largest) && keyspaces.is_dropped(keyspace)
    };
    let mut dropped = Vec::new();
    for (level, tables) in (0..).zip(shape) {
        let here = tables.iter().filter(|table| is_dropped(table));
        dropped.extend(here.map(|table| (level, table.id)));
    }
    dropped
}

/// The tables of a sorted level that overlap the keys from `smallest` to `largest`, both included.
fn overlapping<'s, 'a>(
    level: &'s [&'a TableMeta],
    smallest: &[u8],
    largest: &[u8],
) -> &'s [&'a TableMeta] {
    let start = level.partition_point(|table| table.largest.as_slice() < smallest);
    let end = level.partition_point(|table| table.smallest.as_slice() <= largest);
    &level[start..end.max(start)]
}

fn pick_level_0(shape: &Shape<'_>, options: &Options) -> Task {
    // Newest first, so the oldest ones are at the end.
    let level_0 = &shape[0];
    let oldest = level_0.last().expect("an empty level is not due");
    if overlapping(&shape[1], &oldest.smallest, &oldest.largest).is_empty() {
        return Task::Move { from: 0, table: oldest.id };
    }
    let inputs = &level_0[level_0.len().saturating_sub(LEVEL_0_INPUTS_MAX)..];
    let smallest = inputs.iter().map(|table| &table.smallest).min().expect("not empty");
    let largest = inputs.iter().map(|table| &table.largest).max().expect("not empty");
    let below = overlapping(&shape[1], smallest, largest);
    let is_backlog = level_0.len() >= options.level_0_trigger * ESCAPE_TRIGGERS;
    if is_backlog && size(below) > size(inputs).saturating_mul(ESCAPE_RATIO) {
        let run = newest_run(level_0);
        if run.len() >= ESCAPE_TABLES_MIN {
            let tables = run.iter().map(|table| (0, table.id)).collect();
            return Task::Merge(Inputs { tables, to: 0 });
        }
    }
    let inputs = inputs.iter().map(|table| (0, table.id));
    let tables = inputs.chain(below.iter().map(|table| (1, table.id))).collect();
    Task::Merge(Inputs { tables, to: 1 })
}

/// The newest tables, as long as each next older one is not larger than those before it together:
/// so that what was merged once is not merged again for a little more.
fn newest_run<'s, 'a>(level_0: &'s [&'a TableMeta]) -> &'s [&'a TableMeta] {
    let mut total = 0_u64;
    let mut len = 0;
    for table in level_0.iter().take(LEVEL_0_INPUTS_MAX) {
        if len > 1 && table.size > total {
            break;
        }
        total += table.size;
        len += 1;
    }
    &level_0[..len]
}

/// The table of `level` with the fewest bytes below it per byte of its own; of equals the first.
fn least_below<'s, 'a>(
    level: &'s [&'a TableMeta],
    next: &'s [&'a TableMeta],
) -> Option<(&'a TableMeta, &'s [&'a TableMeta])> {
    let cost = |table: &TableMeta| {
        let below = size(overlapping(next, &table.smallest, &table.largest));
        u128::from(below) * 1_000_000 / u128::from(table.size.max(1))
    };
    let table = *level.iter().min_by_key(|table| cost(table))?;
    Some((table, overlapping(next, &table.smallest, &table.largest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::full_key;
    use crate::{Index, KeyspaceId};

    fn table(id: u64, keys: (&str, &str), size: u64) -> TableMeta {
        let full = |key: &str| full_key(KeyspaceId(1), key.as_bytes());
        TableMeta {
            id: TableId(id),
            written_as: TableId(id),
            size,
            checksum: 0,
            smallest: full(keys.0),
            largest: full(keys.1),
            index_min: Index(id),
            index_max: Index(id),
            cells: 1,
            tombstones: 0,
        }
    }

    fn picked(levels: &[(usize, &TableMeta)]) -> Option<Task> {
        let mut keyspaces = Keyspaces::new();
        keyspaces.create(Index(1), "one").unwrap();
        let mut shape: Shape<'_> = std::array::from_fn(|_| Vec::new());
        for (level, table) in levels {
            shape[*level].push(table);
        }
        let options = Options { level_0_trigger: 2, level_1_size: 100, ..Options::default() };
        pick(&shape, &keyspaces, &options)
    }

    #[test]
    fn nothing_is_due_below_the_targets() {
        let tables = [table(2, ("a", "c"), 10), table(1, ("a", "c"), 99)];
        assert_eq!(picked(&[(0, &tables[0]), (1, &tables[1])]), None);
    }

    #[test]
    fn level_0_goes_down_with_what_it_overlaps() {
        let tables = [table(4, ("a", "c"), 10), table(3, ("b", "d"), 10), table(1, ("d", "f"), 50)];
        let other = table(2, ("x", "z"), 50);
        let levels = [(0, &tables[0]), (0, &tables[1]), (1, &tables[2]), (1, &other)];
        let expected =
            Inputs { tables: vec![(0, TableId(4)), (0, TableId(3)), (1, TableId(1))], to: 1 };
        assert_eq!(picked(&levels), Some(Task::Merge(expected)));
    }

    #[test]
    fn keys_in_order_only_move() {
        let tables = [table(2, ("c", "d"), 10), table(1, ("a", "b"), 10)];
        let levels = [(0, &tables[0]), (0, &tables[1])];
        assert_eq!(picked(&levels), Some(Task::Move { from: 0, table: TableId(1) }));
    }

    #[test]
    fn the_table_with_the_least_below_it_goes_first() {
        let tables = [table(1, ("a", "c"), 100), table(2, ("d", "f"), 100)];
        let below = [table(3, ("a", "c"), 90), table(4, ("e", "e"), 10)];
        let levels = [(1, &tables[0]), (1, &tables[1]), (2, &below[0]), (2, &below[1])];
        let expected = Inputs { tables: vec![(1, TableId(2)), (2, TableId(4))], to: 2 };
        assert_eq!(picked(&levels), Some(Task::Merge(expected)));
    }

    #[test]
    fn a_backlog_over_a_large_level_1_is_merged_within_level_0() {
        let new: Vec<_> = (10..16).rev().map(|id| table(id, ("a", "z"), 10)).collect();
        let large = table(1, ("a", "z"), 1000);
        let mut levels: Vec<_> = new.iter().map(|table| (0, table)).collect();
        levels.push((1, &large));
        let shape: Shape<'_> = std::array::from_fn(|level| {
            levels.iter().filter(|(own, _)| *own == level).map(|(_, table)| *table).collect()
        });
        let options = Options { level_0_trigger: 2, level_1_size: 5000, ..Options::default() };
        let task = pick(&shape, &Keyspaces::new(), &options);
        let Some(Task::Merge(inputs)) = task else { panic!("{task:?} is not a merge") };
        assert_eq!((inputs.to, inputs.tables.len()), (0, 6));
    }

    #[test]
    fn a_table_of_a_dropped_keyspace_is_removed_unread() {
        let only = table(1, ("a", "c"), 10);
        let mut shape: Shape<'_> = std::array::from_fn(|_| Vec::new());
        shape[3].push(&only);
        let mut keyspaces = Keyspaces::new();
        let id = keyspaces.create(Index(1), "one").unwrap();
        keyspaces.drop(Index(2), id).unwrap();
        let task = pick(&shape, &keyspaces, &Options::default());
        assert_eq!(task, Some(Task::Remove(vec![(3, TableId(1))])));
    }
}
