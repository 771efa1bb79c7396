//! The connection itself: who is there, which protocol, which database.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{Next, numbers};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Protocol, Reply};
use crate::session::{Connection, ReplyMode};

/// The version of Redis whose commands and answers these are.
pub(super) const REDIS_VERSION: &str = "7.0.15";

type Result = std::result::Result<Next, Failure>;

/// `PING [message]`
pub(super) fn ping(_: &mut Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.len() {
        1 => reply.simple("PONG"),
        2 => reply.bulk(args.at(1)),
        _ => return Err(Refusal::Arity("ping".into()).into()),
    }
    Ok(Next::Continue)
}

/// `ECHO message`
pub(super) fn echo(_: &mut Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.bulk(args.at(1));
    Ok(Next::Continue)
}

/// `QUIT`
pub(super) fn quit(_: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.ok();
    Ok(Next::Close)
}

/// `RESET`
pub(super) fn reset(connection: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    connection.state.database = 0;
    connection.state.protocol = Protocol::Resp2;
    connection.state.reply_mode = ReplyMode::On;
    connection.state.reads_stale = false;
    connection.state.is_authenticated = !connection.server.needs_password();
    connection.client.identity().name.clear();
    tell(connection);
    reply.simple("RESET");
    Ok(Next::Continue)
}

/// `SELECT number`
pub(super) fn select(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    connection.state.database = numbers::database(args.at(1))?;
    tell(connection);
    reply.ok();
    Ok(Next::Continue)
}

/// Shows other clients what has changed.
fn tell(connection: &Connection<'_>) {
    let protocol = if connection.state.protocol == Protocol::Resp3 { 3 } else { 2 };
    connection.client.protocol.store(protocol, Ordering::Relaxed);
    connection.client.database.store(connection.state.database, Ordering::Relaxed);
}

/// `AUTH [username] password`
pub(super) fn auth(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    if args.len() > 3 {
        return Err(Refusal::Syntax.into());
    }
    let (user, password) = match args.len() {
        2 => (None, args.at(1)),
        _ => (Some(args.at(1)), args.at(2)),
    };
    if user.is_none() && !connection.server.needs_password() {
        return Err(Refusal::other(
            "ERR AUTH <password> called without any password configured for the default user. Are \
             you sure your configuration is correct?",
        )
        .into());
    }
    authenticate(connection, user.unwrap_or(b"default"), password)?;
    reply.ok();
    Ok(Next::Continue)
}

fn authenticate(
    connection: &mut Connection<'_>,
    user: &[u8],
    given: &[u8],
) -> std::result::Result<(), Refusal> {
    let is_right = {
        let password = connection.server.password.read().unwrap_or_else(PoisonError::into_inner);
        // Without a password every one is right, as with Redis' user that needs none.
        password.is(given) || !password.is_needed()
    };
    if user != b"default" || !is_right {
        return Err(Refusal::other(
            "WRONGPASS invalid username-password pair or user is disabled.",
        ));
    }
    connection.state.is_authenticated = true;
    Ok(())
}

/// `HELLO [version [AUTH username password] [SETNAME name]]`
pub(super) fn hello(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let mut protocol = None;
    if let Some(version) = args.get(1) {
        protocol = Some(match numbers::integer(version) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err(Refusal::other("NOPROTO unsupported protocol version").into()),
            Err(_) => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Refusal::other(text).into());
            }
        });
    }
    let (mut credentials, mut name) = (None, None);
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "auth") && at + 2 < args.len() {
            credentials = Some((args.at(at + 1), args.at(at + 2)));
            at += 3;
        } else if args.is(at, "setname") && at + 1 < args.len() {
            name = Some(super::client_cmd::checked_name(args.at(at + 1))?);
            at += 2;
        } else {
            let option = String::from_utf8_lossy(args.at(at));
            let text = format!("ERR Syntax error in HELLO option '{option}'");
            return Err(Refusal::Other(text.into()).into());
        }
    }
    if let Some((user, password)) = credentials {
        authenticate(connection, user, password)?;
    }
    if !connection.state.is_authenticated {
        return Err(Refusal::other(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        )
        .into());
    }
    if let Some(name) = name {
        connection.client.identity().name = name;
    }
    connection.state.protocol = protocol.unwrap_or(connection.state.protocol);
    tell(connection);
    greet(connection, reply);
    Ok(Next::Continue)
}

/// What `HELLO` answers, in the protocol that it has just chosen.
fn greet(connection: &Connection<'_>, reply: &mut Reply<'_>) {
    reply.set_protocol(connection.state.protocol);
    reply.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(if connection.state.protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(connection.client.id).unwrap_or(i64::MAX));
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}
