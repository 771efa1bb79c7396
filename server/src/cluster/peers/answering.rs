//! Answering those who call: who may wait how long to say who he is, and one link for each node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strandline_replication::ReplicaId;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::complaints::About;
use super::{Inbox, Shared};
use crate::cluster::link::Link;

/// How many callers may not have proven yet who they are. When one more comes, the one who has waited
/// longest goes: a node proves itself within milliseconds, who only holds places does not.
pub(super) const UNPROVEN_MAX: usize = 64;

/// Those who have called and are connected.
#[derive(Debug, Default)]
pub(super) struct Callers {
    /// Numbers given out.
    count: AtomicU64,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// By number, so the first has waited longest. Invariant: `UNPROVEN_MAX` at the most.
    unproven: BTreeMap<u64, AbortHandle>,
    /// By the node that they are from.
    proven: BTreeMap<ReplicaId, (u64, AbortHandle)>,
}

impl Callers {
    /// A number for a call.
    pub(super) fn number(&self) -> u64 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// Somebody has called, and nobody knows who it is.
    pub(super) fn admit(&self, number: u64, task: AbortHandle) {
        let mut calls = self.lock();
        if calls.unproven.len() >= UNPROVEN_MAX
            && let Some((_, longest)) = calls.unproven.pop_first()
        {
            longest.abort();
        }
        calls.unproven.insert(number, task);
    }

    /// The caller has proven to be this node. An older link from it ends.
    fn prove(&self, number: u64, peer: ReplicaId) {
        let mut calls = self.lock();
        // Who was sent away does not run any more, and so does not come here.
        let task = calls.unproven.remove(&number).expect("every caller is admitted first");
        if let Some((_, older)) = calls.proven.insert(peer, (number, task)) {
            older.abort();
        }
    }

    /// Ends the links from nodes that are not to call any more.
    pub(super) fn dismiss(&self, is_gone: impl Fn(ReplicaId) -> bool) {
        self.lock().proven.retain(|peer, (_, task)| {
            let is_kept = !is_gone(*peer);
            if !is_kept {
                task.abort();
            }
            is_kept
        });
    }

    /// The call is over.
    fn forget(&self, number: u64) {
        let mut calls = self.lock();
        calls.unproven.remove(&number);
        calls.proven.retain(|_, (other, _)| *other != number);
    }

    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out who calls, and hands his frames to the inbox until the link ends.
pub(super) async fn answer(
    shared: Arc<Shared>,
    callers: Arc<Callers>,
    number: u64,
    stream: TcpStream,
    inbox: Inbox,
) {
    let mut caller = None;
    let error = match Link::accept(stream, &shared.identity, &mut caller).await {
        Ok(link) => {
            let peer = link.peer;
            callers.prove(number, peer);
            shared.complaints.settle(About::From(Some(peer)));
            link.receive_into(|frame| inbox(peer, frame)).await
        }
        Err(error) => error,
    };
    callers.forget(number);
    shared.complaints.tell(About::From(caller), &error);
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    /// Calls that end only when they are ended.
    fn call(callers: &Callers) -> (u64, JoinHandle<()>) {
        let number = callers.number();
        let task = tokio::spawn(std::future::pending());
        callers.admit(number, task.abort_handle());
        (number, task)
    }

    fn in_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    #[test]
    fn who_has_waited_longest_makes_room() {
        in_runtime(async {
            let callers = Callers::default();
            let mut calls: Vec<_> = (0..=UNPROVEN_MAX).map(|_| call(&callers)).collect();
            let (_, first) = calls.remove(0);
            assert!(first.await.unwrap_err().is_cancelled());
            assert_eq!(callers.lock().unproven.len(), UNPROVEN_MAX);
            // Who has proven himself, or has gone, takes no place any more.
            callers.prove(calls[0].0, ReplicaId(1));
            callers.forget(calls[1].0);
            let more = [call(&callers), call(&callers)];
            tokio::task::yield_now().await;
            assert!(calls.iter().chain(&more).all(|(_, task)| !task.is_finished()));
        });
    }

    #[test]
    fn of_two_links_from_one_node_the_newer_stays() {
        in_runtime(async {
            let callers = Callers::default();
            let [(older, older_task), (newer, newer_task), (other, other_task)] =
                std::array::from_fn(|_| call(&callers));
            callers.prove(older, ReplicaId(1));
            callers.prove(other, ReplicaId(2));
            callers.prove(newer, ReplicaId(1));
            assert!(older_task.await.unwrap_err().is_cancelled());
            // What is left of the older must not forget the newer.
            callers.forget(older);
            assert_eq!(callers.lock().proven.len(), 2);
            assert!(!newer_task.is_finished() && !other_task.is_finished());
        });
    }
}
