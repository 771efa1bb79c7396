//! Setting one string: `SET` with its options, and the older commands that it replaces.

use super::expire::{Expiry, ExpiryOption, TimeUnit};
use crate::apply::Apply;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};

/// Whether the key must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// `NX`
    Absent,
    /// `XX`
    Present,
}

/// The options of `SET`.
#[derive(Clone, Copy, Debug, Default)]
struct SetOptions {
    condition: Option<Condition>,
    /// `GET`: answer with what was there before.
    get: bool,
    /// `KEEPTTL`
    keeps_expiry: bool,
    expiry: Option<Expiry>,
}

fn parse_set(args: Args<'_>) -> Result<SetOptions, Refusal> {
    let mut options = SetOptions::default();
    let mut expiry = None;
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "nx") && options.condition != Some(Condition::Present) {
            options.condition = Some(Condition::Absent);
        } else if args.is(at, "xx") && options.condition != Some(Condition::Absent) {
            options.condition = Some(Condition::Present);
        } else if args.is(at, "get") {
            options.get = true;
        } else if args.is(at, "keepttl") && expiry.is_none() {
            options.keeps_expiry = true;
        } else if !options.keeps_expiry && expiry.is_none() {
            expiry = Some(ExpiryOption::find(args, at)?);
            at += 1;
        } else {
            return Err(Refusal::Syntax);
        }
        at += 1;
    }
    options.expiry = expiry.map(|expiry| expiry.parse("set")).transpose()?;
    Ok(options)
}

/// Refuses options that do not fit together.
pub(super) fn check_set(args: Args<'_>) -> Result<(), Refusal> {
    if args.len() == 3 {
        return Ok(());
    }
    parse_set(args).map(drop)
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(super) fn set(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let options = parse_set(args)?;
    let expire_ms = options.expiry.map(|expiry| expiry.at_ms(apply.time_ms, "set")).transpose()?;
    let place = apply.find(args.at(1))?;
    let is_met = match options.condition {
        None => true,
        Some(Condition::Absent) => place.live().is_none(),
        Some(Condition::Present) => place.live().is_some(),
    };
    if is_met {
        let expire_ms = if options.keeps_expiry { place.expire_ms() } else { expire_ms };
        apply.put(&place, args.at(2), expire_ms)?;
    }
    match place.live() {
        Some(before) if options.get => reply.bulk(before.payload()),
        None if options.get => reply.null(),
        _ if is_met => reply.ok(),
        _ => reply.null(),
    }
    Ok(())
}

/// `SETNX key value`
pub(super) fn setnx(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let is_absent = place.live().is_none();
    if is_absent {
        apply.put(&place, args.at(2), None)?;
    }
    reply.integer(i64::from(is_absent));
    Ok(())
}

/// Refuses an expiry that cannot be.
pub(super) fn check_setex(args: Args<'_>) -> Result<(), Refusal> {
    Expiry::parse(args.at(2), TimeUnit::Seconds, true, "setex").map(drop)
}

/// Refuses an expiry that cannot be.
pub(super) fn check_psetex(args: Args<'_>) -> Result<(), Refusal> {
    Expiry::parse(args.at(2), TimeUnit::Milliseconds, true, "psetex").map(drop)
}

/// `SETEX key seconds value`
pub(super) fn setex(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    put_expiring(apply, args, TimeUnit::Seconds, "setex", reply)
}

/// `PSETEX key milliseconds value`
pub(super) fn psetex(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    put_expiring(apply, args, TimeUnit::Milliseconds, "psetex", reply)
}

fn put_expiring(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    unit: TimeUnit,
    name: &'static str,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let expiry = Expiry::parse(args.at(2), unit, true, name)?;
    let expire_ms = expiry.at_ms(apply.time_ms, name)?;
    let place = apply.find(args.at(1))?;
    apply.put(&place, args.at(3), Some(expire_ms))?;
    reply.ok();
    Ok(())
}

/// `GETSET key value`
pub(super) fn getset(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    apply.put(&place, args.at(2), None)?;
    match place.live() {
        Some(before) => reply.bulk(before.payload()),
        None => reply.null(),
    }
    Ok(())
}

/// `GETDEL key`
pub(super) fn getdel(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    apply.delete(&place)?;
    match place.live() {
        Some(before) => reply.bulk(before.payload()),
        None => reply.null(),
    }
    Ok(())
}

/// What `GETEX` does to the expiry.
#[derive(Clone, Copy, Debug)]
enum NewExpiry<'a> {
    Keep,
    Remove,
    Set(ExpiryOption<'a>),
}

fn parse_getex(args: Args<'_>) -> Result<NewExpiry<'_>, Refusal> {
    match args.len() {
        2 => Ok(NewExpiry::Keep),
        3 if args.is(2, "persist") => Ok(NewExpiry::Remove),
        4 => Ok(NewExpiry::Set(ExpiryOption::find(args, 2)?)),
        _ => Err(Refusal::Syntax),
    }
}

/// Refuses options that do not fit together.
pub(super) fn check_getex(args: Args<'_>) -> Result<(), Refusal> {
    parse_getex(args).map(drop)
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub(super) fn getex(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let new_expiry = parse_getex(args)?;
    let place = apply.find(args.at(1))?;
    let Some(stored) = place.live() else {
        reply.null();
        return Ok(());
    };
    match new_expiry {
        NewExpiry::Keep => {}
        NewExpiry::Remove if stored.expire_ms().is_none() => {}
        NewExpiry::Remove => apply.put(&place, stored.payload(), None)?,
        NewExpiry::Set(expiry) => {
            let expire_ms = expiry.parse("getex")?.at_ms(apply.time_ms, "getex")?;
            apply.put(&place, stored.payload(), Some(expire_ms))?;
        }
    }
    reply.bulk(stored.payload());
    Ok(())
}
