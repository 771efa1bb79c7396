//! The two pictures that every page of measurements has: over the number of threads, and over percentiles.

use crate::chart::{Chart, Series};

/// A chart over numbers of threads: each place to the right by one is twice as many. The first numbers of the points
/// are numbers of threads. Series without any height are left out; no chart if none is left.
pub fn over_threads(title: &str, y_label: &str, series: Vec<Series>) -> Option<Chart> {
    let mut threads: Vec<f64> =
        series.iter().flat_map(|series| &series.points).map(|point| point.0).collect();
    threads.sort_unstable_by(f64::total_cmp);
    threads.dedup();
    let places = threads.iter().map(|threads| (threads.log2(), format!("{threads:.0}"))).collect();
    drawn(Chart {
        title: title.into(),
        x_label: "threads".into(),
        y_label: y_label.into(),
        places,
        series: moved(series, f64::log2),
    })
}

/// A chart of how long operations took, over quantiles from 0 to 1: each step to the right is ten times rarer, the
/// longest at the end. The first numbers of the points are quantiles, the second microseconds.
pub fn over_percentiles(title: &str, series: Vec<Series>) -> Option<Chart> {
    let names =
        [(0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99"), (1.0, "max")];
    let mut places: Vec<(f64, String)> =
        names.iter().map(|(quantile, name)| (rarity(*quantile), (*name).into())).collect();
    places.insert(0, (0.0, String::new()));
    drawn(Chart {
        title: title.into(),
        x_label: "percentile".into(),
        y_label: "microseconds".into(),
        places,
        series: moved(series, rarity),
    })
}

/// Where a quantile lies; the maximum one step behind the last that is drawn.
fn rarity(quantile: f64) -> f64 {
    match quantile {
        quantile if quantile >= 1.0 => 5.0,
        quantile => -(1.0 - quantile).log10(),
    }
}

fn moved(series: Vec<Series>, place: fn(f64) -> f64) -> Vec<Series> {
    let moved = series.into_iter().map(|series| {
        let points = series.points.iter().map(|(at, height)| (place(*at), *height)).collect();
        Series { points, ..series }
    });
    moved.filter(|series| series.points.iter().any(|(_, height)| *height > 0.0)).collect()
}

fn drawn(chart: Chart) -> Option<Chart> {
    (!chart.series.is_empty()).then_some(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "log".into(), colour: 0, points: points.to_vec() }
    }

    #[test]
    fn threads_stand_where_their_doublings_do() {
        let counted = series(&[(1.0, 5.0), (8.0, 9.0)]);
        let chart = over_threads("rate", "per second", vec![counted, series(&[(1.0, 0.0)])]);
        let chart = chart.expect("one has heights");
        assert_eq!(chart.places, [(0.0, "1".to_owned()), (3.0, "8".to_owned())]);
        assert_eq!(chart.series.len(), 1, "the other has none");
        assert_eq!(chart.series[0].points, [(0.0, 5.0), (3.0, 9.0)]);
        assert!(over_threads("rate", "per second", vec![series(&[(1.0, 0.0)])]).is_none());
    }

    #[test]
    fn the_longest_stands_at_the_end() {
        let chart = over_percentiles("latency", vec![series(&[(0.9, 5.0), (1.0, 9.0)])]);
        let chart = chart.expect("it has heights");
        let last = chart.places.last().expect("there are places");
        assert_eq!((last.0, chart.series[0].points[1]), (5.0, (5.0, 9.0)));
        assert!((chart.series[0].points[0].0 - 1.0).abs() < 1e-9);
    }
}
