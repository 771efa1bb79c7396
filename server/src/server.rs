//! What all sessions share: the store, the settings in force, the clients, the counters.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use strandline_engine::Durability;
use tokio::sync::Semaphore;

use crate::auth::Password;
use crate::backup::link::Link;
use crate::backup::standing::gate;
use crate::client::Clients;
use crate::clock::{self, Randomness};
use crate::config::{self, Config, ConfigError, Origin, SETTINGS};
use crate::shutdown::Shutdown;
use crate::stats::Stats;
use crate::store::Store;

/// What one permit of [`Server::in_flight`] stands for, in bytes.
pub const PERMIT_LEN: usize = 1024;

/// Settings that sessions look at for every command: kept apart from the text.
#[derive(Debug, Default)]
pub struct Live {
    /// `maxclients`
    pub clients_max: AtomicUsize,
    /// `timeout`, in seconds.
    pub timeout_s: AtomicU64,
    /// `tcp-keepalive`, in seconds.
    pub keepalive_s: AtomicU64,
    /// `write-timeout-ms`
    pub write_timeout_ms: AtomicU64,
    /// `stall-timeout-ms`
    pub stall_timeout_ms: AtomicU64,
    /// `slowlog-log-slower-than`, in microseconds.
    pub slower_than_us: AtomicI64,
    /// `slowlog-max-len`
    pub slow_len_max: AtomicUsize,
    /// `active-expire`
    pub active_expire: AtomicBool,
    /// `min-replicas-to-write`
    pub replicas_min: AtomicUsize,
    /// `min-replicas-max-lag`, in seconds.
    pub replica_lag_s: AtomicU64,
    /// `replica-serve-stale-data`
    pub serves_stale: AtomicBool,
    /// `stale-read-max-ms`, in microseconds.
    pub stale_read_max_us: AtomicU64,
}

/// `CLIENT PAUSE`.
#[derive(Debug, Default)]
pub struct Pause {
    /// Until when, in milliseconds since 1970.
    pub until_ms: AtomicU64,
    /// Whether reads are held up as well.
    pub all: AtomicBool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Server {
    /// Where the data is.
    pub store: Store,
    /// The settings in force.
    config: RwLock<Config>,
    /// Those of them that are looked at often.
    pub live: Live,
    /// What clients must know.
    pub password: RwLock<Password>,
    /// Who is connected.
    pub clients: Clients,
    /// What has happened.
    pub stats: Stats,
    /// Whether commands are held up.
    pub pause: Pause,
    /// Room for writes on their way through the log, in units of [`PERMIT_LEN`].
    pub in_flight: Arc<Semaphore>,
    /// How many permits there are in all.
    permits: usize,
    /// Asks everything to stop.
    pub shutdown: Shutdown,
    /// When the server started.
    pub started: Instant,
    /// Names this run of the server: 40 hexadecimal digits.
    pub run_id: String,
    /// Where it listens.
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Server {
    /// Puts the parts together.
    pub fn new(store: Store, config: Config) -> Self {
        let mut randomness = Randomness::new();
        let digits: String = (0..3).map(|_| format!("{:016x}", randomness.draw())).collect();
        let permits =
            (config.size("in-flight-bytes-max") / PERMIT_LEN).clamp(1, Semaphore::MAX_PERMITS);
        let server = Self {
            store,
            password: RwLock::new(Password::new(config.get("requirepass"))),
            config: RwLock::new(config),
            live: Live::default(),
            clients: Clients::default(),
            stats: Stats::default(),
            pause: Pause::default(),
            in_flight: Arc::new(Semaphore::new(permits)),
            permits,
            shutdown: Shutdown::default(),
            started: Instant::now(),
            run_id: digits[..40].to_owned(),
            addresses: Mutex::default(),
        };
        server.take_effect(&server.config());
        server
    }

    /// The settings in force.
    pub fn config(&self) -> RwLockReadGuard<'_, Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// `CONFIG SET`: all of the changes or none.
    ///
    /// # Errors
    ///
    /// The first change that is refused.
    pub fn change_config(&self, changes: &[(String, String)]) -> Result<(), ConfigError> {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = current.clone();
        for (name, value) in changes {
            let name = config::canonical(name);
            let setting = SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name));
            if let Some(setting) = setting
                && !setting.is_live
            {
                // To say what is so anyway is no change: tools write back what they have read.
                if setting.kind.normalise(value).as_deref() == Ok(current.get(setting.name)) {
                    continue;
                }
                return Err(ConfigError::Fixed { name: setting.name });
            }
            changed.set(name, value, Origin::Command)?;
        }
        *current = changed;
        self.take_effect(&current);
        drop(current);
        self.refresh_gate();
        if changes.iter().any(|(name, _)| name.eq_ignore_ascii_case("masterauth"))
            && let Err(error) = self.store.standing().set_password(self.config().get("masterauth"))
        {
            tracing::warn!(%error, "masterauth holds until this node restarts");
        }
        Ok(())
    }

    /// Refuses, or does not, what depends on how near the other nodes are. Asked for whenever that may
    /// have changed, and several times a second.
    pub fn refresh_gate(&self) {
        if self.store.group().is_some() {
            return;
        }
        let standing = self.store.standing();
        let wanted = self.live.replicas_min.load(Ordering::Relaxed);
        let lag_s = self.live.replica_lag_s.load(Ordering::Relaxed);
        let is_backup = standing.gate() & gate::READ_ONLY != 0;
        let feeds = &self.store.shared().feeds;
        let is_alone = !is_backup
            && wanted > 0
            && lag_s > 0
            && feeds.lively(Duration::from_secs(lag_s)) < wanted;
        standing.set(gate::NO_REPLICAS, is_alone);
        let is_stale = is_backup
            && !self.live.serves_stale.load(Ordering::Relaxed)
            && !matches!(standing.link(), Link::Up { .. });
        standing.set(gate::STALE, is_stale);
    }

    /// Copies the settings that are looked at often.
    fn take_effect(&self, config: &Config) {
        let live = &self.live;
        let number = |name| u64::try_from(config.number(name)).unwrap_or(0);
        live.clients_max.store(config.size("maxclients"), Ordering::Relaxed);
        live.timeout_s.store(number("timeout"), Ordering::Relaxed);
        live.keepalive_s.store(number("tcp-keepalive"), Ordering::Relaxed);
        live.write_timeout_ms.store(number("write-timeout-ms"), Ordering::Relaxed);
        live.stall_timeout_ms.store(number("stall-timeout-ms"), Ordering::Relaxed);
        live.slower_than_us.store(config.number("slowlog-log-slower-than"), Ordering::Relaxed);
        live.slow_len_max.store(config.size("slowlog-max-len"), Ordering::Relaxed);
        live.active_expire.store(config.is_on("active-expire"), Ordering::Relaxed);
        let replicas_min = config.size("min-replicas-to-write");
        live.replicas_min.store(replicas_min, Ordering::Relaxed);
        live.replica_lag_s.store(number("min-replicas-max-lag"), Ordering::Relaxed);
        live.serves_stale.store(config.is_on("replica-serve-stale-data"), Ordering::Relaxed);
        live.stale_read_max_us.store(number("stale-read-max-ms") * 1000, Ordering::Relaxed);
        self.store.shared().cache.set_len_max(config.size("cache-bytes"));
        let durability = match config.get("durability") {
            "memory" => Durability::Memory,
            _ => Durability::Disk,
        };
        self.store.set_durability(durability);
        let password = Password::new(config.get("requirepass"));
        *self.password.write().unwrap_or_else(PoisonError::into_inner) = password;
    }

    /// Whether clients must authenticate.
    pub fn needs_password(&self) -> bool {
        self.password.read().unwrap_or_else(PoisonError::into_inner).is_needed()
    }

    /// How many permits there are in all.
    pub fn permits(&self) -> usize {
        self.permits
    }

    /// How long a write may take before its outcome is called unknown.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.live.write_timeout_ms.load(Ordering::Relaxed))
    }

    /// How long a client may not read before it is disconnected.
    pub fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.live.stall_timeout_ms.load(Ordering::Relaxed))
    }

    /// Whether commands (`is_write`: writes) are held up now.
    pub fn is_paused(&self, is_write: bool) -> bool {
        let until_ms = self.pause.until_ms.load(Ordering::Relaxed);
        until_ms != 0
            && (is_write || self.pause.all.load(Ordering::Relaxed))
            && clock::now_ms() < until_ms
    }

    /// Remembers where the server listens.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Where the server listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
