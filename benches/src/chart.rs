//! A line chart as SVG: a few series over common places, the heights on a logarithmic scale.
//!
//! Everything is in the picture itself: no script, no font, no other file. Colours are classes that the page
//! defines, so that it can be read on dark ground too; each series also has a shape of its own, and its
//! name stands in the legend in the order of the lines.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 44.0;

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
    /// Which of the four colours and shapes it has.
    pub colour: usize,
    /// Place and height; heights that are not above zero are left out.
    pub points: Vec<(f64, f64)>,
}

/// From numbers to places in the picture.
struct Scale {
    x: (f64, f64),
    /// Powers of ten.
    y: (f64, f64),
}

impl Scale {
    fn of(chart: &Chart) -> Option<Scale> {
        let heights = chart.series.iter().flat_map(|series| &series.points).map(|point| point.1);
        let heights: Vec<f64> = heights.filter(|height| *height > 0.0).map(f64::log10).collect();
        let low = heights.iter().copied().fold(f64::INFINITY, f64::min).floor();
        let high = heights.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
        let x_low = chart.places.iter().map(|place| place.0).fold(f64::INFINITY, f64::min);
        let x_high = chart.places.iter().map(|place| place.0).fold(f64::NEG_INFINITY, f64::max);
        if heights.is_empty() || !x_low.is_finite() {
            return None;
        }
        let y = (low, if high > low { high } else { low + 1.0 });
        Some(Scale { x: (x_low, if x_high > x_low { x_high } else { x_low + 1.0 }), y })
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, height: f64) -> f64 {
        let part = (height.log10() - self.y.0) / (self.y.1 - self.y.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut svg = String::new();
        let label = escaped(&self.title);
        line(
            &mut svg,
            format_args!(
                "<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{label}'>\
                 <text class='title' x='{LEFT}' y='16'>{label}</text>"
            ),
        );
        match Scale::of(self) {
            Some(scale) => {
                self.axes(&mut svg, &scale);
                for (number, series) in self.series.iter().enumerate() {
                    draw(&mut svg, &scale, number, series);
                }
            }
            None => {
                line(&mut svg, format_args!("<text x='{LEFT}' y='80'>nothing was measured</text>"))
            }
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn axes(&self, svg: &mut String, scale: &Scale) {
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut power = scale.y.0;
        while power <= scale.y.1 {
            let y = scale.y(10_f64.powf(power));
            let text = short(10_f64.powf(power));
            line(
                svg,
                format_args!(
                    "<path class='grid' d='M{left} {y:.1}H{right}'/>\
                     <text class='tick' text-anchor='end' x='{:.1}' y='{:.1}'>{text}</text>",
                    left - 6.0,
                    y + 4.0
                ),
            );
            power += 1.0;
        }
        for (place, text) in &self.places {
            line(
                svg,
                format_args!(
                    "<text class='tick' text-anchor='middle' x='{:.1}' y='{:.1}'>{}</text>",
                    scale.x(*place),
                    bottom + 16.0,
                    escaped(text)
                ),
            );
        }
        line(
            svg,
            format_args!(
                "<text class='tick' text-anchor='middle' x='{:.1}' y='{:.1}'>{}</text>\
                 <text class='tick' text-anchor='end' x='{right}' y='16'>{}</text>",
                f64::midpoint(left, right),
                bottom + 34.0,
                escaped(&self.x_label),
                escaped(&self.y_label)
            ),
        );
    }
}

/// One line with its marks, and its name in the legend.
fn draw(svg: &mut String, scale: &Scale, number: usize, series: &Series) {
    let colour = series.colour % 4;
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
    let at = u32::try_from(number).map_or(LEFT, |number| LEFT + 130.0 * f64::from(number));
    mark(svg, colour, at + 5.0, 32.0);
    line(
        svg,
        format_args!(
            "<text class='tick' x='{:.1}' y='36'>{}</text>",
            at + 14.0,
            escaped(&series.name)
        ),
    );
}

/// A mark of the colour's own shape.
fn mark(svg: &mut String, colour: usize, x: f64, y: f64) {
    let shape = match colour {
        0 => format!("<circle class='mark c{colour}' cx='{x:.1}' cy='{y:.1}' r='3.5'/>"),
        1 => format!(
            "<rect class='mark c{colour}' x='{:.1}' y='{:.1}' width='6.5' height='6.5'/>",
            x - 3.2,
            y - 3.2
        ),
        2 => format!("<path class='mark c{colour}' d='M{x:.1} {:.1}l4 7h-8z'/>", y - 4.0),
        _ => format!("<path class='mark c{colour}' d='M{x:.1} {:.1}l4 4l-4 4l-4-4z'/>", y - 4.0),
    };
    line(svg, format_args!("{shape}"));
}

fn line(svg: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(svg, "{text}").expect("a string takes everything");
}

/// A number of few digits.
pub(crate) fn short(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{}M", round(number / 1e6)),
        number if number >= 1e3 => format!("{}k", round(number / 1e3)),
        number => round(number),
    }
}

fn round(number: f64) -> String {
    match number {
        number if number >= 100.0 => format!("{number:.0}"),
        number => {
            let text = format!("{number:.3}");
            let end = text.find('.').map_or(text.len(), |dot| text.len().min(dot + 3));
            text[..end].trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// Text for a page.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&#39;").replace('"', "&quot;")
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
        assert!(svg.contains("M64.0 276.0L544.0 "), "{svg}");
        assert!(svg.contains(">100k<") && svg.contains(">1k<"));
    }

    #[test]
    fn a_chart_without_numbers_says_so() {
        assert!(chart(vec![(0.0, 0.0)]).svg().contains("nothing was measured"));
        assert!(Chart::default().svg().ends_with("</svg>\n"));
    }

    #[test]
    fn numbers_have_few_digits() {
        let texts = [0.25, 1.0, 12.5, 1234.0, 2_500_000.0].map(short);
        assert_eq!(texts, ["0.25", "1", "12.5", "1.23k", "2.5M"]);
    }
}
