//! The result of judging an answer.

use serde::{Deserialize, Serialize};

/// Whether an answer is right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Scores 1.
    Right,
    /// Scores 0: the answer ran, but its result differs from the expected one.
    Wrong,
    /// Scores 0: there is no answer, or it did not run to its end.
    Failed {
        /// A short stable name that the report counts by: "invalid SQL", "ran too long", "out of memory", ...
        name: String,
        /// What happened, for a human reader.
        message: String,
    },
    /// Has no score because the answer is not at fault, e.g. "missing database", "wrong gold SQL".
    NotJudged {
        /// A short stable name that the report counts by.
        name: String,
        /// What happened, for a human reader.
        message: String,
    },
    /// Has no score: answers of this dataset are not judged.
    Unjudged,
}

impl Verdict {
    /// 1 for a right answer, 0 for a wrong or failed one, `None` if it has no score.
    pub fn score(&self) -> Option<f64> {
        match self {
            Self::Right => Some(1.0),
            Self::Wrong | Self::Failed { .. } => Some(0.0),
            Self::NotJudged { .. } | Self::Unjudged => None,
        }
    }

    pub(super) fn failed(name: &str, message: impl Into<String>) -> Self {
        Self::Failed { name: name.to_owned(), message: message.into() }
    }

    pub(super) fn not_judged(name: &str, message: impl Into<String>) -> Self {
        Self::NotJudged { name: name.to_owned(), message: message.into() }
    }
}
