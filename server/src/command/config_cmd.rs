//! `CONFIG`: the settings in force.

use super::object::{help, subcommand_arity, unknown_subcommand};
use super::{Next, pattern};
use crate::config::{ConfigError, Origin};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::Connection;

type Result<T = Next> = std::result::Result<T, Failure>;

/// `CONFIG GET | SET | RESETSTAT | REWRITE | HELP`
pub(super) fn config(
    connection: &mut Connection<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let subcommand = args.at(1).to_ascii_lowercase();
    match (subcommand.as_slice(), args.len()) {
        (b"get", 3..) => get(connection, args, reply),
        (b"set", 4..) if args.len().is_multiple_of(2) => set(connection, args, reply)?,
        (b"resetstat", 2) => {
            connection.server.stats.reset();
            reply.ok();
        }
        (b"rewrite", 2) => {
            return Err(Refusal::other(
                "ERR The server does not change its configuration file: write the settings there \
                 yourself, `strandline config check` tells whether they are understood",
            )
            .into());
        }
        (b"help", 2) => help(
            reply,
            &[
                "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "GET <pattern> [<pattern> ...]",
                "    Return parameters matching the glob-like <pattern>s and their values.",
                "SET <directive> <value> [<directive> <value> ...]",
                "    Set the configuration <directive>s to <value>s.",
                "RESETSTAT",
                "    Reset statistics reported by the INFO command.",
                "HELP",
                "    Print this help.",
            ],
        ),
        (b"get" | b"set" | b"resetstat" | b"rewrite" | b"help", _) => {
            return Err(subcommand_arity(args).into());
        }
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// Settings that are shown only to who knows their names, as in Redis.
const HIDDEN: [&str; 1] = ["key-load-delay"];

/// Whom this node follows: what was typed last, which the setting of the start is not.
const FOLLOWS: [&str; 2] = ["replicaof", "slaveof"];

fn get(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) {
    let config = connection.server.config();
    let known = config.all().map(|(name, value, _)| (name, value));
    let known = known.filter(|(name, _)| !FOLLOWS.contains(name));
    let target = connection.server.store.standing().follows();
    let target = target.map_or(String::new(), |target| target.as_words());
    let follows = FOLLOWS.iter().map(|name| (*name, target.clone()));
    let is_wanted = |name: &str| {
        args.from(2).any(|wanted| match HIDDEN.contains(&name) {
            true => wanted.eq_ignore_ascii_case(name.as_bytes()),
            false => pattern::matches(wanted, name.as_bytes(), true),
        })
    };
    let found: Vec<_> = known.chain(follows).filter(|(name, _)| is_wanted(name)).collect();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
}

fn set(connection: &Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let text = |at| String::from_utf8_lossy(args.at(at)).into_owned();
    let changes: Vec<(String, String)> =
        (2..args.len()).step_by(2).map(|at| (text(at), text(at + 1))).collect();
    for (at, (name, _)) in changes.iter().enumerate() {
        if changes[..at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(failed(name, "duplicate parameter"));
        }
    }
    match connection.server.change_config(&changes) {
        Ok(()) => {
            reply.ok();
            Ok(())
        }
        Err(ConfigError::Unknown { name, origin: Origin::Command }) => {
            let text =
                format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'");
            Err(Refusal::Other(text.into()).into())
        }
        Err(ConfigError::Invalid { name, expected, .. }) => Err(failed(name, &expected)),
        Err(ConfigError::Fixed { name }) => Err(failed(name, "can't set immutable config")),
        Err(error) => Err(Refusal::Other(format!("ERR {error}").into()).into()),
    }
}

fn failed(name: &str, reason: &str) -> Failure {
    let text = format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}");
    Refusal::Other(text.into()).into()
}
