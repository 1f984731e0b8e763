//! Whether an answer is right.

pub mod python;
#[cfg(target_os = "linux")]
mod sandbox;
pub mod sqlite;

use serde::{Deserialize, Serialize};

use self::sqlite::Database;

/// How an answer is judged.
#[derive(Debug)]
pub enum Judge {
    /// It is not: only likelihood and speed are measured.
    None,
    /// It is SQL, up to its first ";": run, it gives the same rows as the gold SQL.
    Sql {
        /// What it is run on.
        database: Database,
        /// SQL that is right.
        gold: String,
    },
    /// It goes on with a program in Python, which then passes a test.
    Python {
        /// The program so far.
        prompt: String,
        /// Defines `check`, which raises an error if its argument is wrong.
        test: String,
        /// The name that is checked.
        entry_point: String,
    },
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// Counts 1.
    Right,
    /// Counts 0: it ran, and the result is another.
    Wrong,
    /// Counts 0: there is no answer, or it could not be run to its end.
    Failed {
        /// A short stable name, counted in the report: "invalid SQL", "ran too long", "out of memory", ...
        name: String,
        /// What happened, for people.
        message: String,
    },
    /// Does not count, but is counted by name: not the answer's fault, e.g. "missing database", "wrong gold SQL".
    NotJudged {
        /// As above.
        name: String,
        /// As above.
        message: String,
    },
    /// Nobody asked.
    Unjudged,
}

impl Judge {
    /// Runs the answer if need be, within limits. Blocks for up to some seconds.
    pub fn judge(&self, answer: &str) -> Verdict {
        match self {
            Self::None => Verdict::Unjudged,
            Self::Sql { database, gold } => {
                let answer = answer.split_once(';').map_or(answer, |(sql, _)| sql);
                sqlite::judge(database, gold, answer)
            }
            Self::Python { prompt, test, entry_point } => {
                let program = format!("{prompt}{answer}\n{test}\ncheck({entry_point})\n");
                python::judge(&program, python::TIMEOUT)
            }
        }
    }
}

impl Verdict {
    /// 1 for a right answer, 0 for a wrong or failed one, `None` if it does not count.
    pub fn score(&self) -> Option<f64> {
        match self {
            Self::Right => Some(1.0),
            Self::Wrong | Self::Failed { .. } => Some(0.0),
            Self::NotJudged { .. } | Self::Unjudged => None,
        }
    }

    /// There is no answer to judge. No answer is no right answer: else a method would gain by failing where it is hard.
    pub fn unanswered(judge: &Judge, name: String, message: String) -> Self {
        match judge {
            Judge::None => Self::NotJudged { name, message },
            _ => Self::Failed { name, message },
        }
    }

    fn failed(name: &str, message: impl Into<String>) -> Self {
        Self::Failed { name: name.to_owned(), message: message.into() }
    }

    fn not_judged(name: &str, message: impl Into<String>) -> Self {
        Self::NotJudged { name: name.to_owned(), message: message.into() }
    }
}
