//! The report of an evaluation: its schema, and its renderings as Markdown, plots and an HTML page.

mod chart;
mod format;
mod html;
mod markdown;
mod plots;
mod schema;
mod tables;

pub use html::{HtmlError, html};
pub use markdown::markdown;
pub use plots::{PlotError, plots};
pub use schema::{
    Cell, DatasetReport, Estimate, Iteration, Machine, Node, Relative, Replay, Report, SCHEMA_VERSION,
    Setting, TimeSplit,
};
