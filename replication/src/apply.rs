//! Applying what is committed.

use strandline_engine::Index;

use crate::{Error, Output, Replica, Result};

impl Replica {
    /// Applies what is committed; `false` if there was nothing.
    pub(crate) fn apply(&mut self, output: &mut Output) -> Result<bool> {
        let before = self.db().applied();
        if before >= self.committed || self.is_damaged() {
            return Ok(false);
        }
        let committed = self.db().commit(self.committed);
        if let Err(error) = committed {
            self.not_applied(error, output)?;
        }
        let applied = self.db().applied();
        if applied == before {
            return Ok(false);
        }
        self.applied_up_to(applied, output)?;
        Ok(true)
    }

    fn applied_up_to(&mut self, applied: Index, output: &mut Output) -> Result<()> {
        self.tell_changes()?;
        self.consensus.applied(applied);
        self.watermarks.applied(applied, self.consensus.log(), output);
        Ok(())
    }

    /// An entry could not be applied. If the state is damaged that waits for another one.
    fn not_applied(&mut self, error: strandline_engine::Error, output: &mut Output) -> Result<()> {
        if self.db().damage().is_none() {
            return Err(error.into());
        }
        self.note_damage(output)?;
        if self.is_damaged() {
            return Ok(());
        }
        let failure = Error::Stopped { reason: error.to_string() };
        self.db().stop(error);
        Err(failure)
    }
}
