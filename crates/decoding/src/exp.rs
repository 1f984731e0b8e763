//! The exponential, for whole vocabularies.

/// `exp(x)` for `x ≤ 0`, to a few parts in 10¹³; 0 from about −708 down.
///
/// Without branches or calls, so that the compiler vectorises loops over it. The library's costs several times as much: with filters
/// off, exponentials of every token at every node of a tree then take as long as the pass of a small model.
pub(crate) fn exp_of_negative(x: f64) -> f64 {
    /// Adding it rounds to an integer, which then is in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // Taylor's coefficients; |rest| ≤ ln 2 / 2.
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
    // 2^whole, by its exponent's bits. Below the normal numbers the scale is wrong: there the result is 0.
    let scale = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { power * scale }
}

/// The sum, in lanes, so that the compiler can use vectors.
pub(crate) fn sum(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for part in values.chunks(lanes.len()) {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += x;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_librarys(x in -707f64..=0.0) {
            prop_assert!((exp_of_negative(x) / x.exp() - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn its_ends() {
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp_of_negative(-1e9), 0.0);
    }
}
