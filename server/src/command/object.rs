//! What keys are like inside: `OBJECT` and `MEMORY`, as far as the question makes sense here.

use crate::key::PREFIX_LEN;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply, parse_integer};
use crate::value::HEADER_LEN;

/// The longest string that Redis calls `embstr`.
const EMBEDDED_LEN_MAX: usize = 44;
/// What the engine adds to a key and a value, roughly: `MEMORY USAGE` is an estimate.
const OVERHEAD_LEN: usize = 32;

/// The refusal of a subcommand that does not exist.
pub(super) fn unknown_subcommand(args: Args<'_>) -> Refusal {
    let name = String::from_utf8_lossy(args.at(0)).to_uppercase();
    let subcommand = String::from_utf8_lossy(&args.at(1)[..args.at(1).len().min(128)]);
    Refusal::Other(format!("ERR unknown subcommand '{subcommand}'. Try {name} HELP.").into())
}

/// The refusal of a subcommand with too few or too many arguments.
pub(super) fn subcommand_arity(args: Args<'_>) -> Refusal {
    let name = String::from_utf8_lossy(args.at(0)).to_lowercase();
    let subcommand = String::from_utf8_lossy(args.at(1)).to_lowercase();
    Refusal::Arity(format!("{name}|{subcommand}"))
}

/// Answers `HELP`.
pub(super) fn help(reply: &mut Reply<'_>, lines: &[&str]) {
    reply.array(lines.len());
    for line in lines {
        reply.simple(line);
    }
}

/// `OBJECT ENCODING | REFCOUNT | IDLETIME | FREQ key`, `OBJECT HELP`
pub(super) fn object(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    if args.is(1, "help") {
        help(
            reply,
            &[
                "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                "ENCODING <key>",
                "    Return the kind of internal representation of the value at <key>.",
                "FREQ <key>",
                "    Refused: accesses are not counted.",
                "IDLETIME <key>",
                "    Return 0: accesses are not timed.",
                "REFCOUNT <key>",
                "    Return 1: values are not shared.",
                "HELP",
                "    Print this help.",
            ],
        );
        return Ok(());
    }
    let is_known = ["encoding", "refcount", "idletime", "freq"].iter().any(|word| args.is(1, word));
    if !is_known {
        return Err(unknown_subcommand(args).into());
    }
    if args.len() != 3 {
        return Err(subcommand_arity(args).into());
    }
    let Some(stored) = reader.find(args.at(2))? else {
        reply.null();
        return Ok(());
    };
    if args.is(1, "encoding") {
        let payload = stored.payload();
        reply.bulk(if parse_integer(payload).is_some() {
            b"int"
        } else if payload.len() <= EMBEDDED_LEN_MAX {
            b"embstr"
        } else {
            b"raw"
        });
    } else if args.is(1, "refcount") {
        reply.integer(1);
    } else if args.is(1, "idletime") {
        reply.integer(0);
    } else {
        return Err(Refusal::other(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please \
             note that when switching between policies at runtime LRU and LFU data will take some \
             time to adjust.",
        )
        .into());
    }
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES count]`, `MEMORY DOCTOR`, `MEMORY HELP`
pub(super) fn memory(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    if args.is(1, "usage") {
        let has_samples = args.len() == 5 && args.is(3, "samples");
        if args.len() != 3 && !has_samples {
            return Err(
                if args.len() == 2 { subcommand_arity(args) } else { Refusal::Syntax }.into()
            );
        }
        if has_samples {
            super::numbers::integer(args.at(4))?;
        }
        match reader.find(args.at(2))? {
            Some(stored) => reply.count(
                PREFIX_LEN + args.at(2).len() + HEADER_LEN + stored.payload().len() + OVERHEAD_LEN,
            ),
            None => reply.null(),
        }
    } else if args.is(1, "doctor") {
        reply.verbatim("Memory is bounded by the sizes of memtables and caches. All is well.");
    } else if args.is(1, "help") {
        help(reply, &["MEMORY <subcommand>. Subcommands are:", "DOCTOR", "USAGE <key>", "HELP"]);
    } else {
        return Err(unknown_subcommand(args).into());
    }
    Ok(())
}
