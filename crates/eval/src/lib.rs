//! Evaluation: datasets × methods × settings → one report.
//!
//! A [`Dataset`] provides prompts and defines how answers are judged. [`report::Report`] is the result; it
//! can be written as JSON, Markdown, plots and an HTML page.
//!
//! Nothing here generates text: the `tandem eval` command does, through the public API of the orchestrator.

pub mod dataset;
pub mod gate;
mod grid;
mod journal;
pub mod judge;
pub mod metrics;
mod quantile;
pub mod report;
mod run_order;
mod sample;

pub use dataset::{BadItem, Dataset, DatasetError, DatasetKind, Item, UnknownDataset};
pub use grid::{CellSpec, Grid, InvalidGrid};
pub use journal::{Header, Journal, JournalError};
pub use judge::{Judge, Verdict};
pub use quantile::quantile;
pub use run_order::run_order;
pub use sample::Sample;
