//! Durable writes that are waited for: one, or several together.
//!
//! Several take hardly longer than one: a disk that flushes its cache for a durable write does it once for all
//! that are in flight. Where the queue takes writes without performing them, it is given all of them at once; where
//! it performs each in the thread that submits it, a few threads submit them.
//!
//! **All have ended when a call returns**, whatever became of one of them: nothing lands later. Who is told of
//! an error knows of none of the others whether it is durable. There is no order between writes that are sent
//! together; one that another must not overtake is sent when that one has been waited for.
//!
//! It is for who has a queue to himself, as when a log is opened: what ends meanwhile is taken for his.

use super::{DurableWrite, Submitted, WriteQueue};
use crate::Result;
use crate::crew::share_out;

/// Performs one durable write and waits for it.
///
/// # Errors
///
/// That of the write.
pub(crate) fn write_now(queue: &dyn WriteQueue, write: DurableWrite) -> Result<()> {
    match queue.submit(write) {
        Submitted::Done(result) => result,
        Submitted::Queued => loop {
            if let Some(completion) = queue.complete().into_iter().next() {
                return completion.result;
            }
        },
    }
}

/// Performs all of these, about `depth` at a time, and waits for them. Their numbers are given here.
///
/// # Errors
///
/// That of the first, in the order of `writes`, that failed.
pub(crate) fn write_all(
    queue: &dyn WriteQueue,
    mut writes: Vec<DurableWrite>,
    depth: usize,
) -> Result<()> {
    (0..).zip(&mut writes).for_each(|(id, write)| write.id = id);
    let mut first_failed: Option<(u64, Result<()>)> = None;
    let mut ended = |id, result: Result<()>| {
        if result.is_err() && first_failed.as_ref().is_none_or(|(first, _)| id < *first) {
            first_failed = Some((id, result));
        }
    };
    let submitted = match queue.places_max() {
        None => share_out(&writes, depth, |write| queue.submit(write.clone())),
        Some(_) => queue.submit_all(writes),
    };
    let mut queued = 0;
    for (id, submitted) in (0..).zip(submitted) {
        match submitted {
            Submitted::Done(result) => ended(id, result),
            Submitted::Queued => queued += 1,
        }
    }
    while queued > 0 {
        for completion in queue.complete() {
            queued -= 1;
            ended(completion.id, completion.result);
        }
    }
    first_failed.map_or(Ok(()), |(_, result)| result)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Barrier};

    use super::super::simulated::{Fault, SimulatedDisk, Survival};
    use super::super::{ALIGNMENT_MAX, Buffer, Completion, Disk, OpenMode};
    use super::*;

    const BLOCK: u64 = 4096;

    fn filled(byte: u8) -> Arc<Buffer> {
        let mut bytes = Buffer::with_capacity(ALIGNMENT_MAX);
        bytes.extend(&[byte; ALIGNMENT_MAX]);
        Arc::new(bytes)
    }

    /// A file with room for so many blocks, whose writes keep nothing that was not durable; and one write to
    /// each block.
    fn case(count: u64, seed: u64) -> (Arc<SimulatedDisk>, Vec<DurableWrite>) {
        let disk = SimulatedDisk::new(seed);
        let file = disk.open(Path::new("/file"), OpenMode::CreateLog).unwrap();
        file.allocate(count * BLOCK).unwrap();
        file.sync().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk.set_survival(Survival::NOTHING);
        let write = |at| {
            let bytes = filled(u8::try_from(at + 1).unwrap());
            DurableWrite { id: 7, file: file.clone(), offset: at * BLOCK, bytes }
        };
        (disk, (0..count).map(write).collect())
    }

    fn is_written(disk: &SimulatedDisk, at: u64) -> bool {
        let content = disk.durable_content(Path::new("/file")).unwrap();
        let from = usize::try_from(at * BLOCK).unwrap();
        content[from..from + ALIGNMENT_MAX] == **filled(u8::try_from(at + 1).unwrap())
    }

    #[test]
    fn all_are_durable_in_whatever_order_they_end() {
        for seed in 0..20 {
            for stepped in [false, true] {
                let (disk, writes) = case(40, seed);
                disk.set_stepped(stepped);
                let queue = disk.write_queue().unwrap();
                write_all(&*queue, writes, 8).unwrap();
                assert!((0..40).all(|at| is_written(&disk, at)), "seed {seed}");
                assert!(queue.poll().is_empty() && disk.in_flight().is_empty());
                write_all(&*queue, Vec::new(), 8).unwrap();
            }
        }
    }

    /// The others have ended too: who goes on after an error must not have writes land behind him.
    #[test]
    fn the_first_error_is_told_and_nothing_is_left_in_flight() {
        for stepped in [false, true] {
            for failing in 1..=12 {
                let (disk, writes) = case(12, failing);
                disk.set_stepped(stepped);
                let before = disk.operations();
                disk.fail_at(before + failing, Fault::Eio);
                disk.fail_at(before + 12, Fault::Eio);
                let queue = disk.write_queue().unwrap();
                let error = write_all(&*queue, writes, 8).unwrap_err();
                let crate::Error::Io { offset, .. } = error else { panic!("{error}") };
                assert_eq!(offset, (failing - 1) * BLOCK);
                assert!(disk.in_flight().is_empty() && queue.poll().is_empty());
                let sound = (0..12).filter(|at| *at != failing - 1 && *at != 11);
                assert!(sound.into_iter().all(|at| is_written(&disk, at)), "{failing}");
            }
        }
    }

    #[test]
    fn a_crash_while_they_are_in_flight_is_an_error() {
        for stepped in [false, true] {
            for fault in [Fault::PowerCut, Fault::Kill] {
                for at in 1..=12 {
                    let (disk, writes) = case(12, at);
                    disk.set_stepped(stepped);
                    disk.fail_at(disk.operations() + at, fault);
                    let queue = disk.write_queue().unwrap();
                    assert!(write_all(&*queue, writes, 8).is_err());
                    assert!(disk.is_down());
                }
            }
        }
    }

    /// Performs each write in the thread that submits it, when as many are submitted as there shall be threads.
    #[derive(Debug)]
    struct Crowded {
        inner: Box<dyn WriteQueue>,
        crowd: Barrier,
    }

    impl WriteQueue for Crowded {
        fn submit(&self, write: DurableWrite) -> Submitted {
            self.crowd.wait();
            self.inner.submit(write)
        }

        fn complete(&self) -> Vec<Completion> {
            self.inner.complete()
        }
    }

    #[test]
    fn a_queue_without_places_is_given_several_by_threads() {
        for stepped in [false, true] {
            let (disk, writes) = case(12, 1);
            disk.set_stepped(stepped);
            let queue = Crowded { inner: disk.write_queue().unwrap(), crowd: Barrier::new(4) };
            write_all(&queue, writes, 4).unwrap();
            assert!((0..12).all(|at| is_written(&disk, at)));
            assert!(disk.in_flight().is_empty());
        }
    }
}
