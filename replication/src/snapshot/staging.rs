//! Files of a checkpoint on their way into `state.incoming/`, and how much of each is here for good.
//!
//! A file goes by the name of its content, so what an earlier transfer has brought serves the next one
//! too, whoever offers it. It grows under another name from its beginning on, and gets its own when it
//! is complete, synced, and has the checksum that was offered. Every so many bytes the growing file is
//! synced, and a line in `PROGRESS` says how far, with the checksum up to there:
//!
//! ```text
//! <bytes> <crc32 of those bytes> <name> <crc32 of this line so far>
//! ```
//!
//! After a crash a file that has its own name counts whole, and a growing one as far as its last line
//! says, if the bytes up to there have the checksum of the line. The rest is fetched again. What the
//! new offer does not name is removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use strandline_wal::canary;
use strandline_wal::disk::{Disk, File, OpenMode, replace_file};

use crate::message::FileOffer;
use crate::{Result, Transfer};

/// Added to the name of a file that is not complete.
const PART_SUFFIX: &str = ".part";
const PROGRESS_FILE: &str = "PROGRESS";
/// After so many bytes of a file its progress is made durable: a crash costs no more than this, and a
/// transfer two syncs for each.
const NOTE_EVERY: u64 = 4 << 20;
/// Bytes read at a time when a prefix is checked.
const CHECK_LEN: usize = 1 << 20;

/// See the module's documentation.
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files: Vec<Staged>,
    /// The progress file and its length.
    progress: (Arc<dyn File>, u64),
    /// Bytes that need not be fetched, because they were here when the transfer began.
    reused: u64,
    /// [`NOTE_EVERY`]; tests have shorter files.
    note_every: u64,
}

/// One file.
struct Staged {
    offer: FileOffer,
    /// Bytes from the beginning that are here.
    here: u64,
    /// How many of them survive a crash.
    noted: u64,
    /// Over those that are here.
    checksum: Hasher,
    /// The file that grows.
    part: Option<Arc<dyn File>>,
    is_complete: bool,
    /// How often it had to be thrown away.
    damaged: u32,
}

/// What became of a part that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// It belongs to the file.
    Part,
    /// The file is complete.
    Complete,
    /// The file is not what was offered, and begins anew.
    Mismatch,
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

impl Staging {
    /// Prepares the directory for the files of an offer. `find` tells where the state has a file of
    /// that content already.
    pub(crate) fn begin(
        disk: Arc<dyn Disk>,
        dir: &Path,
        offers: Vec<FileOffer>,
        find: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self> {
        disk.create_dir_all(dir)?;
        let noted = read_progress(&*disk, dir);
        let names = disk.list(dir)?;
        let is_wanted = |name: &str| {
            let name = name.strip_suffix(PART_SUFFIX).unwrap_or(name);
            offers.iter().skip(1).any(|offer| offer.name == name)
        };
        let wanted: std::collections::BTreeSet<&String> =
            names.iter().filter(|name| is_wanted(name)).collect();
        for name in names.iter().filter(|name| *name != PROGRESS_FILE && !wanted.contains(name)) {
            disk.remove(&dir.join(name))?;
        }
        let mut files = Vec::with_capacity(offers.len());
        for offer in offers {
            let path = dir.join(&offer.name);
            let part = dir.join(format!("{}{PART_SUFFIX}", offer.name));
            let mut staged = Staged::new(offer);
            let name = &staged.offer.name;
            if wanted.contains(name) {
                staged.is_complete = disk.open(&path, OpenMode::Read)?.len()? == staged.offer.len;
                if !staged.is_complete {
                    disk.remove(&path)?;
                }
                if wanted.contains(&format!("{name}{PART_SUFFIX}")) {
                    disk.remove(&part)?;
                }
            } else if wanted.contains(&format!("{name}{PART_SUFFIX}")) {
                match noted.get(name) {
                    Some(noted) => staged.resume(&*disk, &part, *noted)?,
                    None => disk.remove(&part)?,
                }
            } else if let Some(found) = find(name) {
                match disk.link(&found, &path) {
                    Ok(()) => staged.is_complete = true,
                    // Of a damaged state, or removed meanwhile: it is fetched.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if staged.is_complete {
                staged.here = staged.offer.len;
            }
            files.push(staged);
        }
        let progress = begin_progress(&*disk, dir, &files)?;
        let reused = files.iter().map(|file| file.here).sum();
        let (dir, note_every) = (dir.to_path_buf(), NOTE_EVERY);
        Ok(Self { disk, dir, files, progress, reused, note_every })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.files.iter().all(|file| file.is_complete)
    }

    /// The file at this place in the offer: its length, and how much of it is here.
    pub(crate) fn extent(&self, at: usize) -> Option<(u64, u64)> {
        self.files.get(at).map(|file| (file.offer.len, file.here))
    }

    /// The first file at or after `at` that lacks something.
    pub(crate) fn incomplete_from(&self, at: usize) -> Option<usize> {
        (at..self.files.len()).find(|at| !self.files[*at].is_complete)
    }

    /// How far the transfer is.
    pub(crate) fn transfer(&self) -> Transfer {
        let len = |file: &Staged| file.offer.len;
        Transfer {
            files: to_u64(self.files.iter().filter(|file| file.is_complete).count()),
            files_total: to_u64(self.files.len()),
            bytes: self.files.iter().map(|file| file.here).sum(),
            bytes_total: self.files.iter().map(len).sum(),
            bytes_reused: self.reused,
        }
    }

    fn path(&self, at: usize) -> PathBuf {
        self.dir.join(&self.files[at].offer.name)
    }

    fn part_path(&self, at: usize) -> PathBuf {
        self.dir.join(format!("{}{PART_SUFFIX}", self.files[at].offer.name))
    }

    /// Adds the next bytes of a file.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) -> Result<Wrote> {
        let (path, part_path) = (self.path(at), self.part_path(at));
        let file = &mut self.files[at];
        let part = match &file.part {
            Some(part) => part,
            None => {
                let mode = if file.here > 0 { OpenMode::Write } else { OpenMode::Create };
                file.part.insert(self.disk.open(&part_path, mode)?)
            }
        };
        part.write_at(bytes, file.here)?;
        file.checksum.update(bytes);
        file.here += to_u64(bytes.len());
        assert!(file.here <= file.offer.len, "no more is written than was offered");
        if file.here < file.offer.len {
            if file.here - file.noted >= self.note_every {
                part.sync()?;
                self.note(at)?;
            }
            return Ok(Wrote::Part);
        }
        if file.checksum.clone().finalize() != file.offer.checksum {
            self.discard(at)?;
            return Ok(Wrote::Mismatch);
        }
        if !canary::is_on(canary::SNAPSHOT_NOT_SYNCED) {
            part.sync()?;
        }
        self.disk.rename(&part_path, &path)?;
        self.disk.sync_dir(&self.dir)?;
        (file.part, file.is_complete) = (None, true);
        Ok(Wrote::Complete)
    }

    /// Writes down, for good, how much of a file is durable.
    fn note(&mut self, at: usize) -> Result<()> {
        let file = &mut self.files[at];
        if file.noted == 0 {
            // Its name.
            self.disk.sync_dir(&self.dir)?;
        }
        let line = progress_line(file);
        file.noted = file.here;
        let (progress, len) = &mut self.progress;
        progress.write_at(line.as_bytes(), *len)?;
        *len += to_u64(line.len());
        Ok(progress.sync()?)
    }

    fn discard(&mut self, at: usize) -> Result<()> {
        let path = match self.files[at].is_complete {
            true => self.path(at),
            false => self.part_path(at),
        };
        self.disk.remove(&path)?;
        let file = &mut self.files[at];
        let damaged = file.damaged + 1;
        *file = Staged { damaged, ..Staged::new(file.offer.clone()) };
        Ok(())
    }

    /// A file that was complete is not what it should be: it begins anew. `false` if that makes no
    /// sense any more.
    pub(crate) fn reject(&mut self, name: &str) -> Result<bool> {
        let Some(at) = self.files.iter().position(|file| file.offer.name == name) else {
            return Ok(false);
        };
        self.discard(at)?;
        Ok(!self.is_hopeless(at))
    }

    /// Whether a file came damaged again and again.
    pub(crate) fn is_hopeless(&self, at: usize) -> bool {
        // Once for a file that was here already, once for the way; then it is the sender's.
        self.files[at].damaged > 2
    }

    /// Makes the names of all files durable.
    pub(crate) fn seal(&self) -> Result<()> {
        Ok(self.disk.sync_dir(&self.dir)?)
    }
}

impl Staged {
    fn new(offer: FileOffer) -> Self {
        Self {
            offer,
            here: 0,
            noted: 0,
            checksum: Hasher::new(),
            part: None,
            is_complete: false,
            damaged: 0,
        }
    }

    /// Takes up a growing file where its progress says that it was, if its bytes agree.
    fn resume(&mut self, disk: &dyn Disk, path: &Path, (len, checksum): (u64, u32)) -> Result<()> {
        let file = disk.open(path, OpenMode::Read)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; CHECK_LEN];
        let mut at = 0;
        while at < len.min(self.offer.len) {
            let wanted = usize::try_from(len - at).unwrap_or(CHECK_LEN).min(CHECK_LEN);
            let count = match file.read_at(&mut buffer[..wanted], at) {
                // What cannot be read is fetched again.
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            hasher.update(&buffer[..count]);
            at += to_u64(count);
        }
        if at == len && hasher.clone().finalize() == checksum {
            (self.here, self.noted, self.checksum) = (len, len, hasher);
            return Ok(());
        }
        Ok(disk.remove(path)?)
    }
}

/// Removes everything that was received.
pub(crate) fn clear(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for name in disk.list(dir)? {
        disk.remove(&dir.join(name))?;
    }
    Ok(disk.sync_dir(dir)?)
}

fn progress_line(file: &Staged) -> String {
    let checksum = file.checksum.clone().finalize();
    let line = format!("{} {checksum:08x} {}", file.here, file.offer.name);
    let own = crc32fast::hash(line.as_bytes());
    format!("{line} {own:08x}\n")
}

/// Begins the progress file anew, with what is known now.
fn begin_progress(disk: &dyn Disk, dir: &Path, files: &[Staged]) -> Result<(Arc<dyn File>, u64)> {
    let grown = files.iter().filter(|file| file.noted > 0 && !file.is_complete);
    let text: String = grown.map(progress_line).collect();
    let path = dir.join(PROGRESS_FILE);
    replace_file(disk, &path, text.as_bytes())?;
    Ok((disk.open(&path, OpenMode::Write)?, to_u64(text.len())))
}

/// How far each growing file was, by its last line; lines that are not whole do not count.
fn read_progress(disk: &dyn Disk, dir: &Path) -> BTreeMap<String, (u64, u32)> {
    let read = || -> Option<Vec<u8>> {
        let file = disk.open(&dir.join(PROGRESS_FILE), OpenMode::Read).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let count = file.read_at(&mut bytes, 0).ok()?;
        bytes.truncate(count);
        Some(bytes)
    };
    let bytes = read().unwrap_or_default();
    let parse = |line: &[u8]| -> Option<(String, (u64, u32))> {
        let (line, own) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
        if format!("{:08x}", crc32fast::hash(line.as_bytes())) != own {
            return None;
        }
        let mut fields = line.splitn(3, ' ');
        let len = fields.next()?.parse().ok()?;
        let checksum = u32::from_str_radix(fields.next()?, 16).ok()?;
        Some((fields.next()?.to_owned(), (len, checksum)))
    };
    bytes.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

#[cfg(test)]
#[path = "staging_tests.rs"]
mod tests;
