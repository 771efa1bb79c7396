//! Ratios beside what they must reach: one line each, on a logarithmic scale.
//!
//! The thin line goes from the worst round to the best, the thick one is the interval in which the median is
//! believed to lie, the mark is the median as measured, the upright stroke what was to be reached. Who did not
//! reach it is of another colour, and says so in words at the right.

use std::fmt::Write;

use crate::chart::short;
use crate::page::escaped;

const WIDTH: f64 = 440.0;
const ROW: f64 = 34.0;
const TOP: f64 = 48.0;
const LEFT: f64 = 14.0;
const RIGHT: f64 = 14.0;

/// One line of the picture.
#[derive(Clone, Debug)]
pub struct Interval {
    /// What the ratio is of.
    pub name: String,
    /// The worst and the best round.
    pub range: (f64, f64),
    /// Where the median lies.
    pub interval: (f64, f64),
    /// The median as measured.
    pub median: f64,
    /// What must be reached, or must not be passed.
    pub bound: f64,
    /// Whether it was.
    pub holds: bool,
}

/// The picture.
#[derive(Clone, Debug)]
pub struct Intervals {
    /// What it shows.
    pub title: String,
    /// The lines.
    pub rows: Vec<Interval>,
}

impl Intervals {
    /// Draws it.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        let height = self.rows.iter().fold(TOP + 8.0, |height, _| height + ROW);
        let title = escaped(&self.title);
        let _ = writeln!(
            svg,
            "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{title}'>\
             <text class='title' x='{LEFT}' y='18'>{title}</text>"
        );
        let numbers = || {
            let all = self.rows.iter().flat_map(|row| [row.range.0, row.range.1, row.bound, 1.0]);
            all.filter(|number| number.is_finite() && *number > 0.0).map(f64::log10)
        };
        let low = numbers().fold(f64::INFINITY, f64::min) - 0.04;
        let high = numbers().fold(f64::NEG_INFINITY, f64::max) + 0.04;
        if !low.is_finite() {
            let _ = writeln!(svg, "<text x='{LEFT}' y='40'>nothing was measured</text></svg>");
            return svg;
        }
        let x = |number: f64| {
            let part = (number.max(1e-9).log10() - low) / (high - low);
            LEFT + part.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
        };
        for tick in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0] {
            if (low..=high).contains(&f64::log10(tick)) {
                let at = x(tick);
                let _ = writeln!(
                    svg,
                    "<path class='grid' d='M{at:.1} {TOP}V{:.1}'/>\
                     <text class='tick' text-anchor='middle' x='{at:.1}' y='{:.1}'>{}</text>",
                    height - 6.0,
                    TOP - 9.0,
                    short(tick)
                );
            }
        }
        let mut y = TOP;
        for row in &self.rows {
            row.draw(&mut svg, y, &x);
            y += ROW;
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Interval {
    fn draw(&self, svg: &mut String, top: f64, x: &dyn Fn(f64) -> f64) {
        let class = if self.holds { "good" } else { "bad" };
        let y = top + 24.0;
        let _ = writeln!(
            svg,
            "<text x='{LEFT}' y='{:.1}'>{}</text>\
             <text class='tick' text-anchor='end' x='{:.1}' y='{:.1}'>{} ({} to {}), {} {}</text>",
            top + 13.0,
            escaped(&self.name),
            WIDTH - RIGHT,
            top + 13.0,
            short(self.median),
            short(self.interval.0),
            short(self.interval.1),
            if self.holds { "holds" } else { "misses" },
            short(self.bound),
        );
        let _ = writeln!(
            svg,
            "<path class='range {class}' d='M{:.1} {y}H{:.1}'/>\
             <path class='interval {class}' d='M{:.1} {y}H{:.1}'/>\
             <circle class='{class}' cx='{:.1}' cy='{y}' r='4.5'/>\
             <path class='floor' d='M{at:.1} {:.1}v14'/>",
            x(self.range.0),
            x(self.range.1),
            x(self.interval.0),
            x(self.interval.1),
            x(self.median),
            y - 7.0,
            at = x(self.bound),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_is_said_in_words() {
        let row = Interval {
            name: "<append>, 8 threads".into(),
            range: (0.8, 2.0),
            interval: (1.1, 1.4),
            median: 1.3,
            bound: 1.2,
            holds: false,
        };
        let svg = Intervals { title: "ratios".into(), rows: vec![row] }.svg();
        assert!(svg.contains("1.3 (1.1 to 1.4), misses 1.2"), "{svg}");
        assert!(svg.contains("&lt;append>") && svg.contains("class='range bad'"));
        let none = Intervals { title: "ratios".into(), rows: Vec::new() }.svg();
        assert!(none.contains("nothing was measured"));
    }
}
