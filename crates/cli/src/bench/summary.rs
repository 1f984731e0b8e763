//! Summary statistics of many measurements.

use serde::Serialize;
use tandem_eval::quantile;

/// Mean and percentiles of measurements. Percentiles are those of [`quantile`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Number of measurements.
    pub samples: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// The smallest measurement.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest measurement.
    pub max: f64,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        Some(Self {
            samples: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            min: quantile(&mut values, 0.0)?,
            p50: quantile(&mut values, 0.5)?,
            p90: quantile(&mut values, 0.9)?,
            p99: quantile(&mut values, 0.99)?,
            max: quantile(&mut values, 1.0)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        // 1 to 200 in a scrambled order.
        let values = (0..200).map(|i| f64::from((i * 77) % 200 + 1)).collect();
        let summary = Summary::of(values).unwrap();
        assert_eq!((summary.samples, summary.mean), (200, 100.5));
        assert_eq!(summary.p50, 100.5);
        assert!((summary.p90 - 180.1).abs() < 1e-9, "{summary:?}");
        assert!((summary.p99 - 198.01).abs() < 1e-9, "{summary:?}");
        assert_eq!((summary.min, summary.max), (1.0, 200.0));
    }

    #[test]
    fn few_measurements_have_percentiles_too() {
        assert_eq!(Summary::of(Vec::new()), None);
        let one = Summary::of(vec![3.0]).unwrap();
        assert_eq!((one.p50, one.p90, one.p99, one.mean), (3.0, 3.0, 3.0, 3.0));
        let two = Summary::of(vec![9.0, 1.0]).unwrap();
        assert_eq!((two.min, two.p50, two.max), (1.0, 5.0, 9.0));
        assert!((two.p90 - 8.2).abs() < 1e-9 && (two.p99 - 8.92).abs() < 1e-9, "{two:?}");
    }
}
