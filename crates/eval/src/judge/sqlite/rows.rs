//! Results of queries, compared as multisets of rows.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;

/// The result of a query.
pub(super) struct Rows {
    /// Number of columns, known for an empty result too.
    columns: usize,
    /// Sorted by [`order`].
    rows: Vec<Vec<Cell>>,
}

impl Rows {
    pub(super) fn new(columns: usize, mut rows: Vec<Vec<Cell>>) -> Self {
        rows.sort_by(|a, b| order(a, b));
        Self { columns, rows }
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.rows.iter().zip(&other.rows);
        self.columns == other.columns
            && self.rows.len() == other.rows.len()
            && pairs.all(|(a, b)| a.iter().zip(b).all(|(a, b)| a.matches(b)))
    }
}

/// One value of a row.
#[derive(Debug)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    /// Usually UTF-8, but SQLite does not guarantee it.
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
    /// Size in memory.
    pub(super) fn bytes(&self) -> usize {
        let heap = match self {
            Self::Text(bytes) | Self::Blob(bytes) => bytes.len(),
            Self::Null | Self::Integer(_) | Self::Real(_) => 0,
        };
        size_of::<Self>() + heap
    }

    /// The value as a real number, to sort and to compare with reals. An integer beyond 2^53 is rounded; 0 if
    /// the value is not a number.
    fn number(&self) -> f64 {
        match self {
            Self::Integer(integer) => *integer as f64,
            // Adding 0 turns −0 into 0.
            Self::Real(real) => *real + 0.0,
            Self::Null | Self::Text(_) | Self::Blob(_) => 0.0,
        }
    }

    fn integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    /// The part of the value that is compared exactly. It is the same for all numbers.
    fn exact(&self) -> (u8, &[u8]) {
        match self {
            Self::Null => (0, &[]),
            Self::Integer(_) | Self::Real(_) => (1, &[]),
            Self::Text(bytes) => (2, bytes),
            Self::Blob(bytes) => (3, bytes),
        }
    }

    /// Whether the values are equal. Reals may differ by rounding, since a sum depends on the order of the rows.
    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Integer(_) | Self::Real(_), Self::Integer(_) | Self::Real(_)) => {
                nearly_equal(self.number(), other.number())
            }
            _ => self.exact() == other.exact(),
        }
    }
}

fn nearly_equal(a: f64, b: f64) -> bool {
    let tolerance = 1e-6 * a.abs().max(b.abs()) + 1e-12;
    a == b || (a.is_finite() && b.is_finite() && (a - b).abs() <= tolerance)
}

/// An order that aligns the rows of equal multisets even if their reals differ slightly: exact parts are
/// compared first, then numbers at low precision, then at full precision.
fn order(a: &[Cell], b: &[Cell]) -> Ordering {
    let first_difference = |compare: fn(&Cell, &Cell) -> Ordering| {
        a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|o| o.is_ne())
    };
    first_difference(|a, b| a.exact().cmp(&b.exact()))
        .or_else(|| first_difference(|a, b| (a.number() as f32).total_cmp(&(b.number() as f32))))
        .or_else(|| first_difference(|a, b| a.number().total_cmp(&b.number())))
        .or_else(|| first_difference(|a, b| a.integer().cmp(&b.integer())))
        .unwrap_or(Ordering::Equal)
}
