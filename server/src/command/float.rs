//! Floating point numbers as `INCRBYFLOAT` has them.
//!
//! Redis computes in the machine's long double and prints 17 decimals, so that 3 + 0.1 is 3.1. What a
//! long double is differs between machines, and replicas must agree: here numbers of common size
//! are exact decimals with 17 places, and only larger ones are doubles.

use std::fmt;

/// How many decimals are kept.
const DECIMALS: u32 = 17;
/// 10 to the power of [`DECIMALS`].
const ONE: i128 = 100_000_000_000_000_000;
/// Whole parts below this are decimals: sums of two then fit by far.
const WHOLE_MAX: i128 = 1_000_000_000_000_000_000_000;
/// No number is longer than this, in Redis neither.
const TEXT_LEN_MAX: usize = 256;

/// A number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Float {
    /// In units of the last decimal.
    Decimal(i128),
    /// Too large for a decimal, or infinite.
    Double(f64),
}

impl Float {
    /// Nothing.
    pub(super) const ZERO: Float = Float::Decimal(0);

    /// A number as text: no spaces, not NaN.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > TEXT_LEN_MAX {
            return None;
        }
        if let Some(decimal) = parse_decimal(bytes) {
            return Some(Float::Decimal(decimal));
        }
        let double: f64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
        (!double.is_nan()).then_some(Float::Double(double))
    }

    /// The sum; none if it is not finite.
    pub(super) fn add(self, other: Self) -> Option<Self> {
        if let (Float::Decimal(one), Float::Decimal(other)) = (self, other) {
            return Some(Float::Decimal(one + other));
        }
        let sum = self.to_double() + other.to_double();
        sum.is_finite().then_some(Float::Double(sum))
    }

    fn to_double(self) -> f64 {
        match self {
            Float::Double(double) => double,
            Float::Decimal(_) => {
                self.to_string().parse().expect("a decimal number is a floating point number")
            }
        }
    }
}

/// `-12.5e3` in units of the last decimal; none if it is no such number, or too large.
fn parse_decimal(bytes: &[u8]) -> Option<i128> {
    let (is_negative, bytes) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (digits, exponent) = match bytes.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => {
            let exponent: i32 = std::str::from_utf8(&bytes[at + 1..]).ok()?.parse().ok()?;
            (&bytes[..at], exponent)
        }
        None => (bytes, 0),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut mantissa: i128 = 0;
    for digit in whole.iter().chain(fraction) {
        if !digit.is_ascii_digit() {
            return None;
        }
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let scale = i64::from(DECIMALS) + i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    let power = u32::try_from(scale.unsigned_abs()).ok()?;
    let units = if mantissa == 0 {
        0
    } else if scale >= 0 {
        mantissa.checked_mul(10i128.checked_pow(power)?)?
    } else {
        // Rounded to the nearest, halves away from zero.
        match 10i128.checked_pow(power) {
            Some(divisor) => mantissa.checked_add(divisor / 2)? / divisor,
            None => 0,
        }
    };
    if units >= WHOLE_MAX.checked_mul(ONE / 10)? {
        return None;
    }
    Some(if is_negative { -units } else { units })
}

impl fmt::Display for Float {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Float::Double(double) => format!("{double:.17}"),
            Float::Decimal(units) => {
                let sign = if *units < 0 { "-" } else { "" };
                let units = units.unsigned_abs();
                let one = ONE.unsigned_abs();
                format!("{sign}{}.{:017}", units / one, units % one)
            }
        };
        let text = text.trim_end_matches('0').trim_end_matches('.');
        out.write_str(if text == "-0" || text.is_empty() { "0" } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(one: &str, other: &str) -> Option<String> {
        let one = Float::parse(one.as_bytes())?;
        Some(one.add(Float::parse(other.as_bytes())?)?.to_string())
    }

    #[test]
    fn sums_are_what_a_person_would_write() {
        let cases = [
            ("1", "0.25", "1.25"),
            ("3.0e3", "200", "3200"),
            ("1", "-1.1", "-0.1"),
            ("0.1", "0.2", "0.3"),
            ("17179869184", "17179869184", "34359738368"),
            ("5e-1", "-0.5", "0"),
            ("-0.0", "0", "0"),
            ("1e30", "0", "1000000000000000019884624838656"),
            (".5", "1.", "1.5"),
        ];
        for (one, other, expected) in cases {
            assert_eq!(sum(one, other).as_deref(), Some(expected), "{one} + {other}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", " 1", "1 ", "abc", "1.2.3", "nan", "1\x001", "-", "e5"] {
            assert!(Float::parse(text.as_bytes()).is_none(), "{text:?}");
        }
        assert_eq!(sum("inf", "1"), None);
        assert_eq!(sum("1e308", "1e308"), None);
    }
}
