//! The names of the supported datasets.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The supported datasets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetKind {
    /// The bundled dataset: questions, SQL and tables in one JSONL file.
    TextToSql,
    /// Spider, as the published directory.
    Spider,
    /// HumanEval, as the published JSONL file.
    HumanEval,
    /// MT-Bench, as the published JSONL file of questions.
    MtBench,
    /// The user's own prompts, one JSON object per line.
    Prompts,
}

/// There is no dataset of this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown dataset {0:?}: use one of {known}", known = DatasetKind::ALL.map(DatasetKind::name).join(", "))]
pub struct UnknownDataset(pub String);

impl DatasetKind {
    /// All supported datasets.
    pub const ALL: [Self; 5] = [Self::TextToSql, Self::Spider, Self::HumanEval, Self::MtBench, Self::Prompts];

    /// The name on the command line and in reports.
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
