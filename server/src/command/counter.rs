//! Strings that are numbers.

use super::float::Float;
use super::numbers::integer;
use crate::apply::Apply;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply, push_decimal};

/// `INCR key`
pub(super) fn incr(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    add(apply, args, 1, reply)
}

/// `DECR key`
pub(super) fn decr(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    add(apply, args, -1, reply)
}

/// Refuses an increment that is no number.
pub(super) fn check_incrby(args: Args<'_>) -> Result<(), Refusal> {
    integer(args.at(2)).map(drop)
}

/// `INCRBY key increment`
pub(super) fn incrby(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    add(apply, args, integer(args.at(2))?, reply)
}

fn parse_decrement(args: Args<'_>) -> Result<i64, Refusal> {
    integer(args.at(2))?.checked_neg().ok_or(Refusal::other("ERR decrement would overflow"))
}

/// Refuses a decrement that is no number, or has no negative.
pub(super) fn check_decrby(args: Args<'_>) -> Result<(), Refusal> {
    parse_decrement(args).map(drop)
}

/// `DECRBY key decrement`
pub(super) fn decrby(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    add(apply, args, parse_decrement(args)?, reply)
}

fn add(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    increment: i64,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let before = place.live().map(|stored| integer(stored.payload())).transpose()?.unwrap_or(0);
    let after = before.checked_add(increment).ok_or(Refusal::Overflow)?;
    let mut payload = Vec::with_capacity(20);
    push_decimal(&mut payload, after);
    apply.put(&place, &payload, place.expire_ms())?;
    reply.integer(after);
    Ok(())
}

/// Refuses an increment that is no number.
pub(super) fn check_incrbyfloat(args: Args<'_>) -> Result<(), Refusal> {
    Float::parse(args.at(2)).map(drop).ok_or(Refusal::NotFloat)
}

/// `INCRBYFLOAT key increment`
pub(super) fn incrbyfloat(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let before = match place.live() {
        Some(stored) => Float::parse(stored.payload()).ok_or(Refusal::NotFloat)?,
        None => Float::ZERO,
    };
    let increment = Float::parse(args.at(2)).ok_or(Refusal::NotFloat)?;
    let after = before.add(increment).ok_or(Refusal::NanOrInfinity)?.to_string();
    apply.put(&place, after.as_bytes(), place.expire_ms())?;
    reply.bulk(after.as_bytes());
    Ok(())
}
