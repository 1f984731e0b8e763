//! Many measurements of one thing in a few numbers.

use serde::Serialize;

/// Mean and percentiles of all measurements, by nearest rank: every percentile is one that was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Measurements.
    pub samples: usize,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        Some(Self {
            samples: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            min,
            p50: nearest_rank(&values, 50)?,
            p90: nearest_rank(&values, 90)?,
            p99: nearest_rank(&values, 99)?,
            max,
        })
    }
}

/// The smallest value that `percent` % of all are not above.
fn nearest_rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        // 1 to 200, in no order.
        let values = (0..200).map(|i| f64::from((i * 77) % 200 + 1)).collect();
        let summary = Summary::of(values).unwrap();
        assert_eq!((summary.samples, summary.mean), (200, 100.5));
        assert_eq!((summary.p50, summary.p90, summary.p99), (100.0, 180.0, 198.0));
        assert_eq!((summary.min, summary.max), (1.0, 200.0));
    }

    #[test]
    fn few_measurements_have_percentiles_too() {
        assert_eq!(Summary::of(Vec::new()), None);
        let one = Summary::of(vec![3.0]).unwrap();
        assert_eq!((one.p50, one.p90, one.p99, one.mean), (3.0, 3.0, 3.0, 3.0));
        let two = Summary::of(vec![9.0, 1.0]).unwrap();
        assert_eq!((two.p50, two.p90, two.p99), (1.0, 9.0, 9.0));
    }
}
