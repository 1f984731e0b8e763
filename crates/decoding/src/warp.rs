//! Warping: from logits to the distribution that tokens are drawn from.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use thiserror::Error;

use crate::exp::{exp_of_negative, sum};
use crate::{Distribution, TokenId};

/// The highest temperature that a request may set.
pub const MAX_TEMPERATURE: f64 = 100.0;
/// The lowest temperature that a request may set, except for 0. Logits divided by a lower one could overflow.
pub const MIN_TEMPERATURE: f64 = 1e-6;

/// Sampling parameters. Logits are warped by temperature, then top-k, then top-p, and renormalised.
///
/// Temperature 0 means greedy decoding: instead of being drawn, tokens are the argmax and beams the best
/// ones. The probabilities by which nodes are accepted degenerate as the temperature approaches 0, so greedy
/// decoding uses those of temperature 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    temperature: f64,
    top_k: usize,
    top_p: f64,
}

/// Why sampling parameters are invalid.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidSampling {
    #[error("temperature {}", self.predicate())]
    Temperature(f64),
    #[error("top_p {}", self.predicate())]
    TopP(f64),
}

impl InvalidSampling {
    /// The message without the name of the parameter, for APIs that name the field themselves.
    pub fn predicate(&self) -> String {
        match self {
            Self::Temperature(value) => {
                format!(
                    "is {value}: it must be 0 (greedy), or between {MIN_TEMPERATURE} and {MAX_TEMPERATURE}"
                )
            }
            Self::TopP(value) => {
                format!("is {value}: it must be between 0 and 1 (0 and 1 disable the filter)")
            }
        }
    }
}

/// Why logits cannot be warped into a distribution.
#[derive(Clone, Debug, PartialEq, Error)]
#[allow(missing_docs, reason = "the error messages describe the variants")]
pub enum InvalidLogits {
    #[error("the logit of token {token} is {value}: the model's weights or numerics are broken")]
    NotFinite { token: usize, value: f32 },
    #[error("no token has a finite logit: the model's weights or numerics are broken")]
    NothingPossible,
}

impl Sampling {
    /// Temperature 1 without filters: the distribution of the model itself.
    pub const UNWARPED: Self = Self { temperature: 1.0, top_k: 0, top_p: 0.0 };

    /// Checks sampling parameters. The temperature is 0 (greedy) or between [`MIN_TEMPERATURE`] and
    /// [`MAX_TEMPERATURE`]. `top_k = 0` disables top-k, and `top_p = 0` or `1` disables top-p.
    ///
    /// # Errors
    /// If the temperature or `top_p` is outside its range.
    pub fn new(temperature: f64, top_k: usize, top_p: f64) -> Result<Self, InvalidSampling> {
        if temperature != 0.0 && !(MIN_TEMPERATURE..=MAX_TEMPERATURE).contains(&temperature) {
            return Err(InvalidSampling::Temperature(temperature));
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(InvalidSampling::TopP(top_p));
        }
        Ok(Self { temperature, top_k, top_p })
    }

    /// Temperature 0 without filters: textbook greedy decoding and beam search.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 0.0 }
    }

    /// Whether decoding is greedy: the temperature is 0, and tokens are chosen instead of drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether a filter can make distributions smaller than a vocabulary of `vocab` tokens.
    pub fn filters(&self, vocab: usize) -> bool {
        (1..vocab).contains(&self.top_k) || self.has_nucleus()
    }

    /// Whether top-p is enabled.
    fn has_nucleus(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }

    /// The temperature; 0 is greedy.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The temperature that probabilities are computed with: 1 for greedy decoding.
    pub fn likelihood_temperature(&self) -> f64 {
        if self.is_greedy() { 1.0 } else { self.temperature }
    }

    /// What [`Self::unwarp`] needs for the tokens of one row, from the two log-probabilities of any token that the filters kept.
    ///
    /// Warping divides logits by the temperature and renormalises over the kept tokens, so within a row
    /// `unwarped = temperature × warped + offset` with one offset for all of them.
    pub fn unwarping_offset(&self, unwarped: f64, warped: f64) -> f64 {
        unwarped - self.likelihood_temperature() * warped
    }

    /// The log-probability under the unwarped softmax of a token whose warped one is `warped`, in a row of this `offset`.
    pub fn unwarp(&self, warped: f64, offset: f64) -> f64 {
        self.likelihood_temperature() * warped + offset
    }

    /// The number of tokens that top-k keeps; 0 disables it.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// The probability mass of top-p; 0 and 1 disable it.
    pub fn top_p(&self) -> f64 {
        self.top_p
    }

    /// The warped distribution of `logits`: `[vocab]`, f32, natural log, not normalised.
    ///
    /// Top-k keeps the k largest logits and all that equal the k-th. Top-p drops a token if the mass of the
    /// more likely tokens already exceeds `top_p`; the most likely token is always kept.
    ///
    /// # Errors
    /// If a logit is NaN or +∞, or none is finite.
    pub fn warp(&self, logits: &[f32]) -> Result<Distribution, InvalidLogits> {
        let mut max = f32::NEG_INFINITY;
        let mut min = f32::INFINITY;
        for (token, &value) in logits.iter().enumerate() {
            if value.is_nan() || value == f32::INFINITY {
                return Err(InvalidLogits::NotFinite { token, value });
            }
            max = max.max(value);
            min = min.min(value);
        }
        if max == f32::NEG_INFINITY {
            return Err(InvalidLogits::NothingPossible);
        }
        let floor = kth_largest(logits, self.top_k);
        let inverse_temperature = 1.0 / self.likelihood_temperature();
        // The largest logit is subtracted before the division, so that a low temperature does not overflow.
        let weight = |x: f32| f64::from(x - max) * inverse_temperature;
        let distribution = if floor == f32::NEG_INFINITY && min > f32::NEG_INFINITY {
            let tokens = (0u32..).map(TokenId).take(logits.len()).collect();
            Distribution::from_weights(tokens, logits.iter().map(|&x| weight(x)).collect())
        } else {
            let (tokens, log_probs) = (0u32..)
                .zip(logits)
                .filter(|&(_, &x)| x >= floor && x > f32::NEG_INFINITY)
                .map(|(token, &x)| (TokenId(token), weight(x)))
                .unzip();
            Distribution::from_weights(tokens, log_probs)
        };
        Ok(if self.has_nucleus() { distribution.nucleus(self.top_p) } else { distribution })
    }

    /// The token that `uniform`, a draw in `[0, 1)`, selects from `distribution`; the argmax for greedy
    /// decoding.
    pub fn pick(&self, distribution: &Distribution, uniform: f64) -> TokenId {
        if self.is_greedy() { distribution.argmax() } else { distribution.quantile(uniform) }
    }
}

/// `log Σ exp(logits)`, natural log: a logit minus this is its log-probability under the unwarped softmax.
/// `logits`: `[vocab]`; −∞ if none is finite.
pub fn log_normalizer(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    if max == f64::NEG_INFINITY {
        return max;
    }
    let weights: Vec<f64> = logits.iter().map(|&x| exp_of_negative(f64::from(x) - max)).collect();
    max + sum(&weights).ln()
}

/// The `k`-th largest of `values`; −∞ if `k` is 0 (top-k disabled) or at least their number.
fn kth_largest(values: &[f32], k: usize) -> f32 {
    if k == 0 || k >= values.len() {
        return f32::NEG_INFINITY;
    }
    // A heap of the k largest values so far: almost every value costs a single comparison, unlike in a sort.
    let mut heap: BinaryHeap<Reverse<Total>> = values[..k].iter().map(|&v| Reverse(Total(v))).collect();
    let mut least = heap.peek().map_or(f32::NEG_INFINITY, |r| r.0.0);
    for &value in &values[k..] {
        if value > least {
            heap.pop();
            heap.push(Reverse(Total(value)));
            least = heap.peek().map_or(f32::NEG_INFINITY, |r| r.0.0);
        }
    }
    least
}

/// A number with the total order of [`f32::total_cmp`].
#[derive(PartialEq)]
struct Total(f32);

impl Eq for Total {}

impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Total {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn invalid_parameters_are_rejected() {
        for temperature in [f64::NAN, -1.0, f64::INFINITY, 101.0, 1e-300] {
            assert!(Sampling::new(temperature, 0, 0.0).is_err(), "{temperature}");
        }
        for top_p in [f64::NAN, -0.1, 1.1] {
            assert!(Sampling::new(1.0, 0, top_p).is_err(), "{top_p}");
        }
    }

    #[test]
    fn invalid_logits_are_rejected() {
        let s = Sampling::new(1.0, 10, 0.9).unwrap();
        assert!(s.warp(&[0.0, f32::NAN]).is_err());
        assert!(s.warp(&[0.0, f32::INFINITY]).is_err());
        assert!(s.warp(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(s.warp(&[]).is_err());
    }

    #[test]
    fn the_lowest_temperature_acts_like_greedy_decoding() {
        let d = Sampling::new(MIN_TEMPERATURE, 0, 0.0)
            .unwrap()
            .warp(&[1e30, -1e30, f32::NEG_INFINITY, 3.0])
            .unwrap();
        assert_eq!(
            (d.quantile(0.0), d.quantile(1.0 - 1e-16), d.log_prob(TokenId(0))),
            (TokenId(0), TokenId(0), 0.0)
        );
    }

    #[test]
    fn greedy_decoding_takes_the_lowest_of_equally_likely_tokens() {
        let d = Sampling::greedy().warp(&[0.0, 2.0, 2.0]).unwrap();
        assert_eq!(Sampling::greedy().pick(&d, 0.99), TokenId(1));
    }

    #[test]
    fn logits_minus_the_normalizer_are_log_probabilities() {
        let logits = [1.5f32, -3.0, 0.25];
        let unwarped = Sampling::new(1.0, 0, 0.0).unwrap().warp(&logits).unwrap();
        let lp = f64::from(logits[1]) - log_normalizer(&logits);
        assert!((lp - unwarped.log_prob(TokenId(1))).abs() < 1e-6);
        assert_eq!(log_normalizer(&[f32::NEG_INFINITY, 3.0]), 3.0);
        assert_eq!(log_normalizer(&[]), f64::NEG_INFINITY);
    }

    proptest! {
        #[test]
        fn warped_distributions_are_normalised_and_ascending(
            logits in proptest::collection::vec(-40f32..40.0, 1..80),
            temperature in 0.0f64..5.0, top_k in 0usize..90, top_p in 0.0f64..=1.0, u in 0.0f64..1.0,
        ) {
            let s = Sampling::new(temperature, top_k, top_p).unwrap();
            let d = s.warp(&logits).unwrap();
            let mass: f64 = d.iter().map(|(_, lp)| lp.exp()).sum();
            prop_assert!((mass - 1.0).abs() < 1e-9);
            prop_assert!(d.iter().zip(d.iter().skip(1)).all(|(a, b)| a.0 < b.0));
            prop_assert!(d.log_prob(s.pick(&d, u)) > f64::NEG_INFINITY);
        }

        #[test]
        fn the_normalizer_agrees_with_an_exact_sum(
            logits in proptest::collection::vec(-90f32..90.0, 1..600),
        ) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exact: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
            prop_assert!((log_normalizer(&logits) - f64::from(max) - exact.ln()).abs() < 1e-6);
        }

        #[test]
        fn the_kth_largest_agrees_with_a_sort(
            values in proptest::collection::vec(-3f32..3.0, 1..60), k in 1usize..60,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let expected = if k < values.len() { sorted[k - 1] } else { f32::NEG_INFINITY };
            prop_assert_eq!(kth_largest(&values, k), expected);
        }
    }
}
