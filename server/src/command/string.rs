//! Strings: reading, several at once, and parts of them. Setting one is in [`super::string_set`].

use super::numbers;
use crate::apply::Apply;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::value::{PAYLOAD_LEN_MAX, Stored};

/// Nothing to check beyond the arity.
pub(super) fn check_none(_: Args<'_>) -> Result<(), Refusal> {
    Ok(())
}

/// `GET key`
pub(super) fn get(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    match reader.find(args.at(1))? {
        Some(stored) => reply.bulk(stored.payload()),
        None => reply.null(),
    }
    Ok(())
}

/// `MGET key [key ...]`
pub(super) fn mget(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    reply.array(args.len() - 1);
    for key in args.from(1) {
        match reader.find(key)? {
            Some(stored) => reply.bulk(stored.payload()),
            None => reply.null(),
        }
    }
    Ok(())
}

/// `STRLEN key`
pub(super) fn strlen(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let found = reader.find(args.at(1))?;
    reply.count(found.as_ref().map_or(0, |stored| stored.payload().len()));
    Ok(())
}

/// `GETRANGE key start end`, both inclusive, negative from the end.
pub(super) fn getrange(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (start, end) = (numbers::integer(args.at(2))?, numbers::integer(args.at(3))?);
    let found = reader.find(args.at(1))?;
    let payload = found.as_ref().map_or(&[][..], Stored::payload);
    reply.bulk(&payload[inclusive_range(payload.len(), start, end)]);
    Ok(())
}

/// The half-open range that is meant by two inclusive ends, negative ones counted from the end.
pub(super) fn inclusive_range(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let signed_len = i64::try_from(len).expect("a length in memory is below 2^63");
    if start < 0 && end < 0 && start > end {
        return 0..0;
    }
    let place = |at: i64| if at < 0 { signed_len.saturating_add(at).max(0) } else { at };
    let (start, end) = (place(start), place(end).min(signed_len - 1));
    if start > end || len == 0 {
        return 0..0;
    }
    let place = |at: i64| usize::try_from(at).expect("made non-negative just above");
    place(start)..place(end) + 1
}

/// Refuses `MSET` and `MSETNX` with a key that lacks its value.
pub(super) fn check_mset(args: Args<'_>) -> Result<(), Refusal> {
    if args.len() % 2 == 1 {
        return Ok(());
    }
    let name = args.at(0).to_ascii_lowercase();
    Err(Refusal::Arity(String::from_utf8_lossy(&name).into_owned()))
}

/// `MSET key value [key value ...]`
pub(super) fn mset(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    put_pairs(apply, args)?;
    reply.ok();
    Ok(())
}

/// `MSETNX key value [key value ...]`
pub(super) fn msetnx(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    for key in args.from(1).step_by(2) {
        if apply.find(key)?.live().is_some() {
            reply.integer(0);
            return Ok(());
        }
    }
    put_pairs(apply, args)?;
    reply.integer(1);
    Ok(())
}

fn put_pairs(apply: &mut Apply<'_, '_>, args: Args<'_>) -> Result<(), Failure> {
    for at in (1..args.len()).step_by(2) {
        let place = apply.find(args.at(at))?;
        apply.put(&place, args.at(at + 1), None)?;
    }
    Ok(())
}

/// `APPEND key value`
pub(super) fn append(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let tail = args.at(2);
    if place.payload().len() + tail.len() > PAYLOAD_LEN_MAX {
        return Err(Refusal::StringTooLong.into());
    }
    let joined = [place.payload(), tail].concat();
    if !tail.is_empty() || place.live().is_none() {
        apply.put(&place, &joined, place.expire_ms())?;
    }
    reply.count(joined.len());
    Ok(())
}

/// Where `SETRANGE` writes.
fn parse_setrange(args: Args<'_>) -> Result<usize, Refusal> {
    let offset = numbers::integer(args.at(2))?;
    let offset =
        usize::try_from(offset).map_err(|_| Refusal::other("ERR offset is out of range"))?;
    if !args.at(3).is_empty() && offset.saturating_add(args.at(3).len()) > PAYLOAD_LEN_MAX {
        return Err(Refusal::StringTooLong);
    }
    Ok(offset)
}

/// Refuses a `SETRANGE` at no place or beyond the longest string.
pub(super) fn check_setrange(args: Args<'_>) -> Result<(), Refusal> {
    parse_setrange(args).map(drop)
}

/// `SETRANGE key offset value`
pub(super) fn setrange(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let offset = parse_setrange(args)?;
    let patch = args.at(3);
    let place = apply.find(args.at(1))?;
    if patch.is_empty() {
        reply.count(place.payload().len());
        return Ok(());
    }
    let mut payload = place.payload().to_vec();
    let end = offset + patch.len();
    payload.resize(payload.len().max(end), 0);
    payload[offset..end].copy_from_slice(patch);
    apply.put(&place, &payload, place.expire_ms())?;
    reply.count(payload.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_string() {
        let cases = [
            ((0, 3), 0..4),
            ((-3, -1), 2..5),
            ((0, -1), 0..5),
            ((-10, 10), 0..5),
            ((5, 10), 0..0),
            ((3, 1), 0..0),
            ((-1, -3), 0..0),
            ((i64::MIN, i64::MAX), 0..5),
        ];
        for ((start, end), expected) in cases {
            assert_eq!(inclusive_range(5, start, end), expected, "{start} to {end}");
        }
        assert_eq!(inclusive_range(0, 0, -1), 0..0);
    }
}
