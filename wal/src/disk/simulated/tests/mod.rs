//! Tests of the model, one file for each part of what is promised of a disk.

use std::path::Path;
use std::sync::Arc;

use super::{Fault, SimulatedDisk, Survival};
use crate::disk::{Buffer, Disk, DurableWrite, File, OpenMode, Submitted, WriteQueue};
use crate::{Error, Result};

mod content;
mod crash;
mod damage;
mod durable_write;
mod every_operation;
mod names;
mod room;

/// The directory that each test finds, durable.
const DIR: &str = "/db";

/// A disk with [`DIR`] that keeps `survival` of what is unsynced.
fn disk(seed: u64, survival: Survival) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new(seed);
    disk.set_survival(survival);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(DIR).join(name)
}

/// A file whose name and content are durable.
fn durable_file(disk: &SimulatedDisk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(&path(name), OpenMode::Create).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

/// An empty log file of `len` bytes, durable.
fn durable_log(disk: &SimulatedDisk, name: &str, len: u64) -> Arc<dyn File> {
    let file = disk.open(&path(name), OpenMode::CreateLog).unwrap();
    file.allocate(len).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

/// A durable write of `len` bytes of `fill`.
fn write_of(id: u64, file: &Arc<dyn File>, offset: u64, fill: u8, len: usize) -> DurableWrite {
    let mut buffer = Buffer::with_capacity(len);
    buffer.extend(&vec![fill; len]);
    DurableWrite { id, file: Arc::clone(file), offset, bytes: Arc::new(buffer) }
}

/// Submits to a queue that performs at once.
fn submit(queue: &dyn WriteQueue, write: DurableWrite) -> Result<()> {
    match queue.submit(write) {
        Submitted::Done(result) => result,
        Submitted::Queued => panic!("the queue is not stepped"),
    }
}

/// All of a file, opened anew.
fn read(disk: &SimulatedDisk, name: &str) -> Result<Vec<u8>> {
    let file = disk.open(&path(name), OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
    let count = file.read_at(&mut bytes, 0)?;
    assert_eq!(count, bytes.len(), "a read stops at the end of the file only");
    Ok(bytes)
}

fn exists(disk: &SimulatedDisk, name: &str) -> bool {
    disk.exists(&path(name)).unwrap()
}

fn kind(error: &Error) -> std::io::ErrorKind {
    match error {
        Error::Io { source, .. } => source.kind(),
        other => panic!("not an error of the disk: {other}"),
    }
}

fn code(error: &Error) -> Option<i32> {
    match error {
        Error::Io { source, .. } => source.raw_os_error(),
        other => panic!("not an error of the disk: {other}"),
    }
}

/// Plans a fault for the next operation.
fn fail_next(disk: &SimulatedDisk, fault: Fault) {
    disk.fail_at(disk.operations() + 1, fault);
}

/// Which sectors of `bytes` hold `fill` only.
fn sectors_with(bytes: &[u8], fill: u8) -> Vec<bool> {
    bytes.chunks(512).map(|sector| sector.iter().all(|byte| *byte == fill)).collect()
}
