//! What became of many cases, as one bar for each row: how large a part each outcome has.

use std::fmt::Write;

use crate::page::escaped;

const WIDTH: f64 = 440.0;
const TITLE: f64 = 40.0;
const LEGEND: f64 = 18.0;
const ROW: f64 = 44.0;
const BAR: f64 = 18.0;
/// About how wide a letter of the legend is, and what stands around each name.
const LETTER: f64 = 6.6;
const AROUND: f64 = 28.0;
/// A part that exists is seen, however small it is.
const WIDTH_MIN: f64 = 3.0;

/// The picture.
#[derive(Clone, Debug)]
pub struct Shares {
    /// What it shows.
    pub title: String,
    /// The outcomes, and whether each is one that must not be.
    pub outcomes: Vec<(String, bool)>,
    /// Names of rows, and how often each outcome was theirs.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl Shares {
    /// Draws it.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        let legend = self.legend();
        let top = TITLE + legend.last().map_or(0.0, |place| place.1 + LEGEND);
        let height = self.rows.iter().fold(top, |height, _| height + ROW);
        let title = escaped(&self.title);
        let _ = writeln!(
            svg,
            "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>\
             <text class='title' x='4' y='16'>{title}</text>"
        );
        for ((at, (name, _)), (x, y)) in self.outcomes.iter().enumerate().zip(legend) {
            let _ = writeln!(
                svg,
                "<rect {} x='{x:.1}' y='{:.1}' width='10' height='10'/><text x='{:.1}' y='{:.1}'>{}</text>",
                self.class(at),
                TITLE + y - 9.0,
                x + 14.0,
                TITLE + y,
                escaped(name)
            );
        }
        let mut y = top;
        for (name, counts) in &self.rows {
            let _ = writeln!(svg, "<text x='4' y='{:.1}'>{}</text>", y + 14.0, escaped(name));
            self.bar(&mut svg, counts, y + 20.0);
            y += ROW;
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn bar(&self, svg: &mut String, counts: &[f64], y: f64) {
        let all: f64 = counts.iter().sum();
        if all <= 0.0 {
            return;
        }
        // What the smallest are given is taken from the others in proportion.
        let width = |count: &f64| match *count {
            count if count > 0.0 => (count / all * (WIDTH - 8.0)).max(WIDTH_MIN),
            _ => 0.0,
        };
        let shrunk = (WIDTH - 8.0) / counts.iter().map(width).sum::<f64>();
        let mut x = 4.0;
        for (at, count) in counts.iter().enumerate() {
            let width = width(count) * shrunk;
            if width > 0.0 {
                let class = self.class(at);
                let _ = writeln!(
                    svg,
                    "<rect {class} x='{x:.1}' y='{y:.1}' width='{width:.1}' height='{BAR}'/>"
                );
            }
            x += width;
        }
    }

    /// What must not be has the colour of what is bad.
    fn class(&self, outcome: usize) -> String {
        match self.outcomes.get(outcome) {
            Some((_, true)) => "class='bad'".into(),
            _ => format!("class='mark c{}'", [2, 0, 4, 5, 3, 1][outcome % 6]),
        }
    }

    fn legend(&self) -> Vec<(f64, f64)> {
        let (mut x, mut y) = (4.0, 0.0);
        let mut places = Vec::with_capacity(self.outcomes.len());
        for (name, _) in &self.outcomes {
            let letters = u32::try_from(name.chars().count()).unwrap_or(u32::MAX);
            let width = f64::from(letters) * LETTER + AROUND;
            if x > 4.0 && x + width > WIDTH {
                (x, y) = (4.0, y + LEGEND);
            }
            places.push((x, y));
            x += width;
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rare_is_seen_and_a_bar_is_as_wide_as_the_picture() {
        let shares = Shares {
            title: "outcomes".into(),
            outcomes: vec![("refused".into(), false), ("lost".into(), true)],
            rows: vec![("a <log>".into(), vec![10_000.0, 1.0]), ("none".into(), vec![0.0, 0.0])],
        };
        let svg = shares.svg();
        assert!(svg.contains("a &lt;log>") && svg.contains("class='bad'"), "{svg}");
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height='18'"))
            .filter_map(|line| line.split("width='").nth(1)?.split('\'').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 2, "{svg}");
        assert!(widths[1] > 2.5 && (widths[0] + widths[1] - 432.0).abs() < 0.3, "{widths:?}");
    }
}
