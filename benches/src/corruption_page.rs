//! The corruption matrix as one page.

use std::path::Path;

use strandline_pages::{Cell, Environment, Page, Shares, commit};

use crate::corruption::Row;
use crate::workload::f64_of;

/// What each count means, in the order of the columns, and whether it breaks a promise.
const OUTCOMES: [(&str, bool, &str); 7] = [
    (
        "unused",
        false,
        "every record is there, with its bytes: the damage hit nothing that is needed",
    ),
    ("refused", false, "the log does not open, and says why"),
    ("suspect", false, "it opens and says that its end is in doubt"),
    ("on reading", false, "it opens, and the read of a record says that it is damaged"),
    ("panicked", false, "it stops with a panic"),
    (
        "lost silently",
        true,
        "it opens, and a record that was acknowledged is not there, without a word",
    ),
    ("wrong bytes", true, "a record is read that was not written"),
];

fn counts(row: &Row) -> [u64; 7] {
    [
        row.unused,
        row.refused,
        row.suspect,
        row.on_reading,
        row.panicked,
        row.lost_silently,
        row.wrong_bytes,
    ]
}

/// The page; every `stride`th byte was damaged.
pub fn page(rows: &[Row], stride: usize, dir: &Path) -> String {
    let which = match stride {
        1 => "every byte".to_owned(),
        stride => format!("one byte in {stride}"),
    };
    let made = format!(
        "A small log is written, every record synced. Then one bit is turned in {which} of its files, one at a time; each \
         time the log is opened and every record is read."
    );
    let mut page = Page::new("What a log answers when a byte of it has changed", &made);
    page.section("Outcomes");
    let outcomes = OUTCOMES.map(|(name, breaks, _)| (name.to_owned(), breaks)).to_vec();
    let bars = rows.iter().map(|row| {
        let name = format!("{}: {} damages", row.log, row.damaged);
        (name, counts(row).map(f64_of).to_vec())
    });
    let title = "Share of each outcome; red breaks a promise".into();
    page.pictures(&[Shares { title, outcomes, rows: bars.collect() }.svg()]);
    let mut headings = vec!["log", "damaged"];
    headings.extend(OUTCOMES.map(|(name, _, _)| name));
    let cells = rows.iter().map(|row| {
        let mut cells = vec![Cell::text(row.log), Cell::number(row.damaged.to_string())];
        for (count, (_, breaks, _)) in counts(row).into_iter().zip(OUTCOMES) {
            cells.push(match breaks {
                true => Cell::Verdict(count == 0, count.to_string()),
                false => Cell::number(count.to_string()),
            });
        }
        cells
    });
    page.table(&headings, &cells.collect::<Vec<_>>());
    page.section("What the words mean");
    page.facts(&OUTCOMES.map(|(name, _, means)| (name, means.to_owned())));
    page.section("Where it ran");
    let mut facts = Environment::of(dir).facts();
    let commit = commit(env!("CARGO_MANIFEST_DIR"));
    facts.push(("Strandline", format!("{} ({commit})", env!("CARGO_PKG_VERSION"))));
    facts.push(("raft-engine", crate::page::version_of("raft-engine").unwrap_or_default().into()));
    page.facts(&facts);
    page.html().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_red() {
        let row = Row { log: "a log", damaged: 10, unused: 7, lost_silently: 3, ..Row::default() };
        let sound = Row { log: "another", damaged: 10, refused: 10, ..Row::default() };
        let page = page(&[row, sound], 5, Path::new("."));
        assert!(
            page.contains("<td class='text bad'>3") && page.contains("<td class='text good'>0")
        );
        assert!(page.contains("one byte in 5") && page.contains("10 damages"));
        assert!(!page.contains("http") && !page.contains("<script"));
    }
}
