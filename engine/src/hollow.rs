//! A state that is damaged, until another one takes its place.
//!
//! A replica whose state is damaged can have it replaced by a checkpoint of a peer. Until then nothing
//! wrong may come of it:
//!
//! - A damaged *block* that a reader or a compaction meets gives an error, always. The engine goes on
//!   otherwise, and remembers it: [`Engine::damage`].
//! - What the disk cannot read is as good as damaged, when it was tried [twice](crate::second_try). What it
//!   cannot write is not: that says nothing of what is stored.
//! - What cannot be opened at all, because a table's ends or the manifest are damaged or lost, opens
//!   *hollow*: without tables. Every read is refused with the damage. Nothing on the disk is
//!   written or removed before the checkpoint is installed: the edit that does so begins a new manifest,
//!   so a crash leaves the damaged state or the new one.
//!
//! Where a hollow state stands: what the manifest says, if that can be read; else everything before the
//! log's beginning was in tables, because only what is in tables is trimmed.
//!
//! If the log still begins with the first entry nothing is lost: then the engine opens empty, everything is
//! applied again, and the first flush takes the place of what was there.
//!
//! What was damaged is kept beside the new state as `*.aside-1`, for whoever wants to dig, as far as there
//! are no more than [`ASIDE_MAX`] such files. What cannot be read is not: nobody would get anything out of it, and its
//! space is given back like that of any file that was replaced.

use std::path::Path;
use std::sync::Arc;

use strandline_wal::disk::Disk;
use strandline_wal::{Error as Damage, Lsn};

use crate::engine::{LIST_IS_SOUND, TEXT_IS_SOUND, remove_orphans};
use crate::manifest::contents::Contents;
use crate::manifest::replay::{corruption, replay};
use crate::manifest::version::Version;
use crate::manifest::{CURRENT, Manifest, manifest_name, read_current, read_file};
use crate::table::{BlockCache, file_name};
use crate::{Engine, Error, Index, Options, Result};

/// So many damaged files are kept at the most: each is a table, or smaller.
const ASIDE_MAX: usize = 4;
/// Added to the name of a damaged file that is kept.
const ASIDE_SUFFIX: &str = ".aside-1";

/// What was wrong when the engine was opened, as damage of a file; others are given back.
fn as_damage(error: Error) -> Result<Damage> {
    match error {
        Error::Wal(error @ (Damage::Corruption { .. } | Damage::Foreign { .. })) => Ok(error),
        Error::Wal(error) if error.is_unreadable() => Ok(error),
        other => Err(other),
    }
}

/// What the manifest in use says.
fn read_contents(disk: &dyn Disk, dir: &Path) -> Result<Contents> {
    let number = read_current(disk, dir)?;
    let path = dir.join(manifest_name(number));
    let replayed = replay(&path, &read_file(disk, &path)?)?;
    match replayed.number == number {
        true => Ok(replayed.contents),
        false => {
            let found = format!("manifest {}", replayed.number);
            Err(corruption(&path, 0, format!("manifest {number}"), found).into())
        }
    }
}

impl Engine {
    /// As [`open`](Engine::open), and a state that is damaged, or ends before the log begins, opens
    /// hollow.
    ///
    /// # Errors
    ///
    /// As for [`open`](Engine::open), except damage.
    pub(crate) fn open_or_hollow(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        log_first: Lsn,
    ) -> Result<Engine> {
        let damage = match Engine::open(Arc::clone(&disk), dir, options.clone()) {
            Ok(engine) if engine.flushed().0 + 1 >= log_first.0 => return Ok(engine),
            Ok(engine) => {
                let expected = format!("a state up to entry {} or later", log_first.0 - 1);
                let found = format!("one up to entry {}", engine.flushed());
                corruption(&dir.join(CURRENT), 0, expected, found)
            }
            Err(error) => as_damage(error)?,
        };
        let names = disk.list(dir)?;
        let known = read_contents(&*disk, dir).ok();
        let rubble = known.iter().flat_map(Contents::tables);
        let rubble = rubble.map(|(_, meta)| (meta.content_name(), dir.join(file_name(meta.id))));
        let rubble = rubble.collect();
        let leads_up = |contents: &Contents| contents.flushed.0 + 1 >= log_first.0;
        // What can be applied again from the beginning is.
        let known = known.filter(leads_up).filter(|_| log_first.0 > 1);
        let contents = match known {
            Some(contents) => contents.without_tables(),
            None => Contents { flushed: Index(log_first.0.max(1) - 1), ..Contents::new() },
        };
        let manifest = Manifest::hollow(&disk, dir, &names, contents);
        let cache = BlockCache::new(options.block_cache_size);
        let open = |_: &_| unreachable!("a hollow state has no tables");
        let version = Arc::new(Version::open(manifest.contents(), open)?);
        let engine = Engine::of(disk, dir, options, (manifest, &names), cache, version);
        if log_first.0 <= 1 {
            engine.set_aside(&damage);
            let _ = engine.rebuilt.set(damage);
            return Ok(engine);
        }
        engine.replace_state(|state| state.missing = Some(Arc::new(damage)));
        *engine.rubble.lock().expect(LIST_IS_SOUND) = rubble;
        Ok(engine)
    }

    /// What is known to be damaged of the state.
    pub fn damage(&self) -> Option<Damage> {
        let state = self.state();
        if let Some(missing) = &state.missing {
            return Some(missing.duplicate());
        }
        let in_use = |id| state.version.tables().any(|table| table.meta().id == id);
        self.cache.findings.find(in_use)
    }

    /// What was damaged of a state that is applied again, from a log that has everything.
    pub fn rebuilt(&self) -> Option<&Damage> {
        self.rebuilt.get()
    }

    /// Whether the state was opened without what is in its tables.
    pub(crate) fn is_hollow(&self) -> bool {
        self.state().missing.is_some()
    }

    /// Keeps the damaged file under another name. What cannot be kept is no reason to stay damaged.
    pub(crate) fn set_aside(&self, damage: &Damage) {
        let (Damage::Corruption { path, .. } | Damage::Foreign { path, .. }) = damage else {
            return;
        };
        let Ok(names) = self.place.disk.list(&self.place.dir) else { return };
        let kept = names.iter().filter(|name| name.ends_with(ASIDE_SUFFIX)).count();
        if let Some(name) = path.file_name().and_then(std::ffi::OsStr::to_str)
            && kept < ASIDE_MAX
        {
            let _ =
                self.place.disk.link(path, &self.place.dir.join(format!("{name}{ASIDE_SUFFIX}")));
        }
    }

    /// Forgets what was damaged, and removes what is left of it: another state has its place.
    pub(crate) fn clear_rubble(&self, was_hollow: bool) {
        *self.compaction_damage.write().expect(TEXT_IS_SOUND) = None;
        self.rubble.lock().expect(LIST_IS_SOUND).clear();
        // Tables of a state that was open may still be read, and are removed as any others.
        if was_hollow && let Ok(names) = self.place.disk.list(&self.place.dir) {
            remove_orphans(&*self.place.disk, &self.place.dir, &names, &self.manifest());
        }
    }
}
