//! Execution accuracy: SQL is right if it returns the rows of the gold SQL, in any order.
//!
//! SQL from a model is not trusted: it may only read, and its steps, memory and result are limited.

mod database;
mod failure;
mod query;
mod rows;

use std::sync::{Mutex, PoisonError};

pub use self::database::{Database, Table};
use self::failure::{Failure, message};
use crate::judge::verdict::Verdict;

/// SQLite's memory limit is global, so concurrent judgements would use up each other's memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Compares the rows that `answer` returns with those of `gold`.
pub fn judge(database: &Database, gold: &str, answer: &str) -> Verdict {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Database::File(path) = database
        && !path.is_file()
    {
        return Verdict::not_judged("missing database", format!("there is no file {}", path.display()));
    }
    let mut connection = match database.open().and_then(query::restrict) {
        Ok(connection) => connection,
        Err(e) => return Verdict::not_judged("corrupt database", message(&e)),
    };
    let gold = match query::run(&mut connection, gold) {
        Ok(rows) => rows,
        Err(Failure { name: name @ "corrupt database", message }) => {
            return Verdict::not_judged(name, message);
        }
        Err(Failure { name, message }) => {
            return Verdict::not_judged("wrong gold SQL", format!("{name}: {message}"));
        }
    };
    match query::run(&mut connection, answer) {
        Ok(rows) if gold == rows => Verdict::Right,
        Ok(_) => Verdict::Wrong,
        Err(Failure { name: name @ "corrupt database", message }) => Verdict::not_judged(name, message),
        Err(Failure { name, message }) => Verdict::failed(name, message),
    }
}
