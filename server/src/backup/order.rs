//! `REPLICAOF host port`, `REPLICAOF NO ONE` and `FAILOVER`, typed on a running node.
//!
//! The primary is asked first: what it answers decides whether this node would have to discard, and a
//! wish that cannot be granted changes nothing. A primary that cannot be reached is followed all the
//! same, as soon as it can be, like in Redis; if it turns out then that this node would have to discard,
//! it stays as it is and says so.

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strandline_engine::Index;

use super::feeds::Feed;
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
    /// Have a backup take the lead, and follow it.
    HandOver {
        /// Which; none: the one that lacks least.
        to: Option<Target>,
        /// How long it may take to catch up.
        timeout: Duration,
    },
}

/// How often to look whether a backup has caught up.
const LOOK: Duration = Duration::from_millis(2);
/// The longest password that is kept beside the log.
const PASSWORD_LEN_MAX: usize = 4096;

/// Does what is wished, and returns what to answer.
///
/// # Errors
///
/// The answer if it is not done: then nothing has changed.
pub async fn obey(server: &Arc<Server>, wish: Wish) -> Result<String, String> {
    let _one = server.store.standing().orders.lock().await;
    match wish {
        Wish::Lead => lead(server).await,
        Wish::HandOver { to, timeout } => hand_over(server, to, timeout).await,
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
            store.wait(last)?;
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
    shut(server).await?;
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

/// Shuts the gate and waits until no write of a client is on its way.
async fn shut(server: &Arc<Server>) -> Result<(), String> {
    let standing = server.store.standing();
    if standing.gate() & gate::READ_ONLY != 0 {
        return Ok(());
    }
    standing.set(gate::READ_ONLY, true);
    let all = u32::try_from(server.permits()).unwrap_or(u32::MAX);
    let quiet = server.in_flight.acquire_many(all);
    let quiet = tokio::time::timeout(server.write_timeout(), quiet).await;
    // Given back at once: who gets them now finds the gate shut.
    drop(quiet.map_err(|_| {
        "ERR writes are under way and the disk does not take them: nothing has changed; try again"
    })?);
    Ok(())
}

/// A planned change of sides: writes are refused until the backup has everything, it is told to lead, and
/// this node follows it. Other backups go on following this one.
async fn hand_over(
    server: &Arc<Server>,
    to: Option<Target>,
    timeout: Duration,
) -> Result<String, String> {
    let standing = server.store.standing();
    if standing.follows().is_some() {
        return Err("ERR FAILOVER is not valid when server is a replica.".into());
    }
    let (node, target) = choose(server, to).await?;
    let handed = catch_up_and_tell(server, node, target.clone(), timeout).await;
    if let Err(text) = handed {
        standing.set(gate::READ_ONLY, false);
        server.refresh_gate();
        return Err(format!("ERR {text}: nothing has changed, this node leads"));
    }
    let (on, password) = (server.clone(), handing_password(server));
    let next = target.clone();
    let kept = blocking(move || on.store.standing().follow(next, &password, false)).await?;
    // Shut it stays: the other one leads by now.
    kept.map_err(|error| format!("ERR {target} leads now, and this node cannot follow: {error}"))?;
    server.refresh_gate();
    tracing::info!(primary = %target, "the lead was handed over");
    Ok("OK".into())
}

/// What a backup takes for a password: as a rule all nodes have the same.
fn handing_password(server: &Server) -> String {
    let config = server.config();
    let given = [config.get("masterauth"), config.get("requirepass")];
    given.into_iter().find(|password| !password.is_empty()).unwrap_or("").to_owned()
}

/// The backup that is meant, and where its clients reach it.
async fn choose(server: &Arc<Server>, to: Option<Target>) -> Result<(u128, Target), String> {
    let mut feeds = server.store.shared().feeds.all();
    feeds.retain(Feed::is_online);
    let target = |feed: &Feed| Target { host: feed.host.clone(), port: feed.port };
    let Some(to) = to else {
        let best = feeds.iter().max_by_key(|feed| feed.durable);
        return best
            .map(|feed| (feed.node, target(feed)))
            .ok_or_else(|| "ERR FAILOVER requires connected replicas.".to_owned());
    };
    let found = blocking(move || {
        let named = (to.host.as_str(), to.port).to_socket_addrs();
        let named: Vec<String> =
            named.into_iter().flatten().map(|at| at.ip().to_canonical().to_string()).collect();
        feeds.into_iter().find(|feed| feed.port == to.port && named.contains(&feed.host))
    });
    found
        .await?
        .map(|feed| (feed.node, target(&feed)))
        .ok_or_else(|| "ERR FAILOVER target HOST and PORT is not a replica.".to_owned())
}

/// Refuses writes, waits until the backup has everything on its disk, and tells it to lead.
async fn catch_up_and_tell(
    server: &Arc<Server>,
    node: u128,
    target: Target,
    timeout: Duration,
) -> Result<(), String> {
    let began = Instant::now();
    shut(server).await.map_err(|text| text.trim_start_matches("ERR ").to_owned())?;
    let store = &server.store;
    store.request_sync();
    loop {
        let last = Index(store.db().log().last().0);
        let feeds = store.shared().feeds.all();
        let feed = feeds.iter().find(|feed| feed.node == node && feed.is_online());
        let feed = feed.ok_or_else(|| format!("the backup at {target} has gone"))?;
        if feed.durable >= last {
            break;
        }
        if began.elapsed() >= timeout {
            return Err(format!("the backup at {target} lacks entries after {}", feed.durable));
        }
        tokio::time::sleep(LOOK).await;
    }
    let password = handing_password(server);
    blocking(move || {
        let mut backup =
            Upstream::connect(&target, &password).map_err(|error| error.to_string())?;
        match backup.ask(&["REPLICAOF", "NO", "ONE"]) {
            Err(Error::Refused(text)) => Err(format!("the backup at {target} refuses: {text}")),
            // It leads, or nobody knows: then it must be taken for one that does.
            Ok(_) | Err(_) => Ok(()),
        }
    })
    .await?
}

/// Runs what waits for the disk or the network elsewhere than on a thread of sessions.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "ERR it failed: see the log".to_owned())
}
