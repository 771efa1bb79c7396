//! Inline requests: one line, split into words by Redis' quoting rules.
//!
//! Words are separated by white space. Within double quotes `\n \r \t \b \a`, `\xHH` and `\` before
//! any other byte are escapes; within single quotes only `\'` is. A closing quote must be followed by
//! white space or the end of the line.

use super::Span;

/// A quote that is not closed, or is closed in the middle of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits `line` into words: appends their bytes to `bytes` and their places to `spans`.
pub(super) fn split(
    line: &[u8],
    bytes: &mut Vec<u8>,
    spans: &mut Vec<Span>,
) -> Result<(), Unbalanced> {
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|byte| is_space(**byte)).count();
        if at == line.len() {
            return Ok(());
        }
        let start = bytes.len();
        at = take_word(line, at, bytes)?;
        spans.push(Span { start, end: bytes.len() });
    }
}

/// Appends the word at `at` to `bytes`; returns where it ends.
fn take_word(line: &[u8], mut at: usize, bytes: &mut Vec<u8>) -> Result<usize, Unbalanced> {
    while let Some(&byte) = line.get(at) {
        match byte {
            b'"' | b'\'' => {
                let end = take_quoted(line, at + 1, byte, bytes)?;
                return match line.get(end) {
                    Some(next) if !is_space(*next) => Err(Unbalanced),
                    _ => Ok(end),
                };
            }
            // Redis' own words end at a zero byte as well.
            0 => return Ok(at + 1),
            byte if is_space(byte) => return Ok(at),
            byte => bytes.push(byte),
        }
        at += 1;
    }
    Ok(at)
}

/// Appends what stands in quotes from `at` on; returns the place after the closing quote.
fn take_quoted(
    line: &[u8],
    mut at: usize,
    quote: u8,
    bytes: &mut Vec<u8>,
) -> Result<usize, Unbalanced> {
    loop {
        let byte = *line.get(at).ok_or(Unbalanced)?;
        at += 1;
        if byte == quote {
            return Ok(at);
        }
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        if quote == b'\'' {
            if line.get(at) == Some(&b'\'') {
                bytes.push(b'\'');
                at += 1;
            } else {
                bytes.push(b'\\');
            }
            continue;
        }
        let (unescaped, len) = unescape(&line[at..]).ok_or(Unbalanced)?;
        bytes.push(unescaped);
        at += len;
    }
}

/// The byte that is meant by what follows a backslash in double quotes, and how many bytes say so.
fn unescape(rest: &[u8]) -> Option<(u8, usize)> {
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return Some((high << 4 | low, 3));
    }
    let byte = match rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => *other,
    };
    Some((byte, 1))
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        split(line, &mut bytes, &mut spans)?;
        Ok(spans.iter().map(|span| bytes[span.start..span.end].to_vec()).collect())
    }

    #[test]
    fn words_are_unquoted_as_redis_does() {
        let cases: [(&[u8], &[&[u8]]); 7] = [
            (b"  set  a\tb ", &[b"set", b"a", b"b"]),
            (b"\"a b\" 'c d'", &[b"a b", b"c d"]),
            (br#""\x41\n\"\q" 'it\'s' '\n'"#, &[b"A\n\"q", b"it's", b"\\n"]),
            (br#""" ''"#, &[b"", b""]),
            (b"", &[]),
            (br#""\xzz""#, &[b"xzz"]),
            (br#"ab"cd""#, &[b"abcd"]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).unwrap(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [&b"\"a"[..], b"'a", b"\"a\"b", b"'a'b", b"\"a\\"] {
            assert_eq!(words(line), Err(Unbalanced), "{}", line.escape_ascii());
        }
    }
}
