//! Goal: a table whose writing was said to have succeeded survives a power cut; one whose writing
//! failed leaves nothing that could be taken for it.
//!
//! Method: every operation of the simulated disk fails in turn, in every way it knows. Then the power
//! is cut, with nothing unsynced surviving.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;
use strandline_wal::disk::simulated::{Fault, Survival};

use super::model_tests::{Model, Random, empty_disk};
use super::{BlockCache, Table, TableId, TableMeta, TableOptions, TableWriter, file_name};
use crate::Result;
use crate::key::Cell;

fn write_durably(disk: &Arc<dyn Disk>, model: &Model) -> Result<TableMeta> {
    let dir = Path::new("/t");
    let mut writer = TableWriter::create(disk, dir, TableId(5), &TableOptions::default())?;
    for ((key, std::cmp::Reverse(index)), (kind, value)) in model {
        writer.add(Cell { key, index: *index, kind: *kind, value })?;
    }
    let meta = writer.finish()?;
    disk.sync_dir(dir)?;
    Ok(meta)
}

#[test]
fn what_was_finished_survives_and_what_failed_is_gone() {
    let model = Random::new(4).model(2_500);
    let path = Path::new("/t").join(file_name(TableId(5)));
    let machine = empty_disk();
    let before = machine.operations();
    let process: Arc<dyn Disk> = machine.mount();
    write_durably(&process, &model).unwrap();
    let operations = before + 1..=machine.operations();
    assert!(operations.clone().count() >= 5, "create, two writes, a sync, one of the directory");
    for (fault, operation) in Fault::ALL
        .iter()
        .flat_map(|&fault| operations.clone().map(move |operation| (fault, operation)))
    {
        let machine = empty_disk();
        machine.set_survival(Survival::NOTHING);
        machine.fail_at(operation, fault);
        let process: Arc<dyn Disk> = machine.mount();
        let written = write_durably(&process, &model);
        println!("{fault:?} at {operation}: {:?}", written.as_ref().map(|meta| meta.size));
        assert_eq!(written.is_err(), machine.counters().faults > 0, "a fault is not passed over");
        // The directory's sync comes last and is the caller's: the table itself was complete then.
        if written.is_err() && !machine.is_down() && operation < *operations.end() {
            assert!(!machine.exists(&path).unwrap(), "an unfinished file was left");
        }
        if machine.restart().is_none() {
            machine.power_cut();
        }
        let disk: Arc<dyn Disk> = machine;
        if let Ok(meta) = written {
            let table = Table::open(&disk, Path::new("/t"), meta, BlockCache::new(0)).unwrap();
            table.verify().unwrap();
        }
    }
}
