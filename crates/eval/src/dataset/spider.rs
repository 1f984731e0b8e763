//! Spider, in the layout of its publication.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::items::Items;
use super::kind::DatasetKind;
use super::sql;
use super::types::{Dataset, DatasetError, Item};
use crate::judge::Judge;
use crate::judge::sqlite::Database;

#[derive(Deserialize)]
struct Question {
    db_id: String,
    question: String,
    query: String,
}

#[derive(Deserialize)]
struct Schema {
    db_id: String,
    table_names_original: Vec<String>,
    /// The index of the table, -1 for "*", and the name of the column.
    column_names_original: Vec<(i64, String)>,
    /// Pairs of column indices.
    foreign_keys: Vec<(usize, usize)>,
}

/// Reads a directory with `dev.json`, `tables.json` and `database/{db_id}/{db_id}.sqlite`.
///
/// An item without its database can be generated, but not judged.
pub fn spider(directory: &Path) -> Result<Dataset, DatasetError> {
    let schemas: HashMap<String, Schema> = read_array(&directory.join("tables.json"))?
        .into_iter()
        // A question whose schema is invalid becomes a bad item.
        .filter_map(|schema| serde_json::from_value(schema).ok())
        .map(|schema: Schema| (schema.db_id.clone(), schema))
        .collect();
    let path = directory.join("dev.json");
    let mut items = Items::default();
    for (number, question) in (1..).zip(read_array(&path)?) {
        let item = serde_json::from_value(question)
            .map_err(|e| e.to_string())
            .and_then(|question| item(directory, &schemas, number, question));
        items.add(format!("item {number}"), item);
    }
    items.into_dataset(&path, DatasetKind::Spider, &sql::STOP, sql::MAX_NEW_TOKENS, Some(sql::METRIC))
}

fn read_array(path: &Path) -> Result<Vec<Value>, DatasetError> {
    fs::read(path)
        .and_then(|json| Ok(serde_json::from_slice(&json)?))
        .map_err(|source| DatasetError::Unreadable { path: path.to_owned(), source })
}

fn item(
    directory: &Path,
    schemas: &HashMap<String, Schema>,
    number: usize,
    Question { db_id, question, query }: Question,
) -> Result<Item, String> {
    // The name becomes part of a path, which must stay inside the directory.
    if db_id.is_empty() || db_id.starts_with('.') || db_id.contains(['/', '\\', ':', '\0']) {
        return Err(format!("its db_id {db_id:?} is not a valid database name"));
    }
    let schema =
        schemas.get(&db_id).ok_or_else(|| format!("tables.json has no valid entry for {db_id:?}"))?;
    let schema = describe(schema)
        .ok_or_else(|| format!("a foreign key of {db_id:?} in tables.json refers to a missing column"))?;
    let database = directory.join("database").join(&db_id).join(format!("{db_id}.sqlite"));
    Ok(Item {
        id: format!("spider-{number:04}"),
        turns: vec![sql::prompt(&schema, &question)],
        judge: Judge::Sql { database: Database::File(database), gold: query },
    })
}

/// The schema as the prompts of the bundled dataset describe it; without foreign keys their line is omitted.
/// `None` if a foreign key refers to a missing column.
fn describe(schema: &Schema) -> Option<String> {
    let mut text = "Schema:\n".to_owned();
    for (index, table) in (0..).zip(&schema.table_names_original) {
        let columns = schema.column_names_original.iter().filter(|(of, _)| *of == index);
        let columns: String = columns.map(|(_, name)| format!(",{name}")).collect();
        let _ = writeln!(text, "Table {table}, columns = [*{columns}]");
    }
    let mut keys = Vec::new();
    for &(a, b) in &schema.foreign_keys {
        keys.push(format!("{} = {}", qualified_column(schema, a)?, qualified_column(schema, b)?));
    }
    if !keys.is_empty() {
        let _ = writeln!(text, "Foreign_keys = [{}]", keys.join(", "));
    }
    Some(text)
}

/// "table.column".
fn qualified_column(schema: &Schema, index: usize) -> Option<String> {
    let (table, name) = schema.column_names_original.get(index)?;
    let table = schema.table_names_original.get(usize::try_from(*table).ok()?)?;
    Some(format!("{table}.{name}"))
}
