//! What is asked, and where it comes from.

mod humaneval;
mod jsonl;
pub mod mtbench;
mod prompts;
mod spider;
mod sql;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Judge;

pub use humaneval::humaneval;
pub use mtbench::mt_bench;
pub use prompts::prompts;
pub use spider::spider;
pub use sql::text_to_sql;

/// Prompts, and how their answers are judged.
#[derive(Debug)]
pub struct Dataset {
    /// For the report: "text-to-sql", "spider", "humaneval", "mt-bench", "prompts".
    pub name: String,
    /// In the order of the file.
    pub items: Vec<Item>,
    /// What of the file could not be used: counted and named in the report, never fatal by itself.
    pub bad: Vec<BadItem>,
    /// Strings that end an answer.
    pub stop: Vec<String>,
    /// Tokens that an answer needs at most, unless the user says otherwise.
    pub max_new_tokens: u32,
    /// What the share of right answers is called, e.g. "execution accuracy"; `None` if answers are not judged.
    pub metric: Option<&'static str>,
}

/// One conversation to generate.
#[derive(Debug)]
pub struct Item {
    /// Unique in the dataset and the same in every run.
    pub id: String,
    /// One text per turn. The prompt of turn `n` is everything before it, answers included, and `turns[n]`.
    pub turns: Vec<String>,
    /// Of the last answer.
    pub judge: Judge,
}

/// A part of a dataset's file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadItem {
    /// Which: "line 17", or an id.
    pub item: String,
    /// Why, for people.
    pub reason: String,
}

/// Why a dataset cannot be used at all.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum DatasetError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no usable item{}", first_reason(bad))]
    Empty { path: PathBuf, bad: Vec<BadItem> },
}

fn first_reason(bad: &[BadItem]) -> String {
    bad.first().map_or_else(String::new, |b| {
        format!(": {} are broken, the first is {}: {}", bad.len(), b.item, b.reason)
    })
}

/// The datasets that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// The bundled set: questions, SQL and the tables, in one JSONL file.
    TextToSql,
    /// Spider's own directory.
    Spider,
    /// HumanEval's own JSONL file.
    HumanEval,
    /// MT-Bench's own JSONL file of questions.
    MtBench,
    /// Prompts of the user's own, one JSON object a line.
    Prompts,
}

/// There is no such dataset.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no dataset {0:?}: it is one of {known}", known = DatasetKind::ALL.map(DatasetKind::name).join(", "))]
pub struct UnknownDataset(pub String);

impl DatasetKind {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::TextToSql, Self::Spider, Self::HumanEval, Self::MtBench, Self::Prompts];

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TextToSql => "text-to-sql",
            Self::Spider => "spider",
            Self::HumanEval => "humaneval",
            Self::MtBench => "mt-bench",
            Self::Prompts => "prompts",
        }
    }
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DatasetKind {
    type Err = UnknownDataset;

    fn from_str(name: &str) -> Result<Self, UnknownDataset> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownDataset(name.to_owned()))
    }
}

impl Dataset {
    /// Reads the file, or for Spider the directory.
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

/// Items as they are read.
#[derive(Default)]
struct Items {
    good: Vec<Item>,
    bad: Vec<BadItem>,
    ids: HashSet<String>,
}

impl Items {
    /// Keeps what is read at `place`, unless it is broken or its id is taken.
    fn add(&mut self, place: String, item: Result<Item, String>) {
        let item = item.and_then(|item| {
            if !self.ids.insert(item.id.clone()) {
                return Err(format!("its id {:?} is taken by an earlier item", item.id));
            }
            Ok(item)
        });
        match item {
            Ok(item) => self.good.push(item),
            // Messages of the JSON parser quote what they met, however long it is.
            Err(reason) => self.bad.push(BadItem { item: place, reason: reason.chars().take(300).collect() }),
        }
    }

    /// Fails if nothing is left.
    fn into_dataset(
        self,
        path: &Path,
        kind: DatasetKind,
        stop: &[&str],
        max_new_tokens: u32,
        metric: Option<&'static str>,
    ) -> Result<Dataset, DatasetError> {
        if self.good.is_empty() {
            return Err(DatasetError::Empty { path: path.to_owned(), bad: self.bad });
        }
        Ok(Dataset {
            name: kind.to_string(),
            items: self.good,
            bad: self.bad,
            stop: stop.iter().map(|&s| s.to_owned()).collect(),
            max_new_tokens,
            metric,
        })
    }
}
