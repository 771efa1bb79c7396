//! Verification: reading everything and checking every checksum.
//!
//! Nothing is repaired and nothing stops at the first damage: whoever runs this wants the whole list.
//! Reads and writes go on meanwhile.

use crate::manifest::replay::{corruption, replay};
use crate::manifest::{read_current, read_file};
use crate::{Engine, Error, Index, Result};

/// What a verification looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Tables that were read whole.
    pub tables: u64,
    /// What those tables checked, summed: blocks or bytes, as tables count.
    pub checked: u64,
    /// Whether the manifest was read; it is not while it cannot be trusted (after a failed write).
    pub manifest: bool,
    /// Everything up to here is in tables, by the manifest: the log is not asked for it. 0 without one.
    pub flushed: Index,
    /// Every damage that was found.
    pub damage: Vec<Error>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Engine {
    /// Reads every table and the manifest, and checks all checksums.
    ///
    /// # Errors
    ///
    /// None of its own at present: damage, and what cannot be read, is listed in the report.
    pub fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        if let Err(error) = self.verify_manifest(&mut report) {
            report.damage.push(error);
        }
        let view = self.view();
        if let Err(error) = view.state().check() {
            report.damage.push(error);
        }
        for table in view.state().version.tables() {
            report.tables += 1;
            match table.verify() {
                Ok(checked) => report.checked += checked,
                Err(error) => report.damage.push(error),
            }
        }
        Ok(report)
    }

    fn verify_manifest(&self, report: &mut VerifyReport) -> Result<()> {
        let manifest = self.manifest();
        if !manifest.is_confirmed() {
            return Ok(());
        }
        let path = manifest.path();
        let named = read_current(manifest.disk(), manifest.dir())?;
        if named != manifest.number() {
            let expected = format!("CURRENT naming manifest {}", manifest.number());
            return Err(corruption(&path, 0, expected, format!("manifest {named}")).into());
        }
        let bytes = read_file(manifest.disk(), &path)?;
        let replayed = replay(&path, &bytes)?;
        if let Some(offset) = replayed.torn_at {
            let expected = "a durable record".into();
            return Err(corruption(&path, offset, expected, "an invalid one".into()).into());
        }
        if replayed.contents != *manifest.contents() {
            let expected = "the edits that were acknowledged".into();
            return Err(corruption(&path, 0, expected, "others".into()).into());
        }
        report.manifest = true;
        Ok(())
    }
}
