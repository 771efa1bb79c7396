//! What a replica does with its store beyond what everybody may: it appends to the log itself, says
//! what is committed, and decides how much of the log is kept. See [`Commit::WhenTold`](crate::Commit).

use std::path::{Path, PathBuf};

use strandline_wal::{Lsn, Wal};

use crate::{Adopted, Adoption, Checkpoint, Db, Index, Result};

impl Db {
    /// Says that everything up to `index` is committed: what of it is durable is applied. Returns the
    /// applied index, which stays behind while tables cannot be written as fast; ask again later.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`](crate::Error::Stopped) if an entry cannot be applied.
    pub fn commit(&self, index: Index) -> Result<Index> {
        if self.inner.committer.apply_until(index)? {
            self.inner.background.poke();
        }
        Ok(self.applied())
    }

    /// Drops the log's entries after `last`.
    ///
    /// # Errors
    ///
    /// As for [`Wal::truncate`].
    ///
    /// # Panics
    ///
    /// If `last` is below the applied index: what is committed is never dropped.
    pub fn truncate(&self, last: Index) -> Result<()> {
        assert!(last >= self.applied(), "what is committed is never truncated");
        let truncated = self.inner.wal.truncate(Lsn(last.0));
        self.inner.committer.follow_anew(&self.inner.wal);
        Ok(truncated?)
    }

    /// Drops the whole log: the next entry gets index `first`. See [`Wal::reset`].
    ///
    /// # Errors
    ///
    /// As for [`Wal::reset`].
    ///
    /// # Panics
    ///
    /// If an entry would be left out.
    pub fn reset_log(&self, first: Index) -> Result<()> {
        assert!(first.0 <= self.flushed().0 + 1, "what the log loses is in tables");
        let reset = self.inner.wal.reset(Lsn(first.0));
        self.inner.committer.follow_anew(&self.inner.wal);
        Ok(reset?)
    }

    /// Lets go of the log's entries up to `index`, as far as they are in tables.
    pub fn trim(&self, index: Index) {
        self.inner.wal.trim(Lsn(index.min(self.inner.engine.trimmable()).0));
    }

    /// Has what is in memory written to tables, in the background.
    pub fn request_flush(&self) {
        self.inner.committer.seal();
        self.inner.background.poke();
    }

    /// The machine's state as of [`flushed`](Db::flushed).
    pub fn machine_state(&self) -> Vec<u8> {
        self.inner.engine.machine_state()
    }

    /// The state as far as it is in tables. Holding it keeps its files.
    pub fn checkpoint(&self) -> Checkpoint {
        self.inner.engine.checkpoint()
    }

    /// Begins to take over a checkpoint whose files lie, complete and synced, in `staging`.
    ///
    /// # Errors
    ///
    /// If its manifest is damaged, or too new.
    pub fn adopt(&self, staging: &Path) -> Result<Adoption> {
        self.inner.engine.adopt(staging)
    }

    /// Checks one table of the checkpoint and gives it a name here.
    ///
    /// # Errors
    ///
    /// What the disk refuses: the checkpoint is then of no use.
    pub fn adopt_slice(&self, adoption: &mut Adoption) -> Result<Adopted> {
        self.inner.engine.adopt_slice(adoption)
    }

    /// The path of the file that goes by this name in checkpoints, if it is part of the state.
    pub fn find_file(&self, name: &str) -> Option<PathBuf> {
        self.inner.engine.find_file(name)
    }

    /// Puts the checkpoint in the place of the state, the machine's included, and lets the log begin
    /// after it. A crash leaves all as it was, or as it is to be when the store is opened again.
    ///
    /// # Errors
    ///
    /// What the disk refuses: the store must be opened again.
    pub fn install(&self, adoption: &Adoption) -> Result<()> {
        self.inner.committer.install(adoption)?;
        self.reset_log(Index(adoption.index().0 + 1))
    }

    /// As [`install`](Db::install), of a checkpoint with which the log agrees: it stays.
    ///
    /// # Errors
    ///
    /// What the disk refuses: the store must be opened again.
    pub fn install_under_log(&self, adoption: &Adoption) -> Result<()> {
        self.inner.committer.install(adoption)?;
        self.inner.committer.follow_anew(&self.inner.wal);
        Ok(())
    }

    /// What is known to be damaged of the state: whoever reads it meets an error. A checkpoint that is
    /// installed ends that.
    pub fn damage(&self) -> Option<strandline_wal::Error> {
        self.inner.engine.damage()
    }

    /// Verifies about so many bytes of tables: [`damage`](Db::damage) tells what is found.
    pub fn scrub_tables(&self, len: u64) {
        self.inner.engine.scrub(len);
    }

    /// What was damaged of a state that opening has begun anew, because the log has everything.
    pub fn rebuilt(&self) -> Option<&strandline_wal::Error> {
        self.inner.engine.rebuilt()
    }

    /// Stops the store, because of an error that nothing can be done about.
    pub fn stop(&self, error: crate::Error) {
        self.inner.committer.stop(error);
    }

    /// Everything up to here is in tables.
    pub fn flushed(&self) -> Index {
        self.inner.engine.flushed()
    }

    /// Whether so much waits to be written to tables that writers should wait.
    pub fn stalled(&self) -> bool {
        self.inner.engine.stalled()
    }

    /// The log, for the replica that appends to it.
    pub fn log(&self) -> &Wal {
        &self.inner.wal
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use strandline_wal::disk::SimulatedDisk;

    use crate::{
        Batch, Changes, Commit, Db, DbOptions, Entry, Error, Index, KeyspaceId, Machine, Result,
    };

    /// Batches are the engine's own.
    struct NoCommands;

    impl Machine for NoCommands {
        fn apply(&mut self, _: &Entry<'_>, _: &mut Changes<'_>) -> Result<()> {
            panic!("there are only batches")
        }
    }

    fn open(disk: &std::sync::Arc<SimulatedDisk>) -> Db {
        let mut options =
            DbOptions { commit: Commit::WhenTold, background: false, ..DbOptions::default() };
        options.wal.segment_size = 256 << 10;
        options.wal.group_size_max = 16 << 10;
        Db::open_with(disk.clone(), Path::new("/store"), options, Box::new(NoCommands)).unwrap()
    }

    fn append(db: &Db, value: &[u8]) -> Index {
        let mut batch = Batch::new();
        batch.put(KeyspaceId::DEFAULT, b"key", value).unwrap();
        Index(db.log().append(batch.as_entry()).unwrap().0)
    }

    fn value(db: &Db) -> Option<Vec<u8>> {
        db.get(KeyspaceId::DEFAULT, b"key").unwrap().map(|value| value.to_vec())
    }

    /// Three entries in one group: each is applied when it is its turn, across a restart too.
    #[test]
    fn durable_entries_are_applied_as_far_as_they_are_committed() {
        let disk = SimulatedDisk::new(1);
        let db = open(&disk);
        for at in 1..=3 {
            append(&db, &[at]);
        }
        assert_eq!(db.commit(Index(1)).unwrap(), Index(0), "nothing is durable");
        db.log().sync().unwrap();
        assert_eq!(db.applied(), Index(0), "nothing new is committed");
        assert_eq!(db.commit(Index(1)).unwrap(), Index(1));
        assert_eq!(value(&db), Some(vec![1]));
        assert_eq!(db.commit(Index(2)).unwrap(), Index(2));
        assert!(matches!(db.put(KeyspaceId::DEFAULT, b"key", b"9"), Err(Error::Replicated)));
        db.flush().unwrap();
        db.close().unwrap();
        drop(db);
        let db = open(&disk);
        assert_eq!(
            (db.applied(), db.flushed()),
            (Index(2), Index(2)),
            "the third waits to be told"
        );
        assert_eq!(db.commit(Index(9)).unwrap(), Index(3));
        assert_eq!(value(&db), Some(vec![3]));
    }

    /// A truncated entry must not be applied from what was read before it went.
    #[test]
    fn what_was_read_of_a_truncated_end_is_forgotten() {
        let disk = SimulatedDisk::new(2);
        let db = open(&disk);
        append(&db, b"kept");
        append(&db, b"dropped");
        db.log().sync().unwrap();
        db.commit(Index(1)).unwrap();
        db.truncate(Index(1)).unwrap();
        append(&db, b"new");
        db.log().sync().unwrap();
        db.commit(Index(2)).unwrap();
        assert_eq!(value(&db), Some(b"new".to_vec()));
    }

    /// A crash after a snapshot was installed and before the log began anew.
    #[test]
    fn a_log_that_ends_before_the_tables_begins_anew() {
        let disk = SimulatedDisk::new(3);
        let db = open(&disk);
        append(&db, b"1");
        db.log().sync().unwrap();
        db.commit(Index(1)).unwrap();
        db.flush().unwrap();
        db.truncate(Index(1)).unwrap();
        db.reset_log(Index(1)).unwrap();
        drop(db);
        let db = open(&disk);
        assert_eq!((db.log().first().0, db.log().last().0), (2, 1));
        assert_eq!(append(&db, b"2"), Index(2));
    }
}
