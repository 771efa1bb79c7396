//! The connected clients, as the whole server knows them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::clock;
use crate::resp::Args;

/// What a client has told about itself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `CLIENT SETNAME`
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`
    pub library: String,
    /// `CLIENT SETINFO LIB-VER`
    pub library_version: String,
}

/// One connected client.
#[derive(Debug)]
pub struct Client {
    /// Counted from 1 and never used again.
    pub id: u64,
    /// The other end.
    pub address: SocketAddr,
    /// Our end.
    pub local_address: SocketAddr,
    /// When it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// When it last sent something, in milliseconds since 1970.
    pub active_ms: AtomicU64,
    /// Its database.
    pub database: AtomicUsize,
    /// Which version of the protocol it speaks, 2 or 3.
    pub protocol: AtomicUsize,
    /// Place of the last command in the table, plus one; 0 for none.
    pub last_command: AtomicUsize,
    /// Whether it asked not to be evicted; remembered and shown, nothing is evicted here.
    pub no_evict: AtomicBool,
    /// What it told about itself.
    identity: Mutex<Identity>,
    /// Ends its session.
    abort: Mutex<Option<AbortHandle>>,
}

impl Client {
    /// What it told about itself.
    pub fn identity(&self) -> MutexGuard<'_, Identity> {
        lock(&self.identity)
    }

    /// Remembers how to end its session.
    pub fn set_abort(&self, handle: AbortHandle) {
        *lock(&self.abort) = Some(handle);
    }

    /// Ends its session, wherever that is.
    pub fn kill(&self) {
        if let Some(handle) = &*lock(&self.abort) {
            handle.abort();
        }
    }

    /// The line of `CLIENT LIST`. The client that asks, with `asking`, is shown with its subcommand
    /// and the bytes of its request; of the others only the command is remembered.
    pub fn line(&self, asking: Option<Args<'_>>) -> String {
        let now_ms = clock::now_ms();
        let identity = self.identity();
        let mut command = match self.last_command.load(Ordering::Relaxed) {
            0 => "NULL".to_owned(),
            place => crate::command::table::COMMANDS[place - 1].name.to_owned(),
        };
        let mut query_len = 0;
        if let Some(args) = asking {
            command = format!("{command}|{}", String::from_utf8_lossy(args.at(1)).to_lowercase());
            query_len = request_len(args);
        }
        let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1000;
        format!(
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 \
             multi=-1 qbuf={query_len} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
             tot-mem=0 events=r cmd={command} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.id,
            self.address,
            self.local_address,
            identity.name,
            seconds(self.connected_ms),
            seconds(self.active_ms.load(Ordering::Relaxed)),
            if self.no_evict.load(Ordering::Relaxed) { "e" } else { "N" },
            self.database.load(Ordering::Relaxed),
            self.protocol.load(Ordering::Relaxed),
            identity.library,
            identity.library_version,
        )
    }
}

/// How many bytes a request takes as an array of bulk strings.
fn request_len(args: Args<'_>) -> usize {
    let line_len = |number: usize| 3 + number.to_string().len();
    let bulks = args.from(0).map(|arg| line_len(arg.len()) + arg.len() + 2);
    line_len(args.len()) + bulks.sum::<usize>()
}

/// All connected clients.
#[derive(Debug, Default)]
pub struct Clients {
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
}

impl Clients {
    /// Takes a client in, unless `count_max` are connected.
    pub fn admit(
        &self,
        address: SocketAddr,
        local_address: SocketAddr,
        count_max: usize,
    ) -> Option<Arc<Client>> {
        let mut by_id = lock(&self.by_id);
        if by_id.len() >= count_max {
            return None;
        }
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let now_ms = clock::now_ms();
        let client = Arc::new(Client {
            id,
            address,
            local_address,
            connected_ms: now_ms,
            active_ms: AtomicU64::new(now_ms),
            database: AtomicUsize::new(0),
            protocol: AtomicUsize::new(2),
            last_command: AtomicUsize::new(0),
            no_evict: AtomicBool::new(false),
            identity: Mutex::default(),
            abort: Mutex::default(),
        });
        by_id.insert(id, client.clone());
        Some(client)
    }

    /// Forgets a client.
    pub fn remove(&self, id: u64) {
        lock(&self.by_id).remove(&id);
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        lock(&self.by_id).len()
    }

    /// All of them, in the order in which they connected.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.by_id).values().cloned().collect()
    }
}

/// What these locks guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
