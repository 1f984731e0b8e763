//! Execution accuracy: SQL is right if it gives the rows of the gold SQL, in any order.
//!
//! SQL from a model is not trusted. It may only read, and its steps, memory and result are bounded. One judgement runs
//! at a time, so that what one takes is not held against another.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, params_from_iter};
use serde::Deserialize;

use super::Verdict;

/// Steps of SQLite's machine per query, about a second: the same on every computer.
const STEPS: u32 = 100_000_000;
/// Steps between two looks at the limits. Few, because one step can work on a long text.
const STEPS_BETWEEN_LOOKS: u32 = 10;
/// Only for queries whose steps are unusually slow.
const LONGEST: Duration = Duration::from_secs(30);
/// SQLite's own, for everything that it holds at once; it spills nothing to disk.
const MEMORY_BYTES: u64 = 512 << 20;
/// Of a result.
const ROWS: usize = 100_000;
/// Of a result, in memory.
const RESULT_BYTES: usize = 64 << 20;

const LIMITS: [(Limit, i32); 7] = [
    // Of a value, a row and the SQL. `instr` on two of them takes the product of their lengths, in one step.
    (Limit::SQLITE_LIMIT_LENGTH, 256 << 10),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// What SQL is run on.
#[derive(Debug)]
pub enum Database {
    /// Tables by name, built in memory for each judgement.
    Tables(BTreeMap<String, Table>),
    /// An SQLite file, only read.
    File(PathBuf),
}

/// A table with its rows.
#[derive(Debug, Deserialize)]
pub struct Table {
    /// Names.
    pub columns: Vec<String>,
    /// Of the columns, as in `CREATE TABLE`.
    pub types: Vec<String>,
    /// Null, numbers and strings, one per column.
    pub rows: Vec<Vec<serde_json::Value>>,
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Compares what the two give.
pub fn judge(database: &Database, gold: &str, answer: &str) -> Verdict {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Database::File(path) = database
        && !path.is_file()
    {
        return Verdict::not_judged("missing database", format!("there is no file {}", path.display()));
    }
    let mut connection = match database.open().and_then(restrict) {
        Ok(connection) => connection,
        Err(e) => return Verdict::not_judged("corrupt database", message(&e)),
    };
    let gold = match run(&mut connection, gold) {
        Ok(rows) => rows,
        Err(Failure { name: name @ "corrupt database", message }) => {
            return Verdict::not_judged(name, message);
        }
        Err(Failure { name, message }) => {
            return Verdict::not_judged("wrong gold SQL", format!("{name}: {message}"));
        }
    };
    match run(&mut connection, answer) {
        Ok(rows) if gold == rows => Verdict::Right,
        Ok(_) => Verdict::Wrong,
        Err(Failure { name: name @ "corrupt database", message }) => Verdict::not_judged(name, message),
        Err(Failure { name, message }) => Verdict::failed(name, message),
    }
}

impl Database {
    /// Whether tables can be built; a file is only looked at when it is needed.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Tables(_) => self.open().map(drop).map_err(|e| message(&e)),
            Self::File(_) => Ok(()),
        }
    }

    fn open(&self) -> Result<Connection, Error> {
        let tables = match self {
            Self::File(path) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                return Connection::open_with_flags(path, flags);
            }
            Self::Tables(tables) => tables,
        };
        let connection = Connection::open_in_memory()?;
        for (name, table) in tables {
            if table.columns.len() != table.types.len() {
                return Err(Error::InvalidParameterCount(table.types.len(), table.columns.len()));
            }
            let columns = table.columns.iter().zip(&table.types);
            let columns: Vec<_> =
                columns.map(|(name, kind)| format!("{} {}", quote(name), quote(kind))).collect();
            connection.execute_batch(&format!("CREATE TABLE {} ({})", quote(name), columns.join(", ")))?;
            let places = vec!["?"; columns.len()].join(", ");
            let mut insert = connection.prepare(&format!("INSERT INTO {} VALUES ({places})", quote(name)))?;
            for row in &table.rows {
                insert.execute(params_from_iter(row.iter().map(value).collect::<Result<Vec<_>, _>>()?))?;
            }
        }
        Ok(connection)
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn value(json: &serde_json::Value) -> Result<Value, Error> {
    Ok(match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::Integer(integer),
            (None, Some(real)) => Value::Real(real),
            (None, None) => return Err(Error::InvalidParameterName(json.to_string())),
        },
        _ => return Err(Error::InvalidParameterName(json.to_string())),
    })
}

fn restrict(mut connection: Connection) -> Result<Connection, Error> {
    connection.execute_batch(&format!(
        "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; PRAGMA hard_heap_limit = {MEMORY_BYTES}"
    ))?;
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::Function { function_name: "load_extension" | "fts3_tokenizer" } => Authorization::Deny,
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => Authorization::Allow,
        _ => Authorization::Deny,
    }))?;
    Ok(connection)
}

struct Failure {
    name: &'static str,
    message: String,
}

impl Failure {
    fn new(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let name = match error.sqlite_error_code() {
            Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) => "not a query",
            Some(ErrorCode::OperationInterrupted) => "ran too long",
            Some(ErrorCode::OutOfMemory) => "out of memory",
            Some(
                ErrorCode::NotADatabase
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure,
            ) => "corrupt database",
            _ => "invalid SQL",
        };
        Self::new(name, message(&error))
    }
}

fn message(error: &Error) -> String {
    match error {
        // Its own text repeats the whole SQL.
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::InvalidParameterName(value) => format!("{value} is neither null, number nor string"),
        Error::InvalidParameterCount(given, columns) => format!("{given} values for {columns} columns"),
        _ => error.to_string(),
    }
}

/// What a query gave.
struct Rows {
    /// Also of an empty result.
    columns: usize,
    /// Sorted by [`order`].
    rows: Vec<Vec<Cell>>,
}

fn run(connection: &mut Connection, sql: &str) -> Result<Rows, Failure> {
    if sql.contains('\0') {
        return Err(Failure::new("invalid SQL", "it holds a NUL character"));
    }
    let (mut looks, start) = (0, Instant::now());
    let over = move || {
        looks += 1;
        looks > STEPS / STEPS_BETWEEN_LOOKS || start.elapsed() > LONGEST
    };
    connection.progress_handler(STEPS_BETWEEN_LOOKS.cast_signed(), Some(over))?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    if columns == 0 && statement.expanded_sql().is_none_or(|sql| sql.trim().is_empty()) {
        return Err(Failure::new("invalid SQL", "it is empty"));
    }
    // In case something that writes asks no authorizer, as `VACUUM INTO` might.
    if columns == 0 || !statement.readonly() {
        return Err(Failure::new("not a query", "it gives no rows"));
    }
    let (mut rows, mut result, mut bytes) = (statement.query([])?, Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let cells = (0..columns).map(|i| row.get_ref(i).map(Cell::from)).collect::<Result<Vec<_>, _>>()?;
        bytes += cells.iter().map(Cell::bytes).sum::<usize>();
        result.push(cells);
        if result.len() > ROWS || bytes > RESULT_BYTES {
            let limits = format!("more than {ROWS} rows or {} MiB", RESULT_BYTES >> 20);
            return Err(Failure::new("too many rows", limits));
        }
    }
    result.sort_by(|a, b| order(a, b));
    Ok(Rows { columns, rows: result })
}

#[derive(Debug)]
enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    /// Often but not always UTF-8.
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            ValueRef::Text(text) => Self::Text(text.to_vec()),
            ValueRef::Blob(blob) => Self::Blob(blob.to_vec()),
        }
    }
}

impl Cell {
    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
                _ => 0,
            }
    }

    /// Of an integer beyond 2^53 the nearest, of what is no number 0: for the order, and beside a real.
    fn number(&self) -> f64 {
        match self {
            Self::Integer(integer) => *integer as f64,
            // -0 is 0.
            Self::Real(real) => *real + 0.0,
            _ => 0.0,
        }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    /// What is compared exactly; numbers are alike here.
    fn exact(&self) -> (u8, &[u8]) {
        match self {
            Self::Null => (0, &[]),
            Self::Integer(_) | Self::Real(_) => (1, &[]),
            Self::Text(bytes) => (2, bytes),
            Self::Blob(bytes) => (3, bytes),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Integer(_) | Self::Real(_), Self::Integer(_) | Self::Real(_)) => {
                let (a, b) = (self.number(), other.number());
                // Sums of reals depend on the order of rows.
                a == b
                    || (a.is_finite()
                        && b.is_finite()
                        && (a - b).abs() <= 1e-6 * a.abs().max(b.abs()) + 1e-12)
            }
            _ => self.exact() == other.exact(),
        }
    }
}

/// An order in which equal multisets stand alike, though their reals differ a little: what is exact goes first, then
/// numbers coarsely.
fn order(a: &[Cell], b: &[Cell]) -> Ordering {
    let by = |compare: fn(&Cell, &Cell) -> Ordering| {
        a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne())
    };
    by(|a, b| a.exact().cmp(&b.exact()))
        .or_else(|| by(|a, b| (a.number() as f32).total_cmp(&(b.number() as f32))))
        .or_else(|| by(|a, b| a.number().total_cmp(&b.number())))
        .or_else(|| by(|a, b| a.integer().cmp(&b.integer())))
        .unwrap_or(Ordering::Equal)
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.rows.iter().zip(&other.rows);
        (self.columns, self.rows.len()) == (other.columns, other.rows.len())
            && pairs.all(|(a, b)| a.iter().zip(b).all(|(a, b)| a.is(b)))
    }
}
