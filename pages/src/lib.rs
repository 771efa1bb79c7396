//! Measurements as one page of HTML: curves, intervals, tables, and the machine they were made on.
//!
//! A page is one file. It has no script and asks for no other file, so it can be kept beside the code, mailed, and
//! opened in ten years. It is light or dark as the reader's system is, and narrow where the screen is: pictures
//! are SVG that grows and shrinks, and a table that is too wide is moved sideways by itself.
//!
//! ```
//! use strandline_pages::{Chart, Page, Series};
//!
//! let chart = Chart {
//!     title: "Durable writes".into(),
//!     x_label: "threads".into(),
//!     y_label: "per second".into(),
//!     places: vec![(0.0, "1".into()), (3.0, "8".into())],
//!     series: vec![Series {
//!         name: "log".into(),
//!         colour: 0,
//!         points: vec![(0.0, 9_000.0), (3.0, 40_000.0)],
//!     }],
//! };
//! let mut page = Page::new("A log on a disk", "One run of two seconds.");
//! page.section("How fast");
//! page.pictures(&[chart.svg()]);
//! assert!(page.html().contains("<svg"));
//! ```
//!
//! [`Chart`] draws curves, [`over_threads`] and [`over_percentiles`] make the usual two, [`Intervals`] draws ratios beside what they must reach, [`Shares`]
//! draws what became of many cases, [`Environment`] asks the system
//! what it is, and [`Page`] puts them together.
//!
//! Left out: what is measured, and by whom. `benches/` and `bench` of the server fill the pages.

mod axis;
mod chart;
mod environment;
mod intervals;
mod page;
mod shares;

pub use axis::{over_percentiles, over_threads};
pub use chart::{Chart, Series, short};
pub use environment::{Environment, commit};
pub use intervals::{Interval, Intervals};
pub use page::{Cell, Page, escaped};
pub use shares::Shares;
