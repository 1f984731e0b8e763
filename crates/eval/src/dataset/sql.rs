//! The bundled text-to-SQL dataset.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::jsonl;
use super::kind::DatasetKind;
use super::types::{Dataset, DatasetError, Item};
use crate::judge::Judge;
use crate::judge::sqlite::{Database, Table};

pub(super) const STOP: [&str; 1] = [";"];
pub(super) const MAX_NEW_TOKENS: u32 = 100;
pub(super) const METRIC: &str = "execution accuracy";

#[derive(Deserialize)]
struct Line {
    schema: String,
    pairs: Vec<(String, String)>,
    db: BTreeMap<String, Table>,
}

/// Reads a JSONL file. A line has a `schema`, `pairs` of question and SQL, and `db`, the tables with their rows.
/// The item is the first pair.
pub fn text_to_sql(path: &Path) -> Result<Dataset, DatasetError> {
    jsonl::items(path, |number, line: Line| {
        let (question, gold) = line.pairs.into_iter().next().ok_or("it has no question")?;
        let database = Database::Tables(line.db);
        database.check().map_err(|e| format!("its tables cannot be built: {e}"))?;
        Ok(Item {
            id: format!("sql-{number:04}"),
            turns: vec![prompt(&line.schema, &question)],
            judge: Judge::Sql { database, gold },
        })
    })?
    .into_dataset(path, DatasetKind::TextToSql, &STOP, MAX_NEW_TOKENS, Some(METRIC))
}

/// The prompt of a question; the last line of `schema` must end with a line break.
pub(super) fn prompt(schema: &str, question: &str) -> String {
    format!("{schema}Question: {question}\nSQL:")
}
