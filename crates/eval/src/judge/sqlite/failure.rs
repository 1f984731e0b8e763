//! Why a query did not return rows.

use rusqlite::{Error, ErrorCode};

/// A failure under the short stable name that reports count by.
pub(super) struct Failure {
    pub(super) name: &'static str,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(name: &'static str, message: impl Into<String>) -> Self {
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

pub(super) fn message(error: &Error) -> String {
    match error {
        // The error's own text repeats the whole SQL.
        Error::SqlInputError { msg, .. } => msg.clone(),
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::InvalidParameterName(value) => format!("{value} is neither null nor a number nor a string"),
        Error::InvalidParameterCount(given, columns) => format!("{given} values for {columns} columns"),
        _ => error.to_string(),
    }
}
