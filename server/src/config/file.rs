//! Configuration files: TOML, or the subset of redis.conf whose settings exist here.
//!
//! The first line that is neither empty nor a comment tells which: TOML has a `=` or a `[`, redis.conf
//! has a name and a space. The TOML is flat: names are those of redis.conf (`_` may stand for `-`),
//! and there are no sections. In redis.conf a value in quotes is unquoted as there.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Result};

/// One setting of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: String,
    /// From 1.
    pub(super) line: usize,
}

/// The settings in `text`, in order.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Assignment>> {
    if is_toml(text) { parse_toml(path, text) } else { parse_redis(path, text) }
}

fn is_toml(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_none_or(|line| {
        line.starts_with('[')
            || line.split_once('=').is_some_and(|(name, _)| !name.trim().contains(' '))
    })
}

fn parse_toml(path: &Path, text: &str) -> Result<Vec<Assignment>> {
    let malformed = |offset: usize, reason: String| ConfigError::Malformed {
        path: path.to_path_buf(),
        line: line_of(text, offset),
        reason,
    };
    let table = DeTable::parse(text).map_err(|error| {
        malformed(error.span().map_or(0, |span| span.start), error.message().to_owned())
    })?;
    let mut assignments = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let text_of = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => Ok(number.to_string()),
            DeValue::Boolean(is_on) => Ok(if *is_on { "yes" } else { "no" }.to_owned()),
            DeValue::Float(number) => Ok(number.to_string()),
            DeValue::Table(_) => {
                let name = name.get_ref();
                Err(malformed(at, format!("{name} is a section: settings stand at the top level")))
            }
            _ => Err(malformed(at, format!("{} is neither text nor a number", name.get_ref()))),
        };
        let value = match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(text_of).collect::<Result<Vec<_>>>()?.join(" ")
            }
            _ => text_of(value)?,
        };
        let line = line_of(text, at);
        assignments.push(Assignment { name: name.get_ref().replace('_', "-"), value, line });
    }
    assignments.sort_by_key(|assignment| assignment.line);
    Ok(assignments)
}

/// Settings of redis.conf that may be given several times; their values are joined.
const REPEATED: [&str; 1] = ["save"];

fn parse_redis(path: &Path, text: &str) -> Result<Vec<Assignment>> {
    let mut assignments: Vec<Assignment> = Vec::new();
    for (line, content) in text.lines().enumerate().map(|(at, content)| (at + 1, content.trim())) {
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let (name, value) = content.split_once(char::is_whitespace).unwrap_or((content, ""));
        let name = name.to_ascii_lowercase();
        let value = unquote(value.trim()).ok_or_else(|| ConfigError::Malformed {
            path: path.to_path_buf(),
            line,
            reason: "quotes do not match".into(),
        })?;
        let earlier = assignments.iter_mut().find(|other| other.name == name);
        match earlier {
            Some(earlier) if REPEATED.contains(&name.as_str()) => {
                earlier.value = format!("{} {value}", earlier.value);
            }
            _ => assignments.push(Assignment { name, value, line }),
        }
    }
    Ok(assignments)
}

/// A value without its quotes; none if they do not match.
fn unquote(value: &str) -> Option<String> {
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return Some(value.to_owned());
    };
    let inner = value.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next()?),
            character if character == quote => return None,
            character => text.push(character),
        }
    }
    Some(text)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<(String, String, usize)> {
        let assignments = parse(Path::new("f"), text).unwrap();
        assignments.into_iter().map(|found| (found.name, found.value, found.line)).collect()
    }

    fn owned(list: &[(&str, &str, usize)]) -> Vec<(String, String, usize)> {
        list.iter().map(|(name, value, line)| ((*name).into(), (*value).into(), *line)).collect()
    }

    #[test]
    fn toml_is_told_by_its_content() {
        let found =
            parsed("# text\nport = 1\nio_threads = 2\nbind = [\"a\", \"b\"]\ninsecure = true");
        let expected =
            [("port", "1", 2), ("io-threads", "2", 3), ("bind", "a b", 4), ("insecure", "yes", 5)];
        assert_eq!(found, owned(&expected));
        assert_eq!(parsed(""), []);
    }

    #[test]
    fn redis_conf_is_told_by_its_content() {
        let found = parsed("# text\nport 1\nrequirepass \"a=\\\"b\"\n\nsave 900 1\nsave 300 10\n");
        let expected = [("port", "1", 2), ("requirepass", "a=\"b", 3), ("save", "900 1 300 10", 5)];
        assert_eq!(found, owned(&expected));
        assert!(parse(Path::new("f"), "requirepass \"a").is_err());
    }
}
