//! Exponentials and sums that are fast enough for whole vocabularies.
//!
//! The loops are compiled for several instruction sets. Rust neither fuses nor reorders operations on floats,
//! so their results have the same bits on every machine.

use multiversion::multiversion;

/// `exp(x)` for `x ≤ 0`, with a relative error of a few parts in 10¹³; 0 below −708.
///
/// It has neither branches nor calls, so that the compiler can vectorise loops over it. [`f64::exp`] costs
/// several times as much. Without filters, the exponentials of all tokens at all nodes of a tree would then
/// take as long as the forward pass of a small model.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f64) -> f64 {
    /// 1.5 · 2⁵²: adding it rounds to an integer and leaves that integer in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // The Taylor series from 1/9! to 1/0!, for |rest| ≤ ln 2 / 2. The term of 1/10! starts the evaluation
    // below.
    const COEFFICIENTS: [f64; 10] = [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ];
    let scaled = x.max(-720.0) * std::f64::consts::LOG2_E;
    let rounded = scaled + ROUND;
    let rest = (scaled - (rounded - ROUND)) * std::f64::consts::LN_2;
    let mut power = 1.0 / 3_628_800.0;
    for coefficient in COEFFICIENTS {
        power = power * rest + coefficient;
    }
    // 2 to the rounded exponent, from the bits of the exponent. The scale is wrong for subnormal results,
    // which are replaced by 0.
    let scale = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { power * scale }
}

/// Replaces every value, which is at most 0, by its exponential.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
pub(crate) fn exp_in_place(values: &mut [f64]) {
    for value in values {
        *value = exp_of_negative(*value);
    }
}

/// Fills `weights` with `(logits - max) * factor`, where `max` is the largest of `logits`: natural logarithms
/// of weights, at most 0.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
pub(crate) fn log_weights(logits: &[f32], max: f32, factor: f64, weights: &mut Vec<f64>) {
    weights.clear();
    weights.extend(logits.iter().map(|&x| f64::from(x - max) * factor));
}

/// The sum of `values`, added up in eight lanes so that the compiler can use vector instructions. The order
/// of the additions is fixed, and so is the result.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
pub(crate) fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (parts, rest) = values.as_chunks::<8>();
    for part in parts {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exp_of_negative_agrees_with_the_standard_library(x in -707f64..=0.0) {
            prop_assert!((exp_of_negative(x) / x.exp() - 1.0).abs() < 1e-12);
        }

        #[test]
        fn vectors_have_the_bits_of_single_values(values in proptest::collection::vec(-750f64..=0.0, 0..50)) {
            let mut together = values.clone();
            exp_in_place(&mut together);
            let alone: Vec<f64> = values.iter().map(|&x| exp_of_negative(x)).collect();
            prop_assert_eq!(together, alone);
        }
    }

    #[test]
    fn exp_of_negative_is_exact_at_both_ends() {
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_negative(-1e9), 0.0);
    }
}
