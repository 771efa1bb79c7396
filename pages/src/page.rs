//! The page itself: what stands around pictures and tables.

use std::fmt::Write;

/// Colours, and what makes the page fit a narrow screen. The colours of lines keep three to one against their ground.
const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --raised: #f6f8f9; --ink: #1c2429; --quiet: #5b6870; --faint: #dfe4e7;
  --good: #1b7f3b; --bad: #b3261e;
  --c0: #00796b; --c1: #c2410c; --c2: #64748b; --c3: #6d28d9; --c4: #0369a1; --c5: #a16207; --c6: #be185d }
@media (prefers-color-scheme: dark) { :root { --ground: #14191c; --raised: #1b2226; --ink: #e4e9ec; --quiet: #9fadb5; --faint: #313b41;
  --good: #6fcf8d; --bad: #ff8a80;
  --c0: #4db6ac; --c1: #fb923c; --c2: #94a3b8; --c3: #b39dfa; --c4: #5cb8f2; --c5: #e0b64a; --c6: #f08cc0 } }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, sans-serif; background: var(--ground); color: var(--ink); max-width: 1240px; margin: 0 auto; padding: 1rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .3rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem } p { max-width: 74ch; margin: .4rem 0 1rem }
.quiet { color: var(--quiet) }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 350px), 1fr)); gap: 1rem }
figure { margin: 0; padding: .6rem; background: var(--raised); border: 1px solid var(--faint); border-radius: 6px; max-width: 620px }
svg { display: block; width: 100%; height: auto } svg text { fill: var(--ink); font: 12px system-ui, sans-serif }
svg .title { font-weight: 600; font-size: 13.5px } svg .tick { fill: var(--quiet) }
.grid { stroke: var(--faint); fill: none } .line { fill: none; stroke-width: 2; stroke-linejoin: round } .floor { stroke: var(--ink); stroke-width: 2 }
.range { stroke-width: 1.5; opacity: .55 } .interval { stroke-width: 5 }
.good { color: var(--good) } .bad { color: var(--bad) } svg .good { stroke: var(--good); fill: var(--good) } svg .bad { stroke: var(--bad); fill: var(--bad) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: right; padding: .22rem .65rem; border-bottom: 1px solid var(--faint); white-space: nowrap } th { color: var(--quiet); font-weight: 600 }
th:first-child, td:first-child { padding-left: 0 } .text { text-align: left } .facts td { white-space: normal; text-align: left; overflow-wrap: anywhere }
";

/// How many colours and shapes there are; `STYLE` defines each.
pub(crate) const COLOURS: usize = 7;

/// A cell of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Words, to the left.
    Text(String),
    /// A number, to the right.
    Number(String),
    /// A verdict and its words.
    Verdict(bool, String),
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }

    /// A number, or anything that stands below numbers.
    pub fn number(text: impl Into<String>) -> Cell {
        Cell::Number(text.into())
    }
}

/// A page that is being written.
#[derive(Clone, Debug)]
pub struct Page {
    html: String,
}

impl Page {
    /// A page with its title, and a line on how it was made.
    pub fn new(title: &str, made: &str) -> Page {
        let title = escaped(title);
        let mut colours = String::new();
        for colour in 0..COLOURS {
            let _ = writeln!(
                colours,
                ".line.c{colour} {{ stroke: var(--c{colour}) }} .mark.c{colour} {{ fill: var(--c{colour}) }}"
            );
        }
        let html = format!(
            "<!doctype html>\n<html lang='en'><meta charset='utf-8'>\
             <meta name='viewport' content='width=device-width, initial-scale=1'>\
             <title>{title}</title><style>{STYLE}{colours}</style>\n<h1>{title}</h1>\n<p class='quiet'>{}</p>\n",
            escaped(made)
        );
        Page { html }
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        let _ = writeln!(self.html, "<h2>{}</h2>", escaped(title));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.html, "<p>{}</p>", escaped(text));
    }

    /// Pictures side by side, as many as there is room for.
    pub fn pictures(&mut self, svgs: &[String]) {
        self.html.push_str("<div class='pictures'>\n");
        for svg in svgs {
            let _ = writeln!(self.html, "<figure>{svg}</figure>");
        }
        self.html.push_str("</div>\n");
    }

    /// A table. A row that is shorter than the headings ends in a cell as wide as the rest.
    pub fn table(&mut self, headings: &[&str], rows: &[Vec<Cell>]) {
        self.html.push_str("<div class='wide'><table><tr>");
        // A column is aligned as its first cell is.
        for (at, heading) in headings.iter().enumerate() {
            let cell = rows.iter().find_map(|row| row.get(at));
            let class = match cell {
                Some(Cell::Number(_)) => "",
                _ => " class='text'",
            };
            let _ = write!(self.html, "<th{class}>{}", escaped(heading));
        }
        self.html.push_str("</tr>\n");
        for row in rows {
            self.html.push_str("<tr>");
            for (at, cell) in row.iter().enumerate() {
                let rest = headings.len().saturating_sub(at);
                let span = match at + 1 == row.len() && rest > 1 {
                    true => format!(" colspan='{rest}'"),
                    false => String::new(),
                };
                let _ = match cell {
                    Cell::Text(text) => {
                        write!(self.html, "<td{span} class='text'>{}", escaped(text))
                    }
                    Cell::Number(text) => write!(self.html, "<td{span}>{}", escaped(text)),
                    Cell::Verdict(good, text) => {
                        let class = if *good { "good" } else { "bad" };
                        write!(self.html, "<td{span} class='text {class}'>{}", escaped(text))
                    }
                };
            }
            self.html.push_str("</tr>\n");
        }
        self.html.push_str("</table></div>\n");
    }

    /// Names and what they are.
    pub fn facts(&mut self, facts: &[(&str, String)]) {
        self.html.push_str("<table class='facts'>\n");
        for (name, fact) in facts {
            let fact = if fact.is_empty() { "not known" } else { fact };
            let _ = writeln!(
                self.html,
                "<tr><td class='quiet'>{}<td>{}</tr>",
                escaped(name),
                escaped(fact)
            );
        }
        self.html.push_str("</table>\n");
    }

    /// The page.
    pub fn html(&self) -> &str {
        &self.html
    }
}

/// Text for a page.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&#39;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_words_are_no_markup() {
        let mut page = Page::new("a <b>", "made & kept");
        page.section("x < y");
        page.table(
            &["peer", "ratio", "says"],
            &[
                vec![Cell::text("<one>"), Cell::number("2.00"), Cell::Verdict(true, "held".into())],
                vec![Cell::text("two"), Cell::text("skipped: not 'there'")],
            ],
        );
        page.facts(&[("kernel", String::new())]);
        let html = page.html();
        assert!(html.contains("<title>a &lt;b></title>") && html.contains("made &amp; kept"));
        assert!(html.contains("<th class='text'>peer<th>ratio<th class='text'>says"), "{html}");
        assert!(html.contains("<td colspan='2' class='text'>skipped: not &#39;there&#39;"));
        assert!(html.contains("not known"));
        assert!(!html.contains("http") && !html.contains("<script") && !html.contains("url("));
    }
}
