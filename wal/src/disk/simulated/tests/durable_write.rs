//! Durable writes: alignment, durability, queues that are stepped.

use super::*;
use crate::disk::{Completion, Rung};
use std::io::ErrorKind;

/// Submits to a stepped queue.
fn start(queue: &dyn WriteQueue, write: DurableWrite) {
    assert!(matches!(queue.submit(write), Submitted::Queued), "the queue is stepped");
}

fn ids(completions: &[Completion]) -> Vec<u64> {
    completions.iter().map(|completion| completion.id).collect()
}

#[test]
fn a_completed_write_is_durable_and_nothing_else_is() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 12288);
    let queue = disk.write_queue().unwrap();
    log.write_at(&[1; 4096], 0).unwrap();
    submit(&*queue, write_of(1, &log, 4096, 2, 4096)).unwrap();
    log.write_at(&[3; 4096], 8192).unwrap();
    assert!(queue.complete().is_empty(), "nothing was queued");
    disk.power_cut();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes[..4096], [0; 4096]);
    assert_eq!(bytes[4096..8192], [2; 4096]);
    assert_eq!(bytes[8192..], [0; 4096]);
}

#[test]
fn a_completed_write_is_not_undone_by_an_older_one() {
    // An unsynced write or length of the same bytes must not come to light after the durable one.
    let disk = disk(1, Survival::EVERYTHING);
    let log = durable_log(&disk, "log", 0);
    let queue = disk.write_queue().unwrap();
    log.write_at(&[1; 12288], 0).unwrap();
    log.allocate(0).unwrap();
    submit(&*queue, write_of(1, &log, 4096, 2, 4096)).unwrap();
    disk.power_cut();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes.len(), 8192);
    assert_eq!(bytes[4096..], [2; 4096]);
}

#[test]
fn a_write_that_extends_the_file_keeps_its_length() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 0);
    let queue = disk.write_queue().unwrap();
    submit(&*queue, write_of(1, &log, 4096, 2, 4096)).unwrap();
    disk.power_cut();
    assert_eq!(read(&disk, "log").unwrap().len(), 8192);
}

#[test]
fn what_a_real_disk_refuses_is_refused() {
    let disk = disk(1, Survival::NOTHING);
    assert_eq!(disk.profile().rung, Rung::Simulated);
    assert_eq!((disk.profile().alignment, disk.profile().depth_max), (4096, 8));
    let log = durable_log(&disk, "log", 8192);
    let queue = disk.write_queue().unwrap();
    for (offset, len) in [(512, 4096), (0, 512)] {
        let error = submit(&*queue, write_of(1, &log, offset, 1, len)).unwrap_err();
        assert_eq!(kind(&error), ErrorKind::InvalidInput);
    }
    disk.set_alignment(512);
    submit(&*queue, write_of(1, &log, 512, 1, 512)).unwrap();
    let buffered = durable_file(&disk, "a", b"");
    let error = submit(&*queue, write_of(1, &buffered, 0, 1, 4096)).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let foreign = durable_log(&super::disk(2, Survival::NOTHING), "log", 8192);
    let error = submit(&*queue, write_of(1, &foreign, 0, 1, 4096)).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}

#[test]
fn stepped_writes_end_when_told_and_in_the_order_told() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 12288);
    let queue = disk.write_queue().unwrap();
    disk.set_stepped(true);
    for id in 0..3_u8 {
        start(&*queue, write_of(id.into(), &log, u64::from(id) * 4096, id + 1, 4096));
    }
    let flights = disk.in_flight();
    assert_eq!(flights.iter().map(|flight| flight.offset).collect::<Vec<_>>(), [0, 4096, 8192]);
    assert_eq!(disk.visible_content(&path("log")).unwrap(), [0; 12288]);
    assert!(disk.complete_id(2));
    assert!(disk.complete_id(0));
    assert!(!disk.complete_id(0));
    assert_eq!(ids(&queue.complete()), [2, 0]);
    disk.power_cut();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes[..4096], [1; 4096]);
    assert_eq!(bytes[4096..8192], [0; 4096], "it was under way and nothing survives");
    assert_eq!(bytes[8192..], [3; 4096]);
}

#[test]
fn a_waiting_caller_makes_progress_in_any_order() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = disk(seed, Survival::NOTHING);
        let log = durable_log(&disk, "log", 16384);
        let queue = disk.write_queue().unwrap();
        disk.set_stepped(true);
        for id in 0..4 {
            start(&*queue, write_of(id, &log, id * 4096, 1, 4096));
        }
        let mut order = Vec::new();
        loop {
            let ended = queue.complete();
            if ended.is_empty() {
                break;
            }
            assert!(ended.iter().all(|completion| completion.result.is_ok()));
            order.extend(ids(&ended));
        }
        assert_eq!(order.len(), 4, "seed {seed}");
        orders.insert(order);
    }
    assert!(orders.len() > 15, "only {} of 24 orders", orders.len());
}

#[test]
fn queues_of_one_disk_do_not_see_each_others_completions() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 8192);
    let (one, other) = (disk.write_queue().unwrap(), disk.write_queue().unwrap());
    disk.set_stepped(true);
    start(&*one, write_of(1, &log, 0, 1, 4096));
    start(&*other, write_of(2, &log, 4096, 2, 4096));
    assert_eq!(ids(&other.complete()), [2]);
    assert!(other.complete().is_empty());
    assert_eq!(ids(&one.complete()), [1]);
}

#[test]
fn writes_under_way_are_torn_by_a_power_cut() {
    let mut torn = 0;
    for seed in 0..50 {
        let disk = disk(seed, Survival::of(500));
        let log = durable_log(&disk, "log", 4096);
        let queue = disk.write_queue().unwrap();
        disk.set_stepped(true);
        start(&*queue, write_of(1, &log, 0, 1, 4096));
        disk.power_cut();
        let ended = queue.complete();
        assert!(ended[0].result.is_err(), "the process that waited is gone");
        assert!(queue.complete().is_empty());
        let survived = sectors_with(&read(&disk, "log").unwrap(), 1);
        torn += usize::from(survived.contains(&true) && survived.contains(&false));
    }
    assert!(torn > 40, "{torn} of 50 torn");
}

#[test]
fn writes_under_way_are_whole_or_absent_after_a_kill_and_not_durable() {
    let (mut whole, mut absent) = (0, 0);
    for seed in 0..50 {
        let disk = disk(seed, Survival::NOTHING);
        let log = durable_log(&disk, "log", 4096);
        let queue = disk.write_queue().unwrap();
        disk.set_stepped(true);
        start(&*queue, write_of(1, &log, 0, 1, 4096));
        disk.kill();
        let bytes = read(&disk, "log").unwrap();
        match bytes[0] {
            1 if bytes == [1; 4096] => whole += 1,
            0 if bytes == [0; 4096] => absent += 1,
            _ => panic!("seed {seed}: torn by a kill"),
        }
        disk.power_cut();
        assert_eq!(read(&disk, "log").unwrap(), [0; 4096], "seed {seed}: it was never synced");
    }
    assert!(whole > 10 && absent > 10, "{whole} whole, {absent} absent");
}

#[test]
fn a_failed_write_is_clean_and_lost() {
    for seed in 0..50 {
        let disk = disk(seed, Survival::of(500));
        let log = durable_log(&disk, "log", 4096);
        let queue = disk.write_queue().unwrap();
        fail_next(&disk, Fault::Eio);
        let error = submit(&*queue, write_of(1, &log, 0, 1, 4096)).unwrap_err();
        assert_eq!(code(&error), Some(5));
        let seen = disk.visible_content(&path("log")).unwrap();
        assert!(seen == [1; 4096] || seen == sector_mixture(&seen), "seed {seed}");
        log.sync().unwrap();
        let durable = disk.durable_content(&path("log")).unwrap();
        disk.set_survival(Survival::EVERYTHING);
        disk.power_cut();
        assert_eq!(read(&disk, "log").unwrap(), durable, "seed {seed}: nothing was left unsynced");
    }
}

/// What a file looks like whose sectors are each old (0) or new (1).
fn sector_mixture(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(512).flat_map(|sector| vec![sector[0]; sector.len()]).collect()
}

#[test]
fn a_fault_of_a_stepped_write_is_told_at_its_completion() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 8192);
    let queue = disk.write_queue().unwrap();
    disk.set_stepped(true);
    fail_next(&disk, Fault::Eio);
    start(&*queue, write_of(1, &log, 0, 1, 4096));
    start(&*queue, write_of(2, &log, 4096, 2, 4096));
    assert!(disk.complete_id(1));
    assert!(disk.complete_id(2));
    let ended = queue.complete();
    assert!(ended[0].result.is_err());
    assert!(ended[1].result.is_ok(), "the error belongs to one write only");
    disk.power_cut();
    let bytes = read(&disk, "log").unwrap();
    assert_eq!(bytes[..4096], [0; 4096]);
    assert_eq!(bytes[4096..], [2; 4096]);
}

#[test]
fn a_write_under_way_needs_no_handle() {
    let disk = disk(1, Survival::NOTHING);
    let log = durable_log(&disk, "log", 4096);
    let queue = disk.write_queue().unwrap();
    disk.set_stepped(true);
    start(&*queue, write_of(1, &log, 0, 1, 4096));
    drop(log);
    disk.remove(&path("log")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(queue.complete()[0].result.is_ok());
    assert_eq!(disk.used(), 0);
}
