//! A line chart as SVG: a few series over common places, the heights on a logarithmic scale.
//!
//! Everything is in the picture itself: no script, no font, no other file. Colours are classes that the page
//! defines, so that it can be read on dark ground too; each series also has a shape of its own, and its
//! name stands in the legend in the order of the lines.

use std::fmt::Write;

use crate::page::{COLOURS, escaped};

const WIDTH: f64 = 440.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 18.0;
/// Height of the title, of a line of the legend, of what the lines are drawn in, and of what stands below.
const TITLE: f64 = 40.0;
const LEGEND: f64 = 18.0;
const FIELD: f64 = 220.0;
const BOTTOM: f64 = 42.0;
/// About how wide a letter of the legend is, and what stands around each name.
const LETTER: f64 = 6.6;
const AROUND: f64 = 28.0;
/// From so many powers of ten on, only these have a line.
const DECADES_FINE: f64 = 1.7;

/// A chart.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What lies along the bottom.
    pub x_label: String,
    /// What the height is, with its unit.
    pub y_label: String,
    /// The places along the bottom: where, and what stands there.
    pub places: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Which of the seven colours it has, and which shape.
    pub colour: usize,
    /// Place and height; heights that are not above zero are left out.
    pub points: Vec<(f64, f64)>,
}

/// From numbers to places in the picture.
struct Scale {
    x: (f64, f64),
    /// Powers of ten.
    y: (f64, f64),
    /// Where the field begins, below the legend.
    top: f64,
}

impl Scale {
    fn of(chart: &Chart, top: f64) -> Option<Scale> {
        let heights = chart.series.iter().flat_map(|series| &series.points).map(|point| point.1);
        let heights: Vec<f64> = heights.filter(|height| *height > 0.0).collect();
        let low = heights.iter().copied().fold(f64::INFINITY, f64::min);
        let high = heights.iter().copied().fold(0.0, f64::max);
        let x_low = chart.places.iter().map(|place| place.0).fold(f64::INFINITY, f64::min);
        let x_high = chart.places.iter().map(|place| place.0).fold(f64::NEG_INFINITY, f64::max);
        if heights.is_empty() || !x_low.is_finite() {
            return None;
        }
        let y = (step(low, false).log10(), step(high, true).log10());
        let y = (y.0, if y.1 > y.0 { y.1 } else { y.0 + 1.0 });
        Some(Scale { x: (x_low, if x_high > x_low { x_high } else { x_low + 1.0 }), y, top })
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, height: f64) -> f64 {
        let part = (height.log10() - self.y.0) / (self.y.1 - self.y.0);
        self.top + FIELD - part * FIELD
    }

    /// The heights that have a line across the field.
    fn ticks(&self) -> Vec<f64> {
        let digits: &[f64] =
            if self.y.1 - self.y.0 <= DECADES_FINE { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let mut ticks = Vec::new();
        let mut power = self.y.0.floor();
        while power <= self.y.1 {
            let heights = digits.iter().map(|digit| digit * 10_f64.powf(power));
            let within =
                |height: &f64| (self.y.0 - 1e-9..=self.y.1 + 1e-9).contains(&height.log10());
            ticks.extend(heights.filter(within));
            power += 1.0;
        }
        ticks
    }
}

/// The next of 1, 2 and 5 times a power of ten, at or below a height, or at or above it.
fn step(height: f64, up: bool) -> f64 {
    let power = 10_f64.powf(height.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    // A hair of tolerance: a logarithm is not exact.
    match up {
        true => steps.into_iter().find(|step| *step >= height * 0.999_999).unwrap_or(steps[3]),
        false => {
            let below = steps.into_iter().rev().find(|step| *step <= height * 1.000_001);
            below.unwrap_or(power)
        }
    }
}

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        let label = escaped(&self.title);
        let names = self.legend();
        let top = TITLE + names.last().map_or(0.0, |name| name.1 + LEGEND);
        let height = top + FIELD + BOTTOM;
        line(
            &mut svg,
            format_args!(
                "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{label}'>\
                 <text class='title' x='4' y='16'>{label}</text>"
            ),
        );
        match Scale::of(self, top) {
            Some(scale) => {
                self.axes(&mut svg, &scale);
                for (series, (x, y)) in self.series.iter().zip(names) {
                    draw(&mut svg, &scale, series);
                    mark(&mut svg, series.colour, x + 5.0, TITLE + y);
                    line(
                        &mut svg,
                        format_args!(
                            "<text x='{:.1}' y='{:.1}'>{}</text>",
                            x + 14.0,
                            TITLE + y + 4.0,
                            escaped(&series.name)
                        ),
                    );
                }
            }
            None => line(
                &mut svg,
                format_args!("<text x='4' y='80'>nothing was counted or measured</text>"),
            ),
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Where each name of the legend stands, below the title: as many on a line as there is room for.
    fn legend(&self) -> Vec<(f64, f64)> {
        let (mut x, mut y) = (4.0, 0.0);
        let mut places = Vec::with_capacity(self.series.len());
        for series in &self.series {
            let letters = u32::try_from(series.name.chars().count()).unwrap_or(u32::MAX);
            let width = f64::from(letters) * LETTER + AROUND;
            if x > 4.0 && x + width > WIDTH {
                (x, y) = (4.0, y + LEGEND);
            }
            places.push((x, y));
            x += width;
        }
        places
    }

    fn axes(&self, svg: &mut String, scale: &Scale) {
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, scale.top + FIELD);
        for height in scale.ticks() {
            let y = scale.y(height);
            line(
                svg,
                format_args!(
                    "<path class='grid' d='M{left} {y:.1}H{right}'/>\
                     <text class='tick' text-anchor='end' x='{:.1}' y='{:.1}'>{}</text>",
                    left - 6.0,
                    y + 4.0,
                    short(height)
                ),
            );
        }
        for (place, text) in &self.places {
            line(
                svg,
                format_args!(
                    "<path class='grid' d='M{x:.1} {bottom}v4'/>\
                     <text class='tick' text-anchor='middle' x='{x:.1}' y='{:.1}'>{}</text>",
                    bottom + 17.0,
                    escaped(text),
                    x = scale.x(*place),
                ),
            );
        }
        line(
            svg,
            format_args!(
                "<text class='tick' text-anchor='middle' x='{:.1}' y='{:.1}'>{}</text>\
                 <text class='tick' text-anchor='end' x='{:.1}' y='16'>{}</text>",
                f64::midpoint(left, right),
                bottom + 34.0,
                escaped(&self.x_label),
                WIDTH - 4.0,
                escaped(&self.y_label)
            ),
        );
    }
}

/// One line with its marks.
fn draw(svg: &mut String, scale: &Scale, series: &Series) {
    let colour = series.colour % COLOURS;
    let points: Vec<(f64, f64)> = series
        .points
        .iter()
        .filter(|point| point.1 > 0.0)
        .map(|(x, height)| (scale.x(*x), scale.y(*height)))
        .collect();
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    if !path.is_empty() {
        line(svg, format_args!("<path class='line c{colour}' d='M{}'/>", path.join("L")));
    }
    for (x, y) in points {
        mark(svg, colour, x, y);
    }
}

/// A mark of the colour's own shape.
fn mark(svg: &mut String, colour: usize, x: f64, y: f64) {
    let colour = colour % COLOURS;
    let class = format!("class='mark c{colour}'");
    let shape = match colour {
        0 => format!("<circle {class} cx='{x:.1}' cy='{y:.1}' r='3.5'/>"),
        1 => format!(
            "<rect {class} x='{:.1}' y='{:.1}' width='6.5' height='6.5'/>",
            x - 3.2,
            y - 3.2
        ),
        2 => format!("<path {class} d='M{x:.1} {:.1}l4 7h-8z'/>", y - 4.0),
        3 => format!("<path {class} d='M{x:.1} {:.1}l4 4l-4 4l-4-4z'/>", y - 4.0),
        4 => format!("<path {class} d='M{x:.1} {:.1}l4 -7h-8z'/>", y + 4.0),
        5 => format!("<rect {class} x='{:.1}' y='{:.1}' width='3' height='8'/>", x - 1.5, y - 4.0),
        _ => format!("<rect {class} x='{:.1}' y='{:.1}' width='8' height='3'/>", x - 4.0, y - 1.5),
    };
    line(svg, format_args!("{shape}"));
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a string takes everything");
}

/// A number of few digits.
pub fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{}M", round(number / 1e6)),
        number if number >= 1e3 => format!("{}k", round(number / 1e3)),
        number => round(number),
    }
}

fn round(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number if number < 0.1 && number > 0.0 => {
            // Two digits, however small.
            let places = number.log10().floor().abs().min(9.0);
            let places = (1..10).find(|place| f64::from(*place) >= places).unwrap_or(9);
            let places = usize::try_from(places).unwrap_or(9) + 1;
            format!("{number:.places$}").trim_end_matches('0').to_owned()
        }
        number => {
            let text = format!("{number:.2}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        Chart {
            title: "a < b".into(),
            places: vec![(0.0, "1".into()), (1.0, "8".into())],
            series: vec![Series { name: "us".into(), colour: 0, points }],
            ..Chart::default()
        }
    }

    #[test]
    fn points_lie_within_the_picture_and_text_is_escaped() {
        let svg = chart(vec![(0.0, 1000.0), (1.0, 52_000.0)]).svg();
        assert!(svg.contains("a &lt; b"));
        // 1,000 is the bottom, 100,000 the top.
        assert!(svg.contains("M52.0 278.0L422.0 "), "{svg}");
        assert!(svg.contains(">100k<") && svg.contains(">1k<"));
    }

    #[test]
    fn a_chart_without_numbers_says_so() {
        assert!(chart(vec![(0.0, 0.0)]).svg().contains("nothing was counted"));
        assert!(Chart::default().svg().ends_with("</svg>\n"));
    }

    #[test]
    fn what_lies_close_together_has_lines_in_between() {
        let svg = chart(vec![(0.0, 0.9), (1.0, 1.4)]).svg();
        for tick in [">0.5<", ">1<", ">2<"] {
            assert!(svg.contains(tick), "{svg}");
        }
    }

    #[test]
    fn a_long_legend_takes_more_lines() {
        let mut chart = chart(vec![(0.0, 1.0)]);
        let one = Series { name: "a-name-of-some-length".into(), ..chart.series[0].clone() };
        chart.series = vec![one; 5];
        let places = chart.legend();
        assert!(places[0].1 < places[4].1, "{places:?}");
        assert!(places.iter().all(|(x, _)| *x < WIDTH / 2.0 + 10.0), "{places:?}");
    }

    #[test]
    fn numbers_have_few_digits() {
        let texts = [0.003_19, 0.25, 1.0, 0.0, 12.559, 1234.0, 2_500_000.0].map(short);
        assert_eq!(texts, ["0.0032", "0.25", "1", "0", "12.56", "1.23k", "2.5M"]);
    }
}
