//! A dataset, its items, and why one cannot be used.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::judge::Judge;

/// Prompts, and how their answers are judged.
#[derive(Debug)]
pub struct Dataset {
    /// Name for the report: "text-to-sql", "spider", "humaneval", "mt-bench", "prompts".
    pub name: String,
    /// Usable items, in the order of the file.
    pub items: Vec<Item>,
    /// Unusable parts of the file. The report counts and names them; they are not an error.
    pub bad: Vec<BadItem>,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Default maximum number of tokens per answer.
    pub max_new_tokens: u32,
    /// Name of the score, e.g. "execution accuracy"; `None` if answers are not judged.
    pub metric: Option<&'static str>,
}

/// One conversation to generate.
#[derive(Debug)]
pub struct Item {
    /// Unique in the dataset and the same in every run.
    pub id: String,
    /// One text per turn. The prompt of turn `n` is everything before it, answers included, and `turns[n]`.
    pub turns: Vec<String>,
    /// Judge of the last answer.
    pub judge: Judge,
}

/// A part of a dataset's file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadItem {
    /// The part: "line 17", or an id.
    pub item: String,
    /// Why it cannot be used, for a human reader.
    pub reason: String,
}

/// Why a whole dataset cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum DatasetError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} has no usable items{}", first_reason(bad))]
    Empty { path: PathBuf, bad: Vec<BadItem> },
}

fn first_reason(bad: &[BadItem]) -> String {
    match bad.first() {
        Some(first) => {
            format!(
                ": the number of invalid items is {}, the first is {}: {}",
                bad.len(),
                first.item,
                first.reason
            )
        }
        None => String::new(),
    }
}
