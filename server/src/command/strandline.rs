//! `STRANDLINE`: what this server has and Redis has not.
//!
//! `STRANDLINE SESSION OPEN` opens a session and answers its number; `STRANDLINE SESSION DO session number
//! command [argument ...]` executes a command that writes, once: whoever sends the same again, because
//! he does not know what became of it, gets the first answer, on any node, whoever led then and leads
//! now. Both are entries of the log like any write, and so is a retry: what was forwarded, or stands in
//! the log of a leader that has died, meets the same table of numbers when it is applied.
//!
//! Which numbers were executed is in a table of [`Sessions`](strandline_replication::Sessions), part of
//! the machine's state; the answers lie in a keyspace of their own and change with what they answer, in
//! one batch. What is not known is not guessed: `EXPIRED`.

use strandline_engine::{BATCH_LEN_MAX, Error, KEY_LEN_MAX, Read, Skipped};
use strandline_replication::{Request, SESSION_WINDOW};

use super::numbers::integer;
use super::{Command, Handler, table};
use crate::apply::{ANSWERS, Apply};
use crate::first_answer::{self, FirstAnswer, Kept};
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Protocol, Reply};

/// What an argument costs in a batch beyond its bytes, at most; see `session/admission.rs`.
const ARGUMENT_LEN: usize = 100;
/// What keeping an answer adds to a batch, at most: the answer, and deleting a whole window of others.
const ANSWERS_LEN: usize = 64 << 10;
/// Where the command begins.
const COMMAND_AT: usize = 5;

/// What is asked for.
enum Asked<'a> {
    Open,
    Do { request: Request, command: &'static Command, args: Args<'a> },
}

fn parse(args: Args<'_>) -> Result<Asked<'_>, Refusal> {
    let is_open = args.is(2, "open") && args.len() == 3;
    let is_do = args.is(2, "do") && args.len() > COMMAND_AT;
    if !args.is(1, "session") || !(is_open || is_do) {
        let text = "ERR unknown subcommand, or wrong number of arguments. Try STRANDLINE SESSION OPEN, or \
                    STRANDLINE SESSION DO session number command [argument ...].";
        return Err(Refusal::other(text));
    }
    if is_open {
        return Ok(Asked::Open);
    }
    let number = |at: usize| {
        let number = integer(args.at(at))?;
        u64::try_from(number)
            .ok()
            .filter(|number| *number > 0)
            .ok_or(Refusal::other("ERR session and number are whole numbers from 1 on"))
    };
    let request = Request { session: number(3)?, number: number(4)? };
    let inner = args.rest(COMMAND_AT);
    let command = table::find(inner.at(0)).filter(|command| command.name != "strandline");
    match command {
        Some(command) if command.is_write() => {
            command.check_shape(inner)?;
            Ok(Asked::Do { request, command, args: inner })
        }
        _ => Err(Refusal::other(
            "ERR only a command that writes is numbered: send others as they are",
        )),
    }
}

/// Refuses what cannot be numbered, and what the command itself refuses.
pub(super) fn check(args: Args<'_>) -> Result<(), Refusal> {
    let Asked::Do { command, args, .. } = parse(args)? else { return Ok(()) };
    let len = args.from(1).map(|one| one.len() + one.len().min(KEY_LEN_MAX) + ARGUMENT_LEN);
    if len.sum::<usize>() + ANSWERS_LEN > BATCH_LEN_MAX {
        return Err(Refusal::CommandTooLarge);
    }
    match command.handler {
        Handler::Write { check, .. } => check(args),
        Handler::Read(_) | Handler::Session(_) => unreachable!("parse takes writes only"),
    }
}

/// Opens a session, or executes the command of a request that was not executed yet.
pub(super) fn apply(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    // It was checked before it was logged: only a newer program can have logged what is refused here.
    let asked = parse(args).map_err(|refusal| Error::Malformed {
        what: "numbered command",
        offset: 0,
        reason: format!("{refusal}: a newer program wrote it"),
    })?;
    let (request, command, args) = match asked {
        Asked::Open => {
            if let Some(gone) = apply.sessions.open(apply.index.0) {
                forget(apply, gone, 0, u64::MAX)?;
            }
            reply.integer(i64::try_from(apply.index.0).unwrap_or(i64::MAX));
            return Ok(());
        }
        Asked::Do { request, command, args } => (request, command, args),
    };
    let before = apply.sessions.highest(request.session);
    match apply.sessions.execute(apply.index.0, request) {
        None => {
            let before = before.expect("a session that is not open executes nothing");
            let out = request.number.max(before).saturating_sub(SESSION_WINDOW);
            if out > before.saturating_sub(SESSION_WINDOW) {
                forget(apply, request.session, before.saturating_sub(SESSION_WINDOW), out)?;
            }
            let answer = execute(apply, command, args)?;
            let first = FirstAnswer::new(first_answer::digest(args), &answer);
            apply.changes.put(ANSWERS, &first_answer::key(request), &first.encode())?;
            reply.replay(&answer);
        }
        Some(Skipped::Repeated) => repeat(apply, request, args, reply)?,
        Some(Skipped::Expired) => reply.error(&expired(request, before.is_some())),
    }
    Ok(())
}

/// Executes the command; returns its answer in RESP2, which is the same on every replica.
fn execute(
    apply: &mut Apply<'_, '_>,
    command: &Command,
    args: Args<'_>,
) -> Result<Vec<u8>, strandline_engine::Error> {
    let Handler::Write { apply: handler, .. } = command.handler else {
        unreachable!("parse takes writes only")
    };
    let mut answer = Vec::new();
    match handler(apply, args, &mut Reply::new(&mut answer, Protocol::Resp2)) {
        Ok(()) => {}
        Err(Failure::Refused(refusal)) => {
            answer.clear();
            Reply::new(&mut answer, Protocol::Resp2).error(&refusal.to_string());
        }
        Err(Failure::Store(error)) => return Err(error),
    }
    Ok(answer)
}

/// Gives the first answer again.
fn repeat(
    apply: &Apply<'_, '_>,
    request: Request,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), strandline_engine::Error> {
    let Request { session, number } = request;
    let found = apply.changes.get(ANSWERS, &first_answer::key(request))?;
    let Some(found) = found else {
        reply.error(&format!(
            "REPEATED request {number} of session {session} was executed before, and its answer is not here"
        ));
        return Ok(());
    };
    let first = FirstAnswer::decode(&found)?;
    if first.digest != first_answer::digest(args) {
        reply.error(&format!(
            "ERR request {number} of session {session} was another command: this one was not executed; give \
             it a number of its own"
        ));
        return Ok(());
    }
    match first.kept {
        Kept::Whole(answer) => reply.replay(&answer),
        Kept::TooLong(len) => reply.error(&format!(
            "REPEATED request {number} of session {session} was executed before; its answer of {len} bytes \
             was too long to be kept"
        )),
    }
    Ok(())
}

fn expired(request: Request, is_open: bool) -> String {
    let Request { session, number } = request;
    if is_open {
        return format!(
            "EXPIRED request {number} of session {session} is not among its last {SESSION_WINDOW}: not \
             executed now; whether it was before is not known"
        );
    }
    format!(
        "EXPIRED session {session} is not open (any more): request {number} was not executed now; whether it \
         was before is not known; open another one for what comes"
    )
}

/// Drops the answers of a session from one number to another.
fn forget(
    apply: &mut Apply<'_, '_>,
    session: u64,
    first: u64,
    last: u64,
) -> Result<(), strandline_engine::Error> {
    let found = apply.changes.range(ANSWERS, first_answer::keys(session, first, last));
    let gone: Vec<Vec<u8>> =
        found.map(|pair| pair.map(|(key, _)| key)).collect::<Result<_, _>>()?;
    for key in gone {
        apply.changes.delete(ANSWERS, &key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strandline_engine::Machine as _;
    use strandline_replication::SESSIONS_MAX;

    use super::*;
    use crate::command::testing::Fixture;

    fn open(fixture: &mut Fixture) -> String {
        let reply = fixture.run("strandline session open");
        reply.trim_end().trim_start_matches(':').to_owned()
    }

    #[test]
    fn a_retry_gets_the_first_answer_and_is_not_executed() {
        let mut fixture = Fixture::new();
        let session = open(&mut fixture);
        let mut ask = |number: u64, line: &str| {
            fixture.run(&format!("strandline session do {session} {number} {line}"))
        };
        assert_eq!(ask(1, "incr n"), ":1\r\n");
        assert_eq!(ask(1, "INCR n"), ":1\r\n");
        assert_eq!(ask(3, "incrby n 10"), ":11\r\n");
        assert_eq!(ask(2, "getset n 5"), "$2\r\n11\r\n");
        assert_eq!(ask(2, "getset n 5"), "$2\r\n11\r\n");
        // A refusal of the command is an answer, too.
        assert_eq!(ask(4, "set s x"), "+OK\r\n");
        assert!(ask(5, "incr s").starts_with("-ERR value is not an integer"));
        assert_eq!(ask(6, "set s 1"), "+OK\r\n");
        assert!(ask(5, "incr s").starts_with("-ERR value is not an integer"));
        assert!(ask(1, "incr m").starts_with("-ERR request 1 of session"));
        assert_eq!(fixture.run("get n"), "$1\r\n5\r\n");
        assert_eq!(fixture.run("get m"), "$-1\r\n");
    }

    #[test]
    fn what_cannot_be_numbered_is_refused() {
        let mut fixture = Fixture::new();
        for line in [
            "strandline session",
            "strandline sessions open",
            "strandline session open now",
            "strandline session do 1 1",
            "strandline session do 0 1 incr n",
            "strandline session do 1 x incr n",
            "strandline session do 1 1 get n",
            "strandline session do 1 1 incr",
            "strandline session do 1 1 incrby n x",
            "strandline session do 1 1 strandline session open",
        ] {
            assert!(fixture.run(line).starts_with("-ERR"), "{line}");
        }
        assert!(fixture.run("strandline session do 9 1 incr n").starts_with("-EXPIRED session 9"));
        assert_eq!(fixture.run("get n"), "$-1\r\n");
    }

    #[test]
    fn a_session_keeps_a_window_of_answers_that_are_not_too_long() {
        let mut fixture = Fixture::new();
        let session = open(&mut fixture);
        let mut ask = |number: u64, line: &str| {
            fixture.run(&format!("strandline session do {session} {number} {line}"))
        };
        for number in 1..=200 {
            assert_eq!(ask(number, "incr n"), format!(":{number}\r\n"));
        }
        assert!(ask(72, "incr n").starts_with("-EXPIRED request 72"));
        assert_eq!(ask(73, "incr n"), ":73\r\n");
        assert_eq!(ask(1000, "incr n"), ":201\r\n");
        assert!(ask(200, "incr n").starts_with("-EXPIRED request 200"));
        let long = "x".repeat(first_answer::ANSWER_LEN_MAX);
        ask(1001, &format!("set s {long}"));
        assert!(ask(1002, "getdel s").ends_with("x\r\n"));
        assert!(ask(1002, "getdel s").starts_with("-REPEATED request 1002"));
        assert_eq!(fixture.answers(), 3, "the others were dropped");
    }

    #[test]
    fn the_least_recently_used_session_expires_with_its_answers() {
        let mut fixture = Fixture::new();
        let session = open(&mut fixture);
        fixture.run(&format!("strandline session do {session} 1 incr n"));
        for _ in 0..SESSIONS_MAX {
            open(&mut fixture);
        }
        let late = fixture.run(&format!("strandline session do {session} 1 incr n"));
        assert!(late.starts_with(&format!("-EXPIRED session {session}")), "{late}");
        assert_eq!(fixture.answers(), 0);
        assert_eq!(fixture.run("get n"), "$1\r\n1\r\n");
    }

    #[test]
    fn sessions_travel_with_the_state() {
        let mut fixture = Fixture::new();
        let session = open(&mut fixture);
        let line = format!("strandline session do {session} 1 incr n");
        assert_eq!(fixture.run(&line), ":1\r\n");
        let state = fixture.machine.state();
        fixture.machine.restore(&state).unwrap();
        assert_eq!(fixture.run(&line), ":1\r\n");
        assert!(fixture.machine.restore(&state[..state.len() - 1]).is_err());
    }
}
