//! The manifest: which files make up the engine, as a log of edits.
//!
//! Every install is one record: a flush, a compaction, the keyspaces that go with a flush. Files are
//! written, synced, and their names synced, *before* the record that names them is appended and
//! synced; only then does anybody see them, and only then is anything removed that they replace. See
//! `docs/format/manifest.md`.
//!
//! `CURRENT` names the manifest in use, and is replaced atomically. A manifest is put to use when it
//! holds everything that the one before it held, synced.
//!
//! - A failed *sync* is final for the file: nothing is appended to it again. If the disk was full,
//!   the next edit goes to a new manifest, when there is room; after any other error the manifest
//!   refuses all edits until the engine is opened again.
//! - After a failed append nobody knows whether the edit is in the file. The files that it names
//!   must stay until another manifest is in use; the caller keeps them.
//! - What is read at open may never have been durable: a process that was killed leaves unsynced
//!   records readable. So a manifest that was appended to, or has a torn tail, is never trusted in
//!   place; its sum is written to a new one before anything is removed on its word. On a full disk
//!   that waits for the first edit, and nothing is removed until then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_wal::canary;
use strandline_wal::disk::{Disk, File, OpenMode, replace_file};
use strandline_wal::record::{Kind, encode_header};

use crate::second_try::twice;
use crate::table::{TableId, file_name};
use crate::{Error, Result};

pub(crate) mod contents;
pub(crate) mod edit;
mod inspect;
pub(crate) mod replay;
pub(crate) mod version;

use contents::Contents;
use edit::{Edit, Place, encode_marker};
pub use inspect::inspect_manifest;
use replay::{HEADER_LEN, Header, corruption, replay};

/// How many levels there are: 0, whose tables overlap, and 1 to 6, each ten times the one before.
pub(crate) const LEVELS: usize = 7;

/// The file that names the manifest in use.
pub(crate) const CURRENT: &str = "CURRENT";
/// What [`replace_file`] may leave behind.
pub(crate) const CURRENT_TEMPORARY: &str = "CURRENT.tmp";
const NAME_PREFIX: &str = "MANIFEST-";

/// Appended bytes after which a new manifest is begun, beside the size of its base: 4 MiB, some
/// thousands of edits, are read within milliseconds at open.
const APPENDED_LEN_MAX: u64 = 4 << 20;

/// The name of the manifest with this number.
pub(crate) fn manifest_name(number: u64) -> String {
    format!("{NAME_PREFIX}{number:016}")
}

/// The number in a manifest's name.
pub(crate) fn manifest_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NAME_PREFIX)?;
    let number = digits.parse().ok()?;
    (manifest_name(number) == name).then_some(number)
}

/// The table that a file of this name holds.
pub(crate) fn table_of_name(name: &str) -> Option<TableId> {
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    let id = TableId(digits.parse().ok()?);
    (file_name(id) == name).then_some(id)
}

/// Whether the manifest takes edits.
#[derive(Debug)]
enum Health {
    /// It does.
    Ready,
    /// A new file must be begun first.
    Retired,
    /// It does not, until the engine is opened again.
    Failed(strandline_wal::Error),
}

/// The manifest in use.
#[derive(Debug)]
pub(crate) struct Manifest {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The number of the file in use.
    number: u64,
    /// No manifest of this number or above was ever written.
    next_number: u64,
    /// The file in use; none before the first one is written.
    file: Option<Arc<dyn File>>,
    /// Where the next record goes.
    offset: u64,
    /// Bytes of the file when it was put to use.
    base_len: u64,
    /// The number of the next record.
    next_sequence: u64,
    /// The last record that is known to be durable.
    durable: u64,
    /// What the edits add up to.
    contents: Contents,
    health: Health,
    /// Whether what there was before could not be used, and stays as it is until the first edit.
    is_hollow: bool,
}

impl Manifest {
    /// Reads the manifest that `CURRENT` names, or makes a first one if the directory holds none.
    /// `names` is the listing of `dir`.
    ///
    /// # Errors
    ///
    /// Damage, a newer format, or what the disk refuses.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path, names: &[String]) -> Result<Manifest> {
        let mut manifest = Manifest::hollow(disk, dir, names, Contents::new());
        manifest.is_hollow = false;
        if !names.iter().any(|name| name == CURRENT) {
            manifest.check_never_used(names)?;
            manifest.begin()?;
            return Ok(manifest);
        }
        manifest.read()?;
        Ok(manifest)
    }

    /// Without `CURRENT` the engine is new, or died while its first manifest was made. If there is
    /// more than that, `CURRENT` was lost, and starting from nothing would lose the rest.
    fn check_never_used(&self, names: &[String]) -> Result<()> {
        let (unused, _) = encode_base(&Contents::new(), 1, 1);
        for name in names {
            let is_unused = if manifest_number(name).is_some() {
                let path = self.dir.join(name);
                let bytes = read_file(&*self.disk, &path)?;
                let replayed = replay(&path, &bytes);
                bytes.len() <= unused.len()
                    && replayed.map_or(true, |replayed| replayed.contents == Contents::new())
            } else {
                table_of_name(name).is_none()
            };
            if !is_unused {
                let found = format!("no such file, but {name}");
                let expected = "the name of the manifest in use".into();
                return Err(corruption(&self.dir.join(CURRENT), 0, expected, found).into());
            }
        }
        Ok(())
    }

    /// A manifest in the place of one that cannot be used: nothing is written or removed before the
    /// first edit, which goes to a new file together with `contents`.
    pub(crate) fn hollow(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        names: &[String],
        contents: Contents,
    ) -> Manifest {
        let numbers = names.iter().filter_map(|name| manifest_number(name));
        Manifest {
            disk: Arc::clone(disk),
            dir: dir.to_path_buf(),
            number: 0,
            next_number: numbers.max().unwrap_or(0) + 1,
            file: None,
            offset: 0,
            base_len: 0,
            next_sequence: 1,
            durable: 0,
            contents,
            health: Health::Retired,
            is_hollow: true,
        }
    }

    fn read(&mut self) -> Result<()> {
        let number = read_current(&*self.disk, &self.dir)?;
        let path = self.dir.join(manifest_name(number));
        let bytes = read_file(&*self.disk, &path).map_err(|error| match error {
            Error::Wal(error) if error.is_not_found() => {
                let expected = format!("the manifest that {CURRENT} names");
                corruption(&path, 0, expected, "no such file".into()).into()
            }
            other => other,
        })?;
        let replayed = replay(&path, &bytes)?;
        if replayed.number != number {
            return Err(strandline_wal::Error::Foreign {
                path,
                expected: format!("manifest {number}"),
                found: format!("manifest {}", replayed.number),
            }
            .into());
        }
        self.number = number;
        self.next_number = self.next_number.max(number + 1);
        self.next_sequence = replayed.next_sequence;
        // The base at least, which is all that there is in a file that stays in use.
        self.durable = replayed.next_sequence - 1;
        self.contents = replayed.contents;
        self.offset = to_u64(bytes.len());
        self.base_len = self.offset;
        if !replayed.was_appended_to && replayed.torn_at.is_none() {
            // Nothing is written by that: it is a read of what is stored, as the one before it.
            self.file = Some(twice(|| self.disk.open(&path, OpenMode::Write))?);
            // A process that was killed may have left the rename of CURRENT unsynced.
            self.disk.sync_dir(&self.dir)?;
            self.health = Health::Ready;
            return Ok(());
        }
        match self.begin() {
            Err(Error::Wal(error)) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// What the edits add up to.
    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The disk that it lies on.
    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The directory that it lies in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file in use.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(manifest_name(self.number))
    }

    /// The number of the file in use.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether everything in [`contents`](Manifest::contents) is known to be durable.
    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(self.health, Health::Ready)
    }

    /// Why the manifest takes no edits, if it does not.
    ///
    /// # Errors
    ///
    /// The first error that made it so.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.health {
            Health::Failed(error) => Err(Error::ReadOnly { reason: error.to_string() }),
            _ => Ok(()),
        }
    }

    /// Makes an edit durable.
    ///
    /// # Errors
    ///
    /// What the disk refused; the edit is then not taken in, but it may be in the file. If the disk
    /// was full the edit may be tried again.
    pub(crate) fn append(&mut self, edit: &Edit) -> Result<()> {
        self.check()?;
        self.contents.check(edit).expect("an edit is made from the contents that it changes");
        if self.is_hollow {
            // Old state or new one, and never the emptiness between.
            let mut contents = self.contents.clone();
            contents.apply(edit).expect("it was checked just above");
            let before = std::mem::replace(&mut self.contents, contents);
            return match self.begin() {
                Ok(()) => {
                    self.is_hollow = false;
                    Ok(())
                }
                Err(error) => {
                    self.contents = before;
                    Err(error)
                }
            };
        }
        let is_long = self.offset > 2 * self.base_len + APPENDED_LEN_MAX;
        if is_long || !matches!(self.health, Health::Ready) {
            self.begin()?;
        }
        let payload = edit.encode(self.place(), self.durable);
        if let Err(error) = self.write(&payload).and_then(|file| Ok(file.sync()?)) {
            self.fail(&error);
            return Err(error);
        }
        self.durable = self.next_sequence;
        self.next_sequence += 1;
        self.contents.apply(edit).expect("checked before it was written");
        // The edit is durable, whatever becomes of its marker. A marker that was not written whole
        // must not be written over, so the file is then given up.
        if self.write(&encode_marker(self.place(), self.durable)).is_ok() {
            self.next_sequence += 1;
        } else {
            self.health = Health::Retired;
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place { number: self.number, sequence: self.next_sequence }
    }

    /// Writes a record at the end of the file, not durably.
    fn write(&mut self, payload: &[u8]) -> Result<&Arc<dyn File>> {
        let file = self.file.as_ref().expect("a manifest that is ready has a file");
        let mut bytes = encode_header(Kind::EDIT, payload).to_vec();
        bytes.extend_from_slice(payload);
        file.write_at(&bytes, self.offset)?;
        self.offset += to_u64(bytes.len());
        Ok(file)
    }

    fn fail(&mut self, error: &Error) {
        self.health = match error {
            Error::Wal(error) if error.is_full() => Health::Retired,
            Error::Wal(error) => Health::Failed(error.duplicate()),
            other => Health::Failed(strandline_wal::Error::Poisoned { reason: other.to_string() }),
        };
    }

    /// Writes the contents to a new file and puts that to use.
    fn begin(&mut self) -> Result<()> {
        // Whatever fails on the way, nothing may be appended to the old file any more: once CURRENT
        // has been touched, a power cut decides which of the two files is read.
        self.health = Health::Retired;
        let number = self.next_number;
        self.next_number += 1;
        let begun = self.write_base(number);
        match begun {
            Ok((file, offset, next_sequence)) => {
                // If the old one cannot be removed it is an orphan of the next opening.
                if self.number != 0 {
                    let _ = self.disk.remove(&self.path());
                }
                self.file = Some(file);
                self.number = number;
                self.offset = offset;
                self.base_len = offset;
                self.next_sequence = next_sequence;
                self.durable = next_sequence - 1;
                self.health = Health::Ready;
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn write_base(&self, number: u64) -> Result<(Arc<dyn File>, u64, u64)> {
        let (bytes, next_sequence) = encode_base(&self.contents, number, self.next_sequence);
        let path = self.dir.join(manifest_name(number));
        let file = self.disk.open(&path, OpenMode::Create)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        if !canary::is_on(canary::NO_DIRECTORY_SYNC_AFTER_CREATE) {
            self.disk.sync_dir(&self.dir)?;
        }
        let current = encode_current(number);
        replace_file(&*self.disk, &self.dir.join(CURRENT), current.as_bytes())?;
        Ok((file, to_u64(bytes.len()), next_sequence))
    }
}

/// The bytes of a manifest that says `contents`, and the sequence number of its next record.
pub(crate) fn encode_base(contents: &Contents, number: u64, first_sequence: u64) -> (Vec<u8>, u64) {
    let edits = contents.as_edits();
    let base_records = u32::try_from(edits.len()).expect("a base has few records");
    let mut bytes = Header { base_records, number, first_sequence }.encode().to_vec();
    let mut place = Place { number, sequence: first_sequence };
    for edit in &edits {
        let payload = edit.encode(place, 0);
        bytes.extend_from_slice(&encode_header(Kind::EDIT, &payload));
        bytes.extend_from_slice(&payload);
        place.sequence += 1;
    }
    (bytes, place.sequence)
}

const _: () = assert!(HEADER_LEN > 0 && LEVELS <= 256, "a level fits a byte");

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("lengths fit 64 bits")
}

/// The content of `CURRENT`: a line that a person can read, with a checksum.
fn encode_current(number: u64) -> String {
    let name = manifest_name(number);
    format!("{name} crc32 {:08x}\n", crc32fast::hash(name.as_bytes()))
}

/// The number of the manifest that `CURRENT` names.
pub(crate) fn read_current(disk: &dyn Disk, dir: &Path) -> Result<u64> {
    let path = dir.join(CURRENT);
    let bytes = read_file(disk, &path)?;
    let name = bytes.split(|byte| *byte == b' ').next().unwrap_or(&[]);
    let number = std::str::from_utf8(name).ok().and_then(manifest_number);
    match number {
        Some(number) if encode_current(number).as_bytes() == bytes => Ok(number),
        _ => {
            let shown = bytes.get(..64).unwrap_or(&bytes).escape_ascii();
            let expected = "the name of a manifest and its checksum".into();
            Err(corruption(&path, 0, expected, format!("\"{shown}\"")).into())
        }
    }
}

/// The whole content of a file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>> {
    let file = twice(|| disk.open(path, OpenMode::Read))?;
    let len = usize::try_from(twice(|| file.len())?).map_err(|_| {
        corruption(path, 0, "a file that fits into memory".into(), "a larger one".into())
    })?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match twice(|| file.read_at(&mut bytes[filled..], to_u64(filled)))? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
