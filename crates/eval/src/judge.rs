//! Judges: whether an answer is right.

pub mod python;
pub mod sqlite;
mod verdict;

use self::sqlite::Database;

pub use self::verdict::Verdict;

/// How an answer is judged.
#[derive(Debug)]
pub enum Judge {
    /// Answers are not judged: only likelihood and speed are measured.
    None,
    /// The answer is SQL, up to its first ";". It is right if it returns the same rows as the gold SQL.
    Sql {
        /// The database that both queries run on.
        database: Database,
        /// SQL that is right.
        gold: String,
    },
    /// The answer continues a Python program. It is right if the program then passes a test.
    Python {
        /// The beginning of the program.
        prompt: String,
        /// Python that defines `check`, which raises an error if its argument is wrong.
        test: String,
        /// The name of the function that is passed to `check`.
        entry_point: String,
    },
}

impl Judge {
    /// Judges `answer`. Runs it within limits if necessary, which blocks for up to some seconds.
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

    /// The verdict when there is no answer.
    ///
    /// A missing answer scores 0, or else a method could gain by failing on the hard items.
    pub fn unanswered(&self, name: String, message: String) -> Verdict {
        match self {
            Self::None => Verdict::NotJudged { name, message },
            Self::Sql { .. } | Self::Python { .. } => Verdict::Failed { name, message },
        }
    }
}
