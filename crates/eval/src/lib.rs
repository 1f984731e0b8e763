//! Evaluation: datasets × methods × settings → one report.
//!
//! [`Dataset`]s give prompts and say how an answer is judged; [`report::Report`] is what comes out, as JSON, Markdown, plots and a
//! page. Nothing here generates text: the `tandem eval` command does, through the public API of the orchestrator.

pub mod dataset;
pub mod gate;
mod grid;
pub mod judge;
pub mod metrics;
mod plan;
pub mod report;
mod sample;

pub use dataset::{BadItem, Dataset, DatasetError, DatasetKind, Item, UnknownDataset};
pub use grid::{CellSpec, Grid, InvalidGrid};
pub use judge::{Judge, Verdict};
pub use plan::order;
pub use sample::{Header, Journal, JournalError, Sample};
