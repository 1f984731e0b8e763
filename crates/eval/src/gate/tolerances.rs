//! How much worse than the baseline a measure may be.

use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// How much worse a measure may be before it counts as a regression.
///
/// There is no tolerance for absolute times: the baseline may come from another machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerances {
    /// Absolute decrease of the task score (0.02: two percentage points).
    pub score: f64,
    /// Relative increase of the perplexity.
    pub perplexity: f64,
    /// Relative decrease of the block efficiency.
    pub block_efficiency: f64,
    /// Absolute decrease of the acceptance rate.
    pub acceptance_rate: f64,
    /// Relative decrease of the speedup over autoregressive decoding in the same run.
    pub speedup: f64,
    /// Relative increase of the energy relative to autoregressive decoding in the same run.
    pub energy: f64,
    /// Absolute increase of the share of failed samples.
    pub failures: f64,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            score: 0.02,
            perplexity: 0.03,
            block_efficiency: 0.03,
            acceptance_rate: 0.03,
            speedup: 0.15,
            energy: 0.15,
            failures: 0.01,
        }
    }
}

/// Text that is not a valid tolerance.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a valid tolerance: write e.g. speedup=0.2,score=0.01; the names are score, perplexity, \
     block_efficiency, acceptance_rate, speedup, energy and failures, and a value must be at least 0"
)]
pub struct InvalidTolerance(pub String);

impl FromStr for Tolerances {
    type Err = InvalidTolerance;

    fn from_str(text: &str) -> Result<Self, InvalidTolerance> {
        let mut tolerances = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            tolerances.set(part).ok_or_else(|| InvalidTolerance(part.to_owned()))?;
        }
        Ok(tolerances)
    }
}

impl Tolerances {
    /// Sets one tolerance from "name=value"; `None` if that is not valid.
    fn set(&mut self, text: &str) -> Option<()> {
        let (name, value) = text.split_once('=')?;
        let value: f64 = value.trim().parse().ok()?;
        if !(value >= 0.0 && value.is_finite()) {
            return None;
        }
        let tolerance = match name.trim() {
            "score" => &mut self.score,
            "perplexity" => &mut self.perplexity,
            "block_efficiency" => &mut self.block_efficiency,
            "acceptance_rate" => &mut self.acceptance_rate,
            "speedup" => &mut self.speedup,
            "energy" => &mut self.energy,
            "failures" => &mut self.failures,
            _ => return None,
        };
        *tolerance = value;
        Some(())
    }
}
