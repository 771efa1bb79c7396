//! Glob patterns as Redis has them: `*`, `?`, `[a-z]`, `[^a]` and `\` before any byte.

/// Whether `text` matches `pattern`.
///
/// Iterative, with one place to go back to, so that no pattern takes more than the product of both
/// lengths in steps.
pub fn matches(pattern: &[u8], text: &[u8], ignores_case: bool) -> bool {
    let (mut at, mut text_at) = (0, 0);
    // After the last star: where the pattern goes on, and which byte the star takes next.
    let mut star: Option<(usize, usize)> = None;
    while text_at < text.len() || at < pattern.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, text_at));
            at += 1;
            continue;
        }
        if let (Some(_), Some(byte)) = (pattern.get(at), text.get(text_at))
            && let (true, len) = match_one(&pattern[at..], *byte, ignores_case)
        {
            at += len;
            text_at += 1;
            continue;
        }
        match star {
            Some((after, taken)) if taken < text.len() => {
                star = Some((after, taken + 1));
                at = after;
                text_at = taken + 1;
            }
            _ => return false,
        }
    }
    true
}

/// Whether the one-byte element at the start of `pattern` matches, and its length.
fn match_one(pattern: &[u8], byte: u8, ignores_case: bool) -> (bool, usize) {
    let same =
        |one: u8, other: u8| one == other || ignores_case && one.eq_ignore_ascii_case(&other);
    match pattern {
        [b'?', ..] => (true, 1),
        [b'[', ..] => match_class(pattern, byte, ignores_case),
        [b'\\', escaped, ..] => (same(*escaped, byte), 2),
        [literal, ..] => (same(*literal, byte), 1),
        [] => (false, 0),
    }
}

/// A class such as `[^a-z\]]`; one without an end goes to the end of the pattern.
fn match_class(pattern: &[u8], byte: u8, ignores_case: bool) -> (bool, usize) {
    let fold = |byte: u8| if ignores_case { byte.to_ascii_lowercase() } else { byte };
    let byte = fold(byte);
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    at += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= fold(escaped) == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (fold(low.min(high)), fold(low.max(high)));
                found |= (low..=high).contains(&byte);
                at += 3;
            }
            [single, ..] => {
                found |= fold(single) == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases: [(&str, &str, bool); 20] = [
            ("*", "", true),
            ("foo*", "foobar", true),
            ("*foo", "barfo", false),
            ("f?o", "fxo", true),
            ("f?o", "fo", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a]", "b", true),
            (r"\*", "*", true),
            (r"\*", "a", false),
            (r"[\]]", "]", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("", "", true),
            ("", "a", false),
            ("[abc", "c", true),
            ("**a", "ba", true),
            ("a\\", "a\\", true),
            ("?", "", false),
        ];
        for (pattern, text, expected) in cases {
            let found = matches(pattern.as_bytes(), text.as_bytes(), false);
            assert_eq!(found, expected, "{pattern} against {text}");
        }
        assert!(matches(b"MAX*", b"maxmemory", true));
        assert!(!matches(b"MAX*", b"maxmemory", false));
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let text = vec![b'a'; 10_000];
        assert!(!matches(
            &b"*a".repeat(50).into_iter().chain(*b"b").collect::<Vec<_>>(),
            &text,
            false
        ));
    }
}
