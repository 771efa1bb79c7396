//! `COMMAND`: the table of commands, for clients that ask.

use super::object::{help, subcommand_arity, unknown_subcommand};
use super::{Command, Next, pattern, table};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::session::Connection;

type Result<T = Next> = std::result::Result<T, Failure>;

/// `COMMAND [COUNT | INFO | DOCS | GETKEYS | LIST | HELP]`
pub(super) fn command(_: &mut Connection<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(subcommand) = args.get(1) else {
        reply.array(table::COMMANDS.len());
        for command in table::COMMANDS {
            describe(command, reply);
        }
        return Ok(Next::Continue);
    };
    match (subcommand.to_ascii_lowercase().as_slice(), args.len()) {
        (b"count", 2) => reply.count(table::COMMANDS.len()),
        (b"info", _) => info(args, reply),
        (b"docs", _) => docs(args, reply),
        (b"getkeys", 3..) => get_keys(args, reply)?,
        (b"list", _) => list(args, reply)?,
        (b"help", 2) => help(
            reply,
            &[
                "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "(no subcommand)",
                "    Return details about all commands.",
                "COUNT",
                "    Return the total number of commands in this server.",
                "DOCS [<command-name> ...]",
                "    Return documentation details about multiple commands.",
                "GETKEYS <full-command>",
                "    Return the keys from a full command.",
                "INFO [<command-name> ...]",
                "    Return details about multiple commands.",
                "LIST [FILTERBY PATTERN <pattern>]",
                "    Return the names of the commands.",
                "HELP",
                "    Print this help.",
            ],
        ),
        (b"count" | b"getkeys" | b"help", _) => return Err(subcommand_arity(args).into()),
        _ => return Err(unknown_subcommand(args).into()),
    }
    Ok(Next::Continue)
}

/// One command as `COMMAND INFO` has it.
fn describe(command: &Command, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.set(command.flags.len());
    for flag in command.flags {
        reply.simple(flag);
    }
    let (first, last, step) = command.keys;
    for number in [first, last, step] {
        reply.integer(number.into());
    }
    let category =
        format!("@{}", if command.group == "generic" { "keyspace" } else { command.group });
    let access = if command.is_write() { "@write" } else { "@read" };
    reply.set(2);
    reply.simple(&category);
    reply.simple(if first == 0 { "@slow" } else { access });
    reply.array(0);
    // Key specifications and subcommands are left out: the three numbers above say where keys are.
    reply.array(0);
    reply.array(0);
}

fn info(args: Args<'_>, reply: &mut Reply<'_>) {
    if args.len() == 2 {
        reply.array(table::COMMANDS.len());
        table::COMMANDS.iter().for_each(|command| describe(command, reply));
        return;
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match table::find(name) {
            Some(command) => describe(command, reply),
            None => reply.null_array(),
        }
    }
}

fn docs(args: Args<'_>, reply: &mut Reply<'_>) {
    let commands: Vec<&Command> = match args.len() {
        2 => table::COMMANDS.iter().collect(),
        _ => args.from(2).filter_map(table::find).collect(),
    };
    reply.map(commands.len());
    for command in commands {
        reply.bulk(command.name.as_bytes());
        reply.map(2);
        reply.bulk(b"group");
        reply.bulk(command.group.as_bytes());
        reply.bulk(b"since");
        reply.bulk(b"1.0.0");
    }
}

fn get_keys(args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let command = table::find(args.at(2)).ok_or(Refusal::other("ERR Invalid command specified"))?;
    let count = args.len() - 2;
    if !command.takes(count) {
        let text = "ERR Invalid number of arguments specified for command";
        return Err(Refusal::other(text).into());
    }
    let places: Vec<usize> = command.key_places(count).collect();
    if places.is_empty() {
        return Err(Refusal::other("ERR The command has no key arguments").into());
    }
    reply.array(places.len());
    for place in places {
        reply.bulk(args.at(place + 2));
    }
    Ok(())
}

fn list(args: Args<'_>, reply: &mut Reply<'_>) -> Result<()> {
    let is_wanted: Box<dyn Fn(&Command) -> bool> = match args.len() {
        2 => Box::new(|_| true),
        5 if args.is(2, "filterby") && args.is(3, "pattern") => {
            let wanted = args.at(4).to_vec();
            Box::new(move |command| pattern::matches(&wanted, command.name.as_bytes(), true))
        }
        5 if args.is(2, "filterby") && args.is(3, "module") => Box::new(|_| false),
        5 if args.is(2, "filterby") && args.is(3, "aclcat") => {
            let wanted = args.at(4).to_ascii_lowercase();
            Box::new(move |command| match wanted.as_slice() {
                b"write" => command.is_write(),
                b"read" => command.flags.contains(&"readonly"),
                group => command.group.as_bytes() == group,
            })
        }
        _ => return Err(Refusal::Syntax.into()),
    };
    let names: Vec<&str> = table::COMMANDS
        .iter()
        .filter(|command| is_wanted(command))
        .map(|command| command.name)
        .collect();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}
