//! What a benchmark found, for programs and for people.

use std::fmt::Write;

use serde_json::Value;

/// Named findings, in the order they are shown. A finding may be a list of rows.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The findings.
    pub(crate) pairs: Vec<(&'static str, Value)>,
    /// Whether the answer is good: nothing is wrong and nothing is missing.
    pub(crate) good: bool,
}

impl Facts {
    /// For programs: one object. What is not known is null.
    pub(crate) fn json(&self) -> Value {
        let pairs = self.pairs.iter().cloned();
        Value::Object(pairs.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// For people: one finding a line; a list of rows as a table below its name.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.pairs {
            // Writing to a string does not fail.
            let _ = match value {
                Value::Array(rows) => write!(text, "{name}\n{}", table_of(rows)),
                value => writeln!(text, "{name:<24} {:>16}", shown(value)),
            };
        }
        text
    }
}

/// Rows that are objects with the same names.
fn table_of(rows: &[Value]) -> String {
    let mut text = String::new();
    let Some(Value::Object(first)) = rows.first() else { return text };
    let names: Vec<&String> = first.keys().collect();
    let mut line = |cells: Vec<String>| {
        for (name, cell) in names.iter().zip(cells) {
            let width = name.len().max(10) + 2;
            let _ = write!(text, "{cell:>width$}");
        }
        text.push('\n');
    };
    line(names.iter().map(|name| name.as_str().to_owned()).collect());
    for row in rows {
        line(names.iter().map(|name| shown(&row[name.as_str()])).collect());
    }
    text
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(words) => words.clone(),
        Value::Null => "-".into(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_shown_as_a_table_and_kept_as_a_list() {
        let rows = json!([{ "level": 0, "tables": 3 }, { "level": 1, "tables": 12 }]);
        let pairs = vec![("bench", "large".into()), ("levels", rows)];
        let facts = Facts { pairs, good: true };
        assert_eq!(facts.json()["levels"][1]["tables"], 12);
        let text = facts.table();
        assert!(text.contains("bench") && text.contains("large"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["level", "tables"]);
        assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>(), ["1", "12"]);
    }
}
