//! Runs untrusted SQL: it may only read, and its steps, memory and result are limited.

use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, Error};

use super::failure::Failure;
use super::rows::{Cell, Rows};

/// Steps of SQLite's virtual machine per query, about a second's worth. Unlike a time limit, it gives the same
/// result on every computer.
const MAX_STEPS: u32 = 100_000_000;
/// Steps between two checks of the limits. Few, because a single step can process a long string.
const STEPS_BETWEEN_CHECKS: u32 = 10;
/// A time limit for queries whose steps are unusually slow.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Memory that SQLite may hold at once; it spills nothing to disk.
const MEMORY_BYTES: u64 = 512 << 20;
const MAX_ROWS: usize = 100_000;
/// Maximum size of a result in memory.
const MAX_RESULT_BYTES: usize = 64 << 20;

const LIMITS: [(Limit, i32); 7] = [
    // Size of a value and of a row. `instr` on two values takes time proportional to the product of their
    // lengths, in a single step.
    (Limit::SQLITE_LIMIT_LENGTH, 256 << 10),
    (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (Limit::SQLITE_LIMIT_ATTACHED, 0),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

/// Limits what SQL on `connection` may do.
pub(super) fn restrict(mut connection: Connection) -> Result<Connection, Error> {
    connection.execute_batch(&format!(
        "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; \
         PRAGMA hard_heap_limit = {MEMORY_BYTES}"
    ))?;
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    connection.authorizer(Some(authorize))?;
    Ok(connection)
}

fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Function { function_name: "load_extension" | "fts3_tokenizer" } => Authorization::Deny,
        AuthAction::Select
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Recursive => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

/// Runs `sql` on a restricted connection.
pub(super) fn run(connection: &mut Connection, sql: &str) -> Result<Rows, Failure> {
    if sql.contains('\0') {
        return Err(Failure::new("invalid SQL", "it has a NUL character"));
    }
    connection.progress_handler(STEPS_BETWEEN_CHECKS.cast_signed(), Some(limit_exceeded()))?;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    if columns == 0 && statement.expanded_sql().is_none_or(|sql| sql.trim().is_empty()) {
        return Err(Failure::new("invalid SQL", "it is empty"));
    }
    // The authorizer may not see every statement that writes, such as `VACUUM INTO`.
    if columns == 0 || !statement.readonly() {
        return Err(Failure::new("not a query", "it returns no rows"));
    }
    let mut rows = statement.query([])?;
    let mut result = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let cells = (0..columns).map(|i| row.get_ref(i).map(Cell::from)).collect::<Result<Vec<_>, _>>()?;
        bytes += cells.iter().map(Cell::bytes).sum::<usize>();
        result.push(cells);
        if result.len() > MAX_ROWS || bytes > MAX_RESULT_BYTES {
            let limits = format!("more than {MAX_ROWS} rows or {} MiB", MAX_RESULT_BYTES >> 20);
            return Err(Failure::new("too many rows", limits));
        }
    }
    Ok(Rows::new(columns, result))
}

/// A progress handler that interrupts the query when it returns true.
fn limit_exceeded() -> impl FnMut() -> bool {
    let mut checks = 0;
    let start = Instant::now();
    move || {
        checks += 1;
        checks > MAX_STEPS / STEPS_BETWEEN_CHECKS || start.elapsed() > MAX_TIME
    }
}
