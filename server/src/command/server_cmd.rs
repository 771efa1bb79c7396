//! The server as a whole: saving, stopping, debugging, waiting, its role.

use super::connection::REDIS_VERSION;
use super::object::{help, subcommand_arity, unknown_subcommand};
use super::{Next, numbers};
use crate::clock;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::Connection;

type Result<T = Next> = std::result::Result<T, Failure>;

/// The longest `DEBUG SLEEP`, in seconds.
const SLEEP_MAX_S: f64 = 3600.0;

/// `TIME`
pub(super) fn time(_: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let now_us = clock::now_us();
    reply.array(2);
    reply.bulk((now_us / 1_000_000).to_string().as_bytes());
    reply.bulk((now_us % 1_000_000).to_string().as_bytes());
    Ok(Next::Continue)
}

/// `SLOWLOG GET | LEN | RESET | HELP`
pub(super) fn slowlog(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let mut slow = connection.server.stats.slow();
    match (args.at(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"len", 2) => reply.count(slow.entries().len()),
        (b"reset", 2) => {
            slow.clear();
            reply.ok();
        }
        (b"get", 2 | 3) => {
            let count = args.get(2).map(numbers::integer).transpose()?.unwrap_or(10);
            if count < -1 {
                let text = "ERR count should be greater than or equal to -1";
                return Err(Refusal::other(text).into());
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(slow.entries().len());
            reply.array(count);
            for command in slow.entries().take(count) {
                reply.array(6);
                for number in [command.id, command.time_s, command.microseconds] {
                    reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
                }
                reply.array(command.arguments.len());
                command.arguments.iter().for_each(|argument| reply.bulk(argument));
                reply.bulk(command.address.as_bytes());
                reply.bulk(command.name.as_bytes());
            }
        }
        (b"help", 2) => help(reply, &["SLOWLOG <subcommand>", "GET [<count>]", "LEN", "RESET"]),
        (b"len" | b"reset" | b"get" | b"help", _) => return Err(subcommand_arity(args).into()),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// `LATENCY`: nothing is sampled; `INFO commandstats` and `SLOWLOG` tell.
pub(super) fn latency(_: &mut Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"latest" | b"history" => reply.array(0),
        b"reset" => reply.integer(0),
        b"histogram" => reply.map(0),
        b"doctor" => reply.verbatim("Latency is not sampled; see INFO commandstats and SLOWLOG."),
        b"help" => help(reply, &["LATENCY <subcommand>", "LATEST", "RESET", "DOCTOR"]),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// `DEBUG`: what tests and tools use.
pub(super) fn debug(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    match (args.at(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"sleep", 3) => {
            let seconds = std::str::from_utf8(args.at(2)).ok().and_then(|text| text.parse().ok());
            let seconds: f64 = seconds.ok_or(Refusal::NotFloat)?;
            let slept = std::time::Duration::try_from_secs_f64(seconds.clamp(0.0, SLEEP_MAX_S));
            reply.ok();
            let ms = slept.map_or(0, |slept| u64::try_from(slept.as_millis()).unwrap_or(0));
            return Ok(Next::Sleep(ms));
        }
        (b"digest", 2) => {
            let digest = connection.server.store.db().digest()?;
            reply.simple(&format!("{digest:040x}"));
        }
        (b"set-active-expire", 3) => {
            let change = (
                "active-expire".to_owned(),
                if args.at(2) == b"0" { "no" } else { "yes" }.to_owned(),
            );
            connection
                .server
                .change_config(&[change])
                .map_err(|error| Failure::from(Refusal::Other(format!("ERR {error}").into())))?;
            reply.ok();
        }
        // There is no other form of the data to load from, and no layout to choose.
        (b"reload" | b"loadaof" | b"jmap" | b"flushall" | b"quicklist-packed-threshold", _) => {
            reply.ok();
        }
        (b"change-repl-id" | b"stringmatch-len" | b"set-disable-deny-scripts", _) => reply.ok(),
        (b"protocol", 3) => protocol(args, reply)?,
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// `DEBUG PROTOCOL type`: one reply of each type, for tests of clients.
fn protocol(args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    match args.at(2).to_ascii_lowercase().as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        // Redis answers this very number.
        #[allow(clippy::approx_constant)]
        b"double" => reply.double(3.141),
        b"null" => reply.null(),
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        b"verbatim" => reply.verbatim("This is a verbatim\nstring"),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        _ => return Err(Refusal::Syntax.into()),
    }
    Ok(())
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`: all that was acknowledged is saved anyway.
pub(super) fn shutdown(_: &mut Connection<'_>, args: Args<'_>, _: &mut Reply<'_>) -> Result {
    let words = ["nosave", "save", "now", "force"];
    if args.is(1, "abort") {
        return Err(Refusal::other("ERR No shutdown in progress.").into());
    }
    if (1..args.len()).any(|at| !words.iter().any(|word| args.is(at, word))) {
        return Err(Refusal::Syntax.into());
    }
    Ok(Next::Shutdown)
}

/// `SAVE`: answers when everything acknowledged is on disk.
pub(super) fn save(_: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.ok();
    Ok(Next::Sync)
}

/// `BGSAVE [SCHEDULE]`
pub(super) fn bgsave(
    connection: &mut Connection<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    connection.server.store.request_sync();
    reply.simple("Background saving started");
    Ok(Next::Continue)
}

/// `LASTSAVE`: now, as far as acknowledged writes are concerned.
pub(super) fn lastsave(_: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(i64::try_from(clock::now_ms() / 1000).unwrap_or(i64::MAX));
    Ok(Next::Continue)
}

/// `BGREWRITEAOF`
pub(super) fn bgrewriteaof(
    connection: &mut Connection<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    connection.server.store.request_sync();
    reply.simple("Background append only file rewriting started");
    Ok(Next::Continue)
}

/// `ACL WHOAMI | USERS | CAT | LIST`: there is one user.
pub(super) fn acl(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"whoami" => reply.bulk(b"default"),
        b"users" => {
            reply.array(1);
            reply.bulk(b"default");
        }
        b"list" => {
            reply.array(1);
            let secret = if connection.server.needs_password() { "#hidden" } else { "nopass" };
            reply.bulk(format!("user default on {secret} ~* &* +@all").as_bytes());
        }
        b"cat" | b"log" => reply.array(0),
        b"help" => help(reply, &["ACL <subcommand>", "LIST", "USERS", "WHOAMI"]),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// `LOLWUT`
pub(super) fn lolwut(_: &mut Connection<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let line = "~-._.-~^~-._.-~^~-._  a strandline: nothing above it is lost";
    reply.verbatim(&format!("{line}\nRedis ver. {REDIS_VERSION}\n"));
    Ok(Next::Continue)
}

/// `FUNCTION`: there are none (D19); what tools ask for is answered, the rest refused.
pub(super) fn function(_: &mut Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"flush" => reply.ok(),
        b"list" => reply.array(0),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}
