//! `REPLICAOF host port` and `REPLICAOF NO ONE`, typed on a running node.
//!
//! The primary is asked first: what it answers decides whether this node would have to discard, and a
//! wish that cannot be granted changes nothing. A primary that cannot be reached is followed all the
//! same, as soon as it can be, like in Redis; if it turns out then that this node would have to discard,
//! it stays as it is and says so.

use std::sync::Arc;

use strandline_engine::Index;

use super::follower::{self, Refusal};
use super::link::Link;
use super::standing::gate;
use super::standing_file::Target;
use super::upstream::{Error, Hello, Upstream};
use crate::server::Server;

/// What is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Follow this node.
    Follow {
        /// Which.
        target: Target,
        /// Whether what it has not may be discarded.
        may_discard: bool,
    },
    /// Follow nobody.
    Lead,
}

/// The longest password that is kept beside the log.
const PASSWORD_LEN_MAX: usize = 4096;

/// Does what is wished, and returns what to answer.
///
/// # Errors
///
/// The answer if it is not done: then nothing has changed.
pub async fn obey(server: &Arc<Server>, wish: Wish) -> Result<String, String> {
    match wish {
        Wish::Lead => lead(server).await,
        Wish::Follow { target, may_discard } => follow(server, target, may_discard).await,
    }
}

async fn lead(server: &Arc<Server>) -> Result<String, String> {
    if server.store.standing().follows().is_none() {
        return Ok("OK".into());
    }
    let on = server.clone();
    let led = blocking(move || {
        let store = &on.store;
        store.standing().lead(|| {
            let last = Index(store.db().log().last().0);
            store.db().request(last);
            store.db().wait(last)?;
            Ok(last)
        })
    });
    led.await?.map_err(|error| format!("ERR {error}: this node stays a backup"))?;
    server.refresh_gate();
    tracing::info!("this node is a primary now");
    Ok("OK".into())
}

async fn follow(server: &Arc<Server>, target: Target, may_discard: bool) -> Result<String, String> {
    let standing = server.store.standing();
    let follows = standing.follows();
    let is_refused = matches!(standing.link(), Link::Down { is_refused: true, .. });
    if follows.as_ref() == Some(&target) && !(may_discard && is_refused) {
        return Ok("OK Already connected to specified master".into());
    }
    let typed = server.config().get("masterauth").to_owned();
    if typed.len() > PASSWORD_LEN_MAX {
        return Err(format!("ERR masterauth has more than {PASSWORD_LEN_MAX} bytes"));
    }
    // What was given for an earlier primary may be good for the next one too.
    let password = if typed.is_empty() { standing.password() } else { typed };
    let (on, asked, given) = (server.clone(), target.clone(), password.clone());
    let hello = blocking(move || {
        Upstream::connect(&asked, &given).and_then(|mut upstream| upstream.hello(&on.run_id))
    });
    let (hello, trouble) = match hello.await? {
        Ok(hello) => (Some(hello), None),
        Err(error @ (Error::Foreign(_) | Error::Refused(_))) => return Err(format!("ERR {error}")),
        Err(error) => (None, Some(error.to_string())),
    };
    let was_shut = standing.gate() & gate::READ_ONLY != 0;
    let kept = shut_and_decide(server, &target, hello.as_ref(), may_discard, &password).await;
    if kept.is_err() {
        standing.set(gate::READ_ONLY, was_shut);
    }
    server.refresh_gate();
    kept?;
    tracing::info!(primary = %target, "this node is a backup now");
    Ok(match trouble {
        None => "OK".into(),
        Some(trouble) => format!("OK This node follows as soon as it can. Now: {trouble}"),
    })
}

/// Refuses writes, waits for those under way, and then decides by a log that is at rest.
async fn shut_and_decide(
    server: &Arc<Server>,
    target: &Target,
    hello: Option<&Hello>,
    may_discard: bool,
    password: &str,
) -> Result<(), String> {
    let standing = server.store.standing();
    if standing.gate() & gate::READ_ONLY == 0 {
        standing.set(gate::READ_ONLY, true);
        let all = u32::try_from(server.permits()).unwrap_or(u32::MAX);
        let quiet = server.in_flight.acquire_many(all);
        let quiet = tokio::time::timeout(server.write_timeout(), quiet).await;
        // Given back at once: who gets them now finds the gate shut.
        drop(quiet.map_err(|_| {
            "ERR writes are under way and the disk does not take them: nothing has changed; try again"
        })?);
    }
    let on = server.clone();
    let (target, hello, password) = (target.clone(), hello.cloned(), password.to_owned());
    blocking(move || {
        // Who appends for the server itself has ended, or finds the gate shut.
        drop(on.store.standing().appending());
        if let Some(hello) = hello {
            let plan = follower::plan(&on, &target, &hello, may_discard);
            plan.map_err(|refusal| match refusal {
                Refusal::Circle(text) => format!("ERR {text}"),
                Refusal::Apart(text) => format!("DIVERGED {text}"),
            })?;
        }
        let kept = on.store.standing().follow(target, &password, may_discard);
        kept.map_err(|error| format!("ERR {error}: nothing has changed"))
    })
    .await?
}

/// Runs what waits for the disk or the network elsewhere than on a thread of sessions.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "ERR it failed: see the log".to_owned())
}
