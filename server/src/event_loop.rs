//! A thread of sessions: takes connections in, hands finished runs to their sessions, sees to idle
//! ones, and drains.
//!
//! Everything here lives on one thread. Other threads reach it through its [`Post`] only: the
//! machine delivers finished runs, the listener delivers connections. One wake-up serves all that has
//! been delivered.
//!
//! In a store that stands alone these threads drive the log as well, and no other thread is on the way of
//! a write:
//!
//! ```text
//! sockets that are ready --> sessions append --> submit what is due --> sleep
//!            the disk's bell --> apply, deliver --> sessions answer --> submit ... --> sleep
//! ```
//!
//! Every thread submits what its sessions have appended; the first one is told by the disk's *bell*, a
//! descriptor among its sockets, when something has become durable.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, LocalSet};

use crate::client::Client;
use crate::clock;
use crate::server::Server;
use crate::session::Session;
use crate::submission::{Mailbox, Run};

/// How often idle sessions are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How long sessions may take to finish when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// How other threads reach a thread of sessions.
#[derive(Debug, Default)]
pub struct Post {
    /// Finished runs; its notification is for connections as well.
    pub mailbox: Arc<Mailbox>,
    /// New connections.
    connections: Mutex<Vec<(std::net::TcpStream, Arc<Client>)>>,
}

impl Post {
    /// Hands a connection over.
    pub fn connect(&self, stream: std::net::TcpStream, client: Arc<Client>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push((stream, client));
        self.mailbox.notify.notify_one();
    }
}

/// Where a session waits for its run.
#[derive(Debug, Default)]
pub struct Slot {
    /// Which run it waits for.
    awaited: Cell<u64>,
    /// That run, finished.
    finished: RefCell<Option<Run>>,
    /// Wakes the session.
    waker: RefCell<Option<Waker>>,
    /// Whether the session waits for requests, and has none that is not answered.
    pub idle: Cell<bool>,
}

impl Slot {
    /// Begins to wait for a run.
    pub fn expect(&self, number: u64) {
        self.awaited.set(number);
        self.finished.borrow_mut().take();
    }

    /// The run that was waited for.
    pub async fn finished(&self) -> Run {
        std::future::poll_fn(|context| match self.finished.borrow_mut().take() {
            Some(run) => Poll::Ready(run),
            None => {
                let mut waker = self.waker.borrow_mut();
                match &*waker {
                    Some(known) if known.will_wake(context.waker()) => {}
                    _ => *waker = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        })
        .await
    }

    fn deliver(&self, run: Run) {
        // A run that came too late was answered as unknown.
        if run.number == self.awaited.get() {
            *self.finished.borrow_mut() = Some(run);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

/// A session of this thread.
struct Seat {
    slot: Rc<Slot>,
    client: Arc<Client>,
    abort: Option<AbortHandle>,
}

/// See the module's documentation.
pub struct EventLoop {
    /// What all share.
    pub server: Arc<Server>,
    /// How others reach this thread.
    pub post: Arc<Post>,
    sessions: RefCell<HashMap<u64, Seat>>,
    /// Tells that something has become durable.
    bell: Option<AsyncFd<OwnedFd>>,
}

impl EventLoop {
    /// Runs until the server is asked to stop and all sessions have ended. `bell` tells when the log is
    /// to be looked after.
    ///
    /// # Errors
    ///
    /// If the system has no resources for a loop.
    pub fn run(server: Arc<Server>, post: Arc<Post>, bell: Option<OwnedFd>) -> std::io::Result<()> {
        let (parking, mailbox) = (server.clone(), post.mailbox.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                if mailbox.take_wanted()
                    && let Some(driving) = parking.store.driving()
                {
                    driving.submit_due();
                }
            })
            .build()?;
        let bell = {
            let _entered = runtime.enter();
            bell.map(watch).transpose()?
        };
        let sessions = RefCell::new(HashMap::new());
        let event_loop = Rc::new(EventLoop { server, post, sessions, bell });
        LocalSet::new().block_on(&runtime, event_loop.serve());
        Ok(())
    }

    async fn serve(self: Rc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        let server = self.server.clone();
        let asked = server.shutdown.asked();
        tokio::pin!(asked);
        loop {
            tokio::select! {
                biased;
                () = self.told() => self.take_post(),
                _ = tick.tick() => self.end_idle(),
                () = &mut asked => break,
            }
        }
        self.drain().await;
    }

    /// Waits until something has been delivered, or the bell has rung. Then what has become durable is
    /// applied, which delivers.
    async fn told(&self) {
        let Some(bell) = &self.bell else { return self.post.mailbox.notify.notified().await };
        tokio::select! {
            biased;
            ready = bell.readable() => match ready {
                Ok(mut ready) => {
                    ready.clear_ready();
                    self.take_ended();
                }
                // Only while the runtime is shut down.
                Err(error) => tracing::debug!(%error, "the bell is gone"),
            },
            () = self.post.mailbox.notify.notified() => {}
        }
    }

    fn take_ended(&self) {
        if let Some(driving) = self.server.store.driving() {
            // What is delivered from here on is taken without waking this thread for it.
            self.post.mailbox.await_runs();
            driving.take_ended(&self.post.mailbox);
        }
    }

    /// Takes what has been delivered.
    fn take_post(self: &Rc<Self>) {
        let mut runs = Vec::new();
        self.post.mailbox.take(&mut runs);
        {
            let sessions = self.sessions.borrow();
            for run in runs {
                let cost = usize::try_from(run.cost).expect("u32 fits");
                self.server.in_flight.add_permits(cost);
                if let Some(seat) = sessions.get(&run.session) {
                    seat.slot.deliver(run);
                }
            }
        }
        let connections = {
            let mut waiting = self.post.connections.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        for (stream, client) in connections {
            self.begin(stream, client);
        }
    }

    fn begin(self: &Rc<Self>, stream: std::net::TcpStream, client: Arc<Client>) {
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken over");
                self.server.clients.remove(client.id);
                return;
            }
        };
        let slot = Rc::new(Slot::default());
        let seat = Seat { slot: slot.clone(), client: client.clone(), abort: None };
        self.sessions.borrow_mut().insert(client.id, seat);
        let presence = Presence { event_loop: self.clone(), id: client.id };
        let session = Session::new(
            self.server.clone(),
            self.post.mailbox.clone(),
            client.clone(),
            slot,
            stream,
        );
        let task = tokio::task::spawn_local(async move {
            let _presence = presence;
            session.run().await;
        });
        client.set_abort(task.abort_handle());
        if let Some(seat) = self.sessions.borrow_mut().get_mut(&client.id) {
            seat.abort = Some(task.abort_handle());
        }
    }

    /// Ends sessions that have been idle for longer than `timeout`.
    fn end_idle(&self) {
        let timeout_s = self.server.live.timeout_s.load(Ordering::Relaxed);
        if timeout_s == 0 {
            return;
        }
        let now_ms = clock::now_ms();
        for seat in self.sessions.borrow().values() {
            let idle_ms = now_ms.saturating_sub(seat.client.active_ms.load(Ordering::Relaxed));
            if seat.slot.idle.get() && idle_ms > timeout_s.saturating_mul(1000) {
                seat.client.kill();
            }
        }
    }

    /// Ends idle sessions at once, lets the others finish, and ends what does not.
    async fn drain(self: &Rc<Self>) {
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            let is_late = Instant::now() > deadline;
            for seat in self.sessions.borrow().values() {
                if (seat.slot.idle.get() || is_late)
                    && let Some(abort) = &seat.abort
                {
                    abort.abort();
                }
            }
            if self.sessions.borrow().is_empty() {
                return;
            }
            tokio::select! {
                () = self.told() => self.take_post(),
                () = tokio::time::sleep(Duration::from_millis(5)) => {
                    // The thread that watches the bell may have ended.
                    self.take_ended();
                    self.take_post();
                }
            }
        }
    }
}

/// Has the runtime that is entered watch a descriptor.
#[expect(
    deprecated,
    reason = "its successor is unsafe, and an owned descriptor is what that demands"
)]
fn watch(bell: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(bell, Interest::READABLE)
}

/// Removes a session from the lists when it ends, however it ends.
struct Presence {
    event_loop: Rc<EventLoop>,
    id: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.event_loop.sessions.borrow_mut().remove(&self.id);
        self.event_loop.server.clients.remove(self.id);
    }
}
