//! Datasets: prompts, and how their answers are judged.

mod humaneval;
mod items;
mod jsonl;
mod kind;
pub mod mtbench;
mod prompts;
mod spider;
mod sql;
mod types;

use std::path::Path;

pub use humaneval::humaneval;
pub use kind::{DatasetKind, UnknownDataset};
pub use mtbench::mt_bench;
pub use prompts::prompts;
pub use spider::spider;
pub use sql::text_to_sql;
pub use types::{BadItem, Dataset, DatasetError, Item};

impl Dataset {
    /// Reads the file at `path`, or for Spider the directory.
    pub fn load(kind: DatasetKind, path: &Path) -> Result<Self, DatasetError> {
        match kind {
            DatasetKind::TextToSql => text_to_sql(path),
            DatasetKind::Spider => spider(path),
            DatasetKind::HumanEval => humaneval(path),
            DatasetKind::MtBench => mt_bench(path),
            DatasetKind::Prompts => prompts(path),
        }
    }
}
