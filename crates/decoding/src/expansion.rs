//! How a draft chooses the beams of the next depth.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How the beams of the next depth are chosen among all (beam, token) pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expansion {
    /// The pairs of largest joint log-probability; ties go to the lower (beam, token). Always used at
    /// temperature 0.
    Top,
    /// Pairs drawn with probability proportional to their joint probability.
    Sampled {
        /// Whether a pair may be drawn more than once. The paper's code allows it by default. Without
        /// replacement all beams differ, so the tree is wider.
        replacement: bool,
    },
}

impl Expansion {
    /// All expansions, the default first.
    pub const ALL: [Self; 3] =
        [Self::Sampled { replacement: false }, Self::Sampled { replacement: true }, Self::Top];

    /// The name that flags, requests and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sampled { replacement: false } => "sampled",
            Self::Sampled { replacement: true } => "sampled-with-replacement",
            Self::Top => "top",
        }
    }
}

impl fmt::Display for Expansion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error for a name that is not one of [`Expansion::ALL`]; it holds that name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown beams {0:?}: choose one of {names}", names = Expansion::ALL.map(Expansion::name).join(", "))]
pub struct UnknownExpansion(pub String);

impl FromStr for Expansion {
    type Err = UnknownExpansion;

    fn from_str(name: &str) -> Result<Self, UnknownExpansion> {
        Self::ALL.into_iter().find(|e| e.name() == name).ok_or_else(|| UnknownExpansion(name.to_owned()))
    }
}
