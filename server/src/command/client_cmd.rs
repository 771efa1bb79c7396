//! `CLIENT`: who is connected.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::object::{help, subcommand_arity, unknown_subcommand};
use super::{Next, numbers};
use crate::client::Client;
use crate::clock;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::{Connection, ReplyMode};

type Result<T = Next> = std::result::Result<T, Failure>;

/// A client's name, which has neither spaces nor line ends nor special characters.
pub(super) fn checked_name(name: &[u8]) -> std::result::Result<String, Refusal> {
    match std::str::from_utf8(name) {
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(name.to_owned()),
        _ => Err(Refusal::other(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        )),
    }
}

/// `CLIENT subcommand ...`
pub(super) fn client(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let subcommand = String::from_utf8_lossy(args.at(1)).to_ascii_lowercase();
    let count = args.len();
    match (subcommand.as_str(), count) {
        ("id", 2) => reply.integer(i64::try_from(connection.client.id).unwrap_or(i64::MAX)),
        ("info", 2) => reply.verbatim(&format!("{}\n", connection.client.line(Some(args)))),
        ("list", _) => list(connection, args, reply)?,
        ("setname", 3) => {
            connection.client.identity().name = checked_name(args.at(2))?;
            reply.ok();
        }
        ("getname", 2) => match &*connection.client.identity().name {
            "" => reply.null(),
            name => reply.bulk(name.as_bytes()),
        },
        ("setinfo", 4) => set_info(connection, args, reply)?,
        ("kill", 3..) => return kill(connection, args, reply),
        ("pause", 3 | 4) => pause(connection, args, reply)?,
        ("unpause", 2) => {
            connection.server.pause.until_ms.store(0, Ordering::Relaxed);
            reply.ok();
        }
        ("no-evict", 3) => {
            connection.client.no_evict.store(on_or_off(args.at(2))?, Ordering::Relaxed);
            reply.ok();
        }
        ("no-touch", 3) => {
            on_or_off(args.at(2))?;
            reply.ok();
        }
        ("reply", 3) => set_reply_mode(connection, args, reply)?,
        ("unblock", 3 | 4) => {
            numbers::integer(args.at(2))?;
            reply.integer(0);
        }
        ("trackinginfo", 2) => tracking_info(reply),
        ("getredir", 2) => reply.integer(-1),
        ("help", 2) => help(reply, HELP),
        (
            "id" | "info" | "setname" | "getname" | "setinfo" | "kill" | "pause" | "unpause"
            | "no-evict" | "no-touch" | "reply" | "unblock" | "trackinginfo" | "getredir" | "help",
            _,
        ) => return Err(subcommand_arity(args).into()),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

const HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port> | <option> <value> [<option> <value> ...]",
    "    Kill connections: ADDR, LADDR, ID, TYPE, USER, SKIPME.",
    "LIST [TYPE type] [ID id ...]",
    "    Return information about client connections.",
    "PAUSE <timeout> [WRITE|ALL]",
    "    Suspend all, or just write, clients for <timeout> milliseconds.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "UNPAUSE",
    "    Stop the current client pause.",
    "HELP",
    "    Print this help.",
];

fn on_or_off(argument: &[u8]) -> std::result::Result<bool, Refusal> {
    match argument.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err(Refusal::Syntax),
    }
}

/// Whether clients of this type are meant; there is only one type here.
fn is_normal(argument: &[u8]) -> std::result::Result<bool, Refusal> {
    match argument.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(false),
        _ => {
            let name = String::from_utf8_lossy(argument);
            Err(Refusal::Other(format!("ERR Unknown client type '{name}'").into()))
        }
    }
}

fn list(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let mut clients = connection.server.clients.all();
    if args.len() == 4 && args.is(2, "type") {
        if !is_normal(args.at(3))? {
            clients.clear();
        }
    } else if args.len() > 3 && args.is(2, "id") {
        let ids: std::result::Result<Vec<u64>, Refusal> = args
            .from(3)
            .map(|id| {
                let id = numbers::integer(id).ok().and_then(|id| u64::try_from(id).ok());
                id.ok_or(Refusal::other("ERR Invalid client ID"))
            })
            .collect();
        let ids = ids?;
        clients.retain(|client| ids.contains(&client.id));
    } else if args.len() != 2 {
        return Err(Refusal::Syntax.into());
    }
    let line = |client: &Arc<Client>| {
        client.line((client.id == connection.client.id).then_some(args)) + "\n"
    };
    let lines: String = clients.iter().map(line).collect();
    reply.verbatim(&lines);
    Ok(())
}

fn set_info(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let value = std::str::from_utf8(args.at(3)).ok();
    let value = value.filter(|value| value.bytes().all(|byte| byte.is_ascii_graphic()));
    let is_name = args.is(2, "lib-name");
    if !is_name && !args.is(2, "lib-ver") {
        let option = String::from_utf8_lossy(args.at(2));
        return Err(Refusal::Other(format!("ERR Unrecognized option '{option}'").into()).into());
    }
    let Some(value) = value else {
        let text = "cannot contain spaces, newlines or special characters.";
        let option = if is_name { "lib-name" } else { "lib-ver" };
        return Err(Refusal::Other(format!("ERR {option} {text}").into()).into());
    };
    let mut identity = connection.client.identity();
    if is_name {
        identity.library = value.to_owned();
    } else {
        identity.library_version = value.to_owned();
    }
    reply.ok();
    Ok(())
}

/// Which clients `CLIENT KILL` means.
struct Filter {
    id: Option<u64>,
    address: Option<String>,
    local_address: Option<String>,
    normal: bool,
    skips_me: bool,
}

impl Filter {
    fn parse(args: Args<'_>) -> std::result::Result<Self, Refusal> {
        let mut filter =
            Self { id: None, address: None, local_address: None, normal: true, skips_me: true };
        if args.len() % 2 == 1 {
            return Err(Refusal::Syntax);
        }
        for at in (2..args.len()).step_by(2) {
            let value = args.at(at + 1);
            let text = String::from_utf8_lossy(value).into_owned();
            if args.is(at, "id") {
                let id = numbers::integer(value).ok().and_then(|id| u64::try_from(id).ok());
                let refusal = Refusal::other("ERR client-id should be greater than 0");
                filter.id = Some(id.filter(|id| *id > 0).ok_or(refusal)?);
            } else if args.is(at, "addr") {
                filter.address = Some(text);
            } else if args.is(at, "laddr") {
                filter.local_address = Some(text);
            } else if args.is(at, "type") {
                filter.normal = is_normal(value)?;
            } else if args.is(at, "user") {
                if text != "default" {
                    return Err(Refusal::Other(format!("ERR No such user '{text}'").into()));
                }
            } else if args.is(at, "skipme") {
                filter.skips_me = match text.to_ascii_lowercase().as_str() {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(Refusal::Syntax),
                };
            } else {
                return Err(Refusal::Syntax);
            }
        }
        Ok(filter)
    }

    fn means(&self, client: &Client, own_id: u64) -> bool {
        let same = |wanted: &Option<String>, address: std::net::SocketAddr| {
            wanted.as_ref().is_none_or(|wanted| *wanted == address.to_string())
        };
        self.normal
            && self.id.is_none_or(|id| id == client.id)
            && same(&self.address, client.address)
            && same(&self.local_address, client.local_address)
            && !(self.skips_me && client.id == own_id)
    }
}

fn kill(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let own_id = connection.client.id;
    let is_old_form = args.len() == 3;
    let filter = if is_old_form {
        let address = Some(String::from_utf8_lossy(args.at(2)).into_owned());
        Filter { id: None, address, local_address: None, normal: true, skips_me: false }
    } else {
        Filter::parse(args)?
    };
    let all = connection.server.clients.all();
    let meant: Vec<Arc<Client>> =
        all.into_iter().filter(|client| filter.means(client, own_id)).collect();
    if is_old_form && meant.is_empty() {
        return Err(Refusal::other("ERR No such client").into());
    }
    for client in meant.iter().filter(|client| client.id != own_id) {
        client.kill();
    }
    if is_old_form {
        reply.ok();
    } else {
        reply.count(meant.len());
    }
    let is_own = meant.iter().any(|client| client.id == own_id);
    Ok(if is_own { Next::Close } else { Next::Continue })
}

fn pause(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let timeout = numbers::integer(args.at(2)).ok().and_then(|ms| u64::try_from(ms).ok());
    let timeout = timeout.ok_or(Refusal::other("ERR timeout is not an integer or out of range"))?;
    let all = match args.get(3) {
        None => true,
        Some(_) if args.is(3, "all") => true,
        Some(_) if args.is(3, "write") => false,
        Some(_) => return Err(Refusal::other("ERR CLIENT PAUSE mode must be WRITE or ALL").into()),
    };
    let pause = &connection.server.pause;
    pause.all.store(all, Ordering::Relaxed);
    pause.until_ms.store(clock::now_ms().saturating_add(timeout), Ordering::Relaxed);
    reply.ok();
    Ok(())
}

fn set_reply_mode(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<()> {
    connection.state.reply_mode = match args.at(2).to_ascii_lowercase().as_slice() {
        b"on" => ReplyMode::On,
        b"off" => ReplyMode::Off,
        b"skip" if connection.state.reply_mode == ReplyMode::Off => ReplyMode::Off,
        b"skip" => ReplyMode::SkipNext,
        _ => return Err(Refusal::Syntax.into()),
    };
    reply.ok();
    Ok(())
}

fn tracking_info(reply: &mut Reply<'_>) {
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.integer(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
}
