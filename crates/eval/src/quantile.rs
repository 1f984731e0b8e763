//! Quantiles: the one definition for evaluations, load tests and timings.

/// The `q`-quantile of `values`, `0.0..=1.0`; 0.5 is the median, 0.99 the 99th percentile.
///
/// Values between two measurements are interpolated linearly: with `n` values in ascending order, counted
/// from 0, the quantile is the value at the fractional index `q · (n − 1)`. This is definition 7 of Hyndman
/// and Fan, "Sample Quantiles in Statistical Packages", The American Statistician 50 (1996), and the default
/// of NumPy (`method="linear"`), R and Excel.
///
/// Returns `None` if there are no values. Reorders `values`; takes time linear in their number.
pub fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let index = q.clamp(0.0, 1.0) * last as f64;
    let below = index.floor() as usize;
    let fraction = index - index.floor();
    let (_, &mut lower, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let upper = above.iter().copied().min_by(f64::total_cmp);
    match upper {
        // Without the condition an infinite value would become NaN (0 · ∞).
        Some(upper) if fraction > 0.0 && upper != lower => Some(lower + fraction * (upper - lower)),
        _ => Some(lower),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_quantile(values: &[f64], q: f64, expected: f64) {
        let found = quantile(&mut values.to_vec(), q).unwrap();
        assert!(
            (found - expected).abs() < 1e-12,
            "the {q}-quantile of {values:?} is {found}, not {expected}"
        );
    }

    /// Expected values are those of `numpy.quantile`.
    #[test]
    fn quantiles_are_those_of_numpys_default() {
        let values = [15.0, 20.0, 35.0, 40.0, 50.0];
        assert_quantile(&values, 0.05, 16.0);
        assert_quantile(&values, 0.3, 23.0);
        assert_quantile(&values, 0.4, 29.0);
        assert_quantile(&values, 0.5, 35.0);
        assert_quantile(&values, 1.0, 50.0);
        assert_quantile(&[3.0, 1.0, 2.0, 4.0], 0.5, 2.5);
        assert_quantile(&[9.0, 1.0], 0.9, 8.2);
    }

    #[test]
    fn the_order_of_the_values_does_not_matter() {
        // 1 to 200 in a scrambled order.
        let values: Vec<f64> = (0..200).map(|i| f64::from((i * 77) % 200 + 1)).collect();
        assert_quantile(&values, 0.0, 1.0);
        assert_quantile(&values, 0.5, 100.5);
        assert_quantile(&values, 0.9, 180.1);
        assert_quantile(&values, 0.99, 198.01);
        assert_quantile(&values, 1.0, 200.0);
    }

    #[test]
    fn few_or_odd_values_have_quantiles_too() {
        assert_eq!(quantile(&mut [], 0.5), None);
        for q in [0.0, 0.3, 1.0, -1.0, 2.0] {
            assert_quantile(&[3.0], q, 3.0);
        }
        let infinite = [1.0, f64::INFINITY, f64::INFINITY];
        assert_eq!(quantile(&mut infinite.to_vec(), 0.75), Some(f64::INFINITY));
        assert_eq!(quantile(&mut infinite.to_vec(), 0.0), Some(1.0));
    }
}
