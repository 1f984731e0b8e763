//! One look at all logits of a row, after which most questions about them concern a few chunks only.

use multiversion::multiversion;
use thiserror::Error;

/// Why logits cannot be warped into a distribution.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidLogits {
    #[error("the logit of token {token} is {value}: the model's weights or numerics are broken")]
    NotFinite { token: usize, value: f32 },
    #[error("no token has a finite logit: the model's weights or numerics are broken")]
    NothingPossible,
}

/// Logits of a chunk. A row of 49,152 has 192 chunks.
const CHUNK: usize = 256;

/// Whether a logit is NaN or +∞. Without branches, so that loops over it vectorise.
#[inline(always)]
fn is_invalid(logit: f32) -> bool {
    logit.is_nan() | (logit == f32::INFINITY)
}

/// The logits of a row, none of them NaN or +∞ and at least one finite, with the largest of every chunk.
pub(crate) struct Scan<'a> {
    logits: &'a [f32],
    maxima: Vec<f32>,
    max: f32,
}

impl<'a> Scan<'a> {
    /// # Errors
    /// If a logit is NaN or +∞, or none is finite.
    pub(crate) fn new(logits: &'a [f32]) -> Result<Self, InvalidLogits> {
        let mut maxima = Vec::with_capacity(logits.len().div_ceil(CHUNK));
        if !chunk_maxima(logits, &mut maxima) {
            let invalid = |&(_, value): &(usize, f32)| is_invalid(value);
            let found = logits.iter().copied().enumerate().find(invalid);
            let (token, value) = found.unwrap_or_default();
            return Err(InvalidLogits::NotFinite { token, value });
        }
        let max = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max == f32::NEG_INFINITY {
            return Err(InvalidLogits::NothingPossible);
        }
        Ok(Self { logits, maxima, max })
    }

    pub(crate) fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// The largest logit.
    pub(crate) fn max(&self) -> f32 {
        self.max
    }

    /// The `k`-th largest logit; −∞ if there are at most `k`, or `k` is 0.
    pub(crate) fn kth_largest(&self, k: usize) -> f32 {
        if k == 0 || k >= self.logits.len() {
            return f32::NEG_INFINITY;
        }
        // `k` chunks have a logit of at least the `k`-th largest maximum, so what is below that is not among
        // the `k` largest logits.
        let bound = if k < self.maxima.len() { kth(self.maxima.clone(), k) } else { f32::NEG_INFINITY };
        kth(self.at_least(bound).map(|(_, x)| x).collect(), k)
    }

    /// The logits of at least `floor` with their ids, in ascending order of ids.
    pub(crate) fn at_least(&self, floor: f32) -> impl Iterator<Item = (u32, f32)> {
        let chunks = (0u32..).step_by(CHUNK).zip(self.logits.chunks(CHUNK)).zip(&self.maxima);
        chunks.filter(move |&(_, &max)| max >= floor).flat_map(move |((first, chunk), _)| {
            (first..).zip(chunk.iter().copied()).filter(move |&(_, x)| x >= floor)
        })
    }

    /// The `n` largest logits with their ids, the largest first; of equal ones, the lower id first.
    pub(crate) fn largest(&self, n: usize) -> Vec<(u32, f32)> {
        if n == 0 {
            return Vec::new();
        }
        let mut largest: Vec<(u32, f32)> = self.at_least(self.kth_largest(n)).collect();
        // Stable, and the ids ascend.
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        largest.truncate(n);
        largest
    }
}

/// The `k`-th largest value, with `k` from 1 to their number.
fn kth(mut values: Vec<f32>, k: usize) -> f32 {
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Appends the largest value of every chunk. Returns whether every value is a number below +∞.
#[multiversion(targets("x86_64+avx512f+avx512dq+avx512vl+avx512bw", "x86_64+avx2"))]
fn chunk_maxima(values: &[f32], maxima: &mut Vec<f32>) -> bool {
    let mut invalid = [0u32; 16];
    let mut add = |chunk: &[f32]| {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (parts, rest) = chunk.as_chunks::<16>();
        for part in parts {
            for ((lane, invalid), &x) in lanes.iter_mut().zip(&mut invalid).zip(part) {
                *lane = if x > *lane { x } else { *lane };
                *invalid |= u32::from(is_invalid(x));
            }
        }
        for ((lane, invalid), &x) in lanes.iter_mut().zip(&mut invalid).zip(rest) {
            *lane = if x > *lane { x } else { *lane };
            *invalid |= u32::from(is_invalid(x));
        }
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                lanes[lane] =
                    if lanes[lane + width] > lanes[lane] { lanes[lane + width] } else { lanes[lane] };
            }
        }
        maxima.push(lanes[0]);
    };
    let (chunks, rest) = values.as_chunks::<CHUNK>();
    for chunk in chunks {
        add(chunk);
    }
    if !rest.is_empty() {
        add(rest);
    }
    invalid == [0; 16]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_logits_are_named() {
        let at = |index: usize, value: f32| {
            let mut logits = vec![0.5; 1000];
            logits[index] = value;
            Scan::new(&logits).err()
        };
        for index in [0, 255, 256, 700, 999] {
            assert!(
                matches!(at(index, f32::NAN), Some(InvalidLogits::NotFinite { token, .. }) if token == index)
            );
            assert!(at(index, f32::INFINITY).is_some());
            assert_eq!(at(index, f32::NEG_INFINITY), None);
        }
        assert_eq!(Scan::new(&[f32::NEG_INFINITY; 300]).err(), Some(InvalidLogits::NothingPossible));
        assert_eq!(Scan::new(&[]).err(), Some(InvalidLogits::NothingPossible));
    }

    proptest! {
        // Whole numbers, so that there are ties.
        #[test]
        fn the_largest_agree_with_a_sort(
            values in proptest::collection::vec((-50i8..50).prop_map(f32::from), 1..2000), k in 1usize..80,
        ) {
            let mut sorted: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            let scan = Scan::new(&values).unwrap();
            let expected = if k < values.len() { sorted[k - 1].1 } else { f32::NEG_INFINITY };
            prop_assert_eq!(scan.kth_largest(k), expected);
            prop_assert_eq!(scan.max(), sorted[0].1);
            sorted.truncate(k);
            prop_assert_eq!(scan.largest(k), sorted);
        }
    }
}
