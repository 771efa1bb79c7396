//! Stopping in order: no new connections, requests that were received are answered, then the store.
//!
//! Whoever wants the server to stop asks here: a signal, `SHUTDOWN`, a test. The listener stops
//! accepting; each thread of sessions closes those that wait for requests and lets the others
//! finish what they have; then the store is closed, which makes everything durable.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The wish that the server stops.
#[derive(Debug, Default)]
pub struct Shutdown {
    asked: AtomicBool,
    /// Whether the node is to open again at once.
    restart: AtomicBool,
    notify: Notify,
}

impl Shutdown {
    /// Asks the server to stop; asking again changes nothing.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Asks the server to stop, and to open again at once, unless somebody has asked it to stop.
    pub fn ask_restart(&self) {
        if !self.is_asked() {
            self.restart.store(true, Ordering::Release);
        }
        self.ask();
    }

    /// Whether the node is to open again once it has stopped.
    pub fn is_restart(&self) -> bool {
        self.restart.load(Ordering::Acquire)
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        let notified = self.notify.notified();
        tokio::pin!(notified);
        // Registered before the flag is read, so that no wish is missed in between.
        notified.as_mut().enable();
        if !self.is_asked() {
            notified.await;
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
///
/// If the system refuses to tell of signals.
pub async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}
