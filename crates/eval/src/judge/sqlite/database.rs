//! The databases that queries run on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::types::Value;
use rusqlite::{Connection, Error, OpenFlags, params_from_iter};
use serde::Deserialize;

use super::failure::message;

/// A database for queries.
#[derive(Debug)]
pub enum Database {
    /// Tables by name, built in memory for each judgement.
    Tables(BTreeMap<String, Table>),
    /// An SQLite file, opened read-only.
    File(PathBuf),
}

/// A table with its rows.
#[derive(Debug, Deserialize)]
pub struct Table {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Types of the columns, as in `CREATE TABLE`.
    pub types: Vec<String>,
    /// Rows with one value per column: null, a number or a string.
    pub rows: Vec<Vec<serde_json::Value>>,
}

impl Database {
    /// Checks that tables can be built. A file is not opened until it is needed.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Tables(tables) => build(tables).map(drop).map_err(|e| message(&e)),
            Self::File(_) => Ok(()),
        }
    }

    pub(super) fn open(&self) -> Result<Connection, Error> {
        match self {
            Self::File(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(path, flags)
            }
            Self::Tables(tables) => build(tables),
        }
    }
}

fn build(tables: &BTreeMap<String, Table>) -> Result<Connection, Error> {
    let connection = Connection::open_in_memory()?;
    for (name, table) in tables {
        if table.columns.len() != table.types.len() {
            return Err(Error::InvalidParameterCount(table.types.len(), table.columns.len()));
        }
        let name = quote(name);
        let columns = table.columns.iter().zip(&table.types);
        let columns: Vec<_> =
            columns.map(|(column, kind)| format!("{} {}", quote(column), quote(kind))).collect();
        connection.execute_batch(&format!("CREATE TABLE {name} ({})", columns.join(", ")))?;
        let placeholders = vec!["?"; columns.len()].join(", ");
        let mut insert = connection.prepare(&format!("INSERT INTO {name} VALUES ({placeholders})"))?;
        for row in &table.rows {
            let values = row.iter().map(value).collect::<Result<Vec<_>, _>>()?;
            insert.execute(params_from_iter(values))?;
        }
    }
    Ok(connection)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn value(json: &serde_json::Value) -> Result<Value, Error> {
    let unsupported = || Error::InvalidParameterName(json.to_string());
    match json {
        serde_json::Value::Null => Ok(Value::Null),
        serde_json::Value::String(text) => Ok(Value::Text(text.clone())),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Ok(Value::Integer(integer)),
            (None, Some(real)) => Ok(Value::Real(real)),
            (None, None) => Err(unsupported()),
        },
        _ => Err(unsupported()),
    }
}
