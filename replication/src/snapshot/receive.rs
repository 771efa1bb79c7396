//! The follower's side: files in `state.incoming/`, then the new state.
//!
//! A file is received under another name, synced, and renamed when it is complete: what has its own
//! name after a crash is whole. The offer is kept beside the files, so that the same offer, made again,
//! goes on where it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use strandline_engine::{Adoption, Index};
use strandline_wal::disk::{Disk, OpenMode, replace_file};

use super::{CHUNK_LEN_MAX, Point};
use crate::message::{FileOffer, SnapshotBody};
use crate::{Error, Output, Replica, ReplicaId, Result};

/// The directory, beside the state's.
pub(crate) const INCOMING_DIR: &str = "state.incoming";
const OFFER_FILE: &str = "OFFER";
/// Added to the name of a file that is not complete.
const PART_SUFFIX: &str = ".part";
/// No table is larger; the sum of all that an offer may have can be counted.
const FILE_LEN_MAX: u64 = 1 << 40;
/// How many parts are fetched at a time.
const WINDOW: usize = 8;
/// After so many election times without a part the leader is taken to be gone.
const PATIENCE_ELECTIONS: u64 = 20;

/// What is being received.
pub(crate) struct Receiver {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    current: Option<Receiving>,
}

struct Receiving {
    from: ReplicaId,
    id: u64,
    index: Index,
    files: Vec<FileOffer>,
    /// Bytes of each file that have not come yet.
    missing: Vec<u64>,
    /// What is fetched next: file and offset.
    next: (usize, u64),
    /// What was fetched and has not come, and for how many ticks.
    outstanding: BTreeMap<(u32, u64), u64>,
    /// Since the last part.
    ticks: u64,
    /// All files are here, and are being taken over.
    adoption: Option<Adoption>,
    /// All is written; the consensus has been told.
    is_complete: bool,
}

fn refused(reason: String) -> Error {
    Error::Message { offset: 0, reason }
}

/// Whether a peer may have a file of this name written here.
fn is_ours(place: usize, name: &str) -> bool {
    match place {
        0 => name == "manifest",
        _ => name.strip_suffix(".table").is_some_and(|digits| {
            digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())
        }),
    }
}

/// What the file beside the received ones says.
fn offer_text(id: u64, index: Index, files: &[FileOffer]) -> String {
    let mut text = format!("checkpoint {id} at {index}\n");
    for file in files {
        text.push_str(&format!("{} {}\n", file.len, file.name));
    }
    text
}

impl Receiver {
    pub(crate) fn new(disk: Arc<dyn Disk>, group_dir: &std::path::Path) -> Self {
        Self { disk, dir: group_dir.join(INCOMING_DIR), current: None }
    }

    /// The leader does not have it any more.
    pub(crate) fn forget(&mut self, from: ReplicaId, id: u64) {
        let fetches = |r: &Receiving| (r.from, r.id) == (from, id) && r.adoption.is_none();
        if self.current.as_ref().is_some_and(fetches) {
            self.current = None;
        }
    }

    /// Bytes that have come, and in all.
    pub(crate) fn progress(&self) -> Option<(u64, u64)> {
        let receiving = self.current.as_ref()?;
        let len: u64 = receiving.files.iter().map(|file| file.len).sum();
        Some((len - receiving.missing.iter().sum::<u64>(), len))
    }

    /// Prepares the directory for an offer; keeps what is complete of the same one.
    fn begin(
        &mut self,
        from: ReplicaId,
        id: u64,
        index: Index,
        files: Vec<FileOffer>,
    ) -> Result<()> {
        self.disk.create_dir_all(&self.dir)?;
        let offer = offer_text(id, index, &files);
        if self.read(OFFER_FILE).is_none_or(|kept| kept != offer.as_bytes()) {
            self.clear()?;
            replace_file(&*self.disk, &self.dir.join(OFFER_FILE), offer.as_bytes())?;
        }
        let names = self.disk.list(&self.dir)?;
        let mut missing = Vec::with_capacity(files.len());
        for file in &files {
            let is_here = names.contains(&file.name);
            missing.push(if is_here { 0 } else { file.len });
            let part = format!("{}{PART_SUFFIX}", file.name);
            if names.contains(&part) {
                self.disk.remove(&self.dir.join(part))?;
            }
        }
        self.current = Some(Receiving {
            from,
            id,
            index,
            files,
            missing,
            next: (0, 0),
            outstanding: BTreeMap::new(),
            ticks: 0,
            adoption: None,
            is_complete: false,
        });
        Ok(())
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.disk.open(&self.dir.join(name), OpenMode::Read).ok()?;
        let len = usize::try_from(file.len().ok()?).ok()?;
        let mut bytes = vec![0; len];
        let count = file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(count);
        Some(bytes)
    }

    /// Removes all that was received.
    fn clear(&self) -> Result<()> {
        for name in self.disk.list(&self.dir)? {
            self.disk.remove(&self.dir.join(name))?;
        }
        Ok(self.disk.sync_dir(&self.dir)?)
    }

    /// Writes a part that was fetched. Whether it was one.
    fn write(&mut self, place: (u32, u64), bytes: &[u8]) -> Result<bool> {
        let Some(receiving) = &mut self.current else { return Ok(false) };
        let at = usize::try_from(place.0).unwrap_or(usize::MAX);
        let Some(file) = receiving.files.get(at) else { return Ok(false) };
        let wanted = (file.len - place.1.min(file.len)).min(u64::from(CHUNK_LEN_MAX));
        if u64::try_from(bytes.len()) != Ok(wanted) {
            return Err(refused(format!("a part of {} bytes where {wanted} belong", bytes.len())));
        }
        if receiving.outstanding.remove(&place).is_none() {
            return Ok(false);
        }
        receiving.ticks = 0;
        let path = self.dir.join(&file.name);
        let part = self.dir.join(format!("{}{PART_SUFFIX}", file.name));
        let mode = if self.disk.exists(&part)? { OpenMode::Write } else { OpenMode::Create };
        let open = self.disk.open(&part, mode)?;
        open.write_at(bytes, place.1)?;
        receiving.missing[at] -= wanted;
        if receiving.missing[at] == 0 {
            open.sync()?;
            self.disk.rename(&part, &path)?;
        }
        Ok(true)
    }
}

impl Receiving {
    fn is_all_here(&self) -> bool {
        self.missing.iter().all(|missing| *missing == 0)
    }

    /// The next part to fetch, if the window allows one.
    fn fetch(&mut self) -> Option<SnapshotBody> {
        if self.outstanding.len() >= WINDOW {
            return None;
        }
        loop {
            let (at, offset) = self.next;
            let file = self.files.get(at)?;
            if offset >= file.len || self.missing[at] == 0 {
                self.next = (at + 1, 0);
                continue;
            }
            let place = (u32::try_from(at).expect("files are bounded"), offset);
            self.next.1 += u64::from(CHUNK_LEN_MAX);
            self.outstanding.insert(place, 0);
            return Some(self.request(place));
        }
    }

    fn request(&self, (file, offset): (u32, u64)) -> SnapshotBody {
        let at = usize::try_from(file).expect("files are bounded");
        let rest = self.files[at].len - offset;
        let len = u32::try_from(rest).unwrap_or(CHUNK_LEN_MAX).min(CHUNK_LEN_MAX);
        SnapshotBody::Fetch { id: self.id, file, offset, len }
    }
}

impl Replica {
    /// The leader offers a checkpoint.
    pub(crate) fn offered(
        &mut self,
        from: ReplicaId,
        id: u64,
        index: Index,
        files: Vec<FileOffer>,
        output: &mut Output,
    ) -> Result<()> {
        if index <= self.consensus.committed() {
            self.say(from, SnapshotBody::Done { id, installed: true }, output);
            return Ok(());
        }
        let known = self.receiver.current.as_ref().map(|receiving| (receiving.from, receiving.id));
        if known == Some((from, id)) {
            return Ok(());
        }
        let is_strange = |(place, file): (usize, &FileOffer)| {
            !is_ours(place, &file.name) || file.len > FILE_LEN_MAX
        };
        if files.is_empty() || files.iter().enumerate().any(is_strange) {
            return Err(refused("a checkpoint with a file that is not one of a checkpoint".into()));
        }
        self.receiver.begin(from, id, index, files)?;
        self.fetch_more(output);
        self.adopt_if_here(output)
    }

    fn fetch_more(&mut self, output: &mut Output) {
        while let Some(receiving) = &mut self.receiver.current {
            let from = receiving.from;
            let Some(fetch) = receiving.fetch() else { return };
            self.say(from, fetch, output);
        }
    }

    /// A part has come.
    pub(crate) fn chunk(
        &mut self,
        from: ReplicaId,
        id: u64,
        place: (u32, u64),
        bytes: &[u8],
        output: &mut Output,
    ) -> Result<()> {
        let is_it = |r: &Receiving| (r.from, r.id) == (from, id) && r.adoption.is_none();
        if !self.receiver.current.as_ref().is_some_and(is_it) {
            return Ok(());
        }
        if self.receiver.write(place, bytes)? {
            self.fetch_more(output);
            self.adopt_if_here(output)?;
        }
        Ok(())
    }

    /// When all files are here they are taken over.
    fn adopt_if_here(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        if !receiving.is_all_here() || receiving.adoption.is_some() {
            return Ok(());
        }
        let dir = self.receiver.dir.clone();
        self.receiver.disk.sync_dir(&dir)?;
        match self.consensus.log().db().adopt(&dir) {
            Ok(adoption) => receiving.adoption = Some(adoption),
            Err(_) => self.give_up(output)?,
        }
        Ok(())
    }

    /// What came is of no use: it was damaged where it was read, or on the way.
    fn give_up(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = self.receiver.current.take() else { return Ok(()) };
        self.receiver.clear()?;
        let done = SnapshotBody::Done { id: receiving.id, installed: false };
        self.say(receiving.from, done, output);
        Ok(())
    }

    pub(crate) fn receiving_tick(&mut self, output: &mut Output) -> Result<()> {
        let retry = 2 * u64::from(self.options.heartbeat_ticks) + 2;
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        receiving.ticks += 1;
        if receiving.adoption.is_some() {
            return self.adopt_more(output);
        }
        if receiving.ticks > patience {
            self.receiver.current = None;
            return Ok(());
        }
        let mut again = Vec::new();
        for (place, ticks) in &mut receiving.outstanding {
            *ticks += 1;
            if ticks.is_multiple_of(retry) {
                again.push(*place);
            }
        }
        let from = receiving.from;
        let requests: Vec<_> = again.into_iter().map(|place| receiving.request(place)).collect();
        for request in requests {
            self.say(from, request, output);
        }
        Ok(())
    }

    /// Takes over one more table; tells the consensus when all are.
    fn adopt_more(&mut self, output: &mut Output) -> Result<()> {
        let Some(receiving) = &mut self.receiver.current else { return Ok(()) };
        let Some(adoption) = &mut receiving.adoption else { return Ok(()) };
        if receiving.is_complete {
            // The consensus had no use for it: the log went on meanwhile.
            self.receiver.current = None;
            return self.receiver.clear();
        }
        match self.consensus.log().db().adopt_slice(adoption) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            // A damaged table is the leader's; an error of this disk would be met again elsewhere.
            Err(_) => return self.give_up(output),
        }
        let point = Point::of(adoption.index(), adoption.machine_state());
        let Ok(point) = point else { return self.give_up(output) };
        // Whoever leads now has everything that is in it: it was committed.
        match self.consensus.leader() {
            Some(leader) if !self.consensus.is_leader() && self.stalled.is_none() => {
                receiving.is_complete = true;
                self.consensus.snapshot(leader, &point)
            }
            _ => Ok(()),
        }
    }

    /// The consensus takes the snapshot that is complete here: it becomes the state.
    pub(crate) fn install_snapshot(&mut self, index: Index, output: &mut Output) -> Result<()> {
        let receiving = self.receiver.current.take();
        let receiving = receiving.filter(|receiving| receiving.is_complete);
        let Some((receiving, adoption)) =
            receiving.and_then(|mut r| r.adoption.take().map(|adoption| (r, adoption)))
        else {
            let reason = format!("a snapshot at {index} was taken that is not here");
            return Err(Error::Stopped { reason });
        };
        assert!(adoption.index() == index && receiving.index <= index, "the one that was told of");
        self.db().install(&adoption)?;
        let terms = self.shared.lock().terms.clone();
        self.consensus.log_mut().restart(terms);
        self.receiver.clear()?;
        let done = SnapshotBody::Done { id: receiving.id, installed: true };
        self.say(receiving.from, done, output);
        Ok(())
    }
}
