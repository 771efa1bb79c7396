//! openraft's own suite for storage, over the log on a real disk; and what the suite does not try: crashes.
#![allow(clippy::unwrap_used)]

mod memory;

use std::path::Path;
use std::sync::Arc;

use memory::{StateMachine, Types};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite, blank_ent, log_id};
use openraft::{RaftLogReader, StorageError, Vote};
use strandline_openraft::LogStore;
use strandline_wal::Options;
use strandline_wal::disk::simulated::Survival;
use strandline_wal::disk::{Disk, RealDisk, SimulatedDisk};

fn options() -> Options {
    Options { segment_size: 1 << 20, spares: 1, ..Options::default() }
}

struct Builder;

impl StoreBuilder<Types, LogStore<Types>, StateMachine, tempfile::TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(tempfile::TempDir, LogStore<Types>, StateMachine), StorageError<u64>> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::open(dir.path(), None).unwrap());
        let store = LogStore::open(disk, dir.path(), options()).unwrap();
        Ok((dir, store, StateMachine::default()))
    }
}

#[test]
fn the_suite_of_openraft_passes() {
    Suite::test_all(Builder).unwrap();
}

/// Without a thread that makes spares: a power cut ends all threads, and one of an earlier life must not
/// remove files of the next.
fn open(disk: &Arc<SimulatedDisk>) -> LogStore<Types> {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let options = Options { background: false, ..options() };
    LogStore::open(disk, Path::new("/raft"), options).unwrap()
}

async fn indexes(store: &mut LogStore<Types>) -> Vec<u64> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// What openraft was told is durable is there after a power cut, which takes all that was not.
#[tokio::test]
async fn what_was_told_to_be_durable_survives_a_power_cut() {
    let disk = Arc::new(SimulatedDisk::new(7));
    let disk = &*Box::leak(Box::new(disk));
    disk.set_survival(Survival::of(0));
    let mut store = open(disk);
    let vote = Vote::new(3, 1);
    store.save_vote(&vote).await.unwrap();
    store.blocking_append((0..10).map(|index| blank_ent(3, 1, index))).await.unwrap();
    store.truncate(log_id(3, 1, 8)).await.unwrap();
    store.blocking_append([blank_ent(4, 1, 8)]).await.unwrap();
    store.purge(log_id(3, 1, 2)).await.unwrap();
    disk.power_cut();
    drop(store);

    let mut store = open(disk);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(indexes(&mut store).await, [3, 4, 5, 6, 7, 8]);
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(3, 1, 2)));
    assert_eq!(state.last_log_id, Some(log_id(4, 1, 8)));
    // A snapshot has overtaken the log.
    store.purge(log_id(5, 1, 100)).await.unwrap();
    store.blocking_append([blank_ent(5, 1, 101)]).await.unwrap();
    disk.power_cut();
    drop(store);

    let mut store = open(disk);
    assert_eq!(indexes(&mut store).await, [101]);
    assert_eq!(store.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(5, 1, 100)));
}

/// Entries are sent while they are written: before anybody was told that they are durable.
#[tokio::test]
async fn entries_can_be_read_before_they_are_durable() {
    let disk = Arc::new(SimulatedDisk::new(8));
    disk.set_stepped(true);
    let mut store = open(&disk);
    let writer = store.clone();
    let appended = tokio::spawn(async move {
        let mut writer = writer;
        writer.blocking_append((0..3).map(|index| blank_ent(1, 1, index))).await
    });
    while indexes(&mut store).await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(indexes(&mut store).await, [0, 1, 2]);
    while !appended.is_finished() {
        disk.complete_one();
        tokio::task::yield_now().await;
    }
    appended.await.unwrap().unwrap();
    assert_eq!(indexes(&mut store).await, [0, 1, 2]);
}

/// A state file that was changed from outside is not believed.
#[tokio::test]
async fn a_damaged_state_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(RealDisk::open(dir.path(), None).unwrap());
        LogStore::<Types>::open(disk, dir.path(), options())
    };
    let mut store = open().unwrap();
    store.save_vote(&Vote::new(3, 1)).await.unwrap();
    drop(store);
    let path = dir.path().join("raft-state");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let text = open().err().unwrap().to_string();
    assert!(text.contains("raft-state") && text.contains("checksum"), "{text}");
}
