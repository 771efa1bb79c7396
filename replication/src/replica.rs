//! One replica: events in, effects out.

use std::path::Path;
use std::sync::Arc;

use strandline_engine::{Db, Machine};
use strandline_wal::disk::Disk;

use crate::{Error, Event, Options, Output, Result, Status};

/// A replica of a store, stepped by its driver.
#[derive(Debug)]
pub struct Replica {
    db: Db,
    status: Status,
}

impl Replica {
    /// Opens the replica in `dir`, or creates it.
    ///
    /// # Errors
    ///
    /// If the directory is in use, damaged, or another replica's; [`Error::InvalidOption`].
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        options: Options,
        _machine: Box<dyn Machine>,
    ) -> Result<Replica> {
        options.validate()?;
        Err(Error::Stopped { reason: "replicas cannot be opened yet".into() })
    }

    /// Takes one event, and adds to `output` what follows from it.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if a peer's message was refused: nothing has changed. All other errors stop
    /// the replica.
    pub fn step(&mut self, _event: Event, _output: &mut Output) -> Result<()> {
        Err(Error::Stopped { reason: "replicas cannot be stepped yet".into() })
    }

    /// The store, for reading.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// What the replica is, knows and lacks.
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Makes everything durable and gives the directory free.
    ///
    /// # Errors
    ///
    /// If not everything could be made durable.
    pub fn close(self) -> Result<()> {
        Ok(self.db.close()?)
    }
}
