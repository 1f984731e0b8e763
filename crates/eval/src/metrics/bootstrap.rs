//! The bootstrap: resamples of the items, and confidence intervals from them.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::quantile::quantile;
use crate::report::Estimate;

const RESAMPLES: usize = 1000;

/// Item numbers drawn with replacement, one list per resample.
///
/// The seed is fixed, so the same samples always have the same confidence intervals.
pub(super) fn resamples(items: usize) -> Vec<Vec<usize>> {
    if items == 0 {
        return Vec::new();
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut draw = |_| (0..items).map(|_| rng.random_range(0..items)).collect();
    (0..RESAMPLES).map(&mut draw).collect()
}

/// A statistic of all items and of every resample.
pub(super) struct Spread {
    pub(super) value: f64,
    pub(super) resampled: Vec<f64>,
}

impl Spread {
    /// The value with its 95 % confidence interval.
    ///
    /// `None` where the statistic is undefined, for example a score without judged answers.
    pub(super) fn estimate(&self) -> Option<Estimate> {
        if !self.value.is_finite() {
            return None;
        }
        let mut finite: Vec<f64> = self.resampled.iter().copied().filter(|x| x.is_finite()).collect();
        Some(Estimate {
            value: self.value,
            low: quantile(&mut finite, 0.025).unwrap_or(self.value),
            high: quantile(&mut finite, 0.975).unwrap_or(self.value),
        })
    }

    /// A statistic computed from two others, resample by resample: a paired comparison.
    pub(super) fn with(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Option<Estimate> {
        let pairs = self.resampled.iter().zip(&other.resampled);
        let combined = Self {
            value: combine(self.value, other.value),
            resampled: pairs.map(|(&a, &b)| combine(a, b)).collect(),
        };
        combined.estimate()
    }
}
