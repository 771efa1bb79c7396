//! Expiry: setting, asking, removing.
//!
//! A relative expiry counts from the entry's time. An expiry that has passed deletes the key at once.

use super::numbers;
use crate::apply::Apply;
use crate::reader::Reader;
use crate::refusal::{Failure, Refusal};
use crate::resp::{Args, Reply};
use crate::value::Stored;

/// In what a time is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeUnit {
    Seconds,
    Milliseconds,
}

/// An expiry as the client gave it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// In milliseconds.
    ms: i64,
    /// Whether it counts from now.
    is_relative: bool,
}

impl Expiry {
    /// A positive expiry.
    pub(super) fn parse(
        argument: &[u8],
        unit: TimeUnit,
        is_relative: bool,
        name: &'static str,
    ) -> Result<Self, Refusal> {
        let expiry = Self::parse_any(argument, unit, is_relative, name)?;
        if expiry.ms <= 0 { Err(Refusal::InvalidExpire(name)) } else { Ok(expiry) }
    }

    fn parse_any(
        argument: &[u8],
        unit: TimeUnit,
        is_relative: bool,
        name: &'static str,
    ) -> Result<Self, Refusal> {
        let time = numbers::integer(argument)?;
        let ms = match unit {
            TimeUnit::Milliseconds => Some(time),
            TimeUnit::Seconds => time.checked_mul(1000),
        };
        let ms = ms.ok_or(Refusal::InvalidExpire(name))?;
        Ok(Self { ms, is_relative })
    }

    /// The absolute time in milliseconds since 1970; 0 stands for all times before that.
    pub(super) fn at_ms(self, now_ms: u64, name: &'static str) -> Result<u64, Refusal> {
        if !self.is_relative {
            return Ok(u64::try_from(self.ms).unwrap_or(0));
        }
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let at_ms = now_ms.checked_add(self.ms).ok_or(Refusal::InvalidExpire(name))?;
        Ok(u64::try_from(at_ms).unwrap_or(0))
    }
}

/// An expiry among options: `EX`, `PX`, `EXAT` or `PXAT`, and its value, which is looked at only once
/// all options have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpiryOption<'a> {
    argument: &'a [u8],
    unit: TimeUnit,
    is_relative: bool,
}

impl<'a> ExpiryOption<'a> {
    /// The option at `at`, and the value after it.
    pub(super) fn find(args: Args<'a>, at: usize) -> Result<Self, Refusal> {
        let options = [
            ("ex", TimeUnit::Seconds, true),
            ("px", TimeUnit::Milliseconds, true),
            ("exat", TimeUnit::Seconds, false),
            ("pxat", TimeUnit::Milliseconds, false),
        ];
        let found = options.into_iter().find(|(word, ..)| args.is(at, word));
        match (found, args.get(at + 1)) {
            (Some((_, unit, is_relative)), Some(argument)) => {
                Ok(Self { argument, unit, is_relative })
            }
            _ => Err(Refusal::Syntax),
        }
    }

    /// The expiry.
    pub(super) fn parse(self, name: &'static str) -> Result<Expiry, Refusal> {
        Expiry::parse(self.argument, self.unit, self.is_relative, name)
    }
}

/// The conditions of `EXPIRE` and its kin.
#[derive(Clone, Copy, Debug, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: Args<'_>) -> Result<Self, Refusal> {
        let mut conditions = Self::default();
        for (at, word) in args.from(3).enumerate().map(|(at, word)| (at + 3, word)) {
            if args.is(at, "nx") {
                conditions.nx = true;
            } else if args.is(at, "xx") {
                conditions.xx = true;
            } else if args.is(at, "gt") {
                conditions.gt = true;
            } else if args.is(at, "lt") {
                conditions.lt = true;
            } else {
                let word = String::from_utf8_lossy(word);
                return Err(Refusal::Other(format!("ERR Unsupported option {word}").into()));
            }
        }
        if conditions.nx && (conditions.xx || conditions.gt || conditions.lt) {
            return Err(Refusal::other(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if conditions.gt && conditions.lt {
            return Err(Refusal::other(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(conditions)
    }

    /// Whether an expiry may be replaced by `after`. No expiry is later than any.
    fn allow(self, before: Option<u64>, after: u64) -> bool {
        !(self.nx && before.is_some()
            || self.xx && before.is_none()
            || self.gt && before.is_none_or(|before| after <= before)
            || self.lt && before.is_some_and(|before| after >= before))
    }
}

/// Refuses conditions that do not fit together, and times that are none.
pub(super) fn check_expire(args: Args<'_>) -> Result<(), Refusal> {
    Conditions::parse(args)?;
    numbers::integer(args.at(2)).map(drop)
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub(super) fn expire(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    change(apply, args, TimeUnit::Seconds, true, "expire", reply)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub(super) fn pexpire(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    change(apply, args, TimeUnit::Milliseconds, true, "pexpire", reply)
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
pub(super) fn expireat(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    change(apply, args, TimeUnit::Seconds, false, "expireat", reply)
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
pub(super) fn pexpireat(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    change(apply, args, TimeUnit::Milliseconds, false, "pexpireat", reply)
}

fn change(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    unit: TimeUnit,
    is_relative: bool,
    name: &'static str,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let conditions = Conditions::parse(args)?;
    let expiry = Expiry::parse_any(args.at(2), unit, is_relative, name)?;
    let expire_ms = expiry.at_ms(apply.time_ms, name)?;
    let place = apply.find(args.at(1))?;
    let is_changed = match place.live() {
        Some(stored) if conditions.allow(stored.expire_ms(), expire_ms) => {
            apply.put(&place, stored.payload(), Some(expire_ms))?;
            true
        }
        _ => false,
    };
    reply.integer(i64::from(is_changed));
    Ok(())
}

/// `PERSIST key`
pub(super) fn persist(
    apply: &mut Apply<'_, '_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let place = apply.find(args.at(1))?;
    let expires = place.expire_ms().is_some();
    if expires {
        apply.put(&place, place.payload(), None)?;
    }
    reply.integer(i64::from(expires));
    Ok(())
}

/// `TTL key`
pub(super) fn ttl(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let now_ms = reader.now_ms;
    answer(reader, args, reply, |expire_ms| (expire_ms.saturating_sub(now_ms) + 500) / 1000)
}

/// `PTTL key`
pub(super) fn pttl(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    let now_ms = reader.now_ms;
    answer(reader, args, reply, |expire_ms| expire_ms.saturating_sub(now_ms))
}

/// `EXPIRETIME key`
pub(super) fn expiretime(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    answer(reader, args, reply, |expire_ms| expire_ms.saturating_add(500) / 1000)
}

/// `PEXPIRETIME key`
pub(super) fn pexpiretime(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result<(), Failure> {
    answer(reader, args, reply, |expire_ms| expire_ms)
}

/// -2 where there is no key, -1 where it has no expiry.
fn answer(
    reader: &mut Reader<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    of: impl FnOnce(u64) -> u64,
) -> Result<(), Failure> {
    let number = match reader.find(args.at(1))?.as_ref().map(Stored::expire_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(expire_ms)) => i64::try_from(of(expire_ms)).unwrap_or(i64::MAX),
    };
    reply.integer(number);
    Ok(())
}
