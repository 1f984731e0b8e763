//! The two roles of a worker.

use std::fmt;

/// What a worker does for a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Proposes token trees.
    Draft,
    /// Scores token trees.
    Target,
}

impl Role {
    /// The name in messages, labels and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Target => "target",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
