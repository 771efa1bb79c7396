//! A disk that keeps nothing but knows what a log may do to it, and stops at the first thing that it may not:
//!
//! - one thread at a time waits for completions;
//! - a segment begins when nothing is in flight, and takes groups when its header is durable;
//! - no byte of a segment is written twice in one use;
//! - what was acknowledged is not voided.
//!
//! What is durable is what recovery would find: a durable header voids all from its first position on.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use strandline_wal::disk::{
    Buffer, Completion, Disk, DurableWrite, File, Lock, Map, OpenMode, Profile, Rung, Submitted,
    WriteQueue,
};
use strandline_wal::frame::{GROUP_HEADER_LEN, GroupHeader};
use strandline_wal::{Error, Lsn, Result, SegmentHeader, record};

use crate::queue::ModelQueue;

/// Who ends the writes, and in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Each in the thread that submits it.
    Caller,
    /// They are reaped, one at a time, the oldest first.
    Oldest,
    /// The newest first.
    Newest,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct ModelDisk {
    state: Arc<Mutex<State>>,
    order: Order,
    depth_max: usize,
    /// What its queue is, if not the disk itself.
    queue: Option<ModelQueue>,
}

#[derive(Debug, Default)]
struct State {
    /// What each file is used for.
    files: Vec<Use>,
    in_flight: Vec<DurableWrite>,
    /// Durable writes that were submitted.
    writes: usize,
    /// Which of them fail.
    fails: Range<usize>,
    /// Whether a thread waits for completions.
    is_reaped: bool,
    /// The records that recovery would find, by position.
    durable: BTreeMap<u64, Vec<u8>>,
    /// All up to here was acknowledged.
    acknowledged: u64,
}

#[derive(Debug, Default)]
struct Use {
    header: Option<SegmentHeader>,
    /// Whether the header is durable.
    has_begun: bool,
    written: Vec<Range<u64>>,
}

#[derive(Debug)]
struct ModelFile(usize);

#[derive(Debug)]
struct Unlocked;
impl Lock for Unlocked {}

impl ModelDisk {
    pub fn new(order: Order, depth_max: usize) -> Self {
        Self { state: Arc::default(), order, depth_max, queue: None }
    }

    /// One of which nothing is used but its queue.
    pub fn of_queue(queue: ModelQueue) -> Self {
        Self { queue: Some(queue), ..Self::new(Order::Caller, 1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Never held while another thread of the model runs. Who comes after a panic has nothing to add.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on the writes of these numbers fail, counted from 1.
    pub fn fail(&self, fails: Range<usize>) {
        let mut state = self.state();
        (state.writes, state.fails) = (0, fails);
    }

    /// All up to `lsn` was acknowledged, and `payload` stands there.
    pub fn acknowledged(&self, lsn: Lsn, payload: &[u8]) {
        self.settled(lsn);
        let state = self.state();
        let found = state.durable.get(&lsn.0).map(Vec::as_slice);
        assert!(found == Some(payload), "position {lsn} holds another record");
    }

    /// All up to `lsn` was acknowledged.
    pub fn settled(&self, lsn: Lsn) {
        let mut state = self.state();
        let missing = (1..=lsn.0).find(|at| !state.durable.contains_key(at));
        assert!(missing.is_none(), "{lsn} was acknowledged and {missing:?} is not durable");
        state.acknowledged = state.acknowledged.max(lsn.0);
    }

    fn start(&self, write: DurableWrite) {
        let mut state = self.state();
        let end = write.offset + u64::try_from(write.bytes.len()).expect("it is in memory");
        let range = write.offset..end;
        let is_alone = state.in_flight.is_empty();
        let file = &mut state.files[number(&write)];
        if write.offset == 0 {
            let header = SegmentHeader::decode(&write.bytes, Path::new("model"));
            let header = header.expect("it is sound").expect("it is a header");
            assert!(is_alone, "a segment begins while writes are in flight");
            *file = Use { header: Some(header), has_begun: false, written: vec![range] };
        } else {
            assert!(file.has_begun, "a group goes out before its segment has begun");
            let is_free = file
                .written
                .iter()
                .all(|other| other.end <= range.start || range.end <= other.start);
            assert!(is_free, "{range:?} is written twice");
            file.written.push(range);
        }
        state.in_flight.push(write);
    }

    /// One write ends.
    fn finish(&self, id: u64) -> Completion {
        let mut state = self.state();
        let at = state.in_flight.iter().position(|write| write.id == id);
        let write = state.in_flight.remove(at.expect("it is in flight"));
        state.writes += 1;
        if state.fails.contains(&state.writes) {
            let source = std::io::Error::other("this one fails");
            let (path, offset) = (Path::new("model").to_path_buf(), write.offset);
            return Completion {
                id,
                result: Err(Error::Io { operation: "write", path, offset, source }),
            };
        }
        let number = number(&write);
        let header = state.files[number].header.expect("it was put to use");
        if write.offset == 0 {
            state.files[number].has_begun = true;
            assert!(header.first.0 > state.acknowledged, "acknowledged records are void");
            state.durable.retain(|lsn, _| *lsn < header.first.0);
        } else {
            state.durable.extend(records(&write.bytes, &header, write.offset));
        }
        Completion { id, result: Ok(()) }
    }

    /// The write that ends next.
    fn next(&self) -> Option<u64> {
        let state = self.state();
        let next = match self.order {
            Order::Newest => state.in_flight.last(),
            _ => state.in_flight.first(),
        };
        next.map(|write| write.id)
    }
}

fn number(write: &DurableWrite) -> usize {
    let file: &dyn Any = &*write.file;
    file.downcast_ref::<ModelFile>().expect("it is a file of this disk").0
}

fn records(bytes: &Buffer, header: &SegmentHeader, offset: u64) -> Vec<(u64, Vec<u8>)> {
    let group = GroupHeader::decode(bytes, header.log_id, header.incarnation, offset);
    let group = group.expect("it is a group");
    let body_len = usize::try_from(group.body_len).expect("it is in memory");
    let mut body = &bytes[GROUP_HEADER_LEN..GROUP_HEADER_LEN + body_len];
    group.check_body(body).expect("its checksum is right");
    let mut found = Vec::new();
    for lsn in group.first.0..group.end().0 {
        let (record, taken) = record::decode(body).expect("it is a record");
        found.push((lsn, record.payload.to_vec()));
        body = &body[taken..];
    }
    found
}

impl WriteQueue for ModelDisk {
    fn submit(&self, write: DurableWrite) -> Submitted {
        let id = write.id;
        self.start(write);
        match self.order {
            Order::Caller => {
                loom::thread::yield_now(); // the disk
                Submitted::Done(self.finish(id).result)
            }
            _ => Submitted::Queued,
        }
    }

    fn complete(&self) -> Vec<Completion> {
        let is_reaped = std::mem::replace(&mut self.state().is_reaped, true);
        assert!(!is_reaped, "two threads wait for completions");
        loom::thread::yield_now(); // the disk
        let ended = self.poll();
        self.state().is_reaped = false;
        ended
    }

    fn poll(&self) -> Vec<Completion> {
        self.next().map(|id| self.finish(id)).into_iter().collect()
    }
}

impl File for ModelFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize> {
        Ok(0)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(0)
    }

    fn allocate(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Disk for ModelDisk {
    fn create_dir_all(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, _: &Path) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Nothing was there before, so there is nothing to be read.
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn File>> {
        if mode == OpenMode::Read {
            let source = ErrorKind::NotFound.into();
            let path = path.to_path_buf();
            return Err(Error::Io { operation: "open", path, offset: 0, source });
        }
        let mut state = self.state();
        state.files.push(Use::default());
        Ok(Arc::new(ModelFile(state.files.len() - 1)))
    }

    fn exists(&self, _: &Path) -> Result<bool> {
        Ok(false)
    }

    fn rename(&self, _: &Path, _: &Path) -> Result<()> {
        Ok(())
    }

    fn remove(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn link(&self, _: &Path, _: &Path) -> Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn map_front(&self, path: &Path, _: u64) -> Result<Map> {
        let (path, source) = (path.to_path_buf(), std::io::ErrorKind::Unsupported.into());
        Err(Error::Io { operation: "map", path, offset: 0, source })
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn Lock>> {
        Ok(Box::new(Unlocked))
    }

    fn write_queue(&self) -> Result<Box<dyn WriteQueue>> {
        match &self.queue {
            Some(queue) => Ok(Box::new(queue.clone())),
            None => Ok(Box::new(self.clone())),
        }
    }

    fn profile(&self) -> Profile {
        Profile { rung: Rung::Simulated, alignment: 4096, depth_max: self.depth_max }
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}
