//! Strings as rows of bits, the most significant bit of the first byte first.

use super::numbers;
use super::string::inclusive_range;
use crate::apply::Apply;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::value::{PAYLOAD_LEN_MAX, Stored};

/// A bit's byte, and its mask there.
fn parse_offset(argument: &[u8]) -> Result<(usize, u8), Refusal> {
    let out_of_range = Refusal::other("ERR bit offset is not an integer or out of range");
    let offset = numbers::integer(argument).ok().and_then(|offset| usize::try_from(offset).ok());
    let offset = offset.ok_or(out_of_range.clone())?;
    if offset / 8 >= PAYLOAD_LEN_MAX {
        return Err(out_of_range);
    }
    Ok((offset / 8, 0x80 >> (offset % 8)))
}

/// `GETBIT key offset`
pub(super) fn getbit(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (byte, mask) = parse_offset(args.at(2))?;
    let found = reader.find(args.at(1))?;
    let payload = found.as_ref().map_or(&[][..], Stored::payload);
    let bit = payload.get(byte).is_some_and(|byte| byte & mask != 0);
    reply.integer(i64::from(bit));
    Ok(())
}

fn parse_setbit(args: Args<'_>) -> Result<(usize, u8, bool), Refusal> {
    let (byte, mask) = parse_offset(args.at(2))?;
    let bit = match args.at(3) {
        b"0" => false,
        b"1" => true,
        _ => return Err(Refusal::other("ERR bit is not an integer or out of range")),
    };
    Ok((byte, mask, bit))
}

/// Refuses a bit that is none.
pub(super) fn check_setbit(args: Args<'_>) -> Result<(), Refusal> {
    parse_setbit(args).map(drop)
}

/// `SETBIT key offset value`
pub(super) fn setbit(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (byte, mask, bit) = parse_setbit(args)?;
    let place = apply.find(args.at(1))?;
    let mut payload = place.payload().to_vec();
    payload.resize(payload.len().max(byte + 1), 0);
    let before = payload[byte] & mask != 0;
    if bit {
        payload[byte] |= mask;
    } else {
        payload[byte] &= !mask;
    }
    apply.put(&place, &payload, place.expire_ms())?;
    reply.integer(i64::from(before));
    Ok(())
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub(super) fn bitcount(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let Some(stored) = reader.find(args.at(1))? else {
        // Redis does not look at the range of a key that is not there.
        reply.integer(0);
        return Ok(());
    };
    let payload = stored.payload();
    let (start, end) = match args.len() {
        2 => (0, -1),
        4 | 5 => (numbers::integer(args.at(2))?, numbers::integer(args.at(3))?),
        _ => return Err(Refusal::Syntax.into()),
    };
    let by_bit = match args.len() {
        5 if args.is(4, "bit") => true,
        5 if !args.is(4, "byte") => return Err(Refusal::Syntax.into()),
        _ => false,
    };
    let count: usize = if by_bit {
        let range = inclusive_range(payload.len() * 8, start, end);
        range.filter(|bit| payload[bit / 8] & (0x80 >> (bit % 8)) != 0).count()
    } else {
        let range = inclusive_range(payload.len(), start, end);
        payload[range].iter().map(|byte| ones(*byte)).sum()
    };
    reply.count(count);
    Ok(())
}

fn ones(byte: u8) -> usize {
    usize::try_from(byte.count_ones()).expect("at most eight")
}
