//! A state machine in memory, for the suite: it keeps what was applied last, and the members.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::RaftStateMachine;
use openraft::{
    Entry, EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError,
    StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Commands are texts, answers say nothing.
    pub(crate) Types: D = String, R = ()
);

type Result<T> = std::result::Result<T, StorageError<u64>>;

/// See the module's documentation. Clones share the state.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateMachine(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    last: Option<LogId<u64>>,
    membership: StoredMembership<u64, openraft::BasicNode>,
    applied: Vec<String>,
    snapshot: Option<Vec<u8>>,
}

impl StateMachine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn current(&self, bytes: Vec<u8>) -> Snapshot<Types> {
        let meta = SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{:?}", self.last),
        };
        Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>> {
        let mut state = self.lock();
        state.snapshot = None;
        let bytes = postcard::to_stdvec(&*state).expect("plain values can be encoded");
        state.snapshot = Some(bytes.clone());
        Ok(state.current(bytes))
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, openraft::BasicNode>)> {
        let state = self.lock();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>>
    where
        I: IntoIterator<Item = Entry<Types>> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let mut state = self.lock();
        let mut answers = Vec::new();
        for entry in entries {
            state.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(text) => state.applied.push(text),
                EntryPayload::Membership(members) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<()> {
        let bytes = snapshot.into_inner();
        let installed = postcard::from_bytes(&bytes);
        let installed: State = installed.map_err(|error| {
            StorageIOError::read_snapshot(None, openraft::AnyError::new(&error))
        })?;
        let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.lock() = State { last, membership, snapshot: Some(bytes), ..installed };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>> {
        let state = self.lock();
        Ok(state.snapshot.clone().map(|bytes| state.current(bytes)))
    }
}
