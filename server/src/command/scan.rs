//! Walking the keys of a database: `SCAN`, `KEYS`, `RANDOMKEY`.

use std::ops::Bound;

use strandline_engine::{Direction, Range};

use super::{numbers, pattern};
use crate::key;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply, parse_unsigned};

/// How many keys a call of `SCAN` looks at unless told otherwise: Redis' number.
const SCAN_COUNT: i64 = 10;
/// How many keys a call looks at at most, so that one call does not hold up its thread for long.
const SCAN_COUNT_MAX: i64 = 100_000;

/// The options of `SCAN`.
struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    /// Whether keys of any type there is can be meant.
    any: bool,
}

fn parse_scan(args: Args<'_>) -> Result<(u64, ScanOptions<'_>), Refusal> {
    let cursor = parse_unsigned(args.at(1)).ok_or(Refusal::other("ERR invalid cursor"))?;
    let mut options = ScanOptions { pattern: None, count: 10, any: true };
    let mut count = SCAN_COUNT;
    for at in (2..args.len()).step_by(2) {
        let value = args.get(at + 1).ok_or(Refusal::Syntax)?;
        if args.is(at, "match") {
            options.pattern = (value != b"*").then_some(value);
        } else if args.is(at, "count") {
            count = numbers::integer(value)?;
            if count < 1 {
                return Err(Refusal::Syntax);
            }
        } else if args.is(at, "type") {
            options.any = value.eq_ignore_ascii_case(b"string");
        } else {
            return Err(Refusal::Syntax);
        }
    }
    options.count = usize::try_from(count.min(SCAN_COUNT_MAX)).expect("checked to be positive");
    Ok((cursor, options))
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(super) fn scan(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let (cursor, options) = parse_scan(args)?;
    let space = reader.space();
    let mut range = Range::prefix(&key::space_prefix(space));
    range.start = Bound::Included(key::cursor_start(space, cursor));
    let mut found = Vec::new();
    // Raw pairs, expired ones included: otherwise many expired keys would make one call endless.
    let (mut looked_at, mut last, mut next) = (0, 0, 0);
    for pair in reader.view().range(crate::apply::DATA, range) {
        let (data_key, value) = pair?;
        let here = key::cursor_of(&data_key);
        if looked_at >= options.count && here != last {
            next = here;
            break;
        }
        looked_at += 1;
        last = here;
        let stored = crate::value::Stored::decode(value)?;
        let user_key = key::user_key(&data_key);
        if options.any
            && !stored.is_expired(reader.now_ms)
            && options.pattern.is_none_or(|wanted| pattern::matches(wanted, user_key, false))
        {
            found.push(user_key.to_vec());
        }
    }
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(found.len());
    for key in found {
        reply.bulk(&key);
    }
    Ok(())
}

/// `KEYS pattern`
pub(super) fn keys(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let wanted = args.at(1);
    let mut found = Vec::new();
    for pair in reader.all() {
        let (data_key, _) = pair?;
        let user_key = key::user_key(&data_key);
        if wanted == b"*" || pattern::matches(wanted, user_key, false) {
            found.push(user_key.to_vec());
        }
    }
    reply.array(found.len());
    for key in found {
        reply.bulk(&key);
    }
    Ok(())
}

/// `RANDOMKEY`: the key that follows a random place of the key order.
pub(super) fn randomkey(
    reader: &mut Reader<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let space = reader.space();
    let place = key::cursor_start(space, reader.seed >> 1);
    let whole = Range::prefix(&key::space_prefix(space));
    let after = Range {
        start: Bound::Included(place.clone()),
        end: whole.end.clone(),
        direction: Direction::Forward,
    };
    let before = Range { end: Bound::Excluded(place), ..whole };
    let found = match reader.range(after).next() {
        Some(found) => Some(found),
        None => reader.range(before).next(),
    };
    match found.transpose()? {
        Some((data_key, _)) => reply.bulk(key::user_key(&data_key)),
        None => reply.null(),
    }
    Ok(())
}
