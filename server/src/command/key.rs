//! Keys as such, whatever they hold; and databases as a whole.

use super::numbers;
use crate::apply::Apply;
use crate::databases::DATABASE_COUNT;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};

/// `EXISTS key [key ...]` and `TOUCH`: a key that is named twice counts twice.
pub(super) fn exists(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let mut count = 0;
    for key in args.from(1) {
        count += i64::from(reader.find(key)?.is_some());
    }
    reply.integer(count);
    Ok(())
}

/// `TYPE key`
pub(super) fn type_of(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let found = reader.find(args.at(1))?;
    reply.simple(if found.is_some() { "string" } else { "none" });
    Ok(())
}

/// `DBSIZE`
pub(super) fn dbsize(
    reader: &mut Reader<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let keys = reader.directory.get(reader.database).keys;
    reply.integer(i64::try_from(keys).unwrap_or(i64::MAX));
    Ok(())
}

/// `DEL key [key ...]` and `UNLINK`
pub(super) fn del(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let mut count = 0;
    for key in args.from(1) {
        let place = apply.find(key)?;
        count += i64::from(place.live().is_some());
        apply.delete(&place)?;
    }
    reply.integer(count);
    Ok(())
}

/// `RENAME key newkey`
pub(super) fn rename(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let stored = place.live().ok_or(Refusal::NoSuchKey)?;
    if args.at(1) != args.at(2) {
        apply.delete(&place)?;
        let target = apply.find(args.at(2))?;
        apply.put(&target, stored.payload(), stored.expire_ms())?;
    }
    reply.ok();
    Ok(())
}

/// `RENAMENX key newkey`
pub(super) fn renamenx(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let stored = place.live().ok_or(Refusal::NoSuchKey)?;
    let target = apply.find(args.at(2))?;
    let is_free = target.live().is_none();
    if is_free {
        apply.delete(&place)?;
        apply.put(&target, stored.payload(), stored.expire_ms())?;
    }
    reply.integer(i64::from(is_free));
    Ok(())
}

/// Where `COPY` copies to, and whether over what is there.
fn parse_copy(args: Args<'_>) -> Result<(Option<usize>, bool), Refusal> {
    let (mut database, mut replaces) = (None, false);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "replace") {
            replaces = true;
        } else if args.is(at, "db") && at + 1 < args.len() {
            database = Some(numbers::database(args.at(at + 1))?);
            at += 1;
        } else {
            return Err(Refusal::Syntax);
        }
        at += 1;
    }
    Ok((database, replaces))
}

/// Refuses options that do not exist.
pub(super) fn check_copy(args: Args<'_>) -> Result<(), Refusal> {
    parse_copy(args).map(drop)
}

/// `COPY source destination [DB number] [REPLACE]`
pub(super) fn copy(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (database, replaces) = parse_copy(args)?;
    let database = database.unwrap_or(apply.database);
    if database == apply.database && args.at(1) == args.at(2) {
        return Err(Refusal::other("ERR source and destination objects are the same").into());
    }
    let place = apply.find(args.at(1))?;
    let target = apply.find_in(database, args.at(2))?;
    let is_copied = match place.live() {
        Some(stored) if replaces || target.live().is_none() => {
            apply.put(&target, stored.payload(), stored.expire_ms())?;
            true
        }
        _ => false,
    };
    reply.integer(i64::from(is_copied));
    Ok(())
}

/// Refuses a database that does not exist.
pub(super) fn check_move(args: Args<'_>) -> Result<(), Refusal> {
    numbers::database(args.at(2)).map(drop)
}

/// `MOVE key database`
pub(super) fn move_key(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let database = numbers::database(args.at(2))?;
    if database == apply.database {
        return Err(Refusal::other("ERR source and destination objects are the same").into());
    }
    let place = apply.find(args.at(1))?;
    let target = apply.find_in(database, args.at(1))?;
    let is_moved = match place.live() {
        Some(stored) if target.live().is_none() => {
            apply.delete(&place)?;
            apply.put(&target, stored.payload(), stored.expire_ms())?;
            true
        }
        _ => false,
    };
    reply.integer(i64::from(is_moved));
    Ok(())
}

/// Refuses options that do not exist. `SYNC` and `ASYNC` make no difference here.
pub(super) fn check_flush(args: Args<'_>) -> Result<(), Refusal> {
    match args.len() {
        1 => Ok(()),
        2 if args.is(1, "sync") || args.is(1, "async") => Ok(()),
        _ => Err(Refusal::Syntax),
    }
}

/// `FLUSHDB [SYNC | ASYNC]`
pub(super) fn flushdb(
    apply: &mut Apply<'_, '_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    apply.databases.flush(apply.database);
    reply.ok();
    Ok(())
}

/// `FLUSHALL [SYNC | ASYNC]`
pub(super) fn flushall(
    apply: &mut Apply<'_, '_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    for number in 0..DATABASE_COUNT {
        apply.databases.flush(number);
    }
    reply.ok();
    Ok(())
}

fn parse_swapdb(args: Args<'_>) -> Result<(usize, usize), Refusal> {
    let parse = |at, text| match numbers::database(args.at(at)) {
        Err(Refusal::NotInteger) => Err(Refusal::other(text)),
        other => other,
    };
    Ok((parse(1, "ERR invalid first DB index")?, parse(2, "ERR invalid second DB index")?))
}

/// Refuses databases that do not exist.
pub(super) fn check_swapdb(args: Args<'_>) -> Result<(), Refusal> {
    parse_swapdb(args).map(drop)
}

/// `SWAPDB number number`
pub(super) fn swapdb(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (one, other) = parse_swapdb(args)?;
    apply.databases.swap(one, other);
    reply.ok();
    Ok(())
}
